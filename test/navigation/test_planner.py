"""What every plan promises, judged slowly and without the planner's own code."""

from itertools import pairwise
import time

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from offload_ros.navigation import Body, PlanConfig, Planner, SpaceBuilder, Status, Whither
from offload_ros.navigation.geometric import search
from offload_ros.navigation.lattice import Found
from offload_ros.navigation.plan_config import GeometricConfig, Limits

from ..draws import examples
from .scene import Scene, clearance, judge, patient

BODY = Body()
PLANNER = Planner(patient())
SEEDS = st.integers(0, 10**6)


def flown(space, plan):
    """Return the share of a plan's path that is in the air."""
    return space.airborne(plan.spline.sampled(0.02)[1]).mean()


@settings(max_examples=examples(6, 200))
@given(SEEDS, st.booleans(), st.floats(0.0, 1.5))
def test_every_plan_touches_nothing_keeps_limits_and_goes_where_asked(seed, flies, up):
    rng, body = np.random.default_rng(seed), Body(flies=flies)
    scene = Scene().scattered(rng, int(rng.integers(2, 25)))
    space = scene.space(SpaceBuilder(body))
    up = up if flies and up >= 0.1 else 0.0
    start, goal = scene.random_place(rng, space), scene.random_place(rng, space, up)
    plan = PLANNER.plan(space, start, goal)
    if plan.spline is None:
        assert plan.status is Status.NO_PATH
        return
    assert plan.status is Status.OK
    assert plan.end.kind is Whither.GOAL
    judge(scene, body, PLANNER.config.limits, plan.spline, start, np.zeros(3), goal)
    if not flies:
        assert plan.spline.at(np.linspace(0, 99, 500))[0][:, 2].max() < 1e-6


@settings(max_examples=examples(3, 150))
@given(SEEDS, st.floats(0.1, 0.9))
def test_plan_on_the_way_goes_on_from_place_and_speed(seed, share):
    rng = np.random.default_rng(seed)
    scene = Scene().scattered(rng, 8)
    space = scene.space(SpaceBuilder(BODY))
    start, goal, other = (scene.random_place(rng, space) for _ in range(3))
    first = PLANNER.plan(space, start, goal)
    if first.spline is None:
        return
    place, velocity, acceleration = first.spline.at(share * first.spline.duration_s)
    plan = PLANNER.plan(space, place, other, velocity, acceleration)
    # It may be too fast to turn in time; then it says so.
    assert plan.status in (Status.OK, Status.NO_PATH, Status.CANNOT_STOP)
    if plan.spline is not None:
        judge(scene, BODY, PLANNER.config.limits, plan.spline, place, velocity, other)
    # Where it was going it can go on.
    if plan.status is Status.CANNOT_STOP:
        return
    on = PLANNER.plan(space, place, goal, velocity, acceleration)
    assert on.status in (Status.OK, Status.CANNOT_STOP)


@pytest.mark.parametrize('limits', [Limits(0.5, 0.4), Limits(1.0, 3.0)])
def test_slow_robots_keep_their_limits(limits):
    rng = np.random.default_rng(5)
    scene = Scene().scattered(rng, 10)
    space = scene.space(SpaceBuilder(BODY))
    start, goal = scene.random_place(rng, space), scene.random_place(rng, space)
    plan = Planner(patient(limits=limits)).plan(space, start, goal)
    judge(scene, BODY, limits, plan.spline, start, np.zeros(3), goal)


@settings(max_examples=examples(5, 200))
@given(SEEDS)
def test_way_is_found_just_where_a_flood_fill_of_the_floor_finds_one(seed):
    rng, body = np.random.default_rng(seed), Body(flies=False)
    scene = Scene((6.0, 6.0, 1.1)).scattered(rng, 25, tall=1.0)
    space = scene.space(SpaceBuilder(body))
    start, goal = scene.random_place(rng, space), scene.random_place(rng, space)
    found, way = search(space, start, goal, GeometricConfig(), time.monotonic() + 60)
    cell, last = (tuple(np.floor((p - scene.low) / 0.1).astype(int)[:2]) for p in (start, goal))
    free, reached, edge = space.layers[0], {cell}, [cell]
    while edge:
        x, y = edge.pop()
        for dx in (-1, 0, 1):
            for dy in (-1, 0, 1):
                other = (x + dx, y + dy)
                inside = 0 <= other[0] < free.shape[0] and 0 <= other[1] < free.shape[1]
                if inside and other not in reached and free[other]:
                    reached.add(other)
                    edge.append(other)
    assert (found is Found.WAY) == (last in reached)
    if found is Found.WAY:
        np.testing.assert_allclose(way[[0, -1]], [start, goal])
        for a, b in pairwise(way):
            for part in np.linspace(0, 1, 15):
                assert clearance(scene, body, a + part * (b - a)) >= 0


def wall(gap=None, high=9.0):
    """Return a scene with a wall at x = 0, perhaps with a gap around y = gap."""
    scene = Scene()
    if gap is None:
        return scene.box((-0.1, -4, 0), (0.1, 4, high))
    return scene.box((-0.1, -4, 0), (0.1, gap - 0.6, high)).box(
        (-0.1, gap + 0.6, 0), (0.1, 4, high)
    )


def across(scene, config=None):
    """Return the space and a plan from one side of the wall to the other."""
    space = scene.space(SpaceBuilder(BODY))
    return space, Planner(config or patient()).plan(space, (-2, 0, 0), (2, 0, 0))


def test_robot_drives_where_nothing_is_in_the_way():
    space, plan = across(Scene())
    assert flown(space, plan) == 0
    assert plan.spline.length_m == pytest.approx(4.0, abs=0.05)


def test_robot_drives_through_a_door_rather_than_over_a_low_wall():
    space, plan = across(wall(gap=1.5, high=0.4))
    assert flown(space, plan) == 0


def test_robot_flies_over_a_low_wall_without_a_door_and_lands():
    space, plan = across(wall(high=0.4))
    assert plan.status is Status.OK
    assert 0 < flown(space, plan) < 0.75
    places = plan.spline.sampled(0.02)[1]
    assert places[:, 2].max() < 1.0
    assert places[-1, 2] == pytest.approx(0.0, abs=1e-6)


def test_robot_flies_where_the_detour_costs_more_and_the_price_decides():
    scene = wall(gap=3.2, high=0.4)
    cheap = patient(geometric=GeometricConfig(flight_price=1.5))
    dear = patient(geometric=GeometricConfig(flight_price=50.0))
    assert flown(*across(scene, cheap)) > 0
    assert flown(*across(scene, dear)) == 0


def test_no_path_is_said_when_there_is_none():
    _, plan = across(wall())
    assert plan.status is Status.NO_PATH
    assert not plan.ok


def test_robot_that_does_not_fly_finds_no_path_over_a_low_wall():
    space = wall(high=0.4).space(SpaceBuilder(Body(flies=False)))
    assert PLANNER.plan(space, (-2, 0, 0), (2, 0, 0)).status is Status.NO_PATH


def test_time_that_is_up_is_said_and_nothing_hangs():
    scene = Scene().scattered(np.random.default_rng(1), 30)
    space = scene.space(SpaceBuilder(BODY))
    rng = np.random.default_rng(1)
    start, goal = scene.random_place(rng, space), scene.random_place(rng, space)
    for limit_s in (1e-9, 1e-3, 1e-2):
        plan = Planner(PlanConfig()).plan(space, start, goal, limit_s=limit_s)
        assert plan.status in (Status.TIMEOUT, Status.OK, Status.NO_PATH)
        if plan.ok:
            judge(scene, BODY, Limits(), plan.spline, start, np.zeros(3), goal)


def test_goal_in_an_obstacle_is_replaced_or_refused():
    scene = Scene().box((1.0, -1, 0), (3.0, 1, 9))
    space = scene.space(SpaceBuilder(BODY))
    plan = PLANNER.plan(space, (-2, 0, 0), (1.1, 0, 0))
    assert plan.status is Status.OK
    assert plan.end.kind is Whither.BESIDE
    assert np.linalg.norm(plan.end.place - (1.1, 0, 0)) <= PLANNER.config.goal_tolerance_m
    judge(scene, BODY, Limits(), plan.spline, (-2, 0, 0), np.zeros(3), plan.end.place)
    assert PLANNER.plan(space, (-2, 0, 0), (2.0, 0, 0)).status is Status.GOAL_BLOCKED


def test_goal_outside_the_map_is_approached_or_refused():
    scene = wall(gap=1.5)
    space = scene.space(SpaceBuilder(BODY))
    plan = PLANNER.plan(space, (-2, 0, 0), (30.0, 0, 0))
    assert plan.status is Status.OK
    assert plan.end.kind is Whither.STAGE
    np.testing.assert_allclose(plan.end.place, (3.5, 0, 0), atol=0.08)
    judge(scene, BODY, Limits(), plan.spline, (-2, 0, 0), np.zeros(3), plan.end.place)
    refusing = Planner(patient(approach=False))
    assert refusing.plan(space, (-2, 0, 0), (30.0, 0, 0)).status is Status.GOAL_OUTSIDE


def test_start_that_does_not_fit_is_escaped_from_or_refused():
    space = Scene().box((0, -1, 0), (0.2, 1, 9)).space(SpaceBuilder(BODY))
    plan = PLANNER.plan(space, (-0.1, 0, 0), (-3, 0, 0))
    assert plan.status is Status.ESCAPE
    places = plan.spline.sampled(0.02)[1]
    assert (np.diff(places[:, 0]) <= 1e-9).all()
    assert space.fits(places[-1:])[0]
    blocked = Scene().box((-1, -1, 0), (1, 1, 9)).space(SpaceBuilder(BODY))
    assert PLANNER.plan(blocked, (0, 0, 0), (-3, 0, 0)).status is Status.START_BLOCKED
    assert PLANNER.plan(space, (9, 0, 0), (-3, 0, 0)).status is Status.START_OUTSIDE


def test_odometry_that_is_a_little_wrong_changes_nothing():
    space = Scene().space(SpaceBuilder(BODY))
    plan = PLANNER.plan(space, (-2, 0, -0.04), (2, 0, 0), (2.9, 0, -0.1), (0, 0, -3.0))
    assert plan.status is Status.OK
    np.testing.assert_allclose(plan.spline.at(0.0)[0], (-2, 0, 0), atol=1e-6)
    np.testing.assert_allclose(plan.spline.at(0.0)[1], (2.5, 0, 0), atol=0.01)
    assert plan.spline.keeps(Limits())


@pytest.mark.parametrize('wrong', [(np.nan, 0, 0), (0, 0), ('a', 0, 0)])
def test_start_and_goal_that_are_no_places_are_refused(wrong):
    space = Scene().space(SpaceBuilder(BODY))
    with pytest.raises(ValueError, match='goal'):
        PLANNER.plan(space, (0, 0, 0), wrong)
    with pytest.raises(ValueError, match='start'):
        PLANNER.plan(space, wrong, (0, 0, 0))
