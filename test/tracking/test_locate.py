"""Keypoints with depth to a place in the map."""

import numpy as np
import pytest

from offload_ros.tracking.depth import PatchConfig, depth_in_metres, depths_at
from offload_ros.tracking.geometry import Rigid
from offload_ros.tracking.locate import TRUNK, Intrinsics, LocateConfig, believed, locate

CAMERA = Intrinsics(250.0, 250.0, 159.5, 119.5, 320, 240)
POSE = Rigid.planar(1.0, -2.0, 0.6).then(Rigid.camera(0.12, 0.6, 0.08))


def body(points_m, depth, radius=6):
    """Draw discs at the projections of points (K, 3) in the optical frame; return poses (K, 3)."""
    pixels = CAMERA.project(points_m)
    rows, columns = np.mgrid[: depth.shape[0], : depth.shape[1]]
    for (x, y), z in zip(pixels, points_m[:, 2], strict=True):
        depth[(columns - x) ** 2 + (rows - y) ** 2 <= radius**2] = z
    return np.concatenate([pixels, np.ones((len(pixels), 1))], 1)


def standing(at):
    """Return 17 points (17, 3), in the optical frame, of a flat figure at (2,) in the map."""
    rng = np.random.default_rng(1)
    feet = np.array([*at, 0.0])
    offsets = np.stack([np.zeros(17), np.zeros(17), rng.uniform(0.2, 1.5, 17)], 1)
    side = np.array([-np.sin(0.6), np.cos(0.6), 0.0])
    return POSE.inverse().apply(feet + offsets + rng.uniform(-0.2, 0.2, (17, 1)) * side)


def test_person_is_found_where_they_stand():
    depth = np.full((240, 320), 6.0, np.float32)
    at = np.array([3.2, -0.7])
    poses = body(standing(at), depth)
    (found,) = locate(poses[None], depth, CAMERA, POSE, LocateConfig(surface_to_centre_m=0.0))
    assert found.position[:2] == pytest.approx(at, abs=0.03)
    assert found.used >= 15
    assert abs(found.bearing) < 0.2
    (behind,) = locate(poses[None], depth, CAMERA, POSE, LocateConfig(surface_to_centre_m=0.1))
    gap = behind.position[:2] - found.position[:2]
    assert np.hypot(*gap) == pytest.approx(0.1, abs=1e-6)
    assert gap @ (at - POSE.translation[:2]) > 0


def test_keypoints_on_edges_holes_and_occluders_do_not_move_the_person():
    depth = np.full((240, 320), 7.0, np.float32)
    at = np.array([3.2, -0.7])
    points = standing(at)
    poses = body(points, depth, radius=5)
    poses[3:6, 0] += 4.0  # off the body's edge: more wall than arm in the patch
    rng = np.random.default_rng(0)
    depth[rng.random(depth.shape) < 0.25] = np.nan
    x, y = np.rint(poses[8, :2]).astype(int)
    depth[y - 6 : y + 7, x - 6 : x + 7] = 0.9  # something held before one hand
    x, y = np.rint(poses[9, :2]).astype(int)
    depth[y - 6 : y + 7, x - 6 : x + 7] = np.nan
    (found,) = locate(poses[None], depth, CAMERA, POSE, LocateConfig(surface_to_centre_m=0.0))
    assert found.position[:2] == pytest.approx(at, abs=0.06)
    assert np.isnan(found.keypoints[9]).all()


def test_depth_at_an_edge_is_that_of_the_foreground():
    depth = np.full((20, 20), 5.0, np.float32)
    depth[:, :10] = 2.0
    config = PatchConfig(radius_px=2)
    assert depths_at(depth, [[9, 10], [10, 10]], config) == pytest.approx([2.0, 2.0])
    assert depths_at(depth, [[12, 10]], config) == pytest.approx([5.0])


def test_depth_needs_enough_valid_pixels_and_ignores_points_off_the_image():
    depth = np.full((20, 20), np.nan, np.float32)
    depth[10, 8:13] = 3.0
    config = PatchConfig(radius_px=2, min_valid=6)
    points = [[10, 10], [-3, 5], [25, 5], [np.nan, 3], [1e30, 2]]
    assert np.isnan(depths_at(depth, points, config)).all()
    assert depths_at(depth, points[:1], PatchConfig(radius_px=2, min_valid=5)) == [3.0]
    corner = np.full((20, 20), 4.0, np.float32)
    assert depths_at(corner, [[0, 0], [19, 19]], config) == pytest.approx([4.0, 4.0])
    assert depths_at(corner, np.empty((0, 2)), config).shape == (0,)


def test_encodings_of_rep_118():
    raw = np.array([[0, 1500], [65535, 250]], np.uint16)
    metres = depth_in_metres(raw, '16UC1')
    assert metres.dtype == np.float32
    assert np.isnan(metres[0, 0])
    assert metres[0, 1] == pytest.approx(1.5)
    floats = np.array([[np.nan, np.inf], [-np.inf, 2.0], [0.0, -1.0]], np.float32)
    known = np.isfinite(depth_in_metres(floats, '32FC1'))
    assert known.tolist() == [[False, False], [False, True], [False, False]]
    for image, encoding in ((raw, '32FC1'), (floats, '16UC1'), (raw, 'rgb8'), (raw[0], '16UC1')):
        with pytest.raises(ValueError, match=r'REP-118|is float32|is uint16|depth image'):
            depth_in_metres(image, encoding)


def test_depth_of_half_the_size_gives_the_same_place():
    at = np.array([3.2, -0.7])
    depth = np.full((240, 320), 6.0, np.float32)
    poses = body(standing(at), depth, radius=9)
    half = depth[::2, ::2].copy()
    config = LocateConfig(surface_to_centre_m=0.0, patch=PatchConfig(radius_px=2))
    (whole,) = locate(poses[None], depth, CAMERA, POSE, config)
    (small,) = locate(poses[None], half, CAMERA, POSE, config)
    assert small.position == pytest.approx(whole.position, abs=0.03)
    with pytest.raises(ValueError, match='proportions'):
        locate(poses[None], depth[:, :200], CAMERA, POSE, config)


def test_person_without_depth_or_confidence_has_no_place():
    depth = np.full((240, 320), np.nan, np.float32)
    poses = body(standing([3.2, -0.7]), depth.copy())
    assert locate(poses[None], depth, CAMERA, POSE, LocateConfig()) == [None]
    depth[:] = 3.0
    poses[:, 2] = 0.1
    assert locate(poses[None], depth, CAMERA, POSE, LocateConfig()) == [None]
    assert locate(np.empty((0, 17, 3)), depth, CAMERA, POSE, LocateConfig()) == []


def test_unprojection_undoes_projection():
    points = np.random.default_rng(3).uniform([-1, -1, 0.5], [1, 1, 6], (40, 3))
    np.testing.assert_allclose(
        CAMERA.unproject(CAMERA.project(points), points[:, 2]), points, atol=1e-12
    )


def test_uncalibrated_camera_is_refused():
    with pytest.raises(ValueError, match='not calibrated'):
        Intrinsics.of_k(np.zeros(9), 320, 240)
    with pytest.raises(ValueError, match='K must'):
        Intrinsics.of_k([np.nan] * 9, 320, 240)
    assert Intrinsics.of_k([200, 0, 160, 0, 210, 120, 0, 0, 1], 320, 240).fy == 210


def test_somebody_seen_well_is_placed_by_own_estimates_of_head_and_torso():
    depth = np.full((240, 320), 6.0, np.float32)
    at = np.array([3.2, -0.7])
    poses = body(standing(at), depth)
    poses[:, 2] = 0.0  # no keypoint was found by itself
    poses[[7, 8, 9, 10], :2] += 80.0  # arms, off the body
    config = LocateConfig(surface_to_centre_m=0.0)
    assert locate(poses[None], depth, CAMERA, POSE, config) == [None]
    sure = believed(poses[None], [0.9], config)
    (found,) = locate(sure, depth, CAMERA, POSE, config)
    assert found.position[:2] == pytest.approx(at, abs=0.05)
    assert found.used == len(TRUNK)
    unsure = believed(poses[None], [config.own_score_min - 0.01], config)
    assert np.array_equal(unsure, poses[None])


def test_own_estimates_add_nothing_where_keypoints_were_found():
    poses = np.zeros((1, 17, 3))
    poses[0, :3, 2] = 0.8
    assert np.array_equal(believed(poses, [0.99], LocateConfig()), poses)
    poses[0, 2, 2] = 0.1
    assert (believed(poses, [0.99], LocateConfig())[0, TRUNK, 2] >= 0.8).all()
