"""Tracks of people and how the detections of a frame are given to them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
import math
from typing import NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment

from offload_ros.tracking.appearance import Looks, distance, looked
from offload_ros.tracking.checks import Floats, finite, require, within
from offload_ros.tracking.kalman import Gaussian, gate, innovation
from offload_ros.tracking.noise_fit import FitConfig
from offload_ros.tracking.timed_filter import Filtered, advance, begin

_NEVER = 1e9


@dataclass(frozen=True, eq=False)
class Detection:
    """A person seen in one frame: position (2,) in the map in metres, and what else is known.

    bearing: angle from the camera's axis in radians; appearance: a histogram that sums to 1 (see
    ``appearance``), or None; sigma_m: extra standard deviation of this position (0: as usual).
    """

    position: Floats
    bearing: float = 0.0
    appearance: Floats | None = None
    sigma_m: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, 'position', finite('position', self.position, (2,)))
        within('bearing', self.bearing, -np.pi, np.pi)
        within('sigma_m', self.sigma_m, 0.0, 100.0)
        if self.appearance is not None:
            shape = finite('appearance', self.appearance, (None,))
            require(
                bool((shape >= 0).all()) and abs(float(shape.sum()) - 1) < 1e-6,
                'appearance must be shares that sum to 1',
            )
            object.__setattr__(self, 'appearance', shape)


class Key(NamedTuple):
    """Which track: the stamp of its first detection and the place of that one in its frame.

    It is the same however late the frames came, as long as the track began with that detection.
    """

    born_s: float
    place: int


@dataclass(frozen=True)
class TrackConfig:
    """How detections become tracks.

    A track is confirmed by its confirm_hits-th detection, and forgotten tentative_s (before that)
    or coast_s (after) without one. A detection may only be as far from where its track was last
    seen as somebody gets at speed_max_mps. Where two appearances are known they count
    appearance_weight times their squared distance, and once a track was unseen for more than
    doubt_s they may be appearance_max apart: before that, being in the right place says more than
    a few pixels of clothes. In that time somebody who looks alike (up to alike) and stands within
    jump_m of the gate's middle is taken also from beyond the gate: of people half out of the image
    some positions are far off.
    """

    gate_probability: float = 0.999
    confirm_hits: int = 3
    tentative_s: float = 0.6
    coast_s: float = 1.5
    speed_max_mps: float = 2.5
    jump_m: float = 0.5
    appearance_max: float = 0.6
    doubt_s: float = 0.35
    alike: float = 0.4
    appearance_weight: float = 60.0
    appearance_rate: float = 0.1
    looks_apart: float = 0.35
    looks_max: int = 6
    apart_m: float = 0.9
    tracks_max: int = 20
    detections_max: int = 50
    fit: FitConfig = field(default_factory=FitConfig)

    def __post_init__(self) -> None:
        within('gate_probability', self.gate_probability, 0.5, 1 - 1e-12)
        within('confirm_hits', self.confirm_hits, 1, 100)
        within('tentative_s', self.tentative_s, 0.0, 60.0)
        within('coast_s', self.coast_s, self.tentative_s, 600.0)
        within('speed_max_mps', self.speed_max_mps, 0.1, 20.0)
        within('jump_m', self.jump_m, 0.0, 5.0)
        within('appearance_max', self.appearance_max, 0.0, 1.0)
        within('doubt_s', self.doubt_s, 0.0, 60.0)
        within('alike', self.alike, 0.0, 1.0)
        within('appearance_weight', self.appearance_weight, 0.0, 1e6)
        within('appearance_rate', self.appearance_rate, 0.0, 1.0)
        within('looks_apart', self.looks_apart, 0.0, 1.0)
        within('looks_max', self.looks_max, 1, 100)
        within('apart_m', self.apart_m, 0.0, 10.0)
        within('tracks_max', self.tracks_max, 1, 1000)
        within('detections_max', self.detections_max, 1, 1000)


@dataclass(frozen=True, eq=False)
class Track:
    """One person. looks: how they looked so far; beside: in how many frames they were seen apart
    from the target."""

    key: Key
    filtered: Filtered
    hits: int = 1
    confirmed: bool = False
    looks: Looks = ()
    bearing: float = 0.0
    beside: int = 0

    @property
    def seen_s(self) -> float:
        """Return the stamp of the last detection."""
        return self.filtered.seen_s

    def at(self, stamp_s: float) -> Gaussian:
        """Return the belief at a stamp that is not before seen_s."""
        return self.filtered.predicted(stamp_s)


def new_track(key: Key, detection: Detection, config: TrackConfig) -> Track:
    """Return a track of one detection."""
    filtered = begin(key.born_s, _point(detection), config.fit)
    confirmed = config.confirm_hits <= 1
    looks = () if detection.appearance is None else (detection.appearance,)
    return Track(key, filtered, 1, confirmed, looks, detection.bearing)


def continued(
    track: Track, stamp_s: float, detection: Detection, alone: bool, config: TrackConfig
) -> Track:
    """Return the track after one more detection.

    ``alone``: nobody stands so close that this appearance may be partly somebody else's.
    """
    looks = track.looks
    if detection.appearance is not None and alone:
        # The mean at first: the first look is often of somebody half in the image.
        rate = max(config.appearance_rate, 1.0 / (track.hits + 1))
        apart = config.looks_apart if track.confirmed else math.inf
        looks = looked(looks, detection.appearance, rate, apart, config.looks_max)
    return replace(
        track,
        filtered=advance(
            track.filtered, stamp_s, _point(detection), config.fit, gate(config.gate_probability)
        ),
        hits=track.hits + 1,
        confirmed=track.confirmed or track.hits + 1 >= config.confirm_hits,
        looks=looks,
        bearing=detection.bearing,
    )


def likeness(first: Looks, second: Looks) -> float | None:
    """Return the distance of the two looks that are most alike; None where none can be compared."""
    return min(
        (distance(one, other) for one in first for other in second if one.shape == other.shape),
        default=None,
    )


def assign(
    tracks: tuple[Track, ...],
    detections: tuple[Detection, ...],
    stamp_s: float,
    config: TrackConfig,
) -> dict[int, int]:
    """Return which detection each track gets, both by place: the cheapest one-to-one choice.

    The cost of a pair is its negative log likelihood (squared Mahalanobis distance plus log
    determinant) plus that of the appearance; pairs beyond a gate are never chosen. Confirmed tracks
    choose first, so that a new track beside a person does not take the detection away.
    """
    chosen: dict[int, int] = {}
    for confirmed in (True, False):
        rows = [i for i, track in enumerate(tracks) if track.confirmed is confirmed]
        columns = [j for j in range(len(detections)) if j not in chosen.values()]
        if not rows or not columns:
            continue
        costs = np.array(
            [[_cost(tracks[i], detections[j], stamp_s, config) for j in columns] for i in rows]
        )
        for i, j in zip(*linear_sum_assignment(costs), strict=True):
            if costs[i, j] < _NEVER:
                chosen[rows[i]] = columns[j]
    return chosen


def _cost(track: Track, detection: Detection, stamp_s: float, config: TrackConfig) -> float:
    filtered = track.filtered
    moved = float(np.hypot(*(detection.position - filtered.belief.position)))
    if moved > config.jump_m + config.speed_max_mps * (stamp_s - filtered.seen_s):
        return _NEVER
    measurement = filtered.noise.measurement + detection.sigma_m**2 * np.eye(2)
    off, s, squared = innovation(track.at(stamp_s), detection.position, measurement)
    seen = () if detection.appearance is None else (detection.appearance,)
    different = likeness(track.looks, seen)
    doubtful = stamp_s - filtered.seen_s > config.doubt_s
    if squared > gate(config.gate_probability):
        alike = different is not None and different <= config.alike
        if doubtful or not alike or float(np.hypot(*off)) > config.jump_m:
            return _NEVER
    cost = squared + float(np.linalg.slogdet(s)[1])
    if different is None:
        return cost
    if doubtful and different > config.appearance_max:
        return _NEVER
    return cost + config.appearance_weight * different**2


def alone(detections: tuple[Detection, ...], index: int, apart_m: float) -> bool:
    """Return whether no other detection of the frame is within apart_m."""
    here = detections[index].position
    others = [each.position for i, each in enumerate(detections) if i != index]
    return all(float(np.hypot(*(here - other))) >= apart_m for other in others)


def _point(detection: Detection) -> tuple[float, float]:
    return float(detection.position[0]), float(detection.position[1])
