"""From where the robot should be to speeds: feedforward of the motion, and its error fed back."""

from __future__ import annotations

from dataclasses import dataclass
import math

from offload_ros.navigation.following import Setpoint
from offload_ros.tracking.checks import Floats, within, wrapped_angle

_TURN_FROM_MPS = 0.15  # slower, a direction of travel says little


@dataclass(frozen=True)
class DriveConfig:
    """gain_per_s: of the position's error; heading_per_s: of the heading's. turn_radps: at most.

    speed_mps: the speed may exceed the motion's to catch up, up to this. sideways: the robot goes
    in any direction on the floor; otherwise it turns first and drives then.
    """

    gain_per_s: float = 1.5
    heading_per_s: float = 3.0
    turn_radps: float = 1.5
    speed_mps: float = 1.2
    climb_mps: float = 0.8
    sideways: bool = True

    def __post_init__(self) -> None:
        within('gain_per_s', self.gain_per_s, 0.0, 20.0)
        within('heading_per_s', self.heading_per_s, 0.0, 20.0)
        within('turn_radps', self.turn_radps, 0.05, 10.0)
        within('speed_mps', self.speed_mps, 0.05, 20.0)
        within('climb_mps', self.climb_mps, 0.05, 10.0)


@dataclass(frozen=True)
class Speeds:
    """In the robot's frame: forward, to the left, upwards (m/s), turning (rad/s)."""

    forward_mps: float = 0.0
    left_mps: float = 0.0
    up_mps: float = 0.0
    turn_radps: float = 0.0


STAND = Speeds()


def speeds_for(
    setpoint: Setpoint | None, place: Floats, yaw: float, airborne: bool, config: DriveConfig
) -> Speeds:
    """Return the speeds that bring a robot at place (3,) to a setpoint; None: it stands.

    It looks where it goes, so that camera and lidar see what comes.
    """
    if setpoint is None:
        return STAND
    wish = setpoint.velocity + config.gain_per_s * (setpoint.position - place)
    speed = math.hypot(float(wish[0]), float(wish[1]))
    x, y, z = (float(each) for each in wish)
    if speed > config.speed_mps:
        x, y = x * config.speed_mps / speed, y * config.speed_mps / speed
    turn = off = 0.0
    if speed > _TURN_FROM_MPS:
        off = wrapped_angle(math.atan2(y, x) - yaw)
        turn = max(-config.turn_radps, min(config.turn_radps, config.heading_per_s * off))
    c, s = math.cos(yaw), math.sin(yaw)
    forward, left = c * x + s * y, c * y - s * x
    if not airborne and not config.sideways:
        # Turn first, drive the more the better the heading fits.
        forward, left = max(0.0, forward) * max(0.0, math.cos(off)), 0.0
    up = max(-config.climb_mps, min(config.climb_mps, z))
    return Speeds(forward, left, up, turn)
