"""The server's part of one inference by steps: computes rows as pieces arrive, sends pieces."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
import time
from typing import Any

import numpy as np
import torch

from offload_ros.cuts.hosted_side import HostedSteps, Leaving
from offload_ros.graph.execute import Executor
from offload_ros.graph.graph import TensorSpec
from offload_ros.intra_dp.lower import Work
from offload_ros.intra_dp.run import run_received
from offload_ros.intra_dp.run_held import Held
from offload_ros.intra_dp.run_timeline import Event, Kind, events_to_bytes
from offload_ros.intra_dp.segments import Segment
from offload_ros.robot.lane import DeviceLane, Job
from offload_ros.wire.incoming import Incoming


class HostedSplit(HostedSteps):
    """See ``HostedSteps``. ``recorded``: whether a timeline is wanted."""

    def __init__(
        self,
        work: Work,
        executor: Executor,
        lane: DeviceLane,
        send: Callable[[int, torch.Tensor], None],
        ended: Callable[[Any, str], None],
        expires_s: float,
        recorded: bool = False,
    ) -> None:
        super().__init__(work.server.segments, lane, send, ended, expires_s)
        self.work = work
        self._held: Held | None = Held(work.rows, executor, work.server.buffers)
        self._arrived: dict[int, np.ndarray] = {}
        self._known: set[int] = set()
        self._events: list[Event] | None = [] if recorded else None

    def expects(self, place: int) -> bool:
        """See ``HostedSide``."""
        return place < self.work.up and place not in self._known

    def spec_of(self, place: int) -> TensorSpec:
        """See ``HostedSide``."""
        return self.work.rows.spec(self.work.pieces[place])

    def take(self, place: int, incoming: Incoming) -> None:
        """See ``HostedSide``; what is wrong with it shows when it is read."""
        with self._lock:
            if self._over or place in self._known:
                return
            self._known.add(place)
            self._arrived[place] = incoming.buffer
            self._note(Kind.RECEIVE, place)
        self.advance()

    def timeline(self) -> bytes:
        """See ``HostedSide``."""
        return events_to_bytes(self._events or ())

    def _is_ready(self, segment: Segment) -> bool:
        return all(place in self._arrived for place in segment.waits)

    def _work(self, segment: Segment) -> Callable[[], Any]:
        assert self._held is not None
        arrived = {place: self._arrived.pop(place) for place in segment.waits}
        return partial(run_received, self.work, segment, self._held, arrived)

    def _leaving(self, segment: Segment, made: Any) -> Leaving:
        leaving: Leaving = made
        for place, _ in leaving:
            self._note(Kind.SEND, place)
        return leaving

    def _record(self, job: Job) -> None:
        if self._events is not None and job.started_s is not None:
            start_s = job.started_s - self.began_s
            event = Event(Kind.COMPUTE, self._position, start_s, start_s + job.duration_s)
            self._events.append(event)

    def _note(self, kind: Kind, place: int) -> None:
        if self._events is not None:
            now_s = time.monotonic() - self.began_s
            self._events.append(Event(kind, place, now_s, now_s))

    def _free(self) -> None:
        self._held, self._arrived = None, {}
