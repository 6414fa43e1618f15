"""Poses in space and on the floor (REP-103, REP-105) and poses interpolated between stamps."""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from dataclasses import dataclass
import math

import numpy as np
import numpy.typing as npt

from offload_ros.tracking.checks import Floats, finite, require, within

# Axes of an optical frame (x right, y down, z forward) in its body frame (x forward, z up).
OPTICAL_IN_BODY: Floats = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])


@dataclass(frozen=True, eq=False)
class Rigid:
    """A frame seen from its parent: rotation (3, 3), translation (3,) in metres."""

    rotation: Floats
    translation: Floats

    def apply(self, points: Floats) -> Floats:
        """Return points (..., 3) of this frame in the parent frame."""
        result: Floats = points @ self.rotation.T + self.translation
        return result

    def then(self, child: Rigid) -> Rigid:
        """Return the child frame, given in this frame, in the parent frame."""
        return Rigid(self.rotation @ child.rotation, self.apply(child.translation))

    def inverse(self) -> Rigid:
        """Return the parent frame seen from this one."""
        return Rigid(self.rotation.T, -self.rotation.T @ self.translation)

    @property
    def yaw(self) -> float:
        """Heading of the x axis on the parent's floor, radians."""
        return math.atan2(self.rotation[1, 0], self.rotation[0, 0])

    @staticmethod
    def of_quaternion(translation: npt.ArrayLike, quaternion: npt.ArrayLike) -> Rigid:
        """Of a translation (3,) and a quaternion (x, y, z, w) of any length but zero."""
        moved = finite('translation', translation, (3,))
        return Rigid(_matrix(_unit(quaternion)), moved)

    @staticmethod
    def planar(x_m: float, y_m: float, yaw: float) -> Rigid:
        """Of a pose on the floor."""
        c, s = math.cos(yaw), math.sin(yaw)
        rotation = np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])
        return Rigid(rotation, np.array([x_m, y_m, 0.0]))

    @staticmethod
    def camera(forward_m: float, height_m: float, pitch_up: float = 0.0) -> Rigid:
        """Return the optical frame of a camera that looks forward, seen from the robot's base."""
        c, s = math.cos(pitch_up), math.sin(pitch_up)
        body = np.array([[c, 0.0, -s], [0.0, 1.0, 0.0], [s, 0.0, c]])
        return Rigid(body @ OPTICAL_IN_BODY, np.array([forward_m, 0.0, height_m]))


class PoseMissing(LookupError):
    """No pose is known for a stamp; the text says why."""


class PoseBuffer:
    """The latest poses of a frame by stamp, at most ``limit``; between them it interpolates.

    Translations are interpolated linearly, rotations along the shortest arc (Shoemake, "Animating
    rotation with quaternion curves", 1985). Up to ``beyond_s`` after the newest stamp the last two
    poses are continued, since a frame often comes just before the odometry of its instant.
    """

    def __init__(self, limit: int = 600, beyond_s: float = 0.1) -> None:
        """Keep up to ``limit`` poses; ValueError for senseless bounds."""
        within('limit', limit, 2, 100_000)
        within('beyond_s', beyond_s, 0.0, 1.0)
        self._beyond_s = beyond_s
        self._stamps: deque[float] = deque(maxlen=limit)
        self._poses: deque[tuple[Floats, Floats]] = deque(maxlen=limit)

    def __len__(self) -> int:
        """Return how many poses are kept."""
        return len(self._stamps)

    @property
    def newest_s(self) -> float:
        """Newest stamp; minus infinity while empty."""
        return self._stamps[-1] if self._stamps else -math.inf

    def add(self, stamp_s: float, translation: npt.ArrayLike, quaternion: npt.ArrayLike) -> bool:
        """Add a pose: translation (3,) in metres, quaternion (x, y, z, w).

        Returns False for a stamp that is not newer than the newest one, which is ignored. Raises
        ValueError for values that are no pose.
        """
        require(math.isfinite(stamp_s), 'a stamp must be finite')
        moved, turn = finite('translation', translation, (3,)), _unit(quaternion)
        if stamp_s <= self.newest_s:
            return False
        self._stamps.append(stamp_s)
        self._poses.append((moved, turn))
        return True

    def clear(self) -> None:
        """Forget everything, as after a jump of time."""
        self._stamps.clear()
        self._poses.clear()

    def at(self, stamp_s: float) -> Rigid:
        """Return the pose at a stamp; PoseMissing outside of what is known."""
        if not self._stamps:
            raise PoseMissing('no pose has come yet')
        first, last = self._stamps[0], self._stamps[-1]
        if not first <= stamp_s <= last + self._beyond_s:
            raise PoseMissing(
                f'poses are known from {first:.3f} to {last:.3f} s, asked was {stamp_s:.3f} s'
            )
        if len(self._stamps) == 1:
            translation, turn = self._poses[0]
            return Rigid(_matrix(turn), translation)
        after = min(max(bisect_right(self._stamps, stamp_s), 1), len(self._stamps) - 1)
        start, end = self._stamps[after - 1], self._stamps[after]
        share = (stamp_s - start) / (end - start)
        # Two poses of almost one instant say nothing about the motion after them.
        share = min(share, 1.0 + min(self._beyond_s / (end - start), 10.0))
        (a, q), (b, r) = self._poses[after - 1], self._poses[after]
        return Rigid(_matrix(_between(q, r, share)), a + share * (b - a))


def _unit(quaternion: npt.ArrayLike) -> Floats:
    values = finite('quaternion', quaternion, (4,))
    length = float(np.linalg.norm(values))
    require(length > 1e-6, 'a quaternion must not be zero')
    result: Floats = values / length
    return result


def _between(start: Floats, end: Floats, share: float) -> Floats:
    """Return the unit quaternion at a share of the arc from start to end."""
    cosine = float(start @ end)
    if cosine < 0:
        end, cosine = -end, -cosine
    angle = math.acos(min(1.0, cosine))
    if angle < 1e-6:
        mixed = start + share * (end - start)
    else:
        mixed = math.sin((1 - share) * angle) * start + math.sin(share * angle) * end
    result: Floats = mixed / np.linalg.norm(mixed)
    return result


def _matrix(quaternion: Floats) -> Floats:
    x, y, z, w = (float(value) for value in quaternion)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )
