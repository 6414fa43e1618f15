"""A layer cut: each operator runs whole, on the robot or on the server, and values cross between.

A side runs all of its nodes that can run, hands over what the other needs, and waits; a cut may
cross in both directions any number of times. Inputs are the robot's, and so are the outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from offload_ros.graph.execute import Executor, Hook
from offload_ros.graph.graph import Graph, GraphError, Input, Parameter, Reference, Value

Side = Literal['robot', 'server']
# What carries a value to the other side: gets the side that sends.
Carry = Callable[[Side, Reference, Tensor], Tensor]


@dataclass(frozen=True)
class Stage:
    """``nodes`` run on ``side``; then ``sends`` go to the other side. A value crosses once."""

    side: Side
    nodes: tuple[int, ...]
    sends: tuple[Reference, ...]


def layer_cut(graph: Graph, on_robot: Collection[int]) -> tuple[Stage, ...]:
    """Stages in their order, robot and server in turn, of the cut that leaves ``on_robot`` to the
    robot and the other nodes to the server. ``GraphError`` for a node that does not exist."""
    count = len(graph.nodes)
    if not set(on_robot) <= set(range(count)):
        raise GraphError(f'graph {graph.name} has the nodes 0 to {count - 1}')
    side_of: list[Side] = ['robot' if node in set(on_robot) else 'server' for node in range(count)]
    held: dict[Side, set[Reference]] = {
        'robot': {Input(name) for name in graph.inputs},
        'server': set(),
    }
    needed = {each: _needed(graph, side_of, each) for each in held}
    pending: dict[Side, list[int]] = {
        each: [node for node in range(count) if side_of[node] == each] for each in held
    }
    stages: list[Stage] = []
    side: Side = 'robot'
    while any(pending.values()) or needed['robot'] - held['robot']:
        other: Side = 'server' if side == 'robot' else 'robot'
        nodes = _ready(graph, pending[side], held[side])
        pending[side] = [node for node in pending[side] if node not in set(nodes)]
        sends = sorted((held[side] & needed[other]) - held[other], key=_place)
        held[other].update(sends)
        if nodes or sends:
            stages.append(Stage(side, nodes, tuple(sends)))
        side = other
    return tuple(stages)


def crossing_bytes(graph: Graph, stages: Sequence[Stage]) -> tuple[int, int]:
    """(uplink, downlink) bytes of all that crosses, uncompressed. ``GraphError`` where an extent
    that depends on data crosses."""
    total = {'robot': 0, 'server': 0}
    for stage in stages:
        total[stage.side] += sum(graph.spec_of(each).nbytes for each in stage.sends)
    return total['robot'], total['server']


def run_layer_cut(
    stages: Sequence[Stage],
    robot: Executor,
    server: Executor,
    inputs: Mapping[str, Tensor],
    carry: Carry = lambda side, reference, tensor: tensor,
    hooks: Mapping[Side, Hook] | None = None,
) -> dict[str, Tensor]:
    """The graph's outputs, computed stage by stage by two executors of the same graph.

    ``carry`` is the link; ``hooks``: around each operator of a side (``Executor.run``).
    """
    graph = robot.graph
    held: dict[Side, dict[Reference, Tensor]] = {
        'robot': {Input(name): tensor for name, tensor in inputs.items()},
        'server': {},
    }
    executors: dict[Side, Executor] = {'robot': robot, 'server': server}
    later = _needed_later(graph, stages)
    for stage, needed in zip(stages, later, strict=True):
        side, other = stage.side, 'server' if stage.side == 'robot' else 'robot'
        own = held[side]
        made = {Value(node, output) for node in stage.nodes for output in _outputs(graph, node)}
        wanted = made & (needed | set(stage.sends))
        own.update(
            executors[side].run(
                own, stage.nodes, sorted(wanted, key=_place), (hooks or {}).get(side)
            )
        )
        for reference in stage.sends:
            held[other][reference] = carry(side, reference, own[reference])  # type: ignore[index]
        for reference in own.keys() - needed:
            del own[reference]
    results = robot.run(held['robot'], (), graph.outputs.values())
    return {name: results[reference] for name, reference in graph.outputs.items()}


def _needed(graph: Graph, side_of: Sequence[Side], side: Side) -> set[Reference]:
    """What the nodes of a side read, and the outputs for the robot."""
    found = {
        reference
        for node in graph.nodes
        if side_of[node.id] == side
        for reference in node.references
    }
    if side == 'robot':
        found.update(graph.outputs.values())
    return {each for each in found if not isinstance(each, Parameter)}


def _ready(graph: Graph, pending: Sequence[int], held: set[Reference]) -> tuple[int, ...]:
    """The pending nodes that can run one after another; ``held`` gains their values."""
    nodes = []
    for node in pending:
        reads = graph.nodes[node].references
        if all(each in held or isinstance(each, Parameter) for each in reads):
            nodes.append(node)
            held.update(Value(node, output) for output in _outputs(graph, node))
    return tuple(nodes)


def _needed_later(graph: Graph, stages: Sequence[Stage]) -> list[set[Reference]]:
    """Per stage what its side still reads or sends afterwards."""
    kept: dict[Side, set[Reference]] = {'robot': set(graph.outputs.values()), 'server': set()}
    later = []
    for stage in reversed(stages):
        later.append(set(kept[stage.side]))
        kept[stage.side] |= set(stage.sends)
        for node in stage.nodes:
            kept[stage.side].update(graph.nodes[node].references)
    return later[::-1]


def _outputs(graph: Graph, node: int) -> range:
    return range(len(graph.nodes[node].outputs))


def _place(reference: Reference) -> tuple[int, int, str]:
    """Inputs first, then values in the order of computing."""
    if isinstance(reference, Value):
        return (reference.node, reference.output, '')
    return (-1, 0, reference.name)
