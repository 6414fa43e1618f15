"""The program's side of a unit: what each of its steps expects and gives."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch._ops import OpOverload

from offload_ros.rrto.calls import Template
from offload_ros.rrto.matching import Match, compile_match
from offload_ros.rrto.operators import Operator
from offload_ros.rrto.results import Form, Fresh, ResultForm
from offload_ros.rrto.sequences import (
    OUTPUT_BITS,
    Carried,
    External,
    InFrame,
    Kind,
    OperatorSequence,
    Reference,
    Step,
)
from offload_ros.rrto.server_unit import CARRIED, EXTERNAL, IN_FRAME
from offload_ros.rrto.shim.tensor import HandleOwner, RemoteTensor, remote


@dataclass(eq=False)
class Signature:
    """A call as both sides know it. ``result`` None: not told yet. ``fetches``: it reads one tensor
    as it is, nothing is computed."""

    number: int
    operator: Operator
    template: Template
    kind: Kind
    fetches: bool
    result: ResultForm | None = None


@dataclass(frozen=True)
class ClientStep:
    """``simple``: one fresh tensor is all that it gives."""

    func: OpOverload
    match: Match
    kind: Kind
    signature: Signature
    references: tuple[Reference, ...]
    simple: bool


class ClientUnit:
    """``carried``: handles that the next occurrence takes over from the last one."""

    def __init__(
        self,
        number: int,
        sequence: OperatorSequence,
        signatures: Mapping[int, Signature],
        kept: Iterable[tuple[int, int]],
    ) -> None:
        self.number = number
        self.sequence = sequence
        self.kept = set(kept)
        self.slots: dict[tuple[int, int], int] = {}
        self.first_use: dict[tuple[int, int], int] = {}  # step that first refers to a slot
        for index, step in enumerate(sequence.steps):
            for reference in step.references:
                if isinstance(reference, Carried):
                    place = reference.step, reference.output
                    self.slots.setdefault(place, len(self.slots))
                    self.first_use.setdefault(place, index)
        self.kept.update(self.slots)  # the next occurrence wants them
        self.carried = [0] * len(self.slots)
        self._common = {number: len(sequence.steps)}  # by unit
        self.steps = [self._step(each, signatures[each.signature]) for each in sequence.steps]
        self.externals = {
            reference.handle
            for step in sequence.steps
            for reference in step.references
            if isinstance(reference, External)
        }
        self.fresh = [
            index << OUTPUT_BITS | output
            for index, step in enumerate(self.steps)
            for output in _fresh_outputs(step)
        ]
        self.start_at = self._start_at()
        # One more, so that nothing matches behind the end.
        self.matches = [*(step.match for step in self.steps), _never]
        self.quick: list[OpOverload | None] = [
            step.func if step.simple and index >= self.start_at else None
            for index, step in enumerate(self.steps)
        ]
        self.quick.append(None)
        self._spare: list[RemoteTensor | None] | None = None
        self.follows(sequence.numbers, len(self))

    def __len__(self) -> int:
        return len(self.steps)

    def follows(self, numbers: Sequence[int], count: int) -> None:
        """The last time, its first ``count`` steps had these operator numbers."""
        self.carried = [
            numbers[step] << OUTPUT_BITS | output if step < count else before
            for (step, output), before in zip(self.slots, self.carried, strict=True)
        ]

    def make_spare(self, freed: deque[int]) -> None:
        """Tensors for the next occurrence; they get their handles when they are given out."""
        if self._spare is None:
            self._spare = [
                remote(HandleOwner(0, freed), step.signature.result.outputs[0].meta)  # type: ignore[union-attr]
                if step.simple
                else None
                for step in self.steps
            ]

    def take_spare(self, freed: deque[int]) -> list[RemoteTensor | None]:
        """What ``make_spare`` made, now or before."""
        self.make_spare(freed)
        spare, self._spare = self._spare, None
        assert spare is not None
        return spare

    def common(self, other: ClientUnit) -> int:
        """How many steps both begin with."""
        known = self._common.get(other.number)
        if known is not None:
            return known
        count = 0
        for mine, theirs in zip(self.sequence.steps, other.sequence.steps, strict=False):
            if mine != theirs:
                break
            count += 1
        self._common[other.number] = other._common[self.number] = count
        return count

    def refers_to(self, handle: int) -> bool:
        """Whether its next run needs a tensor that was there before."""
        return handle in self.externals or handle in self.carried

    def packed(self) -> list[Any]:
        """Fields of INSTALL."""
        steps = []
        for step in self.steps:
            call = -1 if step.signature.fetches else step.signature.number
            references = [self._packed(each) for each in step.references]
            steps.append([call, step.kind is Kind.GET, references])
        return [self.number, steps, [list(each) for each in self.kept], len(self.slots)]

    def _packed(self, reference: Reference) -> list[int]:
        if isinstance(reference, InFrame):
            return [IN_FRAME, reference.step, reference.output]
        if isinstance(reference, External):
            return [EXTERNAL, reference.handle]
        return [CARRIED, self.slots[reference.step, reference.output]]

    def _step(self, step: Step, signature: Signature) -> ClientStep:
        result = signature.result
        simple = (
            step.kind is not Kind.GET
            and result is not None
            and result.form is Form.ONE
            and isinstance(result.outputs[0], Fresh)
            and not result.changed
            and not signature.template.payloads
        )
        match = compile_match(signature.operator, signature.template, step.references, self.slots)
        func = signature.operator.func
        return ClientStep(func, match, step.kind, signature, step.references, simple)

    def _start_at(self) -> int:
        """Steps after which the server can be started: the first uploads, all at once."""
        last = 0
        for index, step in enumerate(self.steps):
            if step.kind is Kind.IN:
                last = index + 1
            elif not step.signature.operator.factory:
                break
        return max(last, 1)


def _never(*_: Any) -> bool:
    return False


def _fresh_outputs(step: ClientStep) -> list[int]:
    result = step.signature.result
    if step.kind is Kind.GET or result is None:
        return []
    return [k for k, output in enumerate(result.outputs) if isinstance(output, Fresh)]
