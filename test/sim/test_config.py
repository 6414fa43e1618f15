"""A wrong configuration is refused with the rule that it breaks."""

import pytest

from offload_ros.sim import (
    CameraConfig,
    LidarConfig,
    PersonConfig,
    RobotConfig,
    World,
    WorldConfig,
)
from offload_ros.sim.gl import choose_backend


@pytest.mark.parametrize(
    ('build', 'rule'),
    [
        (lambda: CameraConfig(width_px=0), 'width_px must be from 16 to 1920, not 0'),
        (lambda: CameraConfig(horizontal_fov_deg=float('nan')), 'horizontal_fov_deg must be'),
        (lambda: LidarConfig(cloud_lowest_deg=30), 'cloud_lowest_deg must not be above'),
        (lambda: RobotConfig(cmd_vel_timeout_s=0), 'cmd_vel_timeout_s must be'),
        (lambda: PersonConfig(speed_mps=-1), 'speed_mps must be from 0.1 to 2'),
        (lambda: WorldConfig(kinds=('chair', 'unicorn')), r"kinds has \['unicorn'\]; it may name"),
        (lambda: WorldConfig(length_m=1), 'length_m must be from 4 to 20'),
        (lambda: WorldConfig(object_scale=0), 'object_scale must be from 0.5 to 2, not 0'),
        (lambda: World(seed=-1), 'seed must not be negative'),
    ],
)
def test_wrong_value_is_refused_with_its_rule(build, rule):
    with pytest.raises(ValueError, match=rule):
        build()


def test_time_does_not_run_backwards(world):
    for wrong in (0.0, -0.1, float('inf'), float('nan')):
        with pytest.raises(ValueError, match='dt_s must be positive'):
            world.step(wrong)


def test_crowded_room_gives_a_world_with_fewer_objects():
    with World(seed=1, config=WorldConfig(object_count=60, length_m=6, width_m=6)) as world:
        assert 0 < len(world.objects) < 60


@pytest.mark.parametrize(
    ('environment', 'backend'),
    [
        ({}, 'osmesa'),
        ({'DISPLAY': ':0'}, None),
        ({'WAYLAND_DISPLAY': 'wayland-0'}, None),
        ({'MUJOCO_GL': 'egl'}, None),
        ({'MUJOCO_GL': 'egl', 'DISPLAY': ':0'}, None),
    ],
)
def test_software_rendering_is_chosen_only_without_display_and_wish(environment, backend):
    assert choose_backend(environment, 'linux') == backend
