"""What the scan passes below, from a 3-D lidar."""

import math

import numpy as np
import pytest

from offload_ros.tracking.occupancy import OccupancyMap
from offload_ros.tracking.overhangs import OverhangConfig, Overhangs, nearest_by_direction

EYE = np.array([0.0, 0.0, 0.8])


def cloud(things, walls_m=5.0, eye=EYE, columns=180, rows=16):
    """What a lidar sees: things are (x, y, radius, low, high) upright cylinders, then a round wall,
    then the floor."""
    angle = (np.arange(columns) + 0.5) / columns * 2 * math.pi
    rise = np.radians(np.linspace(-40, 20, rows))
    a, r = (each.ravel() for each in np.meshgrid(angle, rise, indexing='ij'))
    ray = np.stack([np.cos(a) * np.cos(r), np.sin(a) * np.cos(r), np.sin(r)], 1)
    with np.errstate(divide='ignore'):
        reach = np.minimum(walls_m / np.cos(r), np.where(r < 0, -eye[2] / np.sin(r), np.inf))
    for x, y, radius, low, high in things:
        gap = np.array([x, y]) - eye[:2]
        flat = ray[:, :2] / np.cos(r)[:, None]
        along = flat @ gap
        aside = np.abs(flat[:, 0] * gap[1] - flat[:, 1] * gap[0])
        hit = (aside < radius) & (along > 0)
        away = along - np.sqrt(np.clip(radius**2 - aside**2, 0, None))
        z = eye[2] + np.tan(r) * away
        hit &= (z >= low) & (z <= high)
        reach = np.where(hit, np.minimum(reach, away / np.cos(r)), reach)
    return eye + ray * reach[:, None]


TABLE = (2.0, 0.0, 0.4, 0.55, 0.78)


def test_a_table_top_is_an_obstacle_and_the_floor_is_none():
    overhangs = Overhangs()
    overhangs.insert(EYE, cloud([TABLE]))
    assert len(overhangs.points) == 0  # seen once
    overhangs.insert(EYE, cloud([TABLE]))
    near = overhangs.points[np.hypot(*overhangs.points.T) < 4]
    assert len(near) > 3
    assert np.hypot(*(near - [2.0, 0.0]).T).max() < 0.5
    assert np.hypot(*overhangs.points.T).max() < 5.2


def test_what_has_gone_is_forgotten_and_what_cannot_be_seen_is_not():
    overhangs = Overhangs()
    for _ in range(2):
        overhangs.insert(EYE, cloud([TABLE, (0.0, 2.0, 0.25, 0.0, 1.7)]))
    there = [np.hypot(*(overhangs.points - at).T).min() for at in ([1.65, 0], [0, 1.8])]
    assert max(there) < 0.15
    # The person has left; a wardrobe hides the table.
    for _ in range(2):
        overhangs.insert(EYE, cloud([TABLE, (1.0, 0.0, 0.5, 0.0, 2.0)]))
    left = [np.hypot(*(overhangs.points - at).T).min() for at in ([1.65, 0], [0, 1.8])]
    assert left[0] < 0.15 and left[1] > 0.3
    # From so near no ray meets its edge any more.
    beside = np.array([1.4, 0.0, 0.8])
    for _ in range(3):
        overhangs.insert(beside, cloud([TABLE], eye=beside))
    assert np.hypot(*(overhangs.points - [1.65, 0]).T).min() < 0.15


def test_people_are_left_out_and_far_things_forgotten():
    overhangs = Overhangs(OverhangConfig(range_max_m=3.0))
    for _ in range(2):
        overhangs.insert(EYE, cloud([TABLE]), skip=[(2.0, 0.1)])
    assert len(overhangs.points) == 0
    for _ in range(2):
        overhangs.insert(EYE, cloud([TABLE]))
    assert len(overhangs.points) > 0
    overhangs.insert(EYE, cloud([TABLE]), skip=[(2.0, 0.1)])
    assert len(overhangs.points) == 0
    for _ in range(2):
        overhangs.insert(EYE, cloud([TABLE]))
    away = np.array([20.0, 0.0, 0.8])
    overhangs.insert(away, cloud([], eye=away))
    assert len(overhangs.points) == 0 or np.hypot(*(overhangs.points - [2, 0]).T).min() > 3


def test_marked_cells_are_occupied_in_the_map_whatever_the_scan_says():
    grid = OccupancyMap()
    angles = np.linspace(-math.pi, math.pi, 180, endpoint=False)
    ends = 4 * np.stack([np.cos(angles), np.sin(angles)], 1)
    for _ in range(4):
        grid.insert((0, 0), ends, np.ones(180, bool))
    at = np.array([[1.0, 0.5]])
    assert grid.view().is_free(at).all()
    grid.mark(at)
    assert not grid.view().is_free(at).any() and grid.view().clearance(at)[0] == 0
    grid.insert((0, 0), ends, np.ones(180, bool))
    assert grid.view().clearance(at)[0] == 0
    grid.mark(np.empty((0, 2)))
    assert grid.view().is_free(at).all()


def test_the_nearest_point_of_each_direction_is_kept():
    points = np.array([[2.0, 0.01, 0.3], [1.0, 0.005, 0.9], [0.0, 3.0, 0.1], [-1.0, -1.0, 0.5]])
    found = nearest_by_direction(points, np.zeros(3))
    assert {tuple(p) for p in found} == {tuple(points[i]) for i in (1, 2, 3)}
    assert nearest_by_direction(np.empty((0, 3)), np.zeros(3)).shape == (0, 3)
    with pytest.raises(ValueError, match='low_m'):
        OverhangConfig(low_m=9.0)
