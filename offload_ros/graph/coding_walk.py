"""What codecs do to each tensor of a graph that may cross: measured on an example, node by node.

Sizes follow from the data, times also from the machine: both machines measure, on the same example,
and ``merged_codings`` puts together what a profile holds.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from torch import Tensor

from offload_ros.cuts.value_codecs import (
    BLOCK_BYTES,
    SAMPLE_BYTES,
    VALUE_CODECS,
    candidates,
    measure_codec,
    pixel_channels,
)
from offload_ros.graph.execute import Executor
from offload_ros.graph.graph import Input, Reference
from offload_ros.graph.profile import Coding
from offload_ros.graph.stopwatch import Lend, Walk, at_once, last_readers, values_of
from offload_ros.wire.codec_choice import NEVER, Measured, sample_of
from offload_ros.wire.tensors import data_of

LEAST_BYTES = 4096  # what is smaller crosses as fast as any
INNER_SAMPLE_BYTES = 1 << 20  # of a tensor inside the model; inputs are looked at more closely
LEAST_SAVING = 0.05  # of the bytes: less than that never pays


class CodingSample(NamedTuple):
    """Of one machine: ``codec`` on the whole output of ``operator``, its id in a profile."""

    operator: int
    codec: str
    wire_bytes: int
    encode_s: float
    decode_s: float


class CodingWalk:
    """One walk through a graph; ``next_node`` goes from node to node, ``inputs`` comes first."""

    def __init__(self, executor: Executor, inputs: Mapping[str, Tensor]) -> None:
        self._graph = executor.graph
        self._needed = last_readers(executor.graph)
        self._walk = Walk(executor, inputs)

    def inputs(self, lend: Lend = at_once) -> list[CodingSample]:
        """Of the model's inputs, -1, -2, ... in their order."""
        found = []
        for place, name in enumerate(self._graph.inputs):
            found += self._samples(-1 - place, [Input(name)], SAMPLE_BYTES, lend)
        return found

    def next_node(self, node: int, lend: Lend = at_once) -> list[CodingSample]:
        """Run ``node``, then look at what it made and somebody needs. Nodes come in order."""
        lend(lambda: self._walk.run(range(node, node + 1)))
        values = [each for each in values_of(self._graph.nodes[node]) if each in self._needed]
        return self._samples(node, values, INNER_SAMPLE_BYTES, lend)

    def _samples(
        self, operator: int, values: Sequence[Reference], most: int, lend: Lend
    ) -> list[CodingSample]:
        held = {each: self._walk.values[each] for each in values if each in self._walk.values}
        sizes = {each: tensor.nbytes for each, tensor in held.items()}
        if sum(sizes.values()) < LEAST_BYTES or len({each.dtype for each in held.values()}) > 1:
            return []
        measured: dict[int, list[tuple[int, Measured]]] = {}
        for reference, tensor in held.items():
            for code, each in self._measured(reference, tensor, most, lend).items():
                measured.setdefault(code, []).append((sizes[reference], each))
        found = []
        for code, those in measured.items():
            plain = sum(sizes.values()) - sum(size for size, _ in those)  # some travel raw
            coded = plain + sum(size * each.coded_share for size, each in those)
            if coded <= (1.0 - LEAST_SAVING) * sum(sizes.values()):
                encode_s = sum(size * each.encode_s_per_byte for size, each in those)
                decode_s = sum(size * each.decode_s_per_byte for size, each in those)
                name = VALUE_CODECS[code]
                found.append(CodingSample(operator, name, round(coded), encode_s, decode_s))
        return found

    def _measured(
        self, reference: Reference, tensor: Tensor, most: int, lend: Lend
    ) -> dict[int, Measured]:
        spec = self._graph.spec_of(reference)
        ordered = tensor if spec.order is None else tensor.permute(*spec.order)
        dtype, channels = tensor.dtype, pixel_channels(ordered.shape)

        def taken() -> np.ndarray:
            data = np.frombuffer(data_of(ordered), np.uint8)
            # Of its own: what a later operator changes in its memory is not this value's.
            sample = sample_of(data, most, dtype.itemsize * channels, BLOCK_BYTES)
            return np.array(sample, np.uint8)

        sample = lend(taken)
        found = {}
        for code in candidates(dtype) if len(sample) else ():
            # Not lent the device: codecs run beside it, on the processor.
            each = measure_codec(sample, dtype, code, channels)
            if each is not NEVER:
                found[code] = each
        return found


def merged_codings(
    robot: Iterable[CodingSample], server: Iterable[CodingSample]
) -> dict[int, tuple[Coding, ...]]:
    """By operator, what both machines measured, without codecs that another one beats in size and
    all times. Bytes are the robot's: the example is its."""
    there = {(each.operator, each.codec): each for each in server}
    found: dict[int, list[Coding]] = {}
    for here in robot:
        other = there.get((here.operator, here.codec))
        if other is not None:
            found.setdefault(here.operator, []).append(
                Coding(
                    here.codec,
                    here.wire_bytes,
                    here.encode_s,
                    other.encode_s,
                    here.decode_s,
                    other.decode_s,
                )
            )
    return {operator: tuple(_best(those)) for operator, those in found.items()}


def _best(codings: Sequence[Coding]) -> Iterator[Coding]:
    for each in codings:
        if not any(_beats(other, each) for other in codings):
            yield each


def _beats(one: Coding, other: Coding) -> bool:
    pairs = list(zip(_costs(one), _costs(other), strict=True))
    return all(mine <= its for mine, its in pairs) and any(mine < its for mine, its in pairs)


def _costs(coding: Coding) -> tuple[float, ...]:
    """Bytes, and what the way up and the way down take."""
    return (
        coding.wire_bytes,
        coding.robot_encode_s + coding.server_decode_s,
        coding.server_encode_s + coding.robot_decode_s,
    )
