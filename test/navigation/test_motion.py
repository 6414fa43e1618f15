"""Splines, motions of least effort and the terms of refinement, against numbers from elsewhere."""

from itertools import pairwise
import math
import time

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest
from scipy.interpolate import BSpline
from scipy.optimize import check_grad, minimize_scalar

from offload_ros.navigation import SpaceBuilder, Spline
from offload_ros.navigation.plan_config import Limits, RefineConfig
from offload_ros.navigation.refine import Cost, Waypoints, refined
from offload_ros.navigation.spline import fitted, stop_and_go, timed
from offload_ros.navigation.steering import along, least_cost, quartic_roots, shot

from ..draws import examples
from .scene import Scene, clearance

LIMITS = Limits()
SEEDS = st.integers(0, 10**6)


def test_spline_equals_scipys():
    rng = np.random.default_rng(0)
    points, step = rng.normal(size=(9, 3)), 0.3
    spline = Spline(points, step)
    other = BSpline(step * (np.arange(13) - 3), points, 3)
    times = np.linspace(0, spline.duration_s - 1e-9, 100)
    place, velocity, acceleration = spline.at(times)
    np.testing.assert_allclose(place, other(times), atol=1e-12)
    np.testing.assert_allclose(velocity, other.derivative()(times), atol=1e-9)
    np.testing.assert_allclose(acceleration, other.derivative(2)(times), atol=1e-6)
    speed, hardest = spline.peaks()
    assert np.linalg.norm(velocity, axis=1).max() <= speed
    assert np.linalg.norm(acceleration, axis=1).max() <= hardest + 1e-9
    _, places = spline.sampled(0.02)
    assert np.linalg.norm(np.diff(places, axis=0), axis=1).max() <= 0.02


@settings(max_examples=examples(12, 400))
@given(SEEDS, st.integers(2, 20))
def test_fitted_spline_begins_in_the_state_and_ends_at_rest(seed, count):
    rng = np.random.default_rng(seed)
    places, velocity, acceleration = rng.normal(size=(count, 3)), *rng.normal(size=(2, 3))
    spline = fitted(places, velocity, acceleration, 0.2)
    for value, wanted in zip(spline.at(0.0), (places[0], velocity, acceleration), strict=True):
        np.testing.assert_allclose(value, wanted, atol=1e-9)
    place, speed, _ = spline.at(spline.duration_s)
    np.testing.assert_allclose(place, places[-1], atol=1e-9)
    np.testing.assert_allclose(speed, 0, atol=1e-9)
    if count > 5:
        np.testing.assert_allclose(spline.at(0.4)[0], places[2], atol=1e-9)


@settings(max_examples=examples(20, 600))
@given(SEEDS, st.floats(0.0, 2.5), st.floats(0.05, 1.0))
def test_stop_and_go_keeps_limits_and_never_leaves_the_way(seed, speed, step):
    rng = np.random.default_rng(seed)
    way = np.cumsum(rng.normal(size=(rng.integers(2, 6), 3)), 0)
    heading = rng.normal(size=3)
    velocity = heading / np.linalg.norm(heading) * speed
    spline = stop_and_go(way, velocity, LIMITS, step)
    assert spline.keeps(LIMITS)
    place, begun, _ = spline.at(0.0)
    np.testing.assert_allclose(place, way[0], atol=1e-9)
    np.testing.assert_allclose(begun, velocity if speed > 1e-6 else 0, atol=1e-6)
    np.testing.assert_allclose(spline.at(spline.duration_s)[0], way[-1], atol=1e-9)
    braked = way[0] + heading / np.linalg.norm(heading) * (speed**2 / 4 + 3 * speed * step + 1e-9)
    lines = [(way[0], braked), *pairwise(way)]
    _, places = spline.sampled(0.1)
    for point in places:
        off = []
        for a, b in lines:
            share = np.clip((point - a) @ (b - a) / max((b - a) @ (b - a), 1e-12), 0, 1)
            off.append(np.linalg.norm(a + share * (b - a) - point))
        assert min(off) < 1e-6


def test_faster_than_allowed_cannot_be_braked_within_limits():
    assert stop_and_go(np.zeros((2, 3)), np.array([3.0, 0, 0]), LIMITS, 0.2) is None


def test_timed_places_speed_up_and_come_to_rest():
    places = timed(np.array([[0, 0, 0], [6.0, 0, 0]]), 0.5, LIMITS, 1.5, 0.2)
    speeds = np.diff(places[:, 0]) / 0.2
    assert speeds.max() == pytest.approx(1.5)
    assert speeds[0] == pytest.approx(0.7)
    assert np.abs(np.diff(speeds)).max() <= LIMITS.acceleration_mps2 / 2 * 0.2 + 0.05
    assert places[-1] == pytest.approx([6, 0, 0])


@settings(max_examples=examples(12, 400))
@given(SEEDS)
def test_least_cost_equals_a_search_over_durations(seed):
    rng = np.random.default_rng(seed)
    place, velocity, goal, last = rng.normal(size=(4, 3)) * 2
    cost, duration = least_cost(place[None], velocity[None], goal, last, 10.0, 2.5)

    def effort(took):
        coefficients = shot(place, velocity, goal, last, took)
        rates = along(coefficients, np.array([0.0, took / 2, took]))[2]
        # Simpson's rule is exact: the acceleration is linear in time.
        squared = (rates**2).sum(1) @ np.array([1, 4, 1]) * took / 6
        return squared + 10.0 * took

    shortest = np.abs(goal - place).max() / 1.25
    best = min(
        minimize_scalar(
            effort, bounds=(low, low * 1.5), method='bounded', options={'xatol': 1e-6}
        ).fun
        for low in shortest * 1.5 ** np.arange(6)
    )
    assert cost[0] == pytest.approx(effort(duration[0]), rel=1e-6)
    assert cost[0] <= best * (1 + 1e-4)
    ends = along(shot(place, velocity, goal, last, duration[0]), np.array([0.0, duration[0]]))
    np.testing.assert_allclose(ends[0], [place, goal], atol=1e-7)
    np.testing.assert_allclose(ends[1], [velocity, last], atol=1e-7)


@settings(max_examples=examples(20, 600))
@given(st.floats(-50, 50), st.floats(-50, 50), st.floats(-50, 50))
def test_roots_of_quartics_are_roots(p, q, r):
    roots = quartic_roots(*np.array([[p], [q], [r]]))[:, 0]
    assert np.abs(roots**4 + p * roots**2 + q * roots + r).max() < 1e-4 * (1 + max(abs(roots)) ** 4)


def cost_of(seed):
    """Return a cost and control points near obstacles, too fast, partly on the floor."""
    rng = np.random.default_rng(seed)
    space = Scene().scattered(rng, 40).space(SpaceBuilder())
    points = np.cumsum(rng.normal(size=(12, 3)) * 0.5, 0)
    points[:, 2] = 0.6 + 0.1 * rng.random(12)
    ground = np.arange(12) < 6
    points[ground, 2] = 0.0
    waypoints = Waypoints(np.array([2, 7]), rng.normal(size=(2, 3)))
    config = RefineConfig(feasibility=0.01, curvature=0.5)
    return Cost(space, config, LIMITS, 0.15, ground, waypoints), points


@pytest.mark.parametrize(
    'term', ['smoothness', 'feasibility', 'waypoints', 'curvature', 'clearance']
)
@pytest.mark.parametrize('seed', range(3))
def test_gradient_of_each_term_is_its_slope(term, seed):
    cost, points = cost_of(seed)

    def value(flat):
        return getattr(cost, term)(flat.reshape(-1, 3), np.zeros_like(points))

    def slope(flat):
        gradient = np.zeros_like(points)
        getattr(cost, term)(flat.reshape(-1, 3), gradient)
        return gradient.reshape(-1)

    flat = points.reshape(-1)
    scale = np.linalg.norm(slope(flat))
    assert scale > 0
    # Where it changes from voxel to voxel, a slope has kinks.
    assert check_grad(value, slope, flat, epsilon=1e-7) < 1e-3 * scale + 1e-5


@pytest.mark.parametrize('seed', range(3))
def test_refinement_keeps_the_ends_and_makes_room(seed):
    rng = np.random.default_rng(seed)
    scene = Scene().scattered(rng, 10)
    space = scene.space(SpaceBuilder())
    start = scene.random_place(rng, space)
    places = start + np.linspace(0, 1, 14)[:, None] * (scene.random_place(rng, space) - start)
    spline = fitted(places, np.zeros(3), np.zeros(3), 0.3)
    ground, none = np.ones(len(spline.points), bool), Waypoints(np.empty(0, int), np.empty((0, 3)))
    config = RefineConfig(limit_s=60.0)
    better = refined(space, spline, ground, none, config, LIMITS, time.monotonic() + 60)
    np.testing.assert_array_equal(better.points[:3], spline.points[:3])
    np.testing.assert_array_equal(better.points[-3:], spline.points[-3:])
    assert (better.points[:, 2] == 0).all()
    cost = Cost(space, config, LIMITS, 0.3, ground, none)
    assert cost(better.points)[0] <= cost(spline.points)[0]
    lack = [
        sum(
            max(config.margin_m - clearance(scene, space.body, p), 0) ** 2
            for p in s.sampled(0.1)[1]
        )
        for s in (spline, better)
    ]
    assert lack[1] <= lack[0] + 0.02


def test_refinement_without_time_returns_what_it_has():
    space = Scene().space(SpaceBuilder())
    spline = fitted(np.linspace((0, 0, 0), (3, 0, 0), 9), np.zeros(3), np.zeros(3), 0.2)
    ground, none = np.ones(len(spline.points), bool), Waypoints(np.empty(0, int), np.empty((0, 3)))
    result = refined(space, spline, ground, none, RefineConfig(), LIMITS, time.monotonic() - 1)
    np.testing.assert_allclose(result.points, spline.points)
    assert math.isfinite(result.duration_s)
