"""The demo's script: its phases, the link that they need, and how they are judged."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
import math

import numpy as np

from offload_ros.wire.trace import Trace, indoors

MODELS = ('kapao', 'agrnav')  # people, and the completed scene
FRAMES = {'kapao': 10.0, 'agrnav': 0.5}  # per second; the second is asked of the navigator
DEADLINE_MS = {'kapao': 1000.0, 'agrnav': 4000.0}  # as long as follower and map can wait
FOLLOWED = 'kapao'
ROBOT = frozenset({'device'})
OFFLOADED = frozenset({'server', 'intra_dp', 'rrto'})  # all or parts of it on the server
GOOD_MBPS, THIN_MBPS = 120.0, 1.0
STEP_S = 0.2  # of the link's trace
FADE_S = 4.0
DISTANCE_M = 2.5  # at which the follower keeps the person, config/tracker.yaml
KEPT_M = 0.5  # off that, at most, where the person counts as kept
LEAST_FACTOR = 0.95  # of real time: a slower simulation shows nothing
TOLERATED = 0.1  # of a phase's results may be by another strategy: measurements have noise


@dataclass
class Phase:
    """A part of the demo in which it is clear what is right.

    ``expected``: by model, the strategies that are; ``settle_s``: after its begin, until the change
    must be seen. A phase of ``length_s`` None lasts until the server answers. ``begin_s`` and
    ``end_s`` are noted as it is played.
    """

    name: str
    expected: Mapping[str, frozenset[str]]
    length_s: float | None
    settle_s: float
    begin_s: float = math.nan
    end_s: float = math.nan


@dataclass(frozen=True)
class Row:
    """One result as the demo heard it. ``at_s``: since the demo's start, steady clock; energy in J,
    NaN where there is no result."""

    at_s: float
    seq: int
    used: str
    total_s: float
    energy_j: float = 0.0
    fallback: bool = False
    late: bool = False
    error: str = ''
    bytes_up: int = 0
    bytes_down: int = 0
    reason: str = ''

    @property
    def taken_up_s(self) -> float:
        """When its frame came."""
        return self.at_s - self.total_s


@dataclass(frozen=True)
class Place:
    """Where robot and person really were at ``at_s``, in metres in the room's frame."""

    at_s: float
    robot: tuple[float, float]
    person: tuple[float, float]

    @property
    def apart_m(self) -> float:
        """From the robot to the person."""
        return math.dist(self.robot, self.person)


@dataclass(frozen=True)
class Estimate:
    """The manager's idea of its uplink at ``at_s``: median, 10 and 90 % quantiles in Mbit/s; NaN:
    none."""

    at_s: float
    mbps: float
    low_mbps: float
    high_mbps: float


@dataclass
class Record:
    """All that was heard."""

    rows: dict[str, list[Row]] = field(default_factory=lambda: {model: [] for model in MODELS})
    places: list[Place] = field(default_factory=list)
    estimates: list[Estimate] = field(default_factory=list)
    modes: list[str] = field(default_factory=list)  # of the follower, ten times a second
    events: list[tuple[float, str]] = field(default_factory=list)
    factors: list[tuple[float, float]] = field(default_factory=list)  # of real time, by at_s

    def clear(self) -> None:
        """What was heard before the script begins does not count."""
        for rows in self.rows.values():
            rows.clear()
        self.places.clear()
        self.estimates.clear()
        self.modes.clear()
        self.factors.clear()

    def factor(self, begin_s: float = -math.inf, end_s: float = math.inf) -> float:
        """How fast the simulation ran between two times, in simulated seconds per second; NaN:
        nothing was heard."""
        heard = [factor for at_s, factor in self.factors if begin_s <= at_s < end_s]
        return sum(heard) / len(heard) if heard else math.nan

    def missing(self, model: str) -> int:
        """Results between the first and the last that never came."""
        numbers = [row.seq for row in self.rows[model]]
        return numbers[-1] - numbers[0] + 1 - len(numbers) if numbers else 0


def phases_of(duration_s: float) -> list[Phase]:
    """The script: what should run where, for how long, and how soon after each event.

    A thin link is too slow for images, but not for the scene's voxels: 230 kB against 3 kB. A lost
    server is known after 0.5 s; a server that starts again first loads PyTorch and its models.
    """
    both = dict.fromkeys(MODELS, OFFLOADED)
    alone = dict.fromkeys(MODELS, ROBOT)
    split = {'kapao': ROBOT, 'agrnav': OFFLOADED}
    return [
        Phase('good link', both, 0.18 * duration_s, 1.5),
        Phase('link fades', split, 0.22 * duration_s, fade_s(duration_s) + 2.0),
        Phase('link dead', alone, 0.15 * duration_s, 1.0),
        Phase('link back', both, 0.17 * duration_s, 3.0),
        Phase('server stopped', alone, 0.12 * duration_s, 1.0),
        Phase('server starts', alone, None, 0.0),
        Phase('server back', both, 0.16 * duration_s, 2.0),
    ]


def fade_s(duration_s: float) -> float:
    """How long the link takes from good to thin."""
    return min(FADE_S, 0.05 * duration_s)


def link_trace(duration_s: float, seed: int) -> Trace:
    """The link under ``phases_of``: good as indoors, fading to thin, dead, good again; good for
    twenty minutes after, whatever a server's start takes."""
    good, fades, dead, *_ = phases_of(duration_s)
    assert good.length_s and fades.length_s and dead.length_s  # only a server's start is open
    fades_s = good.length_s
    dead_s = fades_s + fades.length_s
    back_s = dead_s + dead.length_s
    times = np.arange(round(2.0 * duration_s / STEP_S)) * STEP_S
    indoor = np.array(indoors(seed, 2.0 * duration_s + 1.0).mbit)[:: round(STEP_S / 0.1)]
    # A third of the spread: how good a good link is must not be what decides.
    waves = 1.0 + (indoor[: len(times)] / indoor.mean() - 1.0) / 3.0
    faded = np.clip((times - fades_s) / fade_s(duration_s), 0.0, 1.0)
    level = GOOD_MBPS * (THIN_MBPS / GOOD_MBPS) ** faded
    level[times >= back_s - STEP_S / 2] = GOOD_MBPS
    rates = level * waves
    rates[(times >= dead_s - STEP_S / 2) & (times < back_s - STEP_S / 2)] = 0.0
    return Trace((*np.round(times, 3).tolist(), times[-1] + 1200.0), (*rates.tolist(), GOOD_MBPS))


def rate_mbps(trace: Trace, at_s: float) -> float:
    """The link's true rate at a time since the trace began."""
    return trace.mbit[max(0, bisect_right(trace.times_s, at_s) - 1)]


def mistakes(record: Record, phase: Phase) -> list[str]:
    """What went wrong in a phase with frames that came after its settling time."""
    settled_s = phase.begin_s + phase.settle_s
    found = []
    for model, expected in phase.expected.items():
        rows = [
            row
            for row in record.rows[model]
            if row.taken_up_s >= settled_s and row.at_s < phase.end_s
        ]
        # A frame must have come, and its answer, behind one of the other model on the robot.
        if not rows and phase.end_s - settled_s > 2.0 / FRAMES[model] + 2.0:
            found.append(f'no results of {model}')
        other = [row for row in rows if row.used not in expected]
        if len(other) > TOLERATED * len(rows):
            found.append(
                f'{len(other)} of {len(rows)} results of {model} not by '
                f'{" or ".join(sorted(expected))}; at {other[0].at_s:.1f} s '
                f'{other[0].used or "none"}: {other[0].reason}'
            )
        errors = [row.error for row in rows if row.error]
        if errors:
            found.append(f'{model}: {errors[0]}')
    return found


def busy(record: Record, phase: Phase | None = None) -> str:
    """What a phase, or all of it, is no evidence for: empty, or that the machine was too busy."""
    factor = record.factor() if phase is None else record.factor(phase.begin_s, phase.end_s)
    if factor >= LEAST_FACTOR or (phase is not None and math.isnan(factor)):
        return ''
    return f'the simulation ran at {factor:.2f} of real time: this machine is too busy'


def judgement(record: Record, phases: Sequence[Phase]) -> list[str]:
    """All that was not as it should be; nothing: the demo showed what it is to show."""
    wrong = []
    for phase in phases:
        excuse = busy(record, phase)
        for text in mistakes(record, phase):
            wrong.append(f'{phase.name}: {text}' + (f' ({excuse})' if excuse else ''))
    for model in MODELS:
        if record.missing(model):
            wrong.append(f'{record.missing(model)} results of {model} are missing')
    return [*wrong, *filter(None, [busy(record)])]


def switched_s(record: Record, phase: Phase, before: Phase | None, model: str) -> float:
    """From the phase's begin to the first result by what is expected now; NaN where nothing had to
    change, or nothing did."""
    expected = phase.expected[model]
    if before is None or before.expected[model] == expected:
        return math.nan
    for row in record.rows[model]:
        if phase.begin_s <= row.at_s <= phase.end_s and row.used in expected:
            return row.at_s - phase.begin_s
    return math.nan


def kept(places: Sequence[Place]) -> tuple[float, float]:
    """How the robot followed: share of the time within ``KEPT_M`` of ``DISTANCE_M``, and mean
    distance in m; NaN for no time at all."""
    if not places:
        return math.nan, math.nan
    apart = np.array([each.apart_m for each in places])
    return float(np.mean(np.abs(apart - DISTANCE_M) <= KEPT_M)), float(apart.mean())
