"""Free floor: distances and paths."""

from itertools import pairwise

import numpy as np
import pytest

from offload_ros.sim.freespace import FreeSpace, Obstacles

SQUARE = np.array([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])


def test_distance_to_a_square_is_exact_outside_and_zero_inside():
    points = np.array([[0.0, 0.0], [2.0, 0.0], [0.0, -3.0], [4.0, 5.0], [0.99, 0.99]])
    assert Obstacles([SQUARE]).distance(points) == pytest.approx([0, 1, 2, 5, 0])


def test_distance_without_obstacles_is_infinite():
    assert np.isinf(Obstacles([]).distance(np.zeros((2, 2)))).all()


def test_path_goes_around_and_keeps_its_clearance():
    free = FreeSpace(8, 8, Obstacles([SQUARE]))
    start, goal = np.array([-3.0, 0.0]), np.array([3.0, 0.0])
    path = free.path(start, goal, 0.5)
    walked = np.concatenate(
        [a + np.linspace(0, 1, 50)[:, None] * (b - a) for a, b in pairwise(path)]
    )
    assert np.allclose(path[0], start)
    assert np.linalg.norm(path[-1] - goal) < 0.1
    assert free.obstacles.distance(walked).min() > 0.5 - 0.1
    length = np.linalg.norm(np.diff(path, axis=0), axis=1).sum()
    assert 6.3 < length < 8.0


def test_no_path_leads_into_an_obstacle_or_through_a_closed_wall():
    wall = np.array([[-0.1, -4.0], [0.1, -4.0], [0.1, 4.0], [-0.1, 4.0]])
    free = FreeSpace(8, 8, Obstacles([wall]))
    assert free.path(np.array([-2.0, 0.0]), np.array([0.0, 0.0]), 0.3) == []
    inside = free.region(0.3)
    sides = [inside[free.cell((x, 0.0))] for x in (-2.0, 2.0)]
    assert sorted(sides) == [False, True]  # only one side counts as free


def test_path_avoids_somebody_who_stands_in_the_way():
    free = FreeSpace(8, 4, Obstacles([]))
    start, goal, somebody = np.array([-3.0, 0.05]), np.array([3.0, 0.05]), np.zeros(2)
    assert len(free.path(start, goal, 0.3)) == 2
    around = free.path(start, goal, 0.3, [(somebody, 1.0)])
    assert len(around) > 2
    assert min(np.linalg.norm(corner) for corner in around) > 0.9
