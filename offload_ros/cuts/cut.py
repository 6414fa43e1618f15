"""A layer cut as two lists of work: what each side computes, waits for and sends, in order.

Both sides take their nodes in the graph's execution order and wait where a value of the other side
is missing, as the cost model (``graph.schedule``) has it. They cannot wait for each other: the
first node in that order which is not computed has all its inputs computed and sent.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from offload_ros.graph.execute import Executor, Hook
from offload_ros.graph.graph import (
    Graph,
    GraphError,
    Input,
    Parameter,
    Reference,
    TensorSpec,
    Value,
)

MAX_CROSSINGS = 1 << 16  # a value's place among them has 16 bits on the wire


@dataclass(frozen=True)
class Segment:
    """When ``waits`` are there, ``nodes`` run on ``reads`` and give ``keeps``; then ``sends`` go
    to the other side, and ``drops`` are not needed any more."""

    waits: tuple[Reference, ...]
    nodes: tuple[int, ...]
    reads: tuple[Reference, ...]
    keeps: tuple[Reference, ...]
    sends: tuple[Reference, ...]
    drops: tuple[Reference, ...]


def run_segment(
    executor: Executor,
    segment: Segment,
    held: Mapping[Reference, Tensor],
    hook: Hook | None = None,
) -> dict[Reference, Tensor]:
    """What the nodes of a segment give to later ones, or to the other side; all kernels have ended
    when it returns."""
    values = {each: held[each] for each in segment.reads}
    made = executor.run(values, segment.nodes, segment.keeps, hook)
    if executor.device.type == 'cuda':
        torch.cuda.synchronize(executor.device)
    return made


class Cut:
    """``on_server``: ids of the nodes that the server computes; ``GraphError`` for unknown ones.

    Nodes that no output needs are computed by nobody. What needs no input (a range of positions)
    does not cross: each side that reads it computes it.
    """

    def __init__(self, graph: Graph, on_server: Collection[int]) -> None:
        self.graph = graph
        self.on_server = frozenset(on_server)
        if not self.on_server <= set(range(len(graph.nodes))):
            raise GraphError(f'graph {graph.name} has the nodes 0 to {len(graph.nodes) - 1}')
        self._alive = _alive(graph)
        self._constants = _constants(graph)
        results = tuple(graph.outputs.values())
        made = [each.node for each in results if isinstance(each, Value)]
        self._robot_nodes = self._nodes_of(made, on_server=False)
        self._server_nodes = self._nodes_of((), on_server=True)
        self.up = self._crossing(self._server_nodes, self._robot_nodes, ())
        self.down = self._crossing(self._robot_nodes, self._server_nodes, results)
        self.crossings = self.up + self.down
        if len(self.crossings) > MAX_CROSSINGS:
            raise GraphError(f'{len(self.crossings)} tensors cross, {MAX_CROSSINGS} are allowed')
        self.places = {reference: place for place, reference in enumerate(self.crossings)}

    @cached_property
    def robot(self) -> tuple[Segment, ...]:
        """The robot's work; the inputs are there when it begins, the outputs when it has ended."""
        inputs = tuple(each for each in self.up if isinstance(each, Input))
        sends_of = [each for each in self.up if isinstance(each, Value)]
        results = tuple(dict.fromkeys(self.graph.outputs.values()))
        return _segments(self.graph, self._robot_nodes, self.down, sends_of, inputs, results)

    @cached_property
    def server(self) -> tuple[Segment, ...]:
        """The server's work."""
        sends_of = [each for each in self.down if isinstance(each, Value)]
        return _segments(self.graph, self._server_nodes, self.up, sends_of, (), ())

    @property
    def counts(self) -> tuple[int, int]:
        """Nodes that the robot computes, and the server."""
        return len(self._robot_nodes), len(self._server_nodes)

    def spec_of(self, place: int) -> TensorSpec:
        """Of the value that crosses with this place."""
        return self.graph.spec_of(self.crossings[place])

    def _nodes_of(self, results: Collection[int], on_server: bool) -> list[int]:
        """The nodes of a side, and the constants that these, or the results, need."""
        own = {
            node
            for node in self._alive
            if (node in self.on_server) == on_server and node not in self._constants
        }
        needed = {each for node in own for each in self.graph.nodes[node].predecessors}
        pending = list((needed | set(results)) & self._constants)
        while pending:
            node = pending.pop()
            if node not in own:
                own.add(node)
                pending.extend(self.graph.nodes[node].predecessors)
        return sorted(own)

    def _crossing(
        self,
        readers: Collection[int],
        makers: Collection[int],
        results: Collection[Reference],
    ) -> tuple[Reference, ...]:
        """What one side reads and does not make, in the order in which it is read."""
        found: dict[Reference, None] = {}
        for node in readers:
            found.update(dict.fromkeys(self.graph.nodes[node].references))
        found.update(dict.fromkeys(results))
        own, others = set(readers), set(makers)
        to_server = readers is self._server_nodes
        return tuple(
            each
            for each in found
            if (isinstance(each, Input) and to_server)
            or (isinstance(each, Value) and each.node in others and each.node not in own)
        )


def _constants(graph: Graph) -> set[int]:
    """Nodes that need no input of the model."""
    found: set[int] = set()
    for node in graph.nodes:
        if all(
            isinstance(each, Parameter) or (isinstance(each, Value) and each.node in found)
            for each in node.references
        ):
            found.add(node.id)
    return found


def _alive(graph: Graph) -> list[int]:
    needed = {each.node for each in graph.outputs.values() if isinstance(each, Value)}
    for node in reversed(graph.nodes):
        if node.id in needed:
            needed.update(node.predecessors)
    return sorted(needed)


def _segments(
    graph: Graph,
    nodes: Iterable[int],
    received: Collection[Reference],
    sent: Collection[Reference],
    first: tuple[Reference, ...],
    results: tuple[Reference, ...],
) -> tuple[Segment, ...]:
    """``first`` is sent at once, ``results`` are there in the end."""
    to_come, to_send = set(received), set(sent)
    drafts: list[tuple[list[Reference], list[int], tuple[Reference, ...]]] = []
    if first:
        drafts.append(([], [], first))
    waits: list[Reference] = []
    group: list[int] = []
    for node in nodes:
        new = [each for each in graph.nodes[node].references if each in to_come]
        if new and group:
            drafts.append((waits, group, ()))
            waits, group = [], []
        to_come.difference_update(new)
        waits += new
        group.append(node)
        leaving = tuple(each for each in _values_of(graph, node) if each in to_send)
        if leaving:
            drafts.append((waits, group, leaving))
            waits, group = [], []
    last = [each for each in results if each in to_come]
    if group or waits:
        drafts.append((waits, group, ()))
    if last:
        drafts.append((last, [], ()))
    return _with_lifetimes(graph, drafts, results)


def _with_lifetimes(
    graph: Graph,
    drafts: list[tuple[list[Reference], list[int], tuple[Reference, ...]]],
    results: tuple[Reference, ...],
) -> tuple[Segment, ...]:
    """Which values each segment reads, leaves to later ones, and is the last to use."""
    needed: set[Reference] = set(results)
    found: list[Segment] = []
    for waits, group, sends in reversed(drafts):
        made = {value for node in group for value in _values_of(graph, node)}
        reads = {
            each
            for node in group
            for each in graph.nodes[node].references
            if not isinstance(each, Parameter)
        } - made
        used = reads | set(sends) | (set(waits) - needed)
        drops = (used | made) - needed
        keeps = made & (needed | set(sends))
        found.append(
            Segment(
                tuple(waits),
                tuple(group),
                _ordered(reads),
                _ordered(keeps),
                sends,
                _ordered(drops & (reads | keeps | set(sends) | set(waits))),
            )
        )
        needed = (needed | reads | set(sends)) - made
    return tuple(reversed(found))


def _values_of(graph: Graph, node: int) -> list[Reference]:
    return [Value(node, output) for output in range(len(graph.nodes[node].outputs))]


def _ordered(references: Iterable[Reference]) -> tuple[Reference, ...]:
    """Inputs first, then values in the order of computing: equal sets give equal tuples."""
    return tuple(
        sorted(
            references,
            key=lambda each: (
                (each.node, each.output, '') if isinstance(each, Value) else (-1, 0, each.name)
            ),
        )
    )
