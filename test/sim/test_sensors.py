"""Sensors against each other and against geometry."""

import math

import numpy as np
import pytest

from offload_ros.sim import CameraConfig, LidarConfig, PersonConfig, World, WorldConfig
from offload_ros.sim.robot import Pose
from offload_ros.sim.world import STEP_S

EMPTY = WorldConfig(object_count=0, inner_wall=False, person=PersonConfig(count=0))


def pixel_rays(world):
    """Return unit vectors (H, W, 3) in the map and the cosine to the optical axis (H, W)."""
    camera = world.config.camera
    cx, cy = camera.centre_px
    v, u = np.mgrid[: camera.height_px, : camera.width_px]
    rays = np.stack([(u - cx) / camera.focal_px, (v - cy) / camera.focal_px, np.ones(u.shape)], -1)
    rays /= np.linalg.norm(rays, axis=-1, keepdims=True)
    _, rotation = world.camera_pose()
    return rays @ rotation.T, rays[..., 2]


@pytest.mark.parametrize('seed', [0, 3])
def test_depth_and_segmentation_agree_with_ray_casting(seed):
    with World(seed=seed) as world:
        world.step(1.0)
        depth, picture = world.render_depth()[::4, ::4], world.segmentation()[::4, ::4]
        rays, along = (values[::4, ::4] for values in pixel_rays(world))
        position, _ = world.camera_pose()
        distance, entity = world.cast(position, rays.reshape(-1, 3))
        expected = distance.reshape(depth.shape) * along
        same = picture == entity.reshape(picture.shape)
        assert same.mean() > 0.98  # edges are drawn half a pixel differently
        error = np.abs(depth - expected)[same]
        assert np.nanmedian(error) < 2e-3
        assert np.nanquantile(error, 0.97) < 0.02
        shifted = np.abs(depth[:, 1:] - expected[:, :-1])  # a wrong centre would be noticed
        assert np.nanmedian(shifted) > 2 * np.nanmedian(error)


def test_principal_point_is_between_the_middle_pixels():
    with World(seed=0, config=EMPTY) as world:
        rays, _ = pixel_rays(world)
        position, _ = world.camera_pose()
        depth = world.render_depth()
        points = position + rays * (depth / pixel_rays(world)[1])[..., None]
        floor = world.segmentation() == world.kinds.index('floor')
        assert floor.sum() > 1000
        assert np.abs(points[floor][:, 2]).max() < 0.01
        assert np.abs(points[floor][:, 2]).mean() < 0.001


def test_depth_outside_the_range_is_nan():
    camera = CameraConfig(depth_min_m=0.9, depth_max_m=3.0)
    with World(seed=0, config=WorldConfig(object_count=0, camera=camera)) as world:
        world.robot.pose = Pose(-4.0, 0.0, 0.0)
        depth = world.render_depth()
    assert depth.dtype == np.float32
    assert 0.05 < np.isnan(depth).mean() < 0.95
    assert np.nanmin(depth) >= 0.9
    assert np.nanmax(depth) <= 3.0


def test_scan_agrees_with_the_walls_of_an_empty_room():
    with World(seed=0, config=EMPTY) as world:
        pose = world.robot.pose = Pose(1.0, -0.5, 0.7)
        ranges = world.scan()
        bearing = pose.yaw - math.pi + 2 * math.pi * np.arange(360) / 360
        c, s = np.cos(bearing), np.sin(bearing)
        with np.errstate(divide='ignore'):
            to_x = np.where(c > 0, 5.0 - pose.x, -5.0 - pose.x) / c
            to_y = np.where(s > 0, 4.0 - pose.y, -4.0 - pose.y) / s
        expected = np.minimum(to_x, to_y)
        assert ranges.dtype == np.float32
        # The closed door stands 4.5 cm out of its wall, seen at an angle.
        assert (ranges < expected + 1e-3).all()
        assert (ranges > expected - 0.3).all()
        assert (np.abs(ranges - expected) < 1e-3).mean() > 0.85


def test_scan_sees_an_object_where_the_truth_has_it():
    config = WorldConfig(
        kinds=('barrel',), object_count=1, inner_wall=False, person=PersonConfig(count=0)
    )
    with World(seed=1, config=config) as world:
        barrel = world.truth().objects[0]
        world.robot.pose = Pose(0.0, 0.0, math.atan2(barrel.y, barrel.x))
        ahead = world.scan()[180]
        away = math.hypot(barrel.x, barrel.y)
        assert ahead == pytest.approx(away - barrel.size[0] / 2, abs=0.03)


def test_range_beyond_reach_is_infinite():
    config = WorldConfig(
        object_count=0, person=PersonConfig(count=0), lidar=LidarConfig(range_max_m=2.0)
    )
    with World(seed=0, config=config) as world:
        world.robot.pose = Pose(-3.5, 0.0, 0.0)
        ranges = world.scan()
        assert np.isinf(ranges).any()
        assert ranges[np.isfinite(ranges)].max() <= 2.0
        assert len(world.point_cloud()) < world.config.lidar.cloud_channels * 240


def test_cloud_lies_on_surfaces_and_never_on_the_robot(world):
    points = world.point_cloud()
    assert points.dtype == np.float32
    assert points.shape[1] == 3
    assert len(points) > 3000
    assert np.linalg.norm(points, axis=1).min() > 0.2
    pose, height = world.robot.pose, world.config.lidar.cloud_height_m
    heights = points[:, 2] + height
    assert heights.min() > -1e-3
    assert heights.max() < world.config.wall_height_m + 1e-3
    assert (np.abs(heights) < 1e-3).mean() > 0.2  # much of it is floor
    c, s = math.cos(pose.yaw), math.sin(pose.yaw)
    x = pose.x + c * points[:, 0] - s * points[:, 1]
    y = pose.y + s * points[:, 0] + c * points[:, 1]
    assert np.abs(x).max() < 5.001
    assert np.abs(y).max() < 4.001


def test_camera_does_not_see_the_robot_but_an_overview_does(world):
    seen = world.render_rgb()
    world.robot.config = world.robot.config
    pose = world.robot.pose
    view = (pose.x, pose.y, 0.4, 2.0, 90.0, -60.0)
    with_robot = world.overview(160, 120, view)
    world.robot.pose = Pose(pose.x + 1.0, pose.y, pose.yaw)
    world.step(STEP_S)
    without = world.overview(160, 120, view)
    assert (np.abs(with_robot.astype(int) - without).max(-1) > 40).mean() > 0.02
    assert seen.shape == (240, 320, 3)


def test_picture_shows_the_cone_where_the_segmentation_has_it():
    config = WorldConfig(
        kinds=('cone',), object_count=1, inner_wall=False, person=PersonConfig(count=0)
    )
    with World(seed=2, config=config) as world:
        cone = world.truth().objects[0]
        inwards = math.atan2(-cone.y, -cone.x)
        x, y = cone.x + 1.5 * math.cos(inwards), cone.y + 1.5 * math.sin(inwards)
        world.robot.pose = Pose(x, y, inwards + math.pi + 0.3)  # beside the middle
        rgb = world.render_rgb().astype(int)
        mask = world.segmentation() == cone.id
        orange = (rgb[..., 0] > 140) & (rgb[..., 2] < rgb[..., 0] / 2.5)
        assert mask.sum() > 500
        assert (orange & mask).sum() > 0.4 * mask.sum()
        assert (orange & ~mask).sum() < 0.1 * mask.sum()


def test_picture_is_bright_and_varied(world):
    for _ in range(6):
        world.step(0.5, (0.0, 1.2))
        picture = world.render_rgb()
        assert 50 < picture.mean() < 220
        assert picture.std() > 12
        assert (picture.max(-1) < 8).mean() < 0.2
