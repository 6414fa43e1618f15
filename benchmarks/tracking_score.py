"""What a run of the person follower was worth: errors, losses, distance, collisions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
import math
from typing import Any

import numpy as np
import numpy.typing as npt

from offload_ros.sim import World
from offload_ros.sim.robot import Pose

Floats = npt.NDArray[np.float64]
SET_POINT_M, KEPT_WITHIN_M = 2.5, 0.5
PERIOD_S = 0.1


@dataclass(frozen=True)
class Moment:
    """A tenth of a second. time_s is simulated; robot (x, y, yaw), people (N, 2) and keypoints
    (N, 17, 3) are the truth in the map frame; believed (2,) where the robot takes its target to be,
    in the map frame, or None; unseen_s since that person was detected, NaN for never."""

    time_s: float
    robot: tuple[float, float, float]
    people: Floats
    keypoints: Floats
    blocked: bool
    mode: str
    believed: tuple[float, float] | None
    unseen_s: float
    result_hz: float


def occluded(world: World, moment: Moment, person: int) -> bool:
    """Whether nothing of a person could be seen from where the camera is, whatever its direction:
    furniture, walls or somebody else hide all 17 keypoints."""
    x, y, yaw = moment.robot
    world.robot.pose = Pose(x, y, yaw)
    for index, walker in enumerate(world.walkers):
        walker.position = moment.people[index].copy()
    eye, _ = world.camera_pose()
    along = moment.keypoints[person] - eye
    away = np.linalg.norm(along, axis=1)
    distances, entities = world.cast(eye, along / away[:, None])
    own = world.truth().people[person].id
    return bool(((entities != own) & (distances < away - 0.15)).all())


def score(moments: Sequence[Moment], world: World) -> dict[str, Any]:
    """Figures of one run; ``world``: the same room, to see who is hidden.

    The person is whom the robot followed first. ``rms_position_error_m``: of where it takes the
    person to be now, while it follows. ``lost_s_max``: longest time between two images in which
    that person was detected; moments in which the person is hidden wholly are not counted.
    """
    following = [m for m in moments if m.mode == 'following' and m.believed is not None]
    if not following:
        return {'followed': False}
    person = _nearest(following[0])
    errors = np.array([_apart(m, person) for m in following])
    wrong = sum(len(m.people) > 1 and _nearest(m) != person and _apart(m, person) > 1.0
                for m in following)  # fmt: skip
    distance = np.array([math.dist(m.robot[:2], m.people[person]) for m in moments])
    longest, hidden_s = _losses(moments, world, person)
    return {
        'followed': True,
        'seconds': round(len(moments) * PERIOD_S, 1),
        'rms_position_error_m': float(np.sqrt((errors**2).mean())),
        'median_position_error_m': float(np.median(errors)),
        'lost_s_max': round(longest, 1),
        'hidden_s': round(hidden_s, 1),
        'kept_share': float((np.abs(distance - SET_POINT_M) <= KEPT_WITHIN_M).mean()),
        'distance_m': [float(np.quantile(distance, q)) for q in (0.05, 0.5, 0.95)],
        'following_share': len(following) / len(moments),
        'other_person_share': wrong / len(following),
        'collisions': _begun([m.blocked for m in moments]),
        'result_hz': float(np.mean([m.result_hz for m in moments])),
    }


def _losses(moments: Sequence[Moment], world: World, person: int) -> tuple[float, float]:
    """Longest time between two detections, by the stamps of their images, so that rate and delay of
    the results do not count as losses; and how long the person was hidden in such times."""
    last_s = moments[0].time_s
    longest = hidden_s = hidden_now_s = 0.0
    for moment in moments:
        seen_s = moment.time_s - moment.unseen_s
        found = moment.believed is not None and _apart(moment, person) < 1.0
        if found and seen_s > last_s + 0.1 * PERIOD_S:
            longest = max(longest, seen_s - last_s - hidden_now_s)
            last_s, hidden_now_s = seen_s, 0.0
        elif occluded(world, moment, person):
            hidden_now_s += PERIOD_S
            hidden_s += PERIOD_S
    return max(longest, moments[-1].time_s - last_s - hidden_now_s), hidden_s


def _nearest(moment: Moment) -> int:
    assert moment.believed is not None
    return int(np.argmin(np.hypot(*(moment.people - np.array(moment.believed)).T)))


def _apart(moment: Moment, person: int) -> float:
    assert moment.believed is not None
    return float(np.hypot(*(moment.people[person] - np.array(moment.believed))))


def _begun(flags: Sequence[bool]) -> int:
    """How often a flag rises."""
    return sum(now and not before for before, now in zip([False, *flags], flags, strict=False))


def together(figures: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Of all runs of a condition: the worst where the worst counts, else over all time."""
    good = [each for each in figures if each['followed']]
    if not good:
        return {'runs': len(figures), 'followed': 0}
    weights = np.array([each['seconds'] for each in good])

    def mean(name: str) -> float:
        return float(np.average([each[name] for each in good], weights=weights))

    squares = [each['rms_position_error_m'] ** 2 for each in good]
    return {
        'runs': len(figures),
        'followed': len(good),
        'rms_position_error_m': math.sqrt(np.average(squares, weights=weights)),
        'lost_s_max': max(each['lost_s_max'] for each in good),
        'kept_share': mean('kept_share'),
        'collisions': sum(each['collisions'] for each in good),
        'result_hz': mean('result_hz'),
        'following_share': mean('following_share'),
        'other_person_share': mean('other_person_share'),
    }
