"""What any run has on a server: a segment that can run starts when the last one has, or when a
value arrives."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
import threading
import time
from typing import Any, Protocol, TypeAlias

import torch

from offload_ros.graph.graph import TensorSpec
from offload_ros.robot.lane import DeviceLane, Job
from offload_ros.wire.incoming import Incoming

Leaving: TypeAlias = 'Sequence[tuple[int, torch.Tensor]]'  # place, value


class HostedSide(Protocol):
    """One inference, as the host of graphs sees it."""

    compute_s: float
    began_s: float

    def expects(self, place: int) -> bool:
        """Whether this value comes from the robot and is not there yet."""

    def spec_of(self, place: int) -> TensorSpec:
        """Of the value of this place, either way."""

    def take(self, place: int, incoming: Incoming) -> None:
        """A value has arrived whole; ``WireError`` when it is not what the graph says."""

    def advance(self) -> None:
        """Start the next segment if its values are there."""

    def end(self, why: str, tell: bool = True) -> None:
        """Free all; nothing is computed or sent any more."""

    def timeline(self) -> bytes:
        """What happened when (``intra_dp.run_timeline``)."""


class HostedSteps(ABC):
    """Needs no thread of its own. ``segments`` run in order in ``lane``, which all runs of a server
    share; a subclass says what they wait for, compute and give.

    ``send(place, tensor)`` and ``ended(run, error)`` are called in the lane's or the caller's
    thread; ``ended`` once, with an empty text when all is computed, before the last values go.
    """

    def __init__(
        self,
        segments: Sequence[Any],
        lane: DeviceLane,
        send: Callable[[int, torch.Tensor], None],
        ended: Callable[[Any, str], None],
        expires_s: float,
    ) -> None:
        self.compute_s = 0.0
        self.began_s = time.monotonic()
        self._segments = segments
        self._lane = lane
        self._send = send
        self._ended = ended
        self._expires_s = expires_s
        self._lock = threading.RLock()
        self._position = 0
        self._job: Job | None = None
        self._over = False

    @abstractmethod
    def _is_ready(self, segment: Any) -> bool:
        """Whether the values are there; the lock is held."""

    @abstractmethod
    def _work(self, segment: Any) -> Callable[[], Any]:
        """What the lane is to do; the lock is held."""

    @abstractmethod
    def _leaving(self, segment: Any, made: Any) -> Leaving:
        """What goes to the robot of what the lane ``made``; the lock is held."""

    @abstractmethod
    def _free(self) -> None:
        """Hold no values any more; the lock is held."""

    def timeline(self) -> bytes:
        """Not recorded."""
        return b''

    def advance(self) -> None:
        """Start the next segment if its values are there."""
        with self._lock:
            if self._over or self._job is not None:
                return
            if time.monotonic() > self._expires_s:
                self.end('the time that the robot allowed has passed')
                return
            if self._position == len(self._segments):
                self.end('')
                return
            segment = self._segments[self._position]
            if not self._is_ready(segment):
                return
            try:
                self._job = self._lane.submit(self._work(segment), done=self._computed)
            except RuntimeError:  # the lane is closed
                self.end('the server is closing')

    def end(self, why: str, tell: bool = True) -> None:
        """Free all; nothing is computed or sent any more."""
        with self._lock:
            if self._over:
                return
            self._over = True
            job, self._job = self._job, None
            self._free()
        if job is not None:
            self._lane.cancel(job)
        if tell:
            self._ended(self, why)

    def _computed(self, job: Job) -> None:
        with self._lock:
            if self._over or job.cancelled:
                return
            self._job = None
            self.compute_s += job.duration_s
            if job.error is not None:  # a kernel may raise anything on what it was given
                first = (str(job.error).strip().splitlines() or [''])[0]
                self.end(f'{type(job.error).__name__}: {first}')
                return
            self._record(job)
            leaving = self._leaving(self._segments[self._position], job.value)
            self._position += 1
            if self._position == len(self._segments):
                self.end('')
        for place, tensor in leaving:
            self._send(place, tensor)
        self.advance()

    def _record(self, job: Job) -> None:  # noqa: B027  what most runs need not do
        """A segment has ended; the lock is held."""
