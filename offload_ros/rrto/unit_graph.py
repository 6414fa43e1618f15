"""A recorded unit as a graph of operators, so that it can be cut between robot and server.

The unit is run once more on the robot, with every call recorded: writes into tensors and views are
resolved as in any other capture (``graph.trace``). What the program reads are the graph's outputs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from offload_ros.graph.builder import Builder
from offload_ros.graph.execute import Executor
from offload_ros.graph.graph import Graph, GraphError, Reference
from offload_ros.graph.layout import laid_out
from offload_ros.graph.trace import Recorder
from offload_ros.rrto.calls import view_of
from offload_ros.rrto.compiled import CompiledCall
from offload_ros.rrto.metadata import TensorMeta, meta_of
from offload_ros.rrto.results import flat
from offload_ros.rrto.server_unit import EXTERNAL, IN_FRAME, ServerStep, ServerUnit
from offload_ros.rrto.unit_effects import NotedUnit

_RESHAPE = 'aten::_reshape_alias'


@dataclass(frozen=True)
class Read:
    """What the program is given at ``step``: made by ``call`` (None: as they are) of the graph's
    ``outputs``, which lie in memory as ``metas`` say."""

    step: int
    outputs: tuple[str, ...]
    metas: tuple[TensorMeta, ...]
    call: CompiledCall | None

    def value(self, results: Mapping[str, Tensor]) -> Any:
        """A tensor, or the number that ``call`` gives, of the graph's outputs by name."""
        tensors = [
            laid_out(results[name], None, meta.stride)
            for name, meta in zip(self.outputs, self.metas, strict=True)
        ]
        if self.call is None:
            return tensors[0]
        with torch.no_grad():
            return self.call.run(tensors, ())


@dataclass(frozen=True)
class UnitGraph:
    """``inputs``: names of the graph's inputs, one for each payload of a run. ``parameters`` share
    the memory of the session's tensors, ``externals`` says of which, and their versions."""

    graph: Graph
    parameters: Mapping[str, Tensor]
    inputs: tuple[str, ...]
    reads: tuple[Read, ...]
    externals: Mapping[int, tuple[Tensor, int]]

    def named(self, payloads: Sequence[Tensor]) -> dict[str, Tensor]:
        """The graph's inputs."""
        return dict(zip(self.inputs, payloads, strict=True))

    def holds(self, tensors: Mapping[int, Tensor]) -> bool:
        """Whether the session's tensors, by handle, still are what the parameters were made of."""
        return all(
            handle in tensors and tensors[handle] is tensor and tensor._version == version
            for handle, (tensor, version) in self.externals.items()
        )


def graph_of_unit(
    noted: NotedUnit, unit: ServerUnit, tensors: Mapping[int, Tensor], payloads: Sequence[Tensor]
) -> UnitGraph:
    """The graph of ``unit``, compared bit by bit with a run of it on ``payloads``.

    ``tensors``: the session's, by handle. ``GraphError`` says why there is none.
    """
    _check_effects(noted, unit, len(payloads))
    missing = unit.externals.difference(tensors.keys())
    if missing:
        raise GraphError('tensors from before the unit are not on the robot')
    externals = {handle: tensors[handle] for handle in sorted(unit.externals)}
    versions = {handle: (each, each._version) for handle, each in externals.items()}
    with torch.inference_mode(False), torch.no_grad():
        try:
            metas: list[TensorMeta] = []
            given = [each.clone() for each in payloads]
            expected = list(_replayed(unit, externals, given, metas))
            builder, references = _traced(unit, externals, payloads)
        except GraphError:
            raise
        except Exception as error:  # whatever an operator may raise
            reason = str(error).strip().split('\n', 1)[0]
            raise GraphError(f'running it failed ({type(error).__name__}: {reason})') from error
    names = [f'read_{place}' for place in range(len(references))]
    graph = builder.graph(dict(zip(names, references, strict=True)))
    made = UnitGraph(
        graph, builder.tensors, tuple(builder.inputs), _reads(unit, names, metas), versions
    )
    _verify(made, payloads, names, expected)
    return made


def _check_effects(noted: NotedUnit, unit: ServerUnit, payloads: int) -> None:
    if unit.slots:
        raise GraphError('it takes tensors over from its run before')
    if noted.random:
        raise GraphError('it draws random numbers')
    if noted.changed:
        raise GraphError('it changes tensors from before it')
    if not any(step.reads for step in unit.steps):
        raise GraphError('the program reads nothing of it')
    wanted = sum(len(step.call.template.payloads) for step in unit.steps if step.call is not None)
    if wanted != payloads:
        raise GraphError(
            f'the program gives {wanted} tensors in the course of it, and {payloads} as it begins'
        )


def _traced(
    unit: ServerUnit, externals: Mapping[int, Tensor], payloads: Sequence[Tensor]
) -> tuple[Builder, list[Reference]]:
    """What is read, in the order of the reads' tensors."""
    builder = Builder('unit')
    recorder = Recorder(builder, freezes=False)

    def run(state: dict[int, Tensor], *given: Tensor) -> tuple[Tensor, ...]:
        return tuple(_replayed(unit, state, given, []))

    own = {handle: each.detach() for handle, each in externals.items()}
    given = [each.clone() for each in payloads]
    for handle, each in own.items():
        recorder.note(each, builder.parameter(f't{handle}', each))
    for place, each in enumerate(given):
        recorder.note(each, builder.input(f'input_{place}', each))
    with recorder:
        results = torch.func.functionalize(run)(own, *given)
        return builder, [recorder.reference(each) for each in results]


def _replayed(
    unit: ServerUnit,
    externals: Mapping[int, Tensor],
    payloads: Sequence[Tensor],
    metas: list[TensorMeta],
) -> Iterator[Tensor]:
    """The tensors that reads need, each as it is at that step; ``metas`` gets how they lie."""
    values: list[list[Any]] = []
    left = iter(payloads)

    def tensor(reference: Sequence[int]) -> Tensor:
        if reference[0] == IN_FRAME:
            found: Tensor = values[reference[1]][reference[2]]
            return found
        assert reference[0] == EXTERNAL
        return externals[reference[1]]

    for step in unit.steps:
        tensors = [tensor(each) for each in step.references]
        if step.reads:
            values.append([])
            metas += map(meta_of, tensors)
            yield from (each.clone() for each in tensors)
        else:
            values.append(_outputs(step, tensors, left))
        for number, output in step.frees:
            values[number][output] = None


def _outputs(step: ServerStep, tensors: Sequence[Tensor], payloads: Iterator[Tensor]) -> list[Any]:
    call = step.call
    assert call is not None
    given = [next(payloads) for _ in call.template.payloads]
    if call.operator.name == _RESHAPE:  # strides are no argument of a graph's operator
        return [tensors[0].view(call.template.args[1])]
    return list(flat(call.run(tensors, given)))


def _reads(unit: ServerUnit, names: Sequence[str], metas: Sequence[TensorMeta]) -> tuple[Read, ...]:
    left = iter(zip(names, metas, strict=True))
    found = []
    for number, step in enumerate(unit.steps):
        if step.reads:
            own = [next(left) for _ in step.references]
            outputs, lie = tuple(name for name, _ in own), tuple(meta for _, meta in own)
            found.append(Read(number, outputs, lie, step.call))
    return tuple(found)


def _verify(
    made: UnitGraph, payloads: Sequence[Tensor], names: Sequence[str], expected: Sequence[Tensor]
) -> None:
    try:
        results = Executor(made.graph, made.parameters)(made.named(payloads))
    except (RuntimeError, IndexError, ValueError) as error:
        raise GraphError(f'the graph does not run: {error}') from error
    for name, wanted in zip(names, expected, strict=True):
        found = results[name]
        same = found.dtype == wanted.dtype and found.shape == wanted.shape
        if not same or view_of(found) != view_of(wanted):
            raise GraphError(f'the graph gives other bits than the unit ({name})')
