"""Frames of a robot: moving ones, fixed ones, and what connects them."""

import math

import numpy as np
import pytest

from offload_ros.tracking.frames import FrameTree
from offload_ros.tracking.geometry import PoseMissing

STRAIGHT = (0.0, 0.0, 0.0, 1.0)


def quarter():
    return (0.0, 0.0, math.sin(math.pi / 4), math.cos(math.pi / 4))


@pytest.fixture
def tree():
    found = FrameTree()
    found.fixed('base_link', 'mast', (0.0, 0.0, 1.0), quarter())
    found.fixed('mast', 'camera', (0.5, 0.0, 0.0), STRAIGHT)
    found.fixed('/base_link', '/lidar', (0.2, 0.0, 0.3), STRAIGHT)
    for step in range(3):
        found.moving('odom', 'base_link', 0.1 * step, (step, 0.0, 0.0), STRAIGHT)
    found.moving('map', 'odom', 0.0, (10.0, 0.0, 0.0), STRAIGHT)
    found.moving('map', 'odom', 0.2, (10.0, 2.0, 0.0), STRAIGHT)
    return found


def test_transforms_are_followed_up_and_down_the_tree(tree):
    camera = tree.lookup('map', 'camera', 0.15)
    assert camera.translation == pytest.approx([11.5, 2.0, 1.0])
    assert camera.yaw == pytest.approx(math.pi / 2)
    between = tree.lookup('lidar', 'camera', 0.15)
    assert between.translation == pytest.approx([-0.2, 0.5, 0.7])
    there = tree.lookup('camera', 'lidar', 0.15)
    both = between.then(there)
    np.testing.assert_allclose(both.rotation, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(both.translation, 0.0, atol=1e-12)


def test_only_the_poses_on_the_way_must_be_known(tree):
    """Mounts are known at any time, also where odometry is not."""
    assert tree.lookup('base_link', 'camera', 99.0).translation == pytest.approx([0.0, 0.5, 1.0])
    assert tree.lookup('odom', 'base_link', 0.1).translation == pytest.approx([1.0, 0.0, 0.0])
    with pytest.raises(PoseMissing, match='asked was'):
        tree.lookup('odom', 'camera', 99.0)
    with pytest.raises(PoseMissing, match="'gripper'"):
        tree.lookup('map', 'gripper', 0.1)


def test_senseless_poses_leave_the_tree_as_it_was(tree):
    with pytest.raises(ValueError, match='zero'):
        tree.moving('odom', 'base_link', 0.3, (0.0, 0.0, 0.0), (0.0, 0.0, 0.0, 0.0))
    with pytest.raises(ValueError, match='finite'):
        tree.fixed('base_link', 'camera', (math.nan, 0.0, 0.0), STRAIGHT)
    assert not tree.moving('odom', 'base_link', 0.1, (5.0, 0.0, 0.0), STRAIGHT)
    assert tree.newest_s('base_link') == pytest.approx(0.2)
    assert tree.newest_s('camera') == -math.inf


def test_a_circle_of_frames_is_no_endless_loop():
    tree = FrameTree()
    tree.fixed('a', 'b', (0.0, 0.0, 0.0), STRAIGHT)
    tree.fixed('b', 'a', (0.0, 0.0, 0.0), STRAIGHT)
    with pytest.raises(PoseMissing, match='connects'):
        tree.lookup('c', 'a', 0.0)


def test_after_a_jump_of_time_moving_frames_begin_anew(tree):
    tree.clear()
    with pytest.raises(PoseMissing):
        tree.lookup('odom', 'base_link', 0.1)
    assert tree.lookup('base_link', 'camera', 0.0).translation == pytest.approx([0.0, 0.5, 1.0])
    tree.moving('odom', 'base_link', 0.0, (7.0, 0.0, 0.0), STRAIGHT)
    assert tree.lookup('odom', 'base_link', 0.0).translation == pytest.approx([7.0, 0.0, 0.0])
