"""The server's side of a unit: a recorded sequence of operators that runs without being told each.

References in a unit are ``[0, step, output]`` (of this run), ``[1, handle]`` (a tensor of the
session) or ``[2, slot]`` (a handle that each run names: carried over from the last one).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import torch

from offload_ros.rrto.compiled import CompiledCall
from offload_ros.rrto.handles import HandleTable
from offload_ros.rrto.results import flat
from offload_ros.wire.errors import WireError

MAX_STEPS = 1 << 20
IN_FRAME, EXTERNAL, CARRIED = 0, 1, 2
Reference = tuple[int, ...]
Failure = tuple[str, str]


@dataclass(frozen=True)
class ServerStep:
    """``call`` None: only the tensor of its one reference is read. ``reads``: its value goes to the
    program. ``frees``: (step, output) that nothing needs afterwards."""

    call: CompiledCall | None
    reads: bool
    references: tuple[Reference, ...]
    frees: tuple[tuple[int, int], ...]


class ServerUnit:
    """``kept``: (step, output) that the program still held when the unit had run."""

    def __init__(
        self,
        steps: Sequence[tuple[CompiledCall | None, bool, tuple[Reference, ...]]],
        kept: Iterable[tuple[int, int]],
        slots: int,
    ) -> None:
        if not 0 < len(steps) <= MAX_STEPS:
            raise WireError(f'a unit of {len(steps)} steps')
        last: dict[tuple[int, int], int] = {}
        for number, (call, _, references) in enumerate(steps):
            wanted = 1 if call is None else len(call.template.tensors)
            if len(references) != wanted:
                raise WireError(f'step {number} of a unit has {len(references)} references')
            for reference in references:
                kind, *where = reference
                if any(type(each) is not int for each in where):
                    raise WireError(f'reference {reference} in step {number} of a unit')
                if kind == IN_FRAME and len(where) == 2 and 0 <= where[0] < number:
                    last[where[0], where[1]] = number
                elif kind not in (EXTERNAL, CARRIED) or len(where) != 1:
                    raise WireError(f'reference {reference} in step {number} of a unit')
                elif kind == CARRIED and not 0 <= where[0] < slots:
                    raise WireError(f'slot {where[0]} in step {number} of a unit')
        self.kept = set(kept)
        self.slots = slots
        frees: dict[int, list[tuple[int, int]]] = {}
        for output, number in last.items():
            frees.setdefault(number, []).append(output)
        self._all = [
            ServerStep(call, reads, references, tuple(frees.get(number, ())))
            for number, (call, reads, references) in enumerate(steps)
        ]
        self.referred = frozenset(last)
        self.externals = {
            each[1] for _, _, references in steps for each in references if each[0] == EXTERNAL
        }
        self.random = any(call is not None and call.random for call, _, _ in steps)
        self.writes = any(call is not None and call.written for call, _, _ in steps)

    @property
    def steps(self) -> Sequence[ServerStep]:
        """In the order in which they run."""
        return self._all


class Failures:
    """What went wrong that the program does not know yet: at most the first, as (class, text)."""

    def __init__(self) -> None:
        self.pending: Failure | None = None

    def note(self, error: Exception) -> None:
        """An operator failed that nobody waits for; those that follow from it are not told."""
        if self.pending is None:
            self.pending = described(error)

    def take(self) -> Failure | None:
        """It is told now."""
        failure, self.pending = self.pending, None
        return failure


def described(error: Exception) -> Failure:
    """The class that the program gets, and the text."""
    kind = 'RuntimeError' if isinstance(error, OperatorFailed) else type(error).__name__
    return kind, str(error)[:4000]


class OperatorFailed(RuntimeError):
    """A tensor is wanted that is not there."""

    def __init__(self, handle: object) -> None:
        super().__init__(f'an operator before this one failed: its result {handle} does not exist')


class Saved(NamedTuple):
    """A storage, its bytes and how many they were."""

    storage: torch.UntypedStorage
    before: torch.Tensor
    size: int


@dataclass
class Frame:
    """One run of a unit; it can be taken back until the thread's next one begins.

    ``base``: operator number of its first step, so that its results have their handles.
    """

    base: int
    unit: ServerUnit
    carried: tuple[int, ...]
    payloads: deque[torch.Tensor] = field(default_factory=deque)
    failure: Failure | None = None  # that was untold before it
    until: int = 0
    sure: bool = True  # nothing but this unit may be meant: what it does not need may go
    next_step: int = 0
    retained: list[torch.Tensor] = field(default_factory=list)
    values: list[Sequence[Any] | None] = field(default_factory=list)
    failed: set[int] = field(default_factory=set)
    persistent: set[int] | None = None  # addresses of storages that were there before
    saved: dict[int, Saved] = field(default_factory=dict)
    shapes: dict[int, tuple[torch.Tensor, torch.Tensor]] = field(default_factory=dict)
    random_state: Mapping[int, torch.Tensor] | None = None
    registered: bool = False

    @property
    def done(self) -> bool:
        """All steps have run."""
        return self.next_step >= len(self.unit.steps)


class RandomStates(Protocol):
    """Random generators that can be put back."""

    def states(self) -> Mapping[int, torch.Tensor]:
        """Of all of them now."""

    def restore(self, states: Mapping[int, torch.Tensor]) -> None:
        """As they were."""


class FrameRunner:
    """Runs frames on a session's table. ``push(base, step, value)`` sends a read tensor or value,
    or the ``Failure`` that the read tells instead; ``aborted(base)`` tells that it is to stop.

    A frame does what its operators do that come one by one: one that fails has no results, those
    that need them fail, too, all others run, and the next read tells.
    """

    def __init__(
        self,
        table: HandleTable,
        generators: RandomStates,
        failures: Failures,
        push: Callable[[int, int, Any, Failure | None], None],
        aborted: Callable[[int], bool],
    ) -> None:
        self._table = table
        self._generators = generators
        self._failures = failures
        self._push = push
        self._aborted = aborted

    def advance(self, frame: Frame) -> None:
        """Run the steps that are asked for and whose payloads have come."""
        if frame.unit.random and frame.random_state is None:
            frame.random_state = self._generators.states()
        while frame.next_step < frame.until:
            step = frame.unit.steps[frame.next_step]
            wanted = 0 if step.call is None else len(step.call.template.payloads)
            if len(frame.payloads) < wanted or self._aborted(frame.base):
                return
            self._step(frame, step, mute=False)
        if frame.done and frame.sure and not frame.registered:
            frame.registered = True
            self._register(frame)

    def take_back(self, frame: Frame, count: int, live: Iterable[int]) -> None:
        """As if only its first ``count`` steps had run, and only ``live`` handles were held."""
        if not 0 <= count <= len(frame.unit.steps):
            raise WireError(f'{count} steps of a unit of {len(frame.unit.steps)} stand')
        self._restore(frame)
        if frame.registered:
            self._table.free(self._handles(frame))
        frame.payloads = deque(frame.retained + list(frame.payloads))
        frame.retained = []
        frame.next_step, frame.values, frame.failed = 0, [], set()
        frame.sure = False  # what the unit frees may be what lives
        while frame.next_step < count:
            step = frame.unit.steps[frame.next_step]
            wanted = 0 if step.call is None else len(step.call.template.payloads)
            if len(frame.payloads) < wanted:
                raise WireError('a payload of an aborted unit is missing')
            self._step(frame, step, mute=True)
        for handle in live:
            self._put(frame, (handle >> 16) - frame.base, handle & 0xFFFF)

    def _restore(self, frame: Frame) -> None:
        for saved in frame.saved.values():
            if saved.storage.nbytes() != saved.size:
                saved.storage.resize_(saved.size)
            if saved.size:
                _bytes_of(saved.storage, saved.before.device).copy_(saved.before)
        for tensor, before in frame.shapes.values():
            tensor.set_(before)  # type: ignore[call-overload]
        frame.saved.clear()
        frame.shapes.clear()
        if frame.random_state is not None:
            self._generators.restore(frame.random_state)
        self._failures.pending = frame.failure

    def _handles(self, frame: Frame) -> Iterable[int]:
        return ((frame.base + step) << 16 | output for step, output in frame.unit.kept)

    def _step(self, frame: Frame, step: ServerStep, mute: bool) -> None:
        number = frame.next_step
        frame.next_step = number + 1
        payloads: list[torch.Tensor] = []
        if step.call is not None:
            payloads = [frame.payloads.popleft() for _ in step.call.template.payloads]
            frame.retained.extend(payloads)
        tensors: Sequence[torch.Tensor] = ()
        result: Any = None
        try:
            tensors = [self._tensor(frame, reference) for reference in step.references]
            if step.call is None:
                result = tensors[0]
            else:
                if step.call.written and not mute:
                    self._save(frame, step.call, tensors)
                result = step.call.run(tensors, payloads)
        except Exception as error:
            self._failures.note(error)
            frame.failed.add(number)
        if step.reads:
            frame.values.append(None)
            failure = self._failures.take()
            if not mute:
                self._push(frame.base, number, result, failure)
        elif number in frame.failed:
            frame.values.append(None)
        else:
            frame.values.append(self._outputs(frame, number, result, tensors))
        if frame.sure:
            for where in step.frees:
                if where not in frame.unit.kept:
                    self._drop(frame, *where)

    def _outputs(
        self, frame: Frame, number: int, result: Any, tensors: Sequence[torch.Tensor]
    ) -> Sequence[Any]:
        """Without arguments that are given back (they have handles of their own), and without
        what nothing needs."""
        unit = frame.unit
        return [
            None
            if any(each is argument for argument in tensors)
            or (
                frame.sure
                and (number, output) not in unit.referred
                and (number, output) not in unit.kept
            )
            else each
            for output, each in enumerate(flat(result))
        ]

    def _drop(self, frame: Frame, step: int, output: int) -> None:
        value = frame.values[step]
        if value is not None and output < len(value):
            frame.values[step] = [*value[:output], None, *value[output + 1 :]]

    def _tensor(self, frame: Frame, reference: Reference) -> torch.Tensor:
        kind = reference[0]
        if kind == IN_FRAME:
            if reference[1] in frame.failed:
                raise OperatorFailed(reference[1:])
            return self._value(frame, reference[1], reference[2])
        handle = reference[1] if kind == EXTERNAL else frame.carried[reference[1]]
        try:
            return self._table[handle]
        except KeyError:
            raise OperatorFailed(handle) from None

    def _value(self, frame: Frame, step: int, output: int) -> torch.Tensor:
        value = frame.values[step] if 0 <= step < len(frame.values) else None
        tensor = value[output] if value is not None and 0 <= output < len(value) else None
        if not isinstance(tensor, torch.Tensor):
            raise WireError(f'output {output} of step {step} of a unit is gone')
        return tensor

    def _save(self, frame: Frame, call: CompiledCall, tensors: Sequence[torch.Tensor]) -> None:
        """What was there before the frame is copied before its first change of it."""
        if frame.persistent is None:
            frame.persistent = self._persistent(frame)
        for index in call.written:
            tensor = tensors[index]
            storage = tensor.untyped_storage()
            address = storage._cdata
            if address not in frame.persistent:
                continue
            if id(tensor) not in frame.shapes:
                frame.shapes[id(tensor)] = (tensor, tensor.detach())
            if address not in frame.saved:
                copy = _bytes_of(storage, tensor.device).clone()
                frame.saved[address] = Saved(storage, copy, storage.nbytes())

    def _persistent(self, frame: Frame) -> set[int]:
        handles = frame.unit.externals.union(frame.carried)
        return {
            self._table[handle].untyped_storage()._cdata
            for handle in handles
            if handle in self._table
        }

    def _register(self, frame: Frame) -> None:
        for step, output in frame.unit.kept:
            try:
                self._put(frame, step, output)
            except torch.cuda.OutOfMemoryError as error:
                self._failures.note(error)

    def _put(self, frame: Frame, step: int, output: int) -> None:
        """Hold an output by its handle, if there is one."""
        if step not in frame.failed:
            handle = (frame.base + step) << 16 | output
            self._table.put(handle, self._value(frame, step, output))


def _bytes_of(storage: torch.UntypedStorage, device: torch.device) -> torch.Tensor:
    return torch.empty(0, dtype=torch.uint8, device=device).set_(storage)  # type: ignore[call-overload]


def switch(frame: Frame, unit: ServerUnit, carried: tuple[int, ...]) -> None:
    """Go on with another unit, of which the steps that have run are the beginning, too."""
    if unit is not frame.unit:
        frame.unit, frame.carried, frame.persistent = unit, carried, None
