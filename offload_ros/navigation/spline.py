"""Uniform cubic B-splines in time, and motions as such.

A piece lies in the hull of four control points, and its velocity and acceleration in the hulls of
their differences: so limits that hold for the differences hold at every instant (de Boor).
"""

from __future__ import annotations

from dataclasses import dataclass
import math

import numpy as np
from scipy.linalg import solve_banded

from offload_ros.navigation.plan_config import Limits
from offload_ros.tracking.checks import Floats, finite, require, within


@dataclass(frozen=True, eq=False)
class Spline:
    """Control points (N, 3), N at least 4, in metres, one every step_s; N - 3 pieces."""

    points: Floats
    step_s: float

    def __post_init__(self) -> None:
        object.__setattr__(self, 'points', finite('points', self.points, (None, 3)))
        require(len(self.points) >= 4, 'a cubic spline has at least four control points')
        within('step_s', self.step_s, 1e-6, 1e6)

    @property
    def duration_s(self) -> float:
        """Seconds from its start to its end."""
        return (len(self.points) - 3) * self.step_s

    def at(self, times: Floats | float) -> tuple[Floats, Floats, Floats]:
        """Return position, velocity, acceleration (..., 3) at times (...); before and after: rest
        at start and end."""
        t = np.asarray(times, np.float64)
        scaled = np.clip(t / self.step_s, 0.0, len(self.points) - 3)
        piece = np.minimum(scaled.astype(np.int64), len(self.points) - 4)
        u = (scaled - piece)[..., None]
        a, b, c, d = (self.points[piece + k] for k in range(4))
        linear, square, cube = (c - a) / 2, (a - 2 * b + c) / 2, (d - a + 3 * (b - c)) / 6
        position = (a + 4 * b + c) / 6 + u * (linear + u * (square + u * cube))
        velocity = (linear + u * (2 * square + 3 * u * cube)) / self.step_s
        acceleration = (2 * square + 6 * u * cube) / self.step_s**2
        beyond = ((t < 0) | (t > self.duration_s + 1e-9))[..., None]
        return position, np.where(beyond, 0.0, velocity), np.where(beyond, 0.0, acceleration)

    def sampled(self, apart_m: float) -> tuple[Floats, Floats]:
        """Return times (M,) and positions (M, 3) no further apart than apart_m, with both ends."""
        lengths = np.sqrt((np.diff(self.points, axis=0) ** 2).sum(1))
        # No point of a piece is faster than the fastest of three differences.
        fastest = np.maximum(np.maximum(lengths[:-2], lengths[1:-1]), lengths[2:])
        count = np.maximum(np.ceil(fastest / apart_m).astype(np.int64), 1)
        piece = np.repeat(np.arange(len(count)), count)
        step = np.arange(len(piece)) - np.repeat(np.cumsum(count) - count, count)
        times = np.append((piece + step / count[piece]) * self.step_s, self.duration_s)
        return times, self.at(times)[0]

    def peaks(self) -> tuple[float, float]:
        """Return bounds of speed (m/s) and acceleration (m/s²) that hold at every instant."""
        first = np.diff(self.points, axis=0) / self.step_s
        second = np.diff(first, axis=0) / self.step_s
        return _longest(first), _longest(second)

    def keeps(self, limits: Limits) -> bool:
        """Return whether speed and acceleration stay within limits, to a millionth."""
        speed, acceleration = self.peaks()
        return (
            speed <= limits.speed_mps * (1 + 1e-6)
            and acceleration <= limits.acceleration_mps2 * (1 + 1e-6)
        )  # fmt: skip

    @property
    def length_m(self) -> float:
        """Length of the path."""
        _, places = self.sampled(0.05)
        return float(np.sqrt((np.diff(places, axis=0) ** 2).sum(1)).sum())


def _longest(vectors: Floats) -> float:
    return float(np.sqrt((vectors**2).sum(1).max()))


def head(position: Floats, velocity: Floats, acceleration: Floats, step_s: float) -> Floats:
    """Return the first three control points (3, 3) of a spline that begins in that state."""
    middle = position - acceleration * (step_s**2 / 6)
    bend = acceleration * (step_s**2 / 2)
    return np.array([middle - velocity * step_s + bend, middle, middle + velocity * step_s + bend])


def fitted(places: Floats, velocity: Floats, acceleration: Floats, step_s: float) -> Spline:
    """Return the spline through places (K, 3), K >= 2, one every step_s, at rest in the end.

    It begins with that velocity and acceleration (3,) exactly, and goes through all places but the
    next to last and the two after the first as closely as the rest allows.
    """
    first = head(places[0], velocity, acceleration, step_s)
    last = np.repeat(places[-1:], 3, axis=0)
    # Knot k's place is (q[k] + 4 q[k+1] + q[k+2]) / 6; those of the ends are fixed already.
    inner = places[2:-2]
    if not len(inner):
        return Spline(np.concatenate((first, places[1:-1], last)), step_s)
    count = len(inner)
    right = 6 * inner
    right[0] = right[0] - first[2]
    right[-1] = right[-1] - last[0]
    band = np.ones((3, count))
    band[1] = 4
    return Spline(np.concatenate((first, solve_banded((1, 1), band, right), last)), step_s)


def timed(way: Floats, speed: float, limits: Limits, cruise: float, step_s: float) -> Floats:
    """Return places (K, 3) every step_s along a way (M, 3), from that speed to rest at its end.

    At most ``cruise`` metres a second, and with half the acceleration allowed: the other half is
    for the bends.
    """
    lengths = np.sqrt((np.diff(way, axis=0) ** 2).sum(1))
    total = float(lengths.sum())
    rate = limits.acceleration_mps2 / 2
    arcs = [0.0]
    at, now = 0.0, speed
    while at < total - 1e-6 and len(arcs) < 10_000:
        # As fast as it can still stop: v²/2a for the rest of the way, one step looked ahead.
        rest = (
            math.sqrt(rate * rate * step_s * step_s / 4 + 2 * rate * (total - at))
            - rate * step_s / 2
        )
        wanted = min(cruise, max(rest, 0.02 * cruise))
        now = min(max(wanted, now - rate * step_s), now + rate * step_s)
        at = min(at + max(now, 0.02 * cruise) * step_s, total)
        arcs.append(at)
    return _places(way, lengths, np.array(arcs))


def _places(way: Floats, lengths: Floats, arcs: Floats) -> Floats:
    knots = np.concatenate(([0.0], np.cumsum(lengths)))
    return np.stack([np.interp(arcs, knots, way[:, axis]) for axis in range(3)], -1)


def stop_and_go(way: Floats, velocity: Floats, limits: Limits, step_s: float) -> Spline | None:
    """Return the spline exactly along a way (M, 3) that stands still at each of its corners.

    Three control points in a corner keep it on the straight pieces. From a velocity (3,) it first
    brakes, straight on; None if it is above the limits.
    """
    speed = float(np.sqrt((velocity**2).sum()))
    if speed > limits.speed_mps * (1 + 1e-6):
        return None
    points = [way[0]] * 3
    corner = way[0]
    if speed > 1e-6:
        points, corner = _braking(way[0], velocity, speed, limits, step_s)
    for end in way if speed > 1e-6 else way[1:]:
        length = math.dist(corner, end)
        if length > 1e-9:
            shares = _dash(length, limits, step_s)
            points.extend(corner + (end - corner) * share for share in shares)
            points.extend([end, end])
            corner = end
    while len(points) < 4:
        points.append(corner)
    return Spline(np.array(points), step_s)


def _braking(
    place: Floats, velocity: Floats, speed: float, limits: Limits, step_s: float
) -> tuple[list[Floats], Floats]:
    """Return control points of braking to rest and where that ends."""
    # Differences fall by less than the limit each; their mean is the speed at the beginning.
    count = math.floor(speed / (limits.acceleration_mps2 * step_s)) + 1
    fall = speed / count
    steps = [min(speed + fall / 2, limits.speed_mps)]
    # If the first is cut by the limit of speed, the mean of the first two must stay.
    steps.append(2 * speed - steps[0])
    while steps[-1] > fall:
        steps.append(steps[-1] - fall)
    steps.extend([0.0, 0.0] if steps[-1] > 0 else [0.0])
    unit = velocity / speed
    arcs = np.concatenate(([0.0], np.cumsum(steps))) * step_s
    begun = (arcs[0] + 4 * arcs[1] + arcs[2]) / 6
    points = [place + unit * (arc - begun) for arc in arcs]
    return points, points[-1]


def _dash(length: float, limits: Limits, step_s: float) -> Floats:
    """Return the shares (K,) of a straight piece at which control points lie, the last one 1."""
    rise = limits.acceleration_mps2 * step_s

    def speeds(count: int) -> Floats:
        """Up, level and down again in so many steps."""
        ramp = np.minimum(np.arange(1, count + 1), np.arange(count, 0, -1)) * rise
        return np.minimum(ramp, limits.speed_mps)

    # The fewest steps that make the length, then all made smaller to fit.
    most = 1
    while speeds(most).sum() * step_s < length:
        most *= 2
    least = most // 2 + 1
    while least < most:
        middle = (least + most) // 2
        if speeds(middle).sum() * step_s < length:
            least = middle + 1
        else:
            most = middle
    best = speeds(most)
    shares: Floats = np.cumsum(best) / best.sum()
    return shares
