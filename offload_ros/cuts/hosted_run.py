"""The server's part of one layer cut: computes as inputs arrive, sends what crosses back."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
import time
from typing import Any

import torch

from offload_ros.cuts.cut import Cut, Segment, run_segment
from offload_ros.cuts.hosted_side import HostedSteps, Leaving
from offload_ros.cuts.values import value_from_bytes
from offload_ros.graph.execute import Executor
from offload_ros.graph.graph import Reference, TensorSpec
from offload_ros.graph.stopwatch import Stopwatch
from offload_ros.intra_dp.run_timeline import Event, Kind, events_of_nodes, events_to_bytes
from offload_ros.robot.lane import DeviceLane, Job
from offload_ros.wire.incoming import Incoming


class HostedRun(HostedSteps):
    """See ``HostedSteps``."""

    def __init__(
        self,
        cut: Cut,
        executor: Executor,
        lane: DeviceLane,
        send: Callable[[int, torch.Tensor], None],
        ended: Callable[[Any, str], None],
        expires_s: float,
        timed: bool = False,
    ) -> None:
        super().__init__(cut.server, lane, send, ended, expires_s)
        self.cut = cut
        self._watch = Stopwatch(executor.device) if timed else None
        self._events: list[Event] = []
        self._executor = executor
        self._held: dict[Reference, torch.Tensor] = {}

    def expects(self, place: int) -> bool:
        """See ``HostedSide``."""
        return place < len(self.cut.up) and self.cut.up[place] not in self._held

    def spec_of(self, place: int) -> TensorSpec:
        """See ``HostedSide``."""
        return self.cut.graph.spec_of(self.cut.crossings[place])

    def take(self, place: int, incoming: Incoming) -> None:
        """See ``HostedSide``."""
        tensor = value_from_bytes(self.spec_of(place), incoming.buffer)
        with self._lock:
            if self._over:
                return
            self._held[self.cut.up[place]] = tensor
            self._note(Kind.RECEIVE, place)
        self.advance()

    def _is_ready(self, segment: Segment) -> bool:
        return all(each in self._held for each in segment.waits)

    def _work(self, segment: Segment) -> Callable[[], Any]:
        return partial(run_segment, self._executor, segment, dict(self._held), self._watch)

    def _record(self, job: Job) -> None:
        if self._watch is not None and job.started_s is not None:
            start_s = job.started_s - self.began_s
            stop_s = start_s + job.duration_s
            self._events.append(Event(Kind.COMPUTE, self._position, start_s, stop_s))
            self._events += events_of_nodes(start_s, self._watch.take())

    def _note(self, kind: Kind, place: int) -> None:
        if self._watch is not None:
            now_s = time.monotonic() - self.began_s
            self._events.append(Event(kind, place, now_s, now_s))

    def timeline(self) -> bytes:
        """See ``HostedSide``; nothing when it was not timed."""
        return events_to_bytes(self._events)

    def _leaving(self, segment: Segment, made: Any) -> Leaving:
        self._held.update(made)
        for each in segment.sends:
            self._note(Kind.SEND, self.cut.places[each])
        leaving = [(self.cut.places[each], self._held[each]) for each in segment.sends]
        for each in segment.drops:
            self._held.pop(each, None)
        return leaving

    def _free(self) -> None:
        self._held = {}
