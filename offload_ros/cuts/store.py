"""The graphs of a server: who uses them, what memory they take, and how they come there."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property, lru_cache
import logging
import threading
import time
from typing import TYPE_CHECKING

import numpy as np
import torch

from offload_ros.cuts.cut import Cut
from offload_ros.cuts.messages import PART_BYTES, Port
from offload_ros.graph.classify import classify
from offload_ros.graph.execute import Executor
from offload_ros.graph.graph import Graph, GraphError, Value
from offload_ros.graph.of_model import capture_model
from offload_ros.graph.split_plan import PlanError
from offload_ros.graph.steps import Steps
from offload_ros.graph.wire_form import (
    Limits,
    content_hash,
    graph_from_json,
    parameters_from_bytes,
)
from offload_ros.intra_dp.lower import Work, lower
from offload_ros.intra_dp.pieces import RowGraph

if TYPE_CHECKING:
    from offload_ros.models.model import Model

log = logging.getLogger(__name__)
MAX_GRAPH_BYTES, MAX_NODES = 16 << 20, 20_000
CUTS_KEPT = 64
# Of graphs whose operators are split; in some, rows follow from tables with an entry for each index
# (``local.resampling``).
MAX_ROWS = 1 << 20
MAX_TABLE, _WITH_TABLES = 1 << 18, ('upsample', 'pad', 'pool', 'resize', 'interp')


class StoreRefused(Exception):
    """A graph cannot be used on this server, and why."""


class HostedGraph:
    """A graph that is ready to run; ``nbytes``: what it is counted as."""

    def __init__(self, key: str, executor: Executor, nbytes: int) -> None:
        self.key = key
        self.executor = executor
        self.nbytes = nbytes
        self.used_s = time.monotonic()
        self.users: set[object] = set()
        self.cut = lru_cache(maxsize=CUTS_KEPT)(self._cut)

    @property
    def graph(self) -> Graph:
        """What is computed."""
        return self.executor.graph

    def _cut(self, on_server: frozenset[int]) -> Cut:
        return Cut(self.graph, on_server)

    @cached_property
    def rows(self) -> RowGraph:
        """The graph in rows, for plans that split operators; ``StoreRefused`` for one whose axes
        are too long for the tables of resampling. Takes a while."""
        for node in self.graph.nodes:
            longest = max(
                (extent or 0 for spec in node.outputs for extent in spec.shape), default=0
            )
            if longest > MAX_TABLE and any(name in node.operator for name in _WITH_TABLES):
                raise StoreRefused(
                    f'node {node.id} ({node.operator}) has an axis of {longest}, {MAX_TABLE} are '
                    'allowed in graphs whose operators are split'
                )
        rows = RowGraph(classify(self.graph))
        widest = max((rows.width(node.id) for node in self.graph.nodes), default=0)
        if widest > MAX_ROWS:
            raise StoreRefused(f'an operator has {widest} rows, {MAX_ROWS} are allowed to split it')
        return rows

    def lower(self, steps: Steps, memory_bytes: int) -> Work:
        """``PlanError`` for steps that cannot be run, or need more memory. Takes a while."""
        work = lower(self.rows, steps)
        needed = work.server.peak_bytes + sum(map(self.rows.nbytes, work.pieces[: work.up]))
        if needed > memory_bytes:
            raise PlanError(
                f'a run by these steps takes {needed / 1e6:.1f} MB, {memory_bytes / 1e6:.1f} are '
                'allowed (parameter graphs.memory_mb)'
            )
        return work


class Upload:
    """The bytes of a graph and of its parameters, as far as they came."""

    def __init__(self, key: str, graph_bytes: int, parameter_bytes: int) -> None:
        self.key = key
        self.buffers = (np.empty(graph_bytes, np.uint8), np.empty(parameter_bytes, np.uint8))
        self._missing = {
            (of_parameters, offset)
            for of_parameters, buffer in enumerate(self.buffers)
            for offset in range(0, len(buffer), PART_BYTES)
        }

    @property
    def complete(self) -> bool:
        """Whether all of it is there."""
        return not self._missing

    def write(self, of_parameters: bool, offset: int, data: memoryview) -> None:
        """Take up a part; ``StoreRefused`` when it is none of this upload."""
        buffer = self.buffers[of_parameters]
        wanted = min(PART_BYTES, len(buffer) - offset)
        if (int(of_parameters), offset) not in self._missing or len(data) != wanted:
            raise StoreRefused('a part of the upload does not belong where it says')
        buffer[offset : offset + wanted] = np.frombuffer(data, np.uint8)
        self._missing.discard((int(of_parameters), offset))


class GraphStore:
    """``memory_bytes`` bounds graphs, uploads under way, and the values of any one run; 0: none are
    served. ``find_model(name, hash)``: a model of this server, whose weights count nothing."""

    def __init__(
        self,
        memory_bytes: int,
        device: str = 'cpu',
        find_model: Callable[[str, str], Model | None] = lambda name, key: None,
    ) -> None:
        self.memory_bytes = memory_bytes
        self._device = device
        self._find_model = find_model
        self._lock = threading.Lock()
        self._graphs: dict[str, HostedGraph] = {}
        self._reserved: dict[object, int] = {}  # by user, of its upload
        self._limits = Limits(
            graph_bytes=MAX_GRAPH_BYTES,
            nodes=MAX_NODES,
            parameter_bytes=max(memory_bytes, 1),
            value_bytes=max(memory_bytes, 1),
        )

    def __len__(self) -> int:
        return len(self._graphs)

    @property
    def used_bytes(self) -> int:
        """Of graphs that are here and uploads that were begun."""
        with self._lock:
            return self._used()

    def use(self, key: str, user: object) -> HostedGraph | None:
        """The graph, which stays while ``user`` has it; None when it is not here."""
        with self._lock:
            found = self._graphs.get(key)
            if found is not None:
                found.users.add(user)
                found.used_s = time.monotonic()
            return found

    def release(self, user: object, key: str = '') -> None:
        """``user`` needs a graph (all: empty) no more. It stays as long as there is room."""
        with self._lock:
            self._reserved.pop(user, None)
            for graph in self._graphs.values():
                if key in ('', graph.key):
                    graph.users.discard(user)

    def begin(self, user: object, key: str, graph_bytes: int, parameter_bytes: int) -> Upload:
        """Memory for an upload, which replaces the user's last one; ``StoreRefused``."""
        if graph_bytes > MAX_GRAPH_BYTES or not graph_bytes:
            raise StoreRefused(
                f'the graph has {graph_bytes} bytes, 1 to {MAX_GRAPH_BYTES} are allowed'
            )
        total = graph_bytes + parameter_bytes
        with self._lock:
            self._reserved.pop(user, None)
            self._make_room(total)
            self._reserved[user] = total
        return Upload(key, graph_bytes, parameter_bytes)

    def finish(self, user: object, upload: Upload) -> HostedGraph:
        """Check what was uploaded and make it ready; ``StoreRefused`` when it is not what it says.
        Takes a while."""
        try:
            if not upload.complete:
                raise StoreRefused('parts of the upload are missing')
            graph = graph_from_json(upload.buffers[0].tobytes(), self._limits)
            self._check_run(graph)
            parameters = parameters_from_bytes(graph, upload.buffers[1].tobytes(), self._limits)
            if content_hash(graph, parameters) != upload.key:
                raise StoreRefused('the upload is not the graph that its hash names')
            executor = Executor(graph, parameters, self._device)
            return self._add(user, upload.key, executor, sum(map(len, upload.buffers)))
        except GraphError as error:
            raise StoreRefused(f'the graph is refused: {error}') from None
        finally:
            with self._lock:
                self._reserved.pop(user, None)

    def of_model(
        self, user: object, key: str, name: str, model_hash: str, ports: tuple[Port, ...]
    ) -> HostedGraph | None:
        """The graph made of a model of this server; None when it has none, or another graph comes
        out. Takes a while."""
        model = self._find_model(name, model_hash)
        needed = sum(np.prod(each.shape, dtype=float) * each.dtype.itemsize for each in ports)
        if model is None or not ports or needed > self.memory_bytes:
            return None
        inputs = {each.name: torch.zeros(each.shape, dtype=each.dtype) for each in ports}
        try:
            graph, parameters = capture_model(model, inputs)
            if content_hash(graph, parameters) != key:
                return None
            self._check_run(graph)
            return self._add(user, key, Executor(graph, parameters, self._device), 0)
        except Exception as error:  # anybody's network: the robot's graph is asked for instead
            log.info("model '%s' gives no graph here: %s", name, error)
            return None

    def _add(self, user: object, key: str, executor: Executor, nbytes: int) -> HostedGraph:
        with self._lock:
            self._reserved.pop(user, None)
            found = self._graphs.get(key)
            if found is None:
                self._make_room(nbytes)
                found = self._graphs[key] = HostedGraph(key, executor, nbytes)
            found.users.add(user)
            return found

    def _used(self) -> int:
        return sum(each.nbytes for each in self._graphs.values()) + sum(self._reserved.values())

    def _make_room(self, nbytes: int) -> None:
        """Forget graphs that nobody uses, the oldest first; the lock is held."""
        idle = sorted((g for g in self._graphs.values() if not g.users), key=lambda g: g.used_s)
        while self._used() + nbytes > self.memory_bytes and idle:
            del self._graphs[idle.pop(0).key]
        if self._used() + nbytes > self.memory_bytes:
            raise StoreRefused(
                f'{nbytes / 1e6:.1f} MB are wanted, {self._used() / 1e6:.1f} of '
                f'{self.memory_bytes / 1e6:.1f} MB are taken (parameter graphs.memory_mb)'
            )

    def _check_run(self, graph: Graph) -> None:
        peak = peak_bytes(graph)
        if peak > self.memory_bytes:
            raise StoreRefused(
                f'a run of the graph takes {peak / 1e6:.1f} MB, {self.memory_bytes / 1e6:.1f} are '
                'allowed (parameter graphs.memory_mb)'
            )


def peak_bytes(graph: Graph) -> int:
    """The most that values of known extents take at a time when the graph runs in its order."""
    last = {each: ids[-1] for each, ids in graph.consumers.items()}
    held = peak = 0
    ends: dict[int, int] = {}
    for node in graph.nodes:
        for place, spec in enumerate(node.outputs):
            size = spec.nbytes if spec.is_static else 0
            held += size
            end = last.get(Value(node.id, place), node.id)
            ends[end] = ends.get(end, 0) + size
        peak = max(peak, held)
        held -= ends.pop(node.id, 0)
    return peak
