"""A graph run piece by piece with the time that each operator takes.

The device is lent for one piece at a time, so that a robot or server which is measured goes on
answering frames between the pieces.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
import time
from typing import Any, TypeVar

import torch
from torch import Tensor

from offload_ros.graph.execute import Executor, Hook, flat
from offload_ros.graph.graph import Graph, Input, Node, Parameter, Reference, Value

Result = TypeVar('Result')
# Runs a function on the device when it is free, and returns its value.
Lend = Callable[[Callable[[], Any]], Any]


def at_once(compute: Callable[[], Any]) -> Any:
    """The device is ours alone."""
    return compute()


class Stopwatch:
    """A hook of ``Executor`` that keeps seconds by node id. On CUDA the time between two events in
    the stream, elsewhere that of the call."""

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == 'cuda'
        self._device = device
        self._seconds: dict[int, float] = {}
        self._events: list[tuple[int, Any, Any]] = []

    def __call__(self, node: Node, compute: Callable[[], Any]) -> Any:
        return self.time(node.id, compute)

    def time(self, key: int, compute: Callable[[], Any]) -> Any:
        """The value of ``compute``; what it takes is kept under ``key``."""
        if self._cuda:
            began, ended = _event(), _event()
            began.record(torch.cuda.current_stream(self._device))
            result = compute()
            ended.record(torch.cuda.current_stream(self._device))
            self._events.append((key, began, ended))
            return result
        began_s = time.perf_counter()
        result = compute()
        self._seconds[key] = time.perf_counter() - began_s
        return result

    def take(self) -> dict[int, float]:
        """Seconds by key since the last call; waits until the device has done it all."""
        if self._events:
            torch.cuda.synchronize(self._device)
            for key, began, ended in self._events:
                self._seconds[key] = began.elapsed_time(ended) / 1e3
        found, self._seconds, self._events = self._seconds, {}, []
        return found


def _event() -> Any:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]


def whole_forward_s(executor: Executor, inputs: Mapping[str, Tensor]) -> float:
    """Seconds from the inputs in this machine's memory to the outputs there."""
    finish(executor.device)
    began_s = time.perf_counter()
    for output in executor(inputs).values():
        output.to('cpu')
    finish(executor.device)
    return time.perf_counter() - began_s


def finish(device: torch.device) -> None:
    """Wait until all that was begun on ``device`` has ended."""
    if device.type == 'cuda':
        torch.cuda.synchronize(device)


@dataclass
class Walk:
    """One pass through a graph: nodes are run in order, in pieces, and values are freed when their
    last reader has run. ``values``: what the next nodes read."""

    executor: Executor
    inputs: Mapping[str, Tensor]
    values: dict[Reference, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        device = self.executor.device
        self.values = {Input(name): each.to(device) for name, each in self.inputs.items()}
        self._last = last_readers(self.executor.graph)

    def run(self, nodes: range, hook: Hook | None = None) -> None:
        """The next nodes; those that nobody needs are left out."""
        wanted = [
            value
            for node in nodes
            for value in values_of(self.executor.graph.nodes[node])
            if self._last.get(value, -1) >= nodes.stop
        ]
        self.values.update(self.executor.run(self.values, nodes, wanted, hook))
        for reference in [each for each in self.values if self._last.get(each, -1) < nodes.stop]:
            del self.values[reference]


def values_of(node: Node) -> list[Reference]:
    """All that a node makes."""
    return [Value(node.id, output) for output in range(len(node.outputs))]


def last_readers(graph: Graph) -> dict[Reference, int]:
    """Of each value and input that is needed the last node that reads it; an output of the graph is
    read behind its end. Of nodes whose values nobody needs there is nothing."""
    last: dict[Reference, int] = {
        reference: len(graph.nodes)
        for reference in graph.outputs.values()
        if not isinstance(reference, Parameter)
    }
    for node in reversed(graph.nodes):
        if any(value in last for value in values_of(node)):
            for reference in node.references:
                if not isinstance(reference, Parameter):
                    last.setdefault(reference, node.id)
    return last


def live_nodes(graph: Graph) -> list[int]:
    """Ids of the nodes that an output needs, ascending."""
    needed = last_readers(graph)
    return [node.id for node in graph.nodes if any(each in needed for each in values_of(node))]


class SizeRecorder:
    """A hook of ``Executor``: bytes of what nodes made whose shapes only the run tells."""

    def __init__(self) -> None:
        self.nbytes: dict[int, int] = {}

    def __call__(self, node: Node, compute: Callable[[], Any]) -> Any:
        result = compute()
        if not all(spec.is_static for spec in node.outputs):
            tensors = [each for each in flat(result) if isinstance(each, Tensor)]
            self.nbytes[node.id] = sum(each.nbytes for each in tensors)
        return result
