"""Methods at many bandwidths: rows of the plan command, on all cores where that pays.

Neighbouring bandwidths are planned by one process, in order: a method may start from what it found
at the one before. Which process plans what does not depend on how fast they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
import math
import multiprocessing
import os
import threading
from typing import Any

from offload_ros.baselines.problem import Objective, Problem, Subject
from offload_ros.graph.crossings import Halo
from offload_ros.graph.methods import find_method
from offload_ros.graph.profile import Profile
from offload_ros.graph.schedule import Link
from offload_ros.graph.timeline import Schedule

FEW = 6  # bandwidths: less is not worth a process
CHUNK = 4  # bandwidths that a process gives back together
SEARCHES = {'intra_dp', 'intra_dp_de'}  # methods that take longer than starting a process
_subject: Subject | None = None  # of a planning process


@dataclass(frozen=True)
class Row:
    """One method at one bandwidth."""

    bandwidth: float  # MB/s
    method: str
    schedule: Schedule
    energy_j: float

    def document(self) -> dict[str, Any]:
        """The JSON object. A latency that is endless is null."""
        schedule = self.schedule
        finite = math.isfinite(schedule.latency_s)
        return {
            'bandwidth_MBps': self.bandwidth,
            'method': self.method,
            'latency_ms': round(1e3 * schedule.latency_s, 6) if finite else None,
            'energy_J': round(self.energy_j, 9) if math.isfinite(self.energy_j) else None,
            'uplink_bytes': round(schedule.uplink_bytes),
            'downlink_bytes': round(schedule.downlink_bytes),
            'plan': schedule.plan.document(),
        }


def rows(
    profile: Profile,
    bandwidths: Sequence[float],
    methods: Sequence[str],
    halo: Halo = Halo.EXACT,
    objective: Objective = Objective.LATENCY,
    deadline_s: float = math.inf,
    weight: float = 0.5,
) -> Iterator[Row]:
    """Every method at every bandwidth (MB/s), as they are planned."""
    return _rows_of(Subject(profile, halo), bandwidths, methods, objective, deadline_s, weight)


def _rows_of(
    subject: Subject,
    bandwidths: Sequence[float],
    methods: Sequence[str],
    objective: Objective,
    deadline_s: float,
    weight: float,
) -> Iterator[Row]:
    found = [find_method(name) for name in methods]
    for bandwidth in bandwidths:
        link = Link.of_megabytes_per_s(bandwidth)
        problem = Problem(subject, link, objective, deadline_s, weight=weight)
        for name, method in found:
            schedule = problem.subject.evaluator.schedule(method(problem), link)
            yield Row(bandwidth, name, schedule, schedule.energy_j(problem.power))


def planned_rows(
    profile: Profile,
    bandwidths: Sequence[float],
    methods: Sequence[str],
    halo: Halo = Halo.EXACT,
    objective: Objective = Objective.LATENCY,
    deadline_s: float = math.inf,
    weight: float = 0.5,
) -> Iterator[Row]:
    """The same, by several processes where methods search for long."""
    goal = objective, deadline_s, weight
    workers = min(len(os.sched_getaffinity(0)), len(bandwidths) // (FEW // 2))
    if workers < 2 or len(bandwidths) < FEW or not SEARCHES & set(methods):
        yield from rows(profile, bandwidths, methods, halo, *goal)
        return
    share = math.ceil(len(bandwidths) / workers)
    context = multiprocessing.get_context('spawn')
    found: list[Future[list[Row]]] = []
    with ExitStack() as stack:
        for worker in range(workers):
            own = bandwidths[worker * share : (worker + 1) * share]
            pool = stack.enter_context(
                ProcessPoolExecutor(1, context, initializer=_begin, initargs=(profile, halo))
            )
            stack.callback(pool.shutdown, cancel_futures=True)
            # From the last one on: what is found at a faster link helps more than the reverse.
            chunks = [
                pool.submit(_chunk, own[first : first + CHUNK], methods, goal)
                for first in reversed(range(0, len(own), CHUNK))
            ]
            found += reversed(chunks)
        for future in found:
            yield from future.result()


def _begin(profile: Profile, halo: Halo) -> None:
    global _subject  # noqa: PLW0603  what a planning process is for
    _subject = Subject(profile, halo)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A killed parent cannot end its pool: without this the processes would wait for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _chunk(bandwidths: Sequence[float], methods: Sequence[str], goal: tuple[Any, ...]) -> list[Row]:
    assert _subject is not None
    planned = [
        list(_rows_of(_subject, [bandwidth], methods, *goal)) for bandwidth in reversed(bandwidths)
    ]
    return [row for rows_ in reversed(planned) for row in rows_]
