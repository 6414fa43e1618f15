"""Where the robot fits: never where it would touch anything, and exactly along lines."""

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from offload_ros.navigation import Body, SpaceBuilder
from offload_ros.navigation.destination import Whither, destination, escape

from ..draws import examples
from .scene import STEP, Scene, clearance

BODY = Body()


def scene_of(seed, count=14):
    """Return a random generator, a scene and its space."""
    rng = np.random.default_rng(seed)
    scene = Scene().scattered(rng, count)
    return rng, scene, scene.space(SpaceBuilder(BODY))


@settings(max_examples=examples(5, 100))
@given(st.integers(0, 10**6))
def test_robot_touches_nothing_where_it_fits_and_fits_where_there_is_room(seed):
    rng, scene, space = scene_of(seed)
    places = rng.uniform((-3.9, -3.9, 0.0), (3.9, 3.9, space.top_m), (60, 3))
    places[::3, 2] = 0.0
    # Two voxels and the slack are what a voxel map may cost.
    for place, fits in zip(places, space.fits(places), strict=True):
        room = clearance(scene, BODY, place)
        assert room >= 0 if fits else room <= 2 * np.sqrt(3) * STEP


def test_what_is_off_the_map_below_or_above_does_not_fit():
    space = Scene().space(SpaceBuilder(BODY))
    assert space.fits(np.array([[0, 0, 0], [3.99, -4, 0], [0, 0, space.top_m]])).all()
    outside = [[4.1, 0, 0], [0, -4.1, 0], [0, 0, -0.1], [0, 0, space.top_m + 0.1]]
    assert not space.fits(np.array(outside)).any()


def test_robot_that_does_not_fly_fits_on_the_floor_only():
    space = Scene().space(SpaceBuilder(Body(flies=False)))
    assert space.fits(np.array([[0, 0, 0], [0, 0, 0.5]])).tolist() == [True, False]


def test_map_lower_than_the_robot_is_for_driving():
    space = SpaceBuilder(BODY).of_blocked(
        np.zeros((20, 20, 3), bool), np.array([-1, -1, -0.1]), 0.1
    )
    assert space.top_m == 0.0
    assert space.fits(np.zeros((1, 3))).all()


def test_robot_passes_below_a_table_only_where_it_is_high_enough():
    for height, passes in ((0.4, False), (0.6, True)):
        scene = Scene().box((-1, -1, height), (1, 1, height + 0.1))
        space = scene.space(SpaceBuilder(BODY))
        assert space.fits(np.zeros((1, 3)))[0] == passes
        assert space.fits(np.array([[0.0, 0.0, 1.2]]))[0]


@settings(max_examples=examples(6, 200))
@given(st.integers(0, 10**6))
def test_line_fits_only_where_all_its_points_do(seed):
    rng, _, space = scene_of(seed)
    differ = 0
    for _ in range(20):
        start, end = rng.uniform((-3.9, -3.9, 0.0), (3.9, 3.9, 1.5), (2, 3))
        end = start + (end - start) * rng.choice([0.2, 1.0])
        if rng.random() < 0.3:
            start[2] = end[2] = 0.0
        if rng.random() < 0.3:  # along the planes between voxels
            start[:2], end[:2] = np.round(start[:2], 1), np.round(end[:2], 1)
        points = start + np.linspace(0, 1, 2000)[:, None] * (end - start)
        every = space.fits(points).all()
        if space.line_fits(start, end):
            assert every
        else:
            differ += every
    # Points may step over the corner of a voxel, but seldom do.
    assert differ <= 2


@settings(max_examples=examples(4, 100))
@given(st.integers(0, 10**6))
def test_margin_agrees_with_its_gradient_and_with_the_map(seed):
    rng, scene, space = scene_of(seed)
    points = rng.uniform((-3.5, -3.5, 0.2), (3.5, 3.5, 2.0), (30, 3))
    points[::3, 2] = 0.0
    room, gradient = space.margin(points)
    for axis in range(3):
        shift = np.zeros(3)
        shift[axis] = 1e-6
        ahead, behind = space.margin(points + shift)[0], space.margin(points - shift)[0]
        flat = (points[:, 2] == 0) & (axis == 2)
        kink = np.abs(ahead - 2 * room + behind) > 1e-9
        slope = np.where(flat, 0.0, (ahead - behind) / 2e-6)
        good = ~kink | flat
        np.testing.assert_allclose(gradient[good, axis], slope[good], atol=1e-4)
    for place, value in zip(points, room, strict=True):
        true = min(clearance(scene, BODY, place), 0.65) + 1e-6
        assert value <= true + 0.5 * STEP  # between middles it interpolates


def test_renewed_space_equals_one_built_at_once():
    builder, scene = SpaceBuilder(BODY), Scene()
    rng = np.random.default_rng(3)
    for _ in range(4):
        scene.scattered(rng, 2)
        space, fresh = scene.space(builder), scene.space(SpaceBuilder(BODY))
        np.testing.assert_array_equal(space.layers, fresh.layers)
        np.testing.assert_array_equal(space.air, fresh.air)


def test_floor_between_voxels_is_refused():
    with pytest.raises(ValueError, match='floor'):
        SpaceBuilder().of_blocked(np.zeros((9, 9, 9), bool), np.array([0, 0, -0.15]), 0.1)


def test_goal_in_an_obstacle_becomes_the_nearest_free_place_that_can_be_reached():
    # A box with a hollow: the middle is free, and nobody gets there.
    scene = Scene().box((0.0, -1.2, 0), (2.4, 1.2, 9)).scattered(np.random.default_rng(0), 0)
    scene.occupied[48:56, 36:44, 1:] = False
    space = scene.space(SpaceBuilder(BODY))
    start, goal = np.array([-2.0, 0.0, 0.0]), np.array([0.3, 0.0, 0.0])
    found = destination(space, start, goal, 0.8, True)
    assert found.kind is Whither.BESIDE
    assert found.place[0] < 0
    assert clearance(scene, BODY, found.place) >= 0
    assert np.linalg.norm(found.place - goal) <= 0.8
    assert destination(space, start, goal, 0.3, True).kind is Whither.BLOCKED
    inner = destination(space, start, np.array([0.75, 0.0, 0.0]), 0.6, True)
    assert inner.kind is Whither.UNREACHABLE


def test_goal_outside_the_map_is_approached_along_the_line_to_it():
    space = Scene().space(SpaceBuilder(BODY))
    start = np.array([0.0, 1.0, 0.0])
    found = destination(space, start, np.array([20.0, 6.0, 0.0]), 0.5, True)
    assert found.kind is Whither.STAGE
    np.testing.assert_allclose(found.place, [3.5, 1.875, 0.0], atol=0.08)
    assert destination(space, start, np.array([20.0, 6.0, 0.0]), 0.5, False).kind is Whither.OUTSIDE
    edge = found.place
    assert destination(space, edge, np.array([20.0, 6.0, 0.0]), 0.5, True).kind is Whither.OUTSIDE


def test_escape_leads_away_from_an_obstacle_and_never_through_it():
    scene = Scene().box((0.1, -4, 0), (0.2, 4, 9))
    space = scene.space(SpaceBuilder(BODY))
    for x in (0.0, -0.1):
        place = escape(space, np.array([x, 0.05, 0.0]), 0.6)
        assert place[0] < x
        assert space.fits(place[None])[0]
    assert escape(space, np.array([0.3, 0.05, 0.0]), 0.6)[0] > 0.3
    # A gap too narrow, free only on the other side of a thin wall.
    scene.box((-0.5, -4, 0), (-0.3, 4, 9))
    scene.box((-4, -4, 0), (-0.3, 4, 9))
    assert escape(scene.space(SpaceBuilder(BODY)), np.array([0.0, 0.05, 0.0]), 0.6) is None
