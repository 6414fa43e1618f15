"""Poses between stamps and frames of cameras."""

import math

import numpy as np
import pytest
from scipy.spatial.transform import Rotation, Slerp

from offload_ros.tracking.geometry import PoseBuffer, PoseMissing, Rigid


def test_pose_between_stamps_equals_scipys_interpolation():
    rng = np.random.default_rng(0)
    turns = Rotation.random(6, random_state=1)
    moved = rng.normal(size=(6, 3))
    stamps = np.cumsum(rng.uniform(0.02, 0.3, 6))
    buffer = PoseBuffer()
    for stamp, translation, turn in zip(stamps, moved, turns, strict=True):
        # The sign of a quaternion is free; half of them come with the other one.
        sign = 1 if rng.random() < 0.5 else -1
        assert buffer.add(stamp, translation, sign * turn.as_quat())
    slerp = Slerp(stamps, turns)
    for stamp in np.linspace(stamps[0], stamps[-1], 50):
        pose = buffer.at(stamp)
        np.testing.assert_allclose(pose.rotation, slerp(stamp).as_matrix(), atol=1e-9)
        expected = [np.interp(stamp, stamps, moved[:, i]) for i in range(3)]
        np.testing.assert_allclose(pose.translation, expected, atol=1e-12)


def test_pose_just_after_the_newest_goes_on_and_later_is_missing():
    buffer = PoseBuffer(beyond_s=0.1)
    for step in range(3):
        half = 0.05 * step
        buffer.add(0.1 * step, (0.1 * step, 0, 0), (0, 0, math.sin(half), math.cos(half)))
    pose = buffer.at(0.25)
    assert pose.translation == pytest.approx([0.25, 0, 0])
    assert pose.yaw == pytest.approx(0.25)
    with pytest.raises(PoseMissing, match='asked was'):
        buffer.at(0.31)
    with pytest.raises(PoseMissing, match='asked was'):
        buffer.at(-0.01)
    with pytest.raises(PoseMissing, match='no pose'):
        PoseBuffer().at(0.0)


def test_pose_buffer_is_bounded_and_ignores_stamps_that_go_back():
    buffer = PoseBuffer(limit=10)
    for step in range(100):
        assert buffer.add(step, (0, 0, 0), (0, 0, 0, 1))
    assert len(buffer) == 10
    assert not buffer.add(98.5, (9, 9, 9), (0, 0, 0, 1))
    assert buffer.at(98.5).translation == pytest.approx([0, 0, 0])


@pytest.mark.parametrize(
    ('translation', 'quaternion'),
    [((0, 0, 0), (0, 0, 0, 0)), ((np.nan, 0, 0), (0, 0, 0, 1)), ((0, 0), (0, 0, 0, 1))],
)
def test_pose_buffer_refuses_what_is_no_pose(translation, quaternion):
    with pytest.raises(ValueError, match=r'quaternion|translation'):
        PoseBuffer().add(0.0, translation, quaternion)


def test_optical_frame_of_a_camera_looks_forward():
    camera = Rigid.camera(0.1, 0.6)
    # 2 m ahead, 1 m to the left, 0.5 m up, in the axes of REP-103.
    assert camera.apply(np.array([-1.0, -0.5, 2.0])) == pytest.approx([2.1, 1.0, 1.1])
    tilted = Rigid.camera(0.0, 0.0, pitch_up=math.pi / 6)
    assert tilted.apply(np.array([0.0, 0.0, 1.0]))[2] == pytest.approx(0.5)


def test_frames_chain_and_invert():
    first, second = Rigid.planar(1, 2, 0.7), Rigid.camera(0.2, 0.5, 0.3)
    points = np.random.default_rng(2).normal(size=(5, 3))
    chained = first.then(second)
    np.testing.assert_allclose(chained.apply(points), first.apply(second.apply(points)))
    np.testing.assert_allclose(chained.inverse().apply(chained.apply(points)), points, atol=1e-12)
