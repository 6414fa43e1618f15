"""What a robot is promised whatever fails, counted over all results of a test.

Every accepted frame has exactly one result, the right one. Computing on the robot begins at the
deadline minus its recent 95th percentile, or at once when the server is known to be lost; what
cannot fit comes as soon as it can and is marked late. Offloading is back within ``BACK_S`` after
the cause is gone.
"""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import math
import threading
import time
from typing import Any

import numpy as np
from rig import AT_ONCE_S, BACK_S, MODEL, SLOW, Robot, all_by_robot

# Strategy auto leaves frames to the robot by its own choice: such a result is no fallback.
STRATEGIES = ('server', 'auto')
DEADLINE_S = 1.0
ALONE_S = 0.25  # what the robot takes by itself, so that auto has a reason to ask the server
LATE = 0.05  # share of frames that a busy machine's robot may end too late, having begun in time
ATTEMPTS = 3  # of a measured time, of which one is within the promise, and none far beyond


def models(strategy: str = 'server', deadline_s: float = DEADLINE_S) -> str:
    """A models.yaml whose model runs by ``strategy``."""
    return MODEL.replace('4000.0', f'{1000 * deadline_s}\n    strategy: {strategy}')


def by_robot(strategy: str, results: list[Any]) -> None:
    """Nobody but the robot computed, and each result says why."""
    if strategy == 'server':
        all_by_robot(results)
    assert results
    for result in results:
        assert result.strategy_used == 'device', result.plan
        assert result.reason


def at_once(results: list[Any], deadline_s: float = DEADLINE_S) -> None:
    """The robot waited for nobody."""
    times = [r.total_s for r in results]
    assert max(times) < AT_ONCE_S, times
    assert float(np.quantile(times, 0.9)) < deadline_s / 2, times


def on_time(results: list[tuple[float, Any]], deadline_s: float = DEADLINE_S) -> None:
    """Each of a robot's results (with the time of its arrival) came in time, and what did not says
    so.

    One that was received while the robot was still busy with the one before, until too late for
    it, could not be in time.
    """
    late, free_s = [], -math.inf
    for at_s, result in results:
        # Times travel as float32.
        known = abs(result.total_s - deadline_s) < 1e-5
        assert known or result.late == (result.total_s > deadline_s), result.total_s
        begin_s = max(at_s - result.total_s, free_s)
        if result.late and at_s - result.total_s + deadline_s - begin_s > 1.1 * ALONE_S:
            late.append(f'{result.total_s:.3f}')
        assert at_s - begin_s < deadline_s + AT_ONCE_S, (result.total_s, result.reason)
        free_s = at_s
    assert len(late) <= max(1, LATE * len(results)), f'{len(late)} of {len(results)}: {late}'


def used_again_s(robot: Robot, rate_hz: float = 40.0) -> float:
    """Play until the server is used again; seconds from now until that result."""
    began_s = time.monotonic()
    first = robot.send()
    robot.play_until(
        lambda: robot.by_server('', robot.since(first)), 'the server is used', rate_hz=rate_hz
    )
    result = robot.by_server('', robot.since(first))[0]
    return robot.arrival_s(result.header.stamp.sec) - began_s


class Counted:
    """Results that came while a block ran."""

    def __init__(self) -> None:
        self.results: list[Any] = []


@contextlib.contextmanager
def counted(robot: Robot, what: str, deadline_s: float = DEADLINE_S) -> Iterator[Counted]:
    """All frames of the block are accounted for when it ends: each has one result, which is right
    and in time."""
    before, found = len(robot.results), Counted()
    yield found
    robot.settle()
    timed = list(robot.results)[before:]
    found.results = [r for _, r in timed]
    on_time(timed, deadline_s)
    print(f'{what}: {told(found.results)}')


def told(results: list[Any]) -> str:
    """Counts, for the log."""
    server = sum(r.strategy_used == 'server' for r in results)
    fallbacks, late = (sum(getattr(r, name) for r in results) for name in ('fallback', 'late'))
    longest_s = max(r.total_s for r in results)
    return (
        f'{len(results)} frames, {server} by the server, {fallbacks} fallbacks, {late} late, '
        f'longest {longest_s:.3f} s'
    )


def back_in_time(*took_s: float) -> None:
    """As promised at best, and on a busy machine not far from it."""
    print('used again after', ', '.join(f'{each:.3f}' for each in took_s), 's')
    assert min(took_s) <= BACK_S, took_s
    assert max(took_s) <= SLOW * BACK_S, took_s


@contextlib.contextmanager
def emulated(robot: Robot, **values: Any) -> Iterator[None]:
    """The link is like this for a while, then as it is again."""
    names = {f'link__emulate__{name}': value for name, value in values.items()}
    nothing = {float: 0.0, str: '', bool: False}
    as_it_is = {name: nothing[type(value)] for name, value in names.items()}
    if 'direction' in values:
        as_it_is['link__emulate__direction'] = 'both'
    assert not robot.rig.set_parameters(robot.name, **names)
    try:
        yield
    finally:
        assert not robot.rig.set_parameters(robot.name, **as_it_is)


class Stream:
    """Sends a robot's frames in the background for as long as the block lasts."""

    def __init__(self, robot: Robot, rate_hz: float = 40.0) -> None:
        self._robot = robot
        self._period_s = 1.0 / rate_hz
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)

    def _work(self) -> None:
        end_s = time.monotonic() + 60.0
        while not self._stop.wait(self._period_s) and time.monotonic() < end_s:
            self._robot.send()

    def __enter__(self) -> Stream:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
