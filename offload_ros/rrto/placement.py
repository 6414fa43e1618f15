"""Where a recorded unit runs, as predicted: on the server, on the robot, or cut between them.

Only units that leave nothing behind can change sides: those that change no tensor from before them
and take none over from the run before. The robot's session (the mirror) gets every command that
makes or changes tensors, but not the replays that the server does.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
import math
from statistics import median
import threading
import time

from offload_ros.strategy import LinkState

WINDOW = 9  # runs of which the median counts
LEAST_RUNS = 5  # on the server before the robot is tried
CLEARLY = 0.9  # the other side must be faster by this factor
PROBE_S = 5.0  # after so long the other side is measured again
SERVER, ROBOT, BOTH, CUT = 'server', 'robot', 'both', 'cut'


@dataclass
class Run:
    """One replay whose time is taken. ``last``: the step whose value comes last."""

    unit: int
    last: int
    began_s: float
    bytes_up: int = 0


@dataclass
class UnitTimes:
    """Of one unit; ``transfer_s``: what of the server's time the link took, as far as known.
    ``cut_ratios``: the times of cut runs over what the cost model said. ``runs``: by side."""

    server_s: deque[float] = field(default_factory=lambda: deque(maxlen=WINDOW))
    robot_s: deque[float] = field(default_factory=lambda: deque(maxlen=WINDOW))
    transfer_s: deque[float] = field(default_factory=lambda: deque(maxlen=WINDOW))
    bytes_up: int = 0
    bytes_down: int = 0
    model_s: float = math.inf  # of a cut, as the cost model has it
    cut_ratios: deque[float] = field(default_factory=lambda: deque(maxlen=WINDOW))
    runs: Counter[str] = field(default_factory=Counter)
    side: str = SERVER
    is_cut: bool = False
    probed_s: float = -math.inf


class PlacementPolicy:
    """Decides from measured times and the link. ``link`` tells how it is now."""

    def __init__(
        self,
        link: Callable[[], LinkState] = LinkState,
        clock: Callable[[], float] = time.monotonic,
        forced: str = '',
    ) -> None:
        self._link = link
        self._clock = clock
        self._forced = forced
        self._units: dict[int, UnitTimes] = {}
        self._runs: dict[int, Run] = {}  # by base: on the server
        self._lock = threading.Lock()
        self._ended = ''

    def of(self, unit: int) -> UnitTimes:
        """What is known of a unit."""
        return self._units.setdefault(unit, UnitTimes())

    def interested(self, unit: int) -> bool:
        """Whether the robot may be tried."""
        return bool(self._forced) or len(self.of(unit).server_s) >= LEAST_RUNS

    def choose(self, unit: int) -> str:
        """Where the next run goes: ``SERVER``, ``ROBOT``, ``CUT``, or ``BOTH`` the first two, of
        which the first to answer counts and both are measured.

        A cut has to be clearly faster than either; it is left where it is slower than one."""
        if self._forced:
            return self._forced
        times, now_s = self.of(unit), self._clock()
        server_s, robot_s = self.predicted_server_s(unit), self.predicted_robot_s(unit)
        if times.side == SERVER and robot_s < CLEARLY * server_s:
            times.side = ROBOT
        elif times.side == ROBOT and server_s < CLEARLY * robot_s:
            times.side = SERVER
        one_side_s, cut_s = min(server_s, robot_s), self.predicted_cut_s(unit)
        times.is_cut = cut_s < (1.0 if times.is_cut else CLEARLY) * one_side_s
        if now_s - times.probed_s >= PROBE_S:
            times.probed_s = now_s
            if times.cut_ratios and not times.is_cut:  # it may be otherwise by now
                times.cut_ratios.popleft()
            return BOTH
        return CUT if times.is_cut else times.side

    def predicted_server_s(self, unit: int) -> float:
        """From the input at the robot to the result at the robot, over the link as it is now."""
        times = self.of(unit)
        if not times.server_s:
            return math.inf
        now_s = self._transfer_s(times)
        known = [each for each in times.transfer_s if math.isfinite(each)]
        if not known or math.isnan(now_s):
            return median(times.server_s)
        rest = [total - part for total, part in zip(times.server_s, times.transfer_s, strict=True)]
        return max(median(rest), 0.0) + now_s

    def predicted_robot_s(self, unit: int) -> float:
        """Infinite until it has run there."""
        times = self.of(unit)
        return median(times.robot_s) if times.robot_s else math.inf

    def predicted_cut_s(self, unit: int) -> float:
        """Infinite while no cut is offered."""
        times = self.of(unit)
        return times.model_s * (median(times.cut_ratios) if times.cut_ratios else 1.0)

    def offer_cut(self, unit: int, model_s: float) -> None:
        """What the cost model says of a cut for the link as it is; infinite: there is none."""
        self.of(unit).model_s = model_s

    def sent(self, base: int, unit: int, last: int, bytes_up: int) -> None:
        """A run has gone to the server; its steps up to ``last`` read values."""
        with self._lock:
            self._runs[base] = Run(unit, last, self._clock(), bytes_up)
            while len(self._runs) > WINDOW:
                del self._runs[next(iter(self._runs))]

    def waits(self) -> bool:
        """Whether an answer of the server tells a time."""
        return bool(self._runs)

    def answered(self, base: int, step: int, bytes_down: int) -> None:
        """The server has told the value that a step reads."""
        with self._lock:
            run = self._runs.get(base)
            if run is None or step < run.last:
                return
            del self._runs[base]
        times = self.of(run.unit)
        times.bytes_up, times.bytes_down = run.bytes_up, bytes_down
        times.server_s.append(self._clock() - run.began_s)
        times.transfer_s.append(self._transfer_s(times))

    def computed(self, unit: int, took_s: float) -> None:
        """The robot has run it."""
        self.of(unit).robot_s.append(took_s)

    def cut_computed(self, unit: int, took_s: float, model_s: float) -> None:
        """Both have run it, cut."""
        if math.isfinite(model_s) and model_s > 0.0:
            self.of(unit).cut_ratios.append(took_s / model_s)

    def end(self, why: str) -> None:
        """All run on the server from now on."""
        self._ended = why

    def lines(self, text: Callable[[int], str] = lambda unit: '') -> list[str]:
        """For a terminal; ``text``: what there is to say of a unit's cut."""
        ended = [f'units stay on the server: {self._ended}'] if self._ended else []
        return [*(self._line(number, text(number)) for number in self._units), *ended]

    def _line(self, number: int, text: str) -> str:
        times = self._units[number]
        side = 'cut' if times.is_cut else f'on the {times.side}'
        cut_s = self.predicted_cut_s(number)
        cut = f', cut {_ms(cut_s)}' if math.isfinite(cut_s) else ''
        runs = ', '.join(f'{count} {side}' for side, count in times.runs.items())
        return (
            f'unit {number}: {side} (server {_ms(self.predicted_server_s(number))}, '
            f'robot {_ms(self.predicted_robot_s(number))}{cut})'
            + (f'; runs: {runs}' if runs else '')
            + (f'; {text}' if text else '')
        )

    def _transfer_s(self, times: UnitTimes) -> float:
        link = self._link()
        if min(link.up_bytes_per_s, link.down_bytes_per_s) <= 0.0:
            return math.inf
        up_s = times.bytes_up / link.up_bytes_per_s
        down_s = times.bytes_down / link.down_bytes_per_s
        return up_s + down_s + link.round_trip_s


def _ms(seconds: float) -> str:
    return f'{1e3 * seconds:.1f} ms' if math.isfinite(seconds) else 'not measured'
