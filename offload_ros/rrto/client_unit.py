"""The program's side of a unit: what each of its steps expects and gives."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch._ops import OpOverload

from offload_ros.rrto.calls import Template, TensorHole
from offload_ros.rrto.matching import Match, compile_match
from offload_ros.rrto.operators import Operator
from offload_ros.rrto.results import Form, Fresh, ResultForm, Same
from offload_ros.rrto.sequences import (
    OUTPUT_BITS,
    OUTPUT_MASK,
    Carried,
    External,
    InFrame,
    Kind,
    OperatorSequence,
    Reference,
    Step,
)
from offload_ros.rrto.server_unit import CARRIED, EXTERNAL, IN_FRAME
from offload_ros.rrto.spares import Made, Spares


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
    """``quick``: what it gives comes with ``match``, and nothing else is to be done."""

    match: Match
    kind: Kind
    signature: Signature
    references: tuple[Reference, ...]
    quick: bool


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
        self._made: list[Made] = []
        self._places: dict[tuple[int, int], int] = {}  # of the tensors that are made in advance
        self.steps: list[ClientStep] = []
        for each in sequence.steps:
            self.steps.append(self._step(each, signatures[each.signature]))
        self.externals = {
            reference.handle
            for step in sequence.steps
            for reference in step.references
            if isinstance(reference, External)
        }
        self.fresh = [
            index << OUTPUT_BITS | output
            for index, step in enumerate(self.steps)
            for output in _fresh_outputs(step.signature)
        ]
        self.fresh_late = [  # those not made in advance
            each
            for each in self.fresh
            if (each >> OUTPUT_BITS, each & OUTPUT_MASK) not in self._places
        ]
        self.start_at = self._start_at()
        # One more, so that nothing matches behind the end.
        self.quick: list[Match] = [
            step.match if step.quick and index >= self.start_at else never
            for index, step in enumerate(self.steps)
        ]
        self.quick.append(never)
        self._spares: Spares | None = None
        self.follows(sequence.numbers, len(self))

    def __len__(self) -> int:
        return len(self.steps)

    def follows(self, numbers: Sequence[int], count: int) -> None:
        """The last time, its first ``count`` steps had these operator numbers."""
        self.carried = [
            numbers[step] << OUTPUT_BITS | output if step < count else before
            for (step, output), before in zip(self.slots, self.carried, strict=True)
        ]

    @property
    def func(self) -> OpOverload:
        """Its first operator."""
        return self.steps[0].signature.operator.func

    def fill_spares(self, freed: deque[int]) -> None:
        """Make the tensors of the next occurrence, as far as they are not there."""
        if self._spares is None:
            self._spares = Spares(self._made, len(self), freed)
        else:
            self._spares.fill()

    def take_spares(self, freed: deque[int]) -> Spares:
        """The tensors for an occurrence, made now or before; give them back."""
        self.fill_spares(freed)
        spares, self._spares = self._spares, None
        assert spares is not None
        return spares

    def give_back(self, spares: Spares) -> None:
        """They can be taken again."""
        self._spares = spares

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
        index, result = len(self.steps), signature.result
        gives: int | TensorHole | None = None
        if step.kind is Kind.OP and result is not None and not result.changed:
            gives = _argument_given(result, signature.template)
            outputs = tuple(each for each in result.outputs if not isinstance(each, Same))
            if len(outputs) == len(result.outputs) and _fresh_outputs(signature):
                gives = index
                self._made.append(Made(index, result.form, outputs, _is_view(signature)))
        match = compile_match(
            signature.operator,
            signature.template,
            step.references,
            self.slots,
            self._places,
            gives,
        )
        if gives == index:  # not before: a call does not refer to what it gives
            for output in _fresh_outputs(signature):
                self._places[index, output] = len(self._places)
        return ClientStep(match, step.kind, signature, step.references, gives is not None)

    def _start_at(self) -> int:
        """Steps after which the server can be started: the first uploads, all at once."""
        last = 0
        for index, step in enumerate(self.steps):
            if step.kind is Kind.IN:
                last = index + 1
            elif not step.signature.operator.factory:
                break
        return max(last, 1)


def never(*_: Any) -> None:
    """Matches no call."""
    return


def _argument_given(result: ResultForm, template: Template) -> TensorHole | None:
    """The argument that is all that an operator gives: that of ``relu_``."""
    output = result.outputs[0] if result.form is Form.ONE else None
    holes = (each for each in template.args if isinstance(each, TensorHole))
    return next((e for e in holes if isinstance(output, Same) and e.index == output.index), None)


def _fresh_outputs(signature: Signature) -> list[int]:
    result = signature.result
    if signature.kind is Kind.GET or result is None:
        return []
    return [k for k, output in enumerate(result.outputs) if isinstance(output, Fresh)]


def _is_view(signature: Signature) -> bool:
    """Whether torch takes what a call gives for a view of an argument."""
    returns = signature.operator.func._schema.returns
    return any(each.alias_info is not None for each in returns)
