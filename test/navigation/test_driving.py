"""From a setpoint to speeds."""

import math

import numpy as np
import pytest

from offload_ros.navigation.driving import STAND, DriveConfig, speeds_for
from offload_ros.navigation.following import Setpoint

ZERO = np.zeros(3)


def setpoint(position=(0, 0, 0), velocity=(0, 0, 0)):
    return Setpoint(np.array(position, float), np.array(velocity, float), ZERO)


def test_without_a_setpoint_it_stands():
    assert speeds_for(None, ZERO, 0.3, False, DriveConfig()) == STAND


@pytest.mark.parametrize('yaw', [0.0, 1.0, -2.5])
def test_velocity_is_turned_into_the_robots_frame_and_errors_are_fed_back(yaw):
    config = DriveConfig(gain_per_s=2.0, speed_mps=5.0)
    at = np.array([1.0, -2.0, 0.5])
    wish = np.array([0.4, 0.3, 0.1])
    speeds = speeds_for(setpoint(at + 0.1, wish), at, yaw, True, config)
    c, s = math.cos(yaw), math.sin(yaw)
    ahead = np.array([[c, -s], [s, c]]) @ [speeds.forward_mps, speeds.left_mps]
    assert ahead == pytest.approx(wish[:2] + 0.2)
    assert speeds.up_mps == pytest.approx(0.3)


def test_speeds_are_limited_but_not_their_direction():
    config = DriveConfig(speed_mps=1.0, climb_mps=0.5, turn_radps=0.7)
    speeds = speeds_for(setpoint((3, 4, 9)), ZERO, 0.0, True, config)
    assert math.hypot(speeds.forward_mps, speeds.left_mps) == pytest.approx(1.0)
    assert speeds.left_mps / speeds.forward_mps == pytest.approx(4 / 3)
    assert speeds.up_mps == 0.5
    assert speeds.turn_radps == 0.7
    assert speeds_for(setpoint((0, 0, -9)), ZERO, 0.0, True, config).up_mps == -0.5


def test_it_looks_where_it_goes_by_the_shorter_turn_and_keeps_its_heading_when_slow():
    config = DriveConfig()
    left = speeds_for(setpoint(velocity=(-0.5, 0.1, 0)), ZERO, 2.0, False, config)
    assert left.turn_radps > 0
    right = speeds_for(setpoint(velocity=(-0.5, -0.1, 0)), ZERO, -2.0, False, config)
    assert right.turn_radps < 0
    assert speeds_for(setpoint(velocity=(0.05, 0, 0)), ZERO, 1.0, False, config).turn_radps == 0


def test_a_robot_that_cannot_go_sideways_turns_before_it_drives():
    config = DriveConfig(sideways=False)
    across = speeds_for(setpoint(velocity=(0, 0.5, 0)), ZERO, 0.0, False, config)
    assert (across.forward_mps, across.left_mps) == pytest.approx((0, 0))
    assert across.turn_radps > 0
    behind = speeds_for(setpoint(velocity=(-0.5, 0.01, 0)), ZERO, 0.0, False, config)
    assert behind.forward_mps == 0
    flying = speeds_for(setpoint(velocity=(0, 0.5, 0)), ZERO, 0.0, True, config)
    assert flying.left_mps == pytest.approx(0.5)


def test_impossible_settings_are_refused():
    with pytest.raises(ValueError, match='turn_radps'):
        DriveConfig(turn_radps=0.0)
