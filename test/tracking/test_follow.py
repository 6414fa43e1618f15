"""The controller: limits, stopping, looking for the lost, and never into anything."""

import math

import numpy as np
import pytest

from offload_ros.tracking.cost_to_go import COUNT, Places, cost_to_go
from offload_ros.tracking.follow import (
    FOLLOWING,
    LOST,
    SEARCHING,
    STALE,
    WAITING,
    Follower,
    Scan,
    Target,
)
from offload_ros.tracking.follow_config import FollowConfig, Limits
from offload_ros.tracking.kalman import Gaussian
from offload_ros.tracking.occupancy import MapConfig, OccupancyMap
from offload_ros.tracking.rollouts import STEP_S, Motion, following, roll_out
from offload_ros.tracking.safety import safe_command, stopping_paths
from offload_ros.tracking.visibility import in_sight

LIMITS = Limits()
AROUND = np.linspace(-math.pi, math.pi, 360, endpoint=False)


def walls(half_x=5.0, half_y=4.0, at=(0.0, 0.0), yaw=0.0):
    """Return the scan (N, 2) of an empty room around the origin, in the robot's frame."""
    directions = np.stack([np.cos(AROUND + yaw), np.sin(AROUND + yaw)], 1)
    directions = np.where(np.abs(directions) < 1e-9, 1e-9, directions)
    reach = np.minimum(
        (np.sign(directions[:, 0]) * half_x - at[0]) / directions[:, 0],
        (np.sign(directions[:, 1]) * half_y - at[1]) / directions[:, 1],
    )
    return np.stack([reach * np.cos(AROUND), reach * np.sin(AROUND)], 1)


def known(points=None, at=(0.0, 0.0)):
    """Return the map's view after some scans of points (N, 2), taken with yaw 0."""
    built = OccupancyMap(MapConfig())
    ends = (walls(at=at) if points is None else points) + np.array(at)
    for _ in range(3):
        built.insert(at, ends, np.ones(len(ends), bool))
    return built.view()


def person(x, y, vx=0.0, vy=0.0, seen_s=10.0):
    return Target(Gaussian(np.array([x, vx, y, vy]), np.diag([0.01, 0.1, 0.01, 0.1])), seen_s)


def decide(target, motion=None, now_s=10.1, follower=None, points=None, view=None, result_s=None):
    follower = follower or Follower()
    motion = motion or Motion(0.0, 0.0, 0.0)
    points = walls(at=(motion.x_m, motion.y_m), yaw=motion.yaw) if points is None else points
    result_s = now_s - 0.2 if result_s is None else result_s
    return follower.command(
        now_s, motion, now_s, Scan(points, now_s), view or known(), target, result_s
    )


def test_robot_drives_to_a_far_person_backs_off_a_near_one_and_rests_at_the_set_point():
    assert decide(person(4.2, 0.0)).linear_mps > 0.2
    assert decide(person(1.4, 0.0)).linear_mps < -0.2
    rest = decide(person(2.5, 0.0))
    assert abs(rest.linear_mps) < 0.11
    assert abs(rest.angular_radps) < 0.5
    assert rest.mode == FOLLOWING
    assert rest.person == pytest.approx([2.5, 0.0], abs=0.05)


@pytest.mark.parametrize('side', [1, -1])
def test_standing_robot_turns_in_place_to_a_person_at_the_side(side):
    command = decide(person(0.4, 2.4 * side))
    assert command.linear_mps == 0
    assert side * command.angular_radps > 0.5


def test_robot_goes_with_a_person_who_walks_away_before_the_distance_has_grown():
    assert decide(person(2.5, 0.0, vx=1.0)).linear_mps > 0.2
    assert decide(person(2.5, 0.0, vx=-1.0)).linear_mps < -0.2


@pytest.mark.parametrize(
    ('change', 'reason'),
    [
        ({'result_s': 8.0}, 'results'),
        ({'result_s': -math.inf}, 'results'),
        ({'motion_s': 9.0}, 'pose'),
        ({'scan': None}, 'scan'),
        ({'scan': Scan(walls(), 9.0)}, 'scan'),
        ({'motion': Motion(math.nan, 0.0, 0.0)}, 'finite'),
    ],
)
def test_input_that_is_missing_or_old_stops_the_robot(change, reason):
    usual = {
        'now_s': 10.1, 'motion': Motion(0.0, 0.0, 0.0, 0.8), 'motion_s': 10.1,
        'scan': Scan(walls(), 10.1), 'view': known(), 'target': person(4, 0), 'result_s': 10.0,
    }  # fmt: skip
    assert Follower().command(**usual).linear_mps != 0
    command = Follower().command(**(usual | change))
    assert (command.linear_mps, command.angular_radps) == (0.0, 0.0)
    assert command.mode == STALE
    assert reason in command.reason


def test_robot_waits_for_a_first_target_and_stops_when_it_is_lost_for_long():
    waiting = decide(None)
    assert (waiting.linear_mps, waiting.angular_radps, waiting.mode) == (0.0, 0.5, WAITING)
    waiting = decide(None, follower=Follower(FollowConfig(look_around_radps=0.0)))
    assert (waiting.linear_mps, waiting.angular_radps, waiting.mode) == (0.0, 0.0, WAITING)
    follower = Follower(FollowConfig(search_s=5.0))
    assert decide(person(3, 0), now_s=14.9, follower=follower).mode == SEARCHING
    lost = decide(person(3, 0), now_s=15.1, follower=follower)
    assert (lost.linear_mps, lost.angular_radps, lost.mode) == (0.0, 0.0, LOST)


def test_lost_person_is_looked_for_where_they_went():
    # A wall with a gap at its left end: the person walked through and out of sight.
    wall = np.stack([np.full(90, 3.0), np.linspace(-4, 1.0, 90)], 1)
    scan = walls()
    hidden = (scan[:, 0] > 3.0) & (scan[:, 1] / scan[:, 0] * 3.0 < 1.0)
    scan[hidden] *= (3.0 / scan[hidden, 0])[:, None]
    view = known(np.concatenate([scan, wall]))
    follower, at = Follower(), Motion(0.0, 0.0, 0.3)
    target = person(3.6, 1.2, vx=0.3, vy=-0.8)
    decide(target, at, 10.1, follower, scan, view)
    x, y, yaw, v, w, seen = 0.0, 0.0, 0.3, 0.0, 0.0, False
    assert not in_sight(view, np.zeros(2), np.array([[3.8, -1.0]]))[0]
    for step in range(60):
        now = 10.2 + 0.1 * step
        motion = Motion(x, y, yaw, v, w)
        points = np.concatenate([wall, scan]) - [x, y]
        c, s = math.cos(yaw), math.sin(yaw)
        points = points @ np.array([[c, -s], [s, c]])
        command = decide(target, motion, now, follower, points, view)
        v, w = command.linear_mps, command.angular_radps
        yaw += 0.1 * w
        x, y = x + 0.1 * v * math.cos(yaw), y + 0.1 * v * math.sin(yaw)
        assert np.hypot(*(wall - [x, y]).T).min() > LIMITS.footprint_m
        seen = seen or bool(in_sight(view, np.array([x, y]), np.array([[3.8, -1.0]]))[0])
    # It has come, around the end of the wall, to where it sees what was hidden.
    assert command.mode == SEARCHING
    assert seen


def test_every_command_keeps_the_limits_of_speed_and_acceleration():
    rng = np.random.default_rng(0)
    limits = LIMITS
    for _ in range(12):
        v, w = rng.uniform(-1.2, 1.2), rng.uniform(-2, 2)
        at = rng.uniform(-4, 4, 2)
        motion = Motion(0, 0, rng.uniform(-3, 3), v, w)
        command = decide(person(*at), motion)
        assert -limits.reverse_mps <= command.linear_mps <= limits.linear_mps
        assert abs(command.angular_radps) <= limits.angular_radps
        time_s = 0.2 + FollowConfig().reaction_s
        assert abs(command.linear_mps - v) <= max(limits.linear_mps2 * time_s, abs(v)) + 1e-9
        assert abs(command.angular_radps - w) <= limits.angular_radps2 * time_s + 1e-9


def test_rollouts_keep_the_limits_and_first_turn_when_standing():
    config = FollowConfig()
    path = np.tile([0.0, 3.0], (16, 1))
    rollouts = roll_out(Motion(0, 0, 0), following(LIMITS), path, config)
    speeds = np.concatenate([np.zeros((1, rollouts.linear.shape[1])), rollouts.linear])
    assert np.abs(np.diff(speeds, axis=0)).max() <= LIMITS.linear_mps2 * STEP_S + 1e-9
    assert rollouts.linear.max() <= LIMITS.linear_mps
    assert rollouts.linear.min() >= -LIMITS.reverse_mps
    assert np.abs(rollouts.angular).max() <= LIMITS.angular_radps + 1e-9
    # The person is at the left by 90 degrees.
    ahead = np.abs(following(LIMITS).direction) < 0.6
    ahead &= ~following(LIMITS).absolute
    assert (rollouts.first_linear[ahead] == 0).all()
    assert (rollouts.first_angular[ahead] > 0).all()


@pytest.mark.parametrize('seed', range(40))
def test_no_command_leads_into_an_obstacle_however_the_robot_moves(seed):
    """Drive random wishes in a random clutter; the wheels obey with the limits' accelerations."""
    rng = np.random.default_rng(seed)
    obstacles = rng.uniform(-2.5, 2.5, (25, 2))
    obstacles = obstacles[np.hypot(*obstacles.T) > 0.6]
    x, y, yaw, v, w = 0.0, 0.0, float(rng.uniform(-3, 3)), 0.0, 0.0
    wish = (0.0, 0.0)
    for step in range(40):
        if step % 5 == 0:
            wish = float(rng.uniform(-1.2, 1.2)), float(rng.uniform(-2, 2))
        c, s = math.cos(yaw), math.sin(yaw)
        seen = (obstacles - [x, y]) @ np.array([[c, -s], [s, c]])
        goal = safe_command(*wish, v, w, seen, LIMITS, 0.08, 0.15)
        for fine in range(20):
            v += min(max(goal[0] - v, -0.01), 0.01)  # 2 m/s^2 for 5 ms
            w += min(max(goal[1] - w, -0.03), 0.03)
            x, y = x + 0.005 * v * math.cos(yaw), y + 0.005 * v * math.sin(yaw)
            yaw += 0.005 * w
            if fine % 4 == 3:
                assert np.hypot(*(obstacles - [x, y]).T).min() > LIMITS.footprint_m


def test_robot_that_stands_too_close_may_only_drive_away():
    ahead = np.array([[0.27, 0.0]])
    assert safe_command(0.5, 0.3, 0.0, 0.0, ahead, LIMITS, 0.08, 0.15) == (0.0, 0.3)
    assert safe_command(-0.5, 0.3, 0.0, 0.0, ahead, LIMITS, 0.08, 0.15) == (-0.5, 0.3)
    assert safe_command(0.5, 0.0, 0.0, 0.0, np.empty((0, 2)), LIMITS, 0.08, 0.15) == (0.5, 0.0)


def test_legs_of_people_are_kept_off_further():
    point = np.array([[0.9, 0.0]])
    free, _ = safe_command(0.5, 0.0, 0.0, 0.0, point, LIMITS, 0.08, 0.15)
    held, _ = safe_command(0.5, 0.0, 0.0, 0.0, point, LIMITS, 0.08, 0.15, np.array([0.6]))
    assert free == 0.5
    assert held < 0.5


def test_stopping_path_is_as_long_as_the_formula_says():
    paths = stopping_paths(1.0, 0.0, np.array([[1.0, 0.0]]), LIMITS, 0.2)
    exact = 1.0 * 0.2 + 1.0**2 / (2 * LIMITS.linear_mps2)
    assert exact <= paths[-1, 0, 0] <= exact * 1.1


def test_cost_to_go_equals_dijkstra():
    from scipy.sparse import lil_matrix
    from scipy.sparse.csgraph import dijkstra

    rng = np.random.default_rng(3)
    n = 12
    being = rng.uniform(0, 5, (n, n))
    driving = np.where(rng.random((n, n)) < 0.2, np.inf, rng.uniform(0.5, 2, (n, n)))
    graph = lil_matrix((n * n + 1, n * n + 1))
    for x in range(n):
        for y in range(n):
            if not np.isfinite(driving[x, y]):
                continue
            graph[n * n, x * n + y] = being[x, y]
            for dx in (-1, 0, 1):
                for dy in (-1, 0, 1):
                    a, b = x + dx, y + dy
                    inside = (dx or dy) and 0 <= a < n and 0 <= b < n
                    if inside and np.isfinite(driving[a, b]):
                        # From (a, b), where a metre costs what it costs there, to (x, y).
                        graph[x * n + y, a * n + b] = driving[a, b] * 0.2 * math.hypot(dx, dy)
    exact = dijkstra(graph.tocsr(), indices=n * n)[:-1].reshape(n, n)
    found = cost_to_go(being, driving)
    free = np.isfinite(driving)
    np.testing.assert_allclose(found[free], exact[free], atol=1e-9)
    assert (found[~free] == found.max()).all()


def test_field_between_cells_is_bilinear():
    places = Places.around(np.array([1.0, -2.0]))
    field = places.middles @ np.array([2.0, -3.0])
    points = np.random.default_rng(4).uniform([-2, -5], [4, 1], (50, 2))
    np.testing.assert_allclose(places.value(field, points), points @ [2.0, -3.0], atol=1e-9)
    assert places.middles.shape == (COUNT, COUNT, 2)


@pytest.mark.parametrize(
    'values',
    [
        {'distance_m': 0.1},
        {'turn_in_place_rad': math.nan},
        {'search_s': 0.2},
        {'person_keep_m': 3.0},
        {'horizon_s': 0.0},
    ],
)
def test_senseless_configuration_is_refused(values):
    with pytest.raises(ValueError, match=next(iter(values))):
        FollowConfig(**values)
    with pytest.raises(ValueError, match='linear_mps'):
        Limits(linear_mps=-1.0)
