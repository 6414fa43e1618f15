"""What each operator of a graph costs, measured, and the profile that follows.

Operators are timed one by one, warm, as medians; what they add up to is scaled to the whole forward
without a stopwatch. ``offload_ros.graph.shares`` measures parts of operators.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import Tensor

from offload_ros.graph.classify import SplitGraph
from offload_ros.graph.execute import Executor
from offload_ros.graph.graph import Graph, Input, Node, Reference, Value
from offload_ros.graph.local import Kind
from offload_ros.graph.local.operator import overload_of
from offload_ros.graph.profile import (
    Coding,
    Profile,
    ProfiledOperator,
    ProfileError,
    Side,
    require,
)
from offload_ros.graph.shares import ShareFit
from offload_ros.graph.stopwatch import (
    Lend,
    SizeRecorder,
    Stopwatch,
    Walk,
    at_once,
    last_readers,
    live_nodes,
    values_of,
    whole_forward_s,
)
from offload_ros.models.model import runtime_description

PIECE_S = 0.02  # for which the device is lent at a time, where one operator does not take longer


@dataclass(frozen=True)
class NodeTimes:
    """Of one machine. ``node_s``: seconds by node id, of the nodes that ran. ``whole_s``: of the
    whole forward. ``nbytes``: by id in the profile, where only the run tells the size."""

    node_s: Mapping[int, float]
    whole_s: float
    nbytes: Mapping[int, int] = field(default_factory=dict)

    def slower(self, slowdown: float) -> NodeTimes:
        """The same of a machine that takes ``slowdown`` times as long (a paced one)."""
        node_s = {node: slowdown * seconds for node, seconds in self.node_s.items()}
        return NodeTimes(node_s, slowdown * self.whole_s, self.nbytes)

    @classmethod
    def of_passes(
        cls,
        passes: Sequence[Mapping[int, float]],
        wholes_s: Sequence[float],
        nbytes: Mapping[int, int],
    ) -> NodeTimes:
        """Medians of several passes. ``ProfileError`` unless they timed the same nodes."""
        require(passes and wholes_s, 'at least one pass is needed to know what operators cost')
        nodes = passes[0].keys()
        require(all(each.keys() == nodes for each in passes), 'passes timed different operators')
        node_s = {node: median(each[node] for each in passes) for node in nodes}
        return cls(node_s, median(wholes_s), nbytes)


class OperatorTimer:
    """Times the operators of a graph in passes, each in pieces of about ``piece_s``.

    The first pass warms up, finds how long pieces are and the sizes that only a run tells.
    """

    def __init__(
        self, executor: Executor, inputs: Mapping[str, Tensor], piece_s: float = PIECE_S
    ) -> None:
        self._executor, self._inputs, self._piece_s = executor, inputs, piece_s
        self._pieces = [range(node, node + 1) for node in range(len(executor.graph.nodes))]
        self._warm = False
        self.nbytes: dict[int, int] = {}

    def warm_up(self, lend: Lend = at_once) -> None:
        """Run all once, and group the nodes into pieces."""
        sizes = SizeRecorder()
        walk = Walk(self._executor, self._inputs)
        for piece in self._pieces:
            lend(partial(walk.run, piece, sizes))
        self.nbytes = sizes.nbytes
        for place, (name, spec) in enumerate(self._executor.graph.inputs.items()):
            if not spec.is_static:
                self.nbytes[input_id(place)] = self._inputs[name].nbytes
        seconds = self._timed(lend)
        pieces, start, so_far_s = [], 0, 0.0
        for node in range(len(self._executor.graph.nodes)):
            own_s = seconds.get(node, 0.0)
            if node > start and so_far_s + own_s > self._piece_s:
                pieces.append(range(start, node))
                start, so_far_s = node, 0.0
            so_far_s += own_s
        pieces.append(range(start, len(self._executor.graph.nodes)))
        self._pieces, self._warm = pieces, True

    def timed_pass(self, lend: Lend = at_once) -> dict[int, float]:
        """Seconds by node id."""
        if not self._warm:
            self.warm_up(lend)
        return self._timed(lend)

    def whole_s(self, lend: Lend = at_once) -> float:
        """Seconds of the whole forward, in one piece."""
        seconds: float = lend(lambda: whole_forward_s(self._executor, self._inputs))
        return seconds

    def _timed(self, lend: Lend) -> dict[int, float]:
        watch = Stopwatch(self._executor.device)
        walk = Walk(self._executor, self._inputs)
        seconds: dict[int, float] = {}

        def run(piece: range) -> dict[int, float]:
            walk.run(piece, watch)
            return watch.take()

        for piece in self._pieces:
            seconds.update(lend(partial(run, piece)))
        return seconds


def measure_nodes(
    executor: Executor, inputs: Mapping[str, Tensor], repeats: int = 10, lend: Lend = at_once
) -> NodeTimes:
    """Medians of ``repeats`` passes, whole forwards between them, warm.

    ``lend`` runs each piece of the work on the device; ``ProfileError`` for no repeats.
    """
    require(repeats >= 1, f'repeats must be 1 or more, not {repeats}')
    timer = OperatorTimer(executor, inputs)
    timer.warm_up(lend)
    timer.whole_s(lend)
    passes, wholes_s = [], []
    for _ in range(repeats):  # in turn, so that a change of the clock rate meets both
        wholes_s.append(timer.whole_s(lend))
        passes.append(timer.timed_pass(lend))
    return NodeTimes.of_passes(passes, wholes_s, timer.nbytes)


def machine_of(device: torch.device | str, slowdown: float = 1.0) -> dict[str, Any]:
    """What times on this machine depend on. ``slowdown``: of a paced accelerator."""
    device = torch.device(device)
    cuda = device.type == 'cuda'
    return {
        'device': str(device),
        'torch': torch.__version__,
        'threads': torch.get_num_threads(),
        'instruction_set': torch.backends.cpu.get_cpu_capability(),
        'accelerator': torch.cuda.get_device_name(device) if cuda else '',
        'slowdown': slowdown,
        'runtime': runtime_description(str(device)),
    }


def profile_of(
    graph: Graph,
    split: SplitGraph,
    robot: NodeTimes,
    server: NodeTimes,
    robot_shares: ShareFit | None = None,
    server_shares: ShareFit | None = None,
    sides: tuple[Side, Side] = (Side('robot'), Side('server')),
    codings: Mapping[int, tuple[Coding, ...]] | None = None,
) -> Profile:
    """The profile of ``graph`` on two machines.

    Ids are those of the graph's nodes; its inputs are -1, -2, ... in their order. Constants and
    nodes that nobody needs are not in it: what they cost is spread over the others, so that each
    side adds up to its whole forward. Views cost nothing. ``sides``: names and codec costs; floors
    and lines come from the measured shares, where there are any. ``codings``: what codecs do to
    outputs, by id (``coding_walk.merged_codings``). ``ProfileError`` where a size is known to
    neither the graph nor the times.
    """
    builder = _Builder(graph, split, robot, server, robot_shares, server_shares)
    inputs = [builder.input(name) for name in graph.inputs]
    operators = [*inputs, *(builder.operator(graph.nodes[node]) for node in builder.nodes)]
    operators = [replace(each, codings=(codings or {}).get(each.id, ())) for each in operators]
    robot_side, server_side = (
        side if fit is None else fit.side(side, scale)
        for side, fit, scale in zip(sides, builder.fits, builder.scales, strict=True)
    )
    return Profile(graph.name, tuple(operators), robot_side, server_side)


class _Builder:
    def __init__(
        self,
        graph: Graph,
        split: SplitGraph,
        robot: NodeTimes,
        server: NodeTimes,
        robot_shares: ShareFit | None,
        server_shares: ShareFit | None,
    ) -> None:
        self.graph, self.split = graph, split
        self.times = robot, server
        self.fits = robot_shares, server_shares
        self.needed = last_readers(graph)
        self.nodes = [node for node in live_nodes(graph) if split.kinds[node] is not Kind.CONSTANT]
        self.outputs = set(graph.outputs.values())
        self.ids = {name: input_id(place) for place, name in enumerate(graph.inputs)}
        self.constants = {node.id for node in graph.nodes if split.kinds[node.id] is Kind.CONSTANT}
        # What the stopwatch missed, or added, and what constants and views take.
        self.scales = [self.scale(each) for each in self.times]

    def scale(self, times: NodeTimes) -> float:
        total_s = sum(self.raw_s(times, self.graph.nodes[node]) for node in self.nodes)
        return times.whole_s / total_s if total_s else 1.0

    def raw_s(self, times: NodeTimes, node: Node) -> float:
        return 0.0 if is_view(node) else times.node_s.get(node.id, 0.0)

    def input(self, name: str) -> ProfiledOperator:
        reference = Input(name)
        return ProfiledOperator(
            id=self.ids[name],
            name=name,
            inputs=(),
            width=self.split.extent(reference) or 1,
            output_bytes=self.nbytes(reference),
            robot_s=0.0,
            server_s=0.0,
            is_input=True,
            is_output=reference in self.outputs,
        )

    def operator(self, node: Node) -> ProfiledOperator:
        values = [each for each in values_of(node) if each in self.needed]
        window = self.split.window(node.id) if self.is_split(node) else None
        robot_s, server_s = (
            scale * self.raw_s(times, node)
            for scale, times in zip(self.scales, self.times, strict=True)
        )
        lines = [
            None if fit is None or window is None else fit.node_line(node.id, whole_s)
            for fit, whole_s in zip(self.fits, (robot_s, server_s), strict=True)
        ]
        floors = [
            (None if fit is None else fit.node_floor_s(node.id, whole_s, scale))
            if line is None
            else line[0]  # measured together with it
            for line, fit, whole_s, scale in zip(
                lines, self.fits, (robot_s, server_s), self.scales, strict=True
            )
        ]
        split: dict[str, Any] = {}
        if window is not None:
            split = {'split': True, **window._asdict()}
        return ProfiledOperator(
            id=node.id,
            name=node.operator,
            inputs=self.inputs_of(node),
            width=self.split.extent(values_of(node)[0]) or 1,
            output_bytes=self.node_bytes(node, values),
            robot_s=robot_s,
            server_s=server_s,
            is_output=any(each in self.outputs for each in values),
            robot_floor_s=floors[0],
            server_floor_s=floors[1],
            robot_part=lines[0],
            server_part=lines[1],
            **split,
        )

    def is_split(self, node: Node) -> bool:
        """Whether rows of it need rows of its inputs. What also needs all of another input (the
        keys of an attention) is no window, and so a barrier to a profile."""
        operator = self.split.operators.get(node.id)
        return operator is not None and all(
            self.split.is_constant(reference)
            or (relation is not None and relation.axis == self.split.axes.get(reference))
            for reference, relation in zip(operator.call.tensors, operator.relations, strict=True)
        )

    def inputs_of(self, node: Node) -> tuple[int, ...]:
        found: dict[int, None] = {}
        for reference in node.references:
            if isinstance(reference, Input):
                found[self.ids[reference.name]] = None
            elif isinstance(reference, Value) and reference.node not in self.constants:
                found[reference.node] = None
        return tuple(found)

    def node_bytes(self, node: Node, values: list[Reference]) -> int:
        """Of those results that somebody needs."""
        specs = [self.graph.spec_of(each) for each in values]
        if all(spec.is_static for spec in specs):
            return sum(spec.nbytes for spec in specs)
        return self.run_bytes(node.id, f'node {node.id} ({node.operator})')

    def nbytes(self, reference: Input) -> int:
        spec = self.graph.inputs[reference.name]
        if spec.is_static:
            return spec.nbytes
        return self.run_bytes(self.ids[reference.name], f'input {reference.name}')

    def run_bytes(self, key: int, what: str) -> int:
        for times in self.times:
            if key in times.nbytes:
                return times.nbytes[key]
        raise ProfileError(f'the size of {what} is known only to a run: measure it')


def input_id(place: int) -> int:
    """Of the input at ``place``: a graph's nodes are counted from 0."""
    return -1 - place


def is_view(node: Node) -> bool:
    """Whether its results are its arguments' memory, by the operator's declaration."""
    func = overload_of(node.operator)
    return (
        func is not None
        and bool(func._schema.returns)
        and all(each.alias_info is not None for each in func._schema.returns)
    )
