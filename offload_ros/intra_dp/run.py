"""Running a side's segments; both sides in one process, for tests and to try a plan."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from offload_ros.cuts.values import value_from_bytes
from offload_ros.graph.execute import Executor
from offload_ros.graph.graph import GraphError, Input, Reference, TensorSpec
from offload_ros.graph.intervals import Interval
from offload_ros.intra_dp.lower import Machine, Work
from offload_ros.intra_dp.pieces import Piece, RowGraph
from offload_ros.intra_dp.run_held import Held
from offload_ros.intra_dp.segments import Segment

# What carries a piece to the other side: gets the side that sends.
Carry = Callable[[Machine, Piece, Tensor], Tensor]
Leaving: TypeAlias = Sequence[tuple[int, Tensor]]  # place and rows of pieces


def run_segment(work: Work, segment: Segment, held: Held, arrived: Mapping[int, Tensor]) -> Leaving:
    """Computes, and gives the pieces that leave; all kernels have ended when it returns.
    ``arrived``: by place, at least what the segment waits for."""
    for place in segment.waits:
        value, rows = work.pieces[place]
        held.put(value, rows, arrived[place])
    with torch.no_grad():
        for compute in segment.computes:
            held.compute(compute)
    leaving = [(place, held.get(*work.pieces[place])) for place in segment.sends]
    for value in segment.drops:
        held.drop(value)
    if held.device.type == 'cuda':
        torch.cuda.synchronize(held.device)
    return leaving


def run_received(
    work: Work, segment: Segment, held: Held, arrived: Mapping[int, np.ndarray]
) -> Leaving:
    """The same with pieces as they came; ``WireError`` when one is not what the graph says."""
    tensors = {
        place: value_from_bytes(work.piece_spec(place), data) for place, data in arrived.items()
    }
    return run_segment(work, segment, held, tensors)


def put_inputs(held: Held, rows: RowGraph, inputs: Mapping[str, Tensor]) -> None:
    """What the robot has at first. ``GraphError`` for inputs that are not the graph's."""
    if inputs.keys() != rows.graph.inputs.keys():
        raise GraphError(
            f'graph {rows.graph.name} takes the inputs {", ".join(rows.graph.inputs)}, got '
            f'{", ".join(inputs)}'
        )
    for name, tensor in inputs.items():
        spec = rows.graph.inputs[name]
        if not _fits(tensor, spec):
            raise GraphError(
                f'input {name} is {tensor.dtype} {tuple(tensor.shape)}, the graph says {spec}'
            )
        held.put(Input(name), Interval(0, rows.count(Input(name))), tensor)


def _fits(tensor: Tensor, spec: TensorSpec) -> bool:
    if tensor.dtype != spec.dtype or tensor.ndim != len(spec.shape):
        return False
    return all(want in (None, have) for want, have in zip(spec.shape, tensor.shape, strict=True))


def results(rows: RowGraph, held: Held) -> dict[str, Tensor]:
    """The model's outputs by name."""
    found: dict[Reference, Tensor] = {each: held.whole(each) for each in rows.outputs}
    return {name: found[reference] for name, reference in rows.graph.outputs.items()}


def run_in_process(
    work: Work,
    robot: Executor,
    server: Executor,
    inputs: Mapping[str, Tensor],
    carry: Carry = lambda side, piece, tensor: tensor.clone(),
) -> dict[str, Tensor]:
    """One inference, both sides by turns as far as each comes; outputs by name. ``carry`` is the
    link."""
    sides = (_Turn(work, 'robot', robot, inputs), _Turn(work, 'server', server, {}))
    arrived: dict[int, Tensor] = {}
    moved = True
    while moved:
        moved = sides[0].advance(arrived, carry)
        moved = sides[1].advance(arrived, carry) or moved
    return results(work.rows, sides[0].held)


class _Turn:
    def __init__(
        self, work: Work, side: Machine, executor: Executor, inputs: Mapping[str, Tensor]
    ) -> None:
        self.work, self.side = work, side
        own = work.robot if side == 'robot' else work.server
        self.held = Held(work.rows, executor, own.buffers)
        if side == 'robot':
            put_inputs(self.held, work.rows, inputs)
        self.left = list(own.segments)

    def advance(self, arrived: dict[int, Tensor], carry: Carry) -> bool:
        """Whether a segment could run."""
        if not self.left or not arrived.keys() >= set(self.left[0].waits):
            return False
        leaving = run_segment(self.work, self.left.pop(0), self.held, arrived)
        for place, tensor in leaving:
            arrived[place] = carry(self.side, self.work.pieces[place], tensor)
        return True
