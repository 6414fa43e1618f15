"""The terms of record and replay: what is logged, and the sequences that are found in the log."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
import enum
from functools import cached_property
import hashlib
import itertools
from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray[Any, np.dtype[np.int64]]
OUTPUT_BITS = 16  # a handle is (op number << OUTPUT_BITS) | output
OUTPUT_MASK = (1 << OUTPUT_BITS) - 1
KIND_BITS = 2  # a key is (signature << KIND_BITS) | kind
KIND_MASK = (1 << KIND_BITS) - 1


class Kind(enum.IntEnum):
    """``IN`` carries host data, ``GET`` reads to the host, the result shape of ``DYN`` depends on
    data."""

    OP = 0
    IN = 1
    GET = 2
    DYN = 3


_KINDS = tuple(Kind)


class Entry(NamedTuple):
    """One recorded call.

    ``number`` makes its outputs' handles; ``references``: the handles of its tensor arguments;
    ``factory``: it makes a new tensor out of no tensor (``empty_strided``).
    """

    number: int
    signature: int
    references: tuple[int, ...]
    kind: Kind
    factory: bool = False


@dataclass(frozen=True, slots=True)
class InFrame:
    """An output of a step of the same occurrence."""

    step: int
    output: int


@dataclass(frozen=True, slots=True)
class External:
    """A tensor that is the same in every occurrence."""

    handle: int


@dataclass(frozen=True, slots=True)
class Carried:
    """An output of a step of the occurrence before."""

    step: int
    output: int


Reference = InFrame | External | Carried
_CLASSES: tuple[type[Reference], ...] = (InFrame, External, Carried)
IN_FRAME, EXTERNAL, CARRIED = range(3)  # the same in arrays


@dataclass(frozen=True, slots=True)
class Step:
    """One operator of a sequence."""

    signature: int
    kind: Kind
    references: tuple[Reference, ...]


@dataclass(frozen=True, eq=False)
class Wiring:
    """Steps as int64 arrays: keys (n,), bounds of each step's references (n + 1,), and for
    each reference its class and its value: a handle, or step << ``OUTPUT_BITS`` | output."""

    keys: Array
    offsets: Array
    classes: Array
    values: Array

    @classmethod
    def of(cls, steps: Sequence[Step]) -> Wiring:
        """The arrays of ``steps``."""
        references = [reference for step in steps for reference in step.references]
        rows = (
            [step.signature << KIND_BITS | step.kind for step in steps],
            [0, *itertools.accumulate(len(step.references) for step in steps)],
            [_CLASSES.index(type(reference)) for reference in references],
            [
                reference.handle
                if isinstance(reference, External)
                else reference.step << OUTPUT_BITS | reference.output
                for reference in references
            ],
        )
        return cls(*(np.array(row, np.int64) for row in rows))

    @cached_property
    def digest(self) -> bytes:
        """16 bytes that are equal where the steps are."""
        digest = hashlib.blake2b(len(self.keys).to_bytes(8, 'little'), digest_size=16)
        for part in (self.keys, self.offsets, self.classes, self.values):
            digest.update(part.tobytes())
        return digest.digest()

    @cached_property
    def steps(self) -> tuple[Step, ...]:
        """The steps as objects, made when first asked for: 1.5 us each."""
        values = self.values.tolist()
        references: list[Reference] = [
            External(value)
            if kind == EXTERNAL
            else (InFrame if kind == IN_FRAME else Carried)(
                value >> OUTPUT_BITS, value & OUTPUT_MASK
            )
            for kind, value in zip(self.classes.tolist(), values, strict=True)
        ]
        bounds = self.offsets.tolist()
        return tuple(
            Step(key >> KIND_BITS, _KINDS[key & KIND_MASK], tuple(references[begin:end]))
            for key, begin, end in zip(self.keys.tolist(), bounds, bounds[1:], strict=False)
        )


@dataclass(frozen=True, eq=False)
class OperatorSequence:
    """A unit: steps that occurred twice, and the op numbers of the last time (one per step).

    Equal where the steps are; to compare or hash it takes no time.
    """

    wiring: Wiring = field(repr=False)
    numbers: Sequence[int] = field(repr=False)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, OperatorSequence) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    def __len__(self) -> int:
        return len(self.wiring.keys)

    @property
    def steps(self) -> tuple[Step, ...]:
        """The steps, the same object for equal sequences of one search."""
        return self.wiring.steps

    @property
    def digest(self) -> bytes:
        """16 bytes that are equal where the steps are."""
        return self.wiring.digest

    @property
    def last_base(self) -> int:
        """The op number of the first step in the last occurrence."""
        return self.numbers[0]
