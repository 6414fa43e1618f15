"""The network's grid: where points come to lie, and its bits on the wire."""

import math

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from offload_ros.navigation import GridPose, VoxelGrid, packed, unpacked

from ..draws import examples

SIDES = st.tuples(*[st.integers(1, 9)] * 3)


@settings(max_examples=examples(25, 500))
@given(SIDES, st.integers(0, 10**6))
def test_packing_there_and_back_changes_nothing(shape, seed):
    grid = np.random.default_rng(seed).integers(0, 2, shape).astype(np.uint8)
    data = packed(grid)
    assert data.nbytes == math.ceil(grid.size / 8)
    np.testing.assert_array_equal(unpacked(data, shape), grid)


def test_published_grid_is_256_kib_of_bits():
    grid = VoxelGrid()
    assert grid.shape == (256, 32, 256)
    assert packed(np.zeros(grid.shape)).nbytes == 256 * 1024
    with pytest.raises(ValueError, match='bytes'):
        unpacked(np.zeros(7, np.uint8), grid.shape)


def test_axes_are_forward_up_left_as_the_network_has_them():
    grid = VoxelGrid(10, 4, 6, 0.5, (-1.0, -1.5, -0.5))
    marked = grid.occupied([[0.1, 0.6, 1.2]], GridPose(0.0, 0.0))
    assert np.argwhere(marked).tolist() == [[2, 3, 4]]


@settings(max_examples=examples(15, 300))
@given(st.integers(0, 10**6), st.floats(-4, 4), st.floats(-20, 20))
def test_marked_voxels_lie_where_the_points_are(seed, yaw, x):
    grid, pose = VoxelGrid(20, 10, 16, 0.2, (-2.0, -1.6, -0.2)), GridPose(x, 1.0, 0.3, yaw)
    points = np.random.default_rng(seed).uniform(-3, 3, (50, 3)) + np.array([x, 1.0, 0.3])
    middles = grid.middles(grid.occupied(points, pose), pose)
    local = pose.into(points)
    low, high = np.array(grid.low_m), np.array(grid.low_m) + np.array([20, 16, 10]) * 0.2
    inside = points[((local > low) & (local < high)).all(1)]
    if not len(inside):
        assert not len(middles)
        return
    away = np.abs(pose.into(inside)[:, None] - pose.into(middles)).max(2)
    assert away.min(1).max() <= 0.1 + 1e-6
    assert away.min(0).max() <= 0.1 + 1e-6


def test_holes_and_places_far_away_are_left_out():
    grid = VoxelGrid(4, 4, 4)
    far = [[np.nan, 0, 0], [1e300, 0, 0], [-1e18, 0, 0], [np.inf, 0, 0]]
    assert not grid.occupied(far, GridPose(0.0, 0.0)).any()
    with pytest.raises(ValueError, match='points'):
        grid.occupied([[0.0, 0.0]], GridPose(0.0, 0.0))
    with pytest.raises(ValueError, match='finite'):
        GridPose(math.nan, 0.0)
    with pytest.raises(ValueError, match='width'):
        VoxelGrid(0, 4, 4)
