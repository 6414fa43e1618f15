"""The robot: it stops at things, obeys its watchdog and its limits, and knows where it is."""

import math

import numpy as np
import pytest

from offload_ros.sim import PersonConfig, RobotConfig, World, WorldConfig
from offload_ros.sim.robot import Pose

from .conftest import Gaps

EMPTY = WorldConfig(object_count=0, inner_wall=False, person=PersonConfig(count=0))


def drive(world, seconds, linear, angular=0.0):
    for _ in range(round(seconds / 0.1)):
        world.step(0.1, (linear, angular))


def test_robot_stops_at_the_wall_and_can_leave_it():
    with World(seed=0, config=EMPTY) as world:
        world.robot.pose = Pose(2.0, 0.5, 0.0)
        drive(world, 8, 1.0)
        truth = world.truth()
        gap = world.config.length_m / 2 - truth.robot.x - world.config.robot.radius_m
        assert 0 <= gap < 0.03
        assert truth.blocked
        assert truth.linear_mps == 0
        drive(world, 2, -0.5)
        assert world.truth().robot.x < truth.robot.x - 0.7
        assert not world.truth().blocked


@pytest.mark.parametrize('seed', [0, 4, 15])
def test_robot_never_touches_anything_on_a_random_drive(seed):
    with World(seed=seed) as world:
        drive_at_random(world, Gaps(world))


def drive_at_random(world, gaps):
    rng = np.random.default_rng(3)
    obstacles = gaps.obstacles()
    person = gaps.of(world.kinds.index('person'))
    blocked, start = 0, world.robot.pose
    for _ in range(240):
        world.step(0.25, (rng.uniform(-0.6, 1.2), rng.uniform(-1.0, 1.0)))
        blocked += world.robot.blocked
        assert gaps.smallest(gaps.robot, obstacles, 0.2) > -1e-6, world.time_s
        assert gaps.smallest(gaps.robot, person, 0.2) > 0, world.time_s
    assert blocked > 0
    assert world.robot.pose != start


def test_robot_waits_for_a_person_in_its_way():
    config = WorldConfig(object_count=0, inner_wall=False, person=PersonConfig(pause_mean_s=60.0))
    with World(seed=5, config=config) as world:
        person = world.walkers[0]
        person._pause_s = 100.0
        person.position = np.array([2.0, 0.0])
        world.robot.pose = Pose(0.0, 0.0, 0.0)
        drive(world, 5, 1.0)
        reach = world.config.robot.radius_m + world.config.person.radius_m
        assert world.robot.pose.x == pytest.approx(2.0 - reach, abs=0.03)
        assert world.robot.blocked


def test_watchdog_stops_the_robot_when_commands_cease():
    with World(seed=0, config=EMPTY) as world:
        world.robot.pose = Pose(-4.0, 0.0, 0.0)
        world.step(0.4, (0.5, 0.0))
        assert world.truth().linear_mps == pytest.approx(0.5)
        world.step(0.05)
        assert world.truth().linear_mps == pytest.approx(0.5)
        world.step(0.5)
        stopped = world.truth()
        assert stopped.linear_mps == 0
        world.step(1.0)
        assert world.truth().robot == stopped.robot


def test_speed_limits_cut_a_command():
    with World(seed=0, config=EMPTY) as world:
        world.robot.pose = Pose(-4.0, 0.0, 0.0)
        world.step(0.1, (50.0, -50.0))
        world.step(0.8, (50.0, -50.0))
        world.command(50.0, -50.0)
        world.step(0.3)
        limits = world.config.robot
        assert world.truth().linear_mps == limits.linear_limit_mps
        assert world.truth().angular_radps == -limits.angular_limit_radps


@pytest.mark.parametrize('wrong', [(math.nan, 0.0), (0.0, math.inf), (-math.inf, 0.0)])
def test_command_that_is_not_finite_is_refused_and_changes_nothing(wrong):
    with World(seed=0, config=EMPTY) as world:
        world.step(0.2, (0.4, 0.0))
        before = world.truth()
        with pytest.raises(ValueError, match='must be finite'):
            world.step(0.1, wrong)
        assert world.truth().robot == before.robot


def test_robot_drives_the_arc_that_it_is_told():
    with World(seed=0, config=EMPTY) as world:
        world.robot.pose = Pose(-2.0, -2.0, 0.0)
        drive(world, 6, 0.4, 0.4)
        drive(world, 1, 0.0)
        pose = world.robot.pose
        turned = (pose.yaw + 2 * math.pi) % (2 * math.pi)
        assert turned == pytest.approx(2.4, abs=0.12)
        # A circle of 1 m radius around (-2, -1).
        assert math.hypot(pose.x + 2, pose.y + 1) == pytest.approx(1.0, abs=0.08)


def test_odometry_without_drift_is_the_truth_and_with_drift_is_not():
    poses = []
    for drift, seed in ((0.0, 0), (0.05, 0), (0.05, 0)):
        config = WorldConfig(
            object_count=0,
            inner_wall=False,
            person=PersonConfig(count=0),
            robot=RobotConfig(drift_fraction=drift),
        )
        with World(seed=seed, config=config) as world:
            start = world.robot.pose
            drive(world, 4, 0.3, 0.3)
            poses.append((start.then(world.robot.odometry), world.robot.pose))
    (told, true), first, second = poses
    assert (told.x, told.y, told.yaw) == pytest.approx((true.x, true.y, true.yaw))
    assert first == second
    assert math.hypot(first[0].x - first[1].x, first[0].y - first[1].y) > 0.005


def test_inverse_pose_undoes_the_pose():
    pose = Pose(1.5, -0.7, 2.1)
    there_and_back = pose.then(pose.inverse())
    assert (there_and_back.x, there_and_back.y, there_and_back.yaw) == pytest.approx((0, 0, 0))


def test_patrol_moves_safely_and_looks_at_the_person(world, gaps):
    world.motion = 'patrol'
    places, seen = [], 0
    for step in range(240):
        world.step(0.5)
        places.append((world.robot.pose.x, world.robot.pose.y))
        if step % 8 == 0:
            seen += (world.segmentation() == world.kinds.index('person')).any()
            assert gaps.smallest(gaps.robot, gaps.obstacles(), 0.2) > 0
    assert np.linalg.norm(np.ptp(places, axis=0)) > 2.0
    assert seen > 8
