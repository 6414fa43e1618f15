"""The map against one that goes ray by ray, and what becomes of predictions."""

from dataclasses import replace
from itertools import pairwise
import math

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from offload_ros.navigation import GridPose, VoxelGrid, VoxelMap, VoxelMapConfig

from ..draws import examples

CONFIG = VoxelMapConfig(length_m=6.0, height_m=2.0, range_max_m=2.5, margin_m=1.0)
GRID = VoxelGrid(40, 12, 40, 0.1, (-2.0, -2.0, -0.1))


def crossed(origin, end, step):
    """Return the voxels that a segment passes through, by all its crossings of planes in order."""
    cuts = [0.0, 1.0]
    for axis in range(3):
        a, b = origin[axis] / step, end[axis] / step
        for whole in range(math.ceil(min(a, b)), math.floor(max(a, b)) + 1):
            if a != b:
                cuts.append((whole - a) / (b - a))
    cuts = sorted(cut for cut in cuts if 0 <= cut <= 1)
    middles = [(first + last) / 2 for first, last in pairwise(cuts)]
    places = [origin + middle * (end - origin) for middle in middles]
    return {tuple(math.floor(v / step) for v in place) for place in places}


class SlowMap:
    """AGRNav's log-odds in a dictionary: hit 0.65, miss 0.35, from 0.12 to 0.90."""

    def __init__(self):
        self.odds = {}

    def insert(self, origin, ends, hit):
        passed, ended, step = set(), set(), CONFIG.resolution_m
        for end, met in zip(ends, hit, strict=True):
            length = np.linalg.norm(end - origin)
            if length < 0.5:
                continue
            if length > CONFIG.range_max_m:
                end, met = origin + (end - origin) * CONFIG.range_max_m / length, False
            voxel = tuple(math.floor(v / step) for v in end)
            if not met or voxel not in ended:
                passed |= crossed(origin, end, step)
            if met:
                ended.add(voxel)
        for voxel in passed | ended:
            change = math.log(0.65 / 0.35) if voxel in ended else math.log(0.35 / 0.65)
            value = self.odds.get(voxel, 0.0) + change
            self.odds[voxel] = min(max(value, math.log(0.12 / 0.88)), math.log(0.9 / 0.1))


@settings(max_examples=examples(6, 200))
@given(st.integers(0, 10**6))
def test_fusion_equals_rays_taken_one_by_one(seed):
    rng = np.random.default_rng(seed)
    built, slow = VoxelMap(CONFIG), SlowMap()
    for _ in range(3):
        origin = np.array([*rng.uniform(-0.5, 0.5, 2), rng.uniform(0.2, 1.0)])
        # Beyond the range, beneath the floor and nearer than the robot itself as well.
        ends = origin + rng.normal(size=(25, 3)) * (1.5, 1.5, 0.6)
        ends[:10] = ends[10:20] + rng.normal(size=(10, 3)) * 0.02
        hit = rng.random(25) < 0.6
        built.insert(origin, ends, hit)
        slow.insert(origin, ends, hit)
    expected = np.full(CONFIG.shape, 0.5)
    seen = np.zeros(CONFIG.shape, bool)
    for voxel, odds in slow.odds.items():
        cell = tuple(np.array(voxel) - built.corner)
        if all(0 <= c < n for c, n in zip(cell, CONFIG.shape, strict=True)):
            expected[cell] = 1 / (1 + math.exp(-odds))
            seen[cell] = True
    np.testing.assert_allclose(built.probability(), expected, atol=1e-6)
    np.testing.assert_array_equal(built.seen, seen)
    np.testing.assert_array_equal(built.occupied, expected >= 0.8 - 1e-5)
    np.testing.assert_array_equal(built.free, seen & (expected < 0.5 - 1e-5))


def test_three_hits_occupy_and_what_went_away_becomes_free():
    built = VoxelMap(CONFIG)
    place = np.array([[1.05, 0.05, 0.55]])
    cell = tuple(np.floor((place[0] - built.low) / 0.1).astype(int))
    for count in range(1, 30):
        built.insert((0.05, 0.05, 0.55), place, [True])
        assert built.occupied[cell] == (count >= 3)
    assert built.probability().max() == pytest.approx(0.90)
    for _ in range(30):
        built.insert((0.05, 0.05, 0.55), [[2.05, 0.05, 0.55]], [True])
    assert built.free[cell]
    assert built.probability().min() == pytest.approx(0.12)


def test_a_hit_and_a_miss_are_neither_free_nor_occupied():
    built = VoxelMap(CONFIG)
    built.insert((0.05, 0.05, 0.55), [[1.05, 0.05, 0.55]], [True])
    built.insert((0.05, 0.05, 0.55), [[2.05, 0.05, 0.55]], [True])
    cell = tuple(np.floor((np.array([1.05, 0.05, 0.55]) - built.low) / 0.1).astype(int))
    assert built.seen[cell]
    assert not built.free[cell]
    assert not built.occupied[cell]


@settings(max_examples=examples(8, 200))
@given(st.lists(st.tuples(st.integers(-80, 80), st.integers(-80, 80)), min_size=1, max_size=5))
def test_window_rolls_without_blur_and_forgets_what_it_leaves(stops):
    built = VoxelMap(CONFIG)
    rng = np.random.default_rng(0)
    origin = np.array([0.05, 0.05, 0.55])
    ends = origin + rng.normal(size=(60, 3))
    for _ in range(3):
        built.insert(origin, ends, np.ones(60, bool))
    inside = built.middles(built.occupied)
    for stop in stops:
        built.follow(np.array(stop) * 0.1)
        low, high = built.low, built.low + np.array(CONFIG.shape) * 0.1
        assert (
            np.abs(np.array(stop) * 0.1 - (low + high)[:2] / 2) <= 3.0 - 1.0 + 0.05 + 1e-9
        ).all()
        inside = inside[((inside > low) & (inside < high)).all(1)]
        kept = built.middles(built.occupied)
        assert kept.shape == inside.shape
        np.testing.assert_allclose(
            kept[np.lexsort(kept.T)], inside[np.lexsort(inside.T)], atol=1e-9
        )


def test_robot_near_the_middle_does_not_move_the_map():
    built = VoxelMap(CONFIG)
    assert not built.follow((1.9, -1.9))
    assert built.follow((2.1, 0.0))
    assert not built.follow((2.1, 0.0))
    with pytest.raises(ValueError, match='origin'):
        built.follow((1e9, 0.0))


def labels(*places):
    """Return a prediction in which the voxels at places (metres, from the robot) are occupied."""
    marked = np.zeros(GRID.shape, np.uint8)
    cell, inside = GRID.cells(np.array(places, float))
    assert inside.all()
    marked[tuple(cell.T)] = 7
    return marked


def at(built, *place):
    """Return the voxel of a place."""
    return tuple(np.floor((np.array(place) - built.low) / 0.1).astype(int))


def test_prediction_blocks_what_is_unseen_and_goes_when_seen_free():
    built = VoxelMap(CONFIG)
    for _ in range(3):
        built.insert((0.05, 0.05, 0.55), [[1.05, 0.05, 0.55]], [True])
    predicted = labels((0.55, 0.05, 0.55), (1.05, 0.05, 0.55), (1.55, 0.05, 0.55))
    built.complete(predicted, GRID, GridPose(0.0, 0.0))
    # The first was seen free, the second occupied.
    assert [tuple(cell) for cell in np.argwhere(built.predicted)] == [at(built, 1.55, 0.05, 0.55)]
    assert built.blocked.sum() == 2
    built.insert((1.55, -0.5, 0.55), [[1.55, 0.6, 0.55]], [False])
    assert not built.predicted.any()
    # Seen free once, it stays so.
    built.complete(predicted, GRID, GridPose(0.0, 0.0))
    assert not built.predicted.any()


def test_column_is_blocked_to_its_top_only_where_asked_and_unseen():
    config = replace(CONFIG, columns=True, column_top_m=1.5)
    built = VoxelMap(config)
    built.insert((1.05, 0.55, 0.85), [[1.05, -0.95, 0.85]], [False])
    built.complete(labels((1.05, 0.05, 0.55)), GRID, GridPose(0.0, 0.0))
    column = built.predicted[at(built, 1.05, 0.05, 0.0)[:2]]
    heights = built.low[2] + (np.flatnonzero(column) + 0.5) * 0.1
    np.testing.assert_allclose(
        heights, [h for h in np.arange(0.15, 1.5, 0.1) if abs(h - 0.85) > 0.01]
    )
    assert built.predicted.sum() == len(heights)
    # The only predicted voxel of the column is seen free: so the column goes.
    built.insert((1.05, 0.65, 0.55), [[1.05, -0.95, 0.55]], [False])
    assert not built.predicted.any()


def test_predictions_on_a_way_are_not_believed_until_they_are_trusted_again():
    built = VoxelMap(CONFIG)
    places = (0.55, 0.05, 0.55), (0.55, 0.75, 0.55), (1.55, 0.05, 1.05)
    predicted = labels(*places)

    def believed():
        built.complete(predicted, GRID, GridPose(0.0, 0.0))
        return [bool(built.predicted[at(built, *place)]) for place in places]

    assert believed() == [True, True, True]
    # The first is on the way, the second beside it, the third above.
    built.doubt([[0.0, 0.0, 0.0], [0.5, 0.0, 0.0], [1.6, 0.0, 0.0]], 0.3, 0.8)
    assert built.predicted.sum() == 2
    assert believed() == [False, True, True]
    built.follow((2.5, 0.0))  # the doubt stays where it was
    assert believed() == [False, True, True]
    built.trust()
    assert believed() == [True, True, True]


def test_a_doubted_column_is_not_marked_again():
    built = VoxelMap(replace(CONFIG, columns=True, column_top_m=1.5))
    built.complete(labels((1.05, 0.05, 1.05)), GRID, GridPose(0.0, 0.0))
    column = at(built, 1.05, 0.05, 0.0)[:2]
    low = at(built, 1.05, 0.05, 0.35)[2]
    assert built.predicted[column][low]
    built.doubt([[1.0, 0.0, 0.0]], 0.3, 0.8)
    assert not built.predicted[column][low]


def test_predicted_floor_raises_no_column():
    config = replace(CONFIG, columns=True, column_top_m=1.5)
    built = VoxelMap(config)
    built.complete(labels((1.05, 0.05, -0.05), (1.05, 0.05, 0.05)), GRID, GridPose(0.0, 0.0))
    assert built.predicted[:, :, 2:].sum() == 0


def test_new_prediction_replaces_the_old_one_where_both_look():
    built = VoxelMap(CONFIG)
    built.complete(labels((1.05, 0.05, 0.55), (-1.75, 0.05, 0.55)), GRID, GridPose(0.0, 0.0))
    built.complete(labels((1.05, 0.05, 0.75)), GRID, GridPose(0.5, 0.0))
    found = {tuple(cell) for cell in np.argwhere(built.predicted)}
    assert found == {at(built, 1.55, 0.05, 0.75), at(built, -1.75, 0.05, 0.55)}


@pytest.mark.parametrize('yaw', [0.0, 0.4, -2.3])
def test_prediction_covers_the_same_space_whatever_the_yaw(yaw):
    built, pose = VoxelMap(CONFIG), GridPose(0.33, -0.21, 0.0, yaw)
    built.complete(labels((1.05, 0.35, 0.55), (-0.65, -1.05, 0.35)), GRID, pose)
    middles = pose.out_of(np.array([[1.05, 0.35, 0.55], [-0.65, -1.05, 0.35]]))
    found = built.middles(built.predicted)
    away = np.linalg.norm(found[:, None] - middles, axis=2)
    assert (away.min(0) < 0.09).all()
    assert away.min(1).max() < 0.2


def test_nothing_is_predicted_where_the_robot_is():
    built = VoxelMap(CONFIG)
    built.complete(labels((0.05, 0.05, 0.25), (0.65, 0.05, 0.25)), GRID, GridPose(0.0, 0.0))
    built.clear_predicted((0.0, 0.0, 0.0), 0.25, 0.5)
    assert np.argwhere(built.predicted).tolist() == [list(at(built, 0.65, 0.05, 0.25))]


def test_cloud_that_is_none_is_refused():
    built = VoxelMap(CONFIG)
    with pytest.raises(ValueError, match='ends'):
        built.insert((0, 0, 0), [[1.0, 2.0]], [True])
    with pytest.raises(ValueError, match='hit'):
        built.insert((0, 0, 0), [[1.0, 2.0, 0.0]], [True, False])
    with pytest.raises(ValueError, match='origin'):
        built.insert((0, 0, np.nan), [[1.0, 2.0, 0.0]], [True])
    with pytest.raises(ValueError, match='labels'):
        built.complete(np.zeros((2, 2, 2), np.uint8), GRID, GridPose(0.0, 0.0))
    built.insert((0, 0, 0), [], [])
    built.insert((0, 0, 0.5), [[np.nan, 0, 0], [np.inf, 0, 0]], [True, False])
    assert not built.seen.any()


@pytest.mark.parametrize(
    'wrong', [{'hit': 0.4}, {'occupied_min': 0.95}, {'floor_m': 0.03}, {'resolution_m': 0.0}]
)
def test_map_with_impossible_settings_is_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        VoxelMapConfig(**wrong)


@pytest.mark.parametrize('yaw', [0.0, 0.4])
def test_a_newer_prediction_withdraws_all_of_the_older_one(yaw):
    # Voxels of the grid end in the middle of voxels of the map.
    grid = VoxelGrid(16, 8, 16, 0.15, (-1.2, -1.2, -0.15))
    pose = GridPose(0.02, -0.03, 0.0, yaw)
    voxels = VoxelMap(VoxelMapConfig())
    voxels.complete(np.ones(grid.shape, np.uint8), grid, pose)
    assert voxels.predicted.sum() > 3000
    voxels.complete(np.zeros(grid.shape, np.uint8), grid, pose)
    assert not voxels.predicted.any()
