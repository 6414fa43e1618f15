"""Measuring a graph that a robot opened on a server: what its operators take there.

The robot asks stage by stage (``graph.measuring``) and gets JSON; between the pieces of a stage, of
about 20 ms, the server answers others. Its example inputs travel with it: times of most operators
do not depend on them, but which indices an embedding takes, how many points a ``nonzero`` finds and
what a codec makes of a tensor do. One robot measures at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
import json
import logging
import math
import struct
import threading
import time
from typing import Any

import numpy as np
from torch import Tensor

from offload_ros.cuts.messages import PART_BYTES, Answer, Answered, Asked
from offload_ros.cuts.store import GraphStore, HostedGraph, StoreRefused, Upload
from offload_ros.cuts.value_codecs import candidates
from offload_ros.cuts.values import HEAD_BYTES, value_bytes, value_from_bytes, value_to_buffers
from offload_ros.graph.graph import Graph, GraphError
from offload_ros.graph.measuring import Measuring, ProfilingError
from offload_ros.graph.of_model import graph_hash
from offload_ros.graph.profile import ProfileError
from offload_ros.graph.stopwatch import Lend
from offload_ros.robot.lane import DeviceLane
from offload_ros.wire.errors import WireError

log = logging.getLogger(__name__)
BEGIN, INPUTS, OPEN, END = 'begin', 'inputs', 'open', 'end'  # and the stages of ``Measuring``
MAX_INPUT_BYTES = 256 << 20
MAX_REPEATS = 100  # of one call
STAGE_S = 60.0  # the longest that a stage may take
IDLE_S = 60.0  # after which another robot may measure
_LENGTH = struct.Struct('<Q')
Tell = Callable[[Answered], None]


class MeasureDesk:
    """Of a server; safe between threads. Work is done in a thread of its own, which lends ``lane``
    for a piece at a time."""

    def __init__(self, store: GraphStore, lane: DeviceLane, idle_s: float = IDLE_S) -> None:
        self._store, self._lane, self._idle_s = store, lane, idle_s
        self._lock = threading.Lock()
        self._visit: _Visit | None = None
        self._worker = ThreadPoolExecutor(1, 'measure')

    def answer(self, user: object, asked: Asked, tell: Tell) -> Answered | None:
        """What to say at once to ``user``, a robot; None where ``tell`` does so later, or nothing
        is to be said. ``StoreRefused``."""
        if asked.stage == BEGIN:
            return self._begin(user, asked)
        with self._lock:
            visit = self._visit
            if visit is None or visit.user is not user or visit.hosted.key != asked.graph:
                raise StoreRefused('this graph is not being measured (any more): begin again')
            if visit.busy:
                raise StoreRefused('one stage of a measurement at a time')
            visit.used_s = time.monotonic()
            if asked.stage == INPUTS:
                visit.upload.write(False, asked.offset, asked.data)
                return None
            if asked.stage == END:
                self._over()
                return Answered(Answer.READY)
            if not 1 <= asked.repeats <= MAX_REPEATS:
                raise StoreRefused(f'repeats must lie in 1 to {MAX_REPEATS}, not {asked.repeats}')
            visit.busy = True
        self._worker.submit(self._work, visit, asked, tell)
        return None

    def leave(self, user: object) -> None:
        """A robot is gone: what it measures ends with the piece at work."""
        with self._lock:
            if self._visit is not None and self._visit.user is user:
                self._over()

    def close(self) -> None:
        """End all."""
        with self._lock:
            self._over()
        self._worker.shutdown(wait=False, cancel_futures=True)

    def _begin(self, user: object, asked: Asked) -> Answered:
        hosted = self._store.use(asked.graph, user)
        if hosted is None:
            return Answered(Answer.UNKNOWN, 'the graph is not open on this server')
        most = min(most_bytes(hosted.graph), self._store.memory_bytes)
        least = len(hosted.graph.inputs) * (_LENGTH.size + HEAD_BYTES)
        if not least <= asked.graph_bytes <= most:
            raise StoreRefused(f'{asked.graph_bytes} bytes of inputs, {most} are allowed')
        with self._lock:
            visit = self._visit
            if visit is not None and visit.user is not user:
                idle_s = time.monotonic() - visit.used_s
                if visit.busy or idle_s < self._idle_s:
                    raise StoreRefused('another robot is measuring here: try again later')
            self._over()
            self._visit = _Visit(user, hosted, Upload(asked.graph, asked.graph_bytes, 0))
        return Answered(Answer.READY)

    def _over(self) -> None:
        """The lock is held."""
        if self._visit is not None:
            self._visit.over = True
        self._visit = None

    def _work(self, visit: _Visit, asked: Asked, tell: Tell) -> None:
        """In the worker: whatever happens, the robot gets an answer."""
        try:
            visit.end_s = time.monotonic() + STAGE_S
            report = visit.report(asked, partial(_lend, self._lane, visit), self._lane.slowdown)
            data = json.dumps(report, allow_nan=False).encode()
            if len(data) > PART_BYTES:
                raise ProfilingError(f'a report of {len(data)} bytes is too long')
            answer = Answered(Answer.READY, data=data)
        except (ProfilingError, ProfileError, GraphError, StoreRefused, WireError) as error:
            answer = Answered(Answer.REFUSED, str(error))
        except Exception as error:  # a kernel may raise anything on what it is given
            log.exception('measuring graph %s', visit.hosted.graph.name)
            answer = Answered(Answer.REFUSED, f'{type(error).__name__}: {error}')
        with self._lock:
            visit.busy, visit.used_s = False, time.monotonic()
        if not visit.over:
            tell(answer)


class _Visit:
    """A robot's measurement of one graph."""

    def __init__(self, user: object, hosted: HostedGraph, upload: Upload) -> None:
        self.user, self.hosted, self.upload = user, hosted, upload
        self.used_s = time.monotonic()
        self.end_s = math.inf  # of the present stage
        self.busy = self.over = False
        self._measuring: Measuring | None = None

    def report(self, asked: Asked, lend: Lend, slowdown: float) -> dict[str, Any]:
        """Of a stage; takes a while."""
        if asked.stage == OPEN:
            if not self.upload.complete:
                raise StoreRefused('parts of the inputs are missing')
            graph = self.hosted.graph
            inputs = inputs_from_bytes(graph, self.upload.buffers[0])
            self._measuring = Measuring(self.hosted.executor, inputs, lend, slowdown)
            return {'graph_hash': graph_hash(graph), 'machine': self._measuring.machine}
        if self._measuring is None:
            raise ProfilingError('the measurement was not opened')
        return self._measuring.report(asked.stage, asked.part, asked.repeats)


def _lend(lane: DeviceLane, visit: _Visit, compute: Callable[[], Any]) -> Any:
    """The value of a piece of work, when the device was free for it."""
    if visit.over:
        raise ProfilingError('the measurement was given up')
    if time.monotonic() > visit.end_s:
        raise ProfilingError(f'a stage of the measurement takes more than {STAGE_S:.0f} s here')
    return lane.submit(compute).result()


# --- inputs on their way


def most_bytes(graph: Graph) -> int:
    """What the inputs of ``graph`` may take at most."""
    sizes = [value_bytes(spec) for spec in graph.inputs.values()]
    known = [size for size in sizes if size is not None]
    if len(known) < len(sizes):
        return MAX_INPUT_BYTES
    return min(MAX_INPUT_BYTES, sum(known) + len(sizes) * _LENGTH.size)


def inputs_to_bytes(graph: Graph, inputs: Mapping[str, Tensor]) -> bytes:
    """All inputs, each behind its length, coded as small as they get: they travel once.
    ``GraphError`` where one is missing."""
    if inputs.keys() != graph.inputs.keys():
        raise GraphError(f'the graph takes the inputs {", ".join(graph.inputs)}')
    found = []
    for name, spec in graph.inputs.items():
        ways = (value_to_buffers(spec, inputs[name], code) for code in (0, *candidates(spec.dtype)))
        shortest = min((b''.join(map(bytes, buffers)) for buffers in ways), key=len)
        found.append(_LENGTH.pack(len(shortest)) + shortest)
    return b''.join(found)


def inputs_from_bytes(graph: Graph, data: np.ndarray) -> dict[str, Tensor]:
    """The inverse; ``WireError`` for anything else."""
    found, place = {}, 0
    for name, spec in graph.inputs.items():
        if place + _LENGTH.size > len(data):
            raise WireError('the inputs end early')
        (length,) = _LENGTH.unpack_from(data.data, place)
        place += _LENGTH.size
        if length > len(data) - place:
            raise WireError(f'an input of {length} bytes in {len(data) - place}')
        # A copy is aligned as tensors are.
        found[name] = value_from_bytes(spec, data[place : place + length].copy())
        place += length
    if place != len(data):
        raise WireError('there are bytes after the inputs')
    return found
