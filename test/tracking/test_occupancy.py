"""The map against a slow one that casts ray by ray, and what is seen over it."""

from itertools import pairwise
import math

import numpy as np
import pytest
from scipy.ndimage import distance_transform_edt

from offload_ros.tracking.occupancy import FREE, OCCUPIED, UNKNOWN, MapConfig, OccupancyMap
from offload_ros.tracking.visibility import in_sight, look_from

CONFIG = MapConfig(resolution_m=0.1, size_m=12.0, range_max_m=5.0, margin_m=2.0)


def crossed(origin, end, low, step):
    """Return the cells that a segment passes through, each once: by exact crossings of the grid."""
    cuts = [0.0, 1.0]
    for axis in (0, 1):
        a, b = (origin[axis] - low[axis]) / step, (end[axis] - low[axis]) / step
        for whole in range(math.ceil(min(a, b)), math.floor(max(a, b)) + 1):
            if a != b:
                cuts.append((whole - a) / (b - a))
    cuts = sorted(cut for cut in cuts if 0 <= cut <= 1)
    cells = {}
    for first, last in pairwise(cuts):
        middle = (first + last) / 2
        at = origin + middle * (end - origin)
        length = (last - first) * np.hypot(*(end - origin))
        cell = tuple(np.floor((at - low) / step).astype(int))
        cells[cell] = max(cells.get(cell, 0.0), length)
    return cells


def test_cells_equal_those_of_rays_cast_one_by_one():
    rng = np.random.default_rng(0)
    built = OccupancyMap(CONFIG)
    origin = np.array([0.33, -0.21])
    angles = rng.uniform(-math.pi, math.pi, 60)
    ends = origin + rng.uniform(0.5, 4.5, 60)[:, None] * np.stack(
        [np.cos(angles), np.sin(angles)], 1
    )
    hit = rng.random(60) < 0.6
    built.insert(origin, ends, hit)
    grid = built.grid()
    long, every, ended = set(), set(), set()
    for end, is_hit in zip(ends, hit, strict=True):
        for cell, length in crossed(origin, end, built.low, 0.1).items():
            every.add(cell)
            # A corner that a ray merely touches may be left out.
            if length > 0.08:
                long.add(cell)
        if is_hit:
            ended.add(tuple(np.floor((end - built.low) / 0.1).astype(int)))
    free = {tuple(cell) for cell in np.argwhere(grid == FREE)}
    assert {tuple(cell) for cell in np.argwhere(grid == OCCUPIED)} == ended
    assert long - ended <= free <= every - ended


def test_obstacle_that_went_away_becomes_free_and_odds_are_bounded():
    built = OccupancyMap(CONFIG)
    wall = np.array([[2.05, 0.05]])
    for _ in range(200):
        built.insert((0.05, 0.05), wall, np.array([True]))
    cell = tuple(np.floor((wall[0] - built.low) / 0.1).astype(int))
    assert built.grid()[cell] == OCCUPIED
    assert built.probability().max() <= CONFIG.probability_max + 1e-6
    for _ in range(20):
        built.insert((0.05, 0.05), np.array([[3.05, 0.05]]), np.array([True]))
    assert built.grid()[cell] == FREE
    assert built.probability().min() >= CONFIG.probability_min - 1e-6


def test_rays_without_a_hit_and_beyond_the_range_clear_but_do_not_occupy():
    built = OccupancyMap(CONFIG)
    built.insert((0, 0), [[0, 30.0], [4, 0]], np.array([True, False]))
    grid = built.grid()
    assert not (grid == OCCUPIED).any()
    assert (grid == FREE).sum() == pytest.approx(50 + 40, abs=4)


def test_people_do_not_become_part_of_the_map():
    built = OccupancyMap(CONFIG)
    ends = np.array([[3.0, y] for y in np.linspace(-0.2, 0.2, 9)])
    built.insert((0, 0), ends, np.ones(9, bool), skip=[[3.1, 0.0]])
    grid = built.grid()
    assert not (grid == OCCUPIED).any()
    x, y = np.floor((np.array([2.9, 0.0]) - built.low) / 0.1).astype(int)
    assert grid[x, y] == UNKNOWN
    assert (grid == FREE).any()


def test_map_follows_the_robot_and_forgets_what_it_leaves():
    built = OccupancyMap(CONFIG)
    built.insert((0, 0), [[2.05, 0.05], [-3.55, 0.05]], np.array([True, True]))
    view = built.view()
    assert view.clearance(np.array([[2.05, 0.05]])) == 0
    built.insert((4.5, 0.0), [[5.55, 0.05]], np.array([True]))
    view = built.view()
    assert view.clearance(np.array([[2.05, 0.05], [5.55, 0.05]])) == pytest.approx([0, 0])
    assert built.low[0] == pytest.approx(4.5 - 6.0)
    assert view.occupied.sum() == 2
    built.insert((500.0, 0.0), [[501.05, 0.05]], np.array([True]))
    assert built.view().occupied.sum() == 1
    assert built.grid().shape == (120, 120)


def test_distances_equal_the_exact_ones():
    built = OccupancyMap(CONFIG)
    rng = np.random.default_rng(1)
    built.insert((0, 0), rng.uniform(-4, 4, (40, 2)), np.ones(40, bool))
    view = built.view()
    exact = np.maximum(distance_transform_edt(~view.occupied) - 0.5, 0) * 0.1
    assert np.abs(view.distance - exact).max() < 0.03 * exact.max() + 1e-6


@pytest.mark.parametrize('ends', [[[np.nan, 0.0]], [[1.0, 2.0, 3.0]]])
def test_scan_that_is_none_is_refused(ends):
    with pytest.raises(ValueError, match='ends'):
        OccupancyMap(CONFIG).insert((0, 0), ends, np.array([True]))
    with pytest.raises(ValueError, match='hit'):
        OccupancyMap(CONFIG).insert((0, 0), [[1.0, 0.0]], np.array([True, False]))


def walls():
    """Return the view of a map with a wall at x = 2 from y = -1 to 1."""
    built = OccupancyMap(MapConfig(resolution_m=0.05, size_m=12.0, margin_m=2.0))
    y = np.arange(-1.0, 1.0, 0.02)
    ends = np.stack([np.full(len(y), 2.02), y], 1)
    built.insert((0, 0), ends, np.ones(len(y), bool))
    return built.view()


def test_wall_hides_what_is_behind_it_and_only_that():
    view = walls()
    person = np.array([4.0, 0.0])
    places = np.array([[0.0, 0.0], [1.0, 0.3], [4.0, 3.0], [0.0, 3.6], [3.0, -0.5], [9.9, 0.0]])
    expected = np.array([False, False, True, True, True, False])  # the last one is out of reach
    seen = look_from(view, person[None], 5.5).sees(places)[0]
    assert seen.tolist() == expected.tolist()
    assert in_sight(view, person, places[:5]).tolist() == expected[:5].tolist()


def test_sight_from_many_points_equals_lines_one_by_one():
    view = walls()
    rng = np.random.default_rng(2)
    points, places = rng.uniform(-4, 4, (20, 2)), rng.uniform(-4, 4, (200, 2))
    fast = look_from(view, points, 11.5).sees(places)
    slow = np.array([in_sight(view, point, places) for point in points])
    # Bearings are rounded: only what lies at the very edge of a shadow may differ.
    assert (fast == slow).mean() > 0.98
