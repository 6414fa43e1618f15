"""The server's side of a program: runs its operators one by one, or a unit of them at once.

A session belongs to one program and to one thread; nothing in it is shared with another session.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
import logging
from typing import Any

import torch

from offload_ros.rrto.calls import pack_meta, tensor_from, view_of
from offload_ros.rrto.compiled import CompiledCall
from offload_ros.rrto.handles import HandleTable
from offload_ros.rrto.messages import Answer, Code, Message, decode, encode
from offload_ros.rrto.metadata import TensorMeta, meta_of
from offload_ros.rrto.operators import AllowedOperators
from offload_ros.rrto.random_generators import Generators
from offload_ros.rrto.results import describe, flat, pack_result
from offload_ros.rrto.server_unit import (
    Failure,
    Failures,
    Frame,
    FrameRunner,
    OperatorFailed,
    ServerUnit,
    described,
    switch,
)
from offload_ros.rrto.state import Fields, restore, state_of
from offload_ros.wire.errors import WireError

MAX_CALLS = 1 << 20
MAX_UNITS = 1024
MAX_THREADS = 256
DEFAULT_MEMORY_BYTES = 4 << 30
Send = Callable[[list[bytes | memoryview]], None]
# What fields that make no sense lead to.
_SENSELESS = (TypeError, ValueError, LookupError, ArithmeticError, AttributeError, StopIteration)


class OperatorSession:
    """``receive`` takes messages in the order in which the program sent them; ``send`` takes the
    answers' buffers. ``abort`` may be called from another thread as soon as an ABORT is seen."""

    def __init__(
        self,
        send: Send,
        operators: AllowedOperators | None = None,
        device: str = 'cpu',
        memory_bytes: int = DEFAULT_MEMORY_BYTES,
    ) -> None:
        self.device = torch.device(device)
        self.table = HandleTable(memory_bytes)
        self.executed = 0  # operators
        self._send = send
        self._operators = operators or AllowedOperators()
        self._generators = Generators(self.device)
        self._name = _device_name(self.device)
        self._calls: dict[int, CompiledCall] = {}
        self._refused: dict[int, str] = {}  # calls of operators that are not run here
        self._units: dict[int, ServerUnit] = {}
        self._frames: dict[int, Frame] = {}  # by thread: the last one
        self._aborting: set[int] = set()  # frames
        self.failures = Failures()
        self._runner = FrameRunner(
            self.table,
            self._generators,
            self.failures,
            self.push,
            lambda base: base in self._aborting,
        )
        self._actions: dict[int, Callable[..., None]] = {
            Code.DEFINE: self._define,
            Code.CALL: self._call,
            Code.READ: self._read,
            Code.FREE: self._free,
            Code.SYNCHRONIZE: self._synchronize,
            Code.INSTALL: self._install,
            Code.KEEP: self._keep,
            Code.RUN: self._run,
            Code.ABORT: self._abort,
            Code.FORGET: self._forget,
            Code.SEED: self._seed,
            Code.GET_RANDOM_STATE: self._get_random_state,
            Code.SET_RANDOM_STATE: self._set_random_state,
            Code.MEMORY: self._memory,
            Code.UNDEFINE: self._undefine,
            Code.STATE: self._state,
            Code.RESTORE: self._restore,
        }

    def receive(self, data: memoryview) -> None:
        """Do what a message asks for. ``WireError``: it is none; the session cannot go on then."""
        self.execute(decode(data))

    def execute(self, message: Message) -> None:
        """Do what a decoded message asks for; ``WireError`` when it cannot be meant."""
        payloads = iter(message.payloads)
        with torch.inference_mode(False), torch.no_grad():
            for code, *fields in message.commands:
                action = self._actions.get(code)
                if action is None:
                    raise WireError(f'command {code} is unknown')
                try:
                    action(payloads, *fields)
                except WireError:
                    raise
                except _SENSELESS as error:
                    kind = type(error).__name__
                    raise WireError(f'command {Code(code).name}: {kind}: {error}') from None

    def abort(self, frame: int) -> None:
        """Stop running a frame after the operator that runs now; its ABORT is on the way."""
        self._aborting.add(frame)

    def close(self) -> None:
        """Free everything."""
        self._frames.clear()
        self._units.clear()
        self._calls.clear()
        self.table.clear()

    # --- single operators

    def _define(self, payloads: Any, number: int, name: str, template: bytes) -> None:
        if len(self._calls) + len(self._refused) >= MAX_CALLS:
            raise WireError(f'{MAX_CALLS} different calls are allowed in a session')
        try:
            operator = self._operators.find(name)
        except WireError as error:  # a program may do without it
            self._refused[number] = str(error)
            return
        self._calls[number] = CompiledCall(operator, template, self.device, self._generators.get)

    def _undefine(self, payloads: Any, calls: list[int]) -> None:
        for number in calls:
            self._calls.pop(number, None)
            self._refused.pop(number, None)

    def _call(self, payloads: Any, reply: int, number: int, call: int, handles: list[int]) -> None:
        if call in self._refused:
            self._failed(NotImplementedError(self._refused[call]), reply)
            return
        compiled = self._compiled(call)
        given = [self._payload(payloads, meta) for meta in compiled.template.payloads]
        try:
            tensors = [self._tensor(handle) for handle in handles]
            compiled.check(tensors, self.table.left_bytes)
            before = [meta_of(each) for each in tensors] if reply else []
            result = compiled.run(tensors, given)
            self.executed += 1
            self._hold(number, result, tensors)
            if compiled.written:
                self._hold_changed(compiled, handles, tensors)
            if reply:
                form = describe(result, tensors, before)
                self._answer([Answer.DONE, reply, pack_result(form)])
        except Exception as error:
            self._failed(error, reply)

    def _read(self, payloads: Any, reply: int, handle: int) -> None:
        try:
            failure = self.failures.take()
            if failure is None:
                self._answer_tensor([Answer.TENSOR, reply], self._tensor(handle))
            else:
                self._answer([Answer.FAILED, reply, *failure])
        except Exception as error:
            self._failed(error, reply)

    def _free(self, payloads: Any, handles: list[int]) -> None:
        self.table.free(handles)
        for handle in handles:
            if handle < 0:  # a generator
                self._generators.drop(-handle)

    def _synchronize(self, payloads: Any, reply: int) -> None:
        if self.device.type == 'cuda':
            torch.cuda.synchronize(self.device)
        failure = self.failures.take()
        if failure is None:
            self._answer([Answer.VALUE, reply, None])
        else:
            self._answer([Answer.FAILED, reply, *failure])

    # --- units

    def _install(
        self, payloads: Any, unit: int, steps: list[Any], kept: list[Any], slots: int
    ) -> None:
        if len(self._units) >= MAX_UNITS:
            raise WireError(f'{MAX_UNITS} units are allowed in a session')
        made = []
        for call, reads, references in steps:
            compiled = None if call < 0 else self._compiled(call)
            made.append((compiled, bool(reads), tuple(tuple(each) for each in references)))
        self._units[unit] = ServerUnit(made, [(step, output) for step, output in kept], slots)

    def _keep(self, payloads: Any, unit: int, kept: list[Any]) -> None:
        self.unit(unit).kept.update((step, output) for step, output in kept)

    def _forget(self, payloads: Any, unit: int) -> None:
        self._units.pop(unit, None)

    def _run(
        self,
        payloads: Any,
        thread: int,
        base: int,
        unit: int,
        until: int,
        sure: bool,
        carried: list[int],
        count: int,
    ) -> None:
        found = self.unit(unit)
        if len(carried) != found.slots:
            raise WireError(f'unit {unit} wants {found.slots} carried handles')
        frame = self._frames.get(thread)
        if frame is not None and frame.base == base:
            switch(frame, found, tuple(carried))
        elif frame is None and len(self._frames) >= MAX_THREADS:
            raise WireError(f'{MAX_THREADS} threads of a program may run units')
        else:
            frame = Frame(base, found, tuple(carried), failure=self.failures.pending)
            self._frames[thread] = frame
        frame.sure = sure
        self._go_on(frame, payloads, until, count)

    def _go_on(self, frame: Frame, payloads: Any, until: int, count: int) -> None:
        if not 0 <= until <= len(frame.unit.steps):
            raise WireError(f'step {until} of a unit of {len(frame.unit.steps)}')
        wanted = [
            meta
            for step in frame.unit.steps
            if step.call is not None
            for meta in step.call.template.payloads
        ]
        have = len(frame.retained) + len(frame.payloads)
        if count < 0 or have + count > len(wanted):
            raise WireError(f'a unit takes {len(wanted)} payloads')
        for meta in wanted[have : have + count]:
            frame.payloads.append(self._payload(payloads, meta))
        frame.until = until
        before = frame.next_step
        self._runner.advance(frame)
        self.executed += frame.next_step - before

    def _abort(self, payloads: Any, base: int, count: int, live: list[int]) -> None:
        frame = next((each for each in self._frames.values() if each.base == base), None)
        if frame is None:
            raise WireError(f'there is no frame {base}')
        self._aborting.discard(base)
        try:
            self._runner.take_back(frame, count, live)
        except Exception as error:
            self._failed(error, 0)
        # What stands is now as if its operators had come one by one.
        self._frames = {key: each for key, each in self._frames.items() if each is not frame}

    # --- the rest

    def _seed(self, payloads: Any, generator: int, seed: int) -> None:
        if type(seed) is not int:
            raise WireError('a seed is a number')
        self._generators.get(generator).manual_seed(seed)

    def _get_random_state(self, payloads: Any, reply: int, generator: int) -> None:
        state = self._generators.get(generator).get_state()
        self._answer_tensor([Answer.TENSOR, reply], state)

    def _set_random_state(self, payloads: Any, generator: int) -> None:
        data = next(payloads)
        try:
            state = tensor_from([len(data)], torch.uint8, data).clone()
            self._generators.get(generator).set_state(state)
        except RuntimeError as error:
            self._failed(error, 0)

    def _memory(self, payloads: Any, reply: int) -> None:
        value = [self.table.left_bytes, self.table.limit_bytes, self._name]
        self._answer([Answer.VALUE, reply, value])

    def _state(self, payloads: Any, reply: int, handles: list[int]) -> None:
        try:
            tensors, data = state_of(self.table, handles)
            answer = [Answer.STATE, reply, tensors, self._generators.numbers(), len(data)]
            self._send(encode([answer], [*data, *self._generators.data()]))
        except RuntimeError as error:
            self._failed(error, reply)

    def _restore(self, payloads: Any, tensors: Fields, generators: list[int], count: int) -> None:
        data = [next(payloads) for _ in range(count)]
        try:
            restore(self.table, tensors, data, self.device)
        except torch.cuda.OutOfMemoryError as error:
            self._failed(error, 0)
        for number in generators:
            self._set_random_state(payloads, number)

    def _compiled(self, call: int) -> CompiledCall:
        try:
            return self._calls[call]
        except KeyError:
            raise WireError(f'call {call} is not defined') from None

    def unit(self, unit: int) -> ServerUnit:
        """An installed one; ``WireError``."""
        try:
            return self._units[unit]
        except KeyError:
            raise WireError(f'unit {unit} is not installed') from None

    def _tensor(self, handle: int) -> torch.Tensor:
        try:
            return self.table[handle]
        except KeyError:
            raise OperatorFailed(handle) from None

    def _payload(self, payloads: Any, meta: TensorMeta) -> torch.Tensor:
        tensor = tensor_from(meta.shape, meta.dtype, next(payloads))
        return tensor

    def _hold(self, number: int, result: Any, tensors: Sequence[torch.Tensor]) -> None:
        for output, each in enumerate(flat(result)):
            if isinstance(each, torch.Tensor) and not any(each is old for old in tensors):
                self.table.put(number << 16 | output, each)

    def _hold_changed(
        self, compiled: CompiledCall, handles: Sequence[int], tensors: Sequence[torch.Tensor]
    ) -> None:
        """An operator may have given a tensor another storage (``resize_``, ``out=``)."""
        for index in compiled.written:
            self.table.free([handles[index]])
            self.table.put(handles[index], tensors[index])

    def push(self, base: int, step: int, value: Any, failure: Failure | None) -> None:
        """Answer with what a step reads, or with what went wrong."""
        try:
            if failure is None and isinstance(value, torch.Tensor):
                self._answer_tensor([Answer.READ, base, step], value)
            elif failure is None:
                self._answer([Answer.READ_VALUE, base, step, value])
        except RuntimeError as error:  # a device tells late what failed on it
            failure = described(error)
        if failure is not None:
            self._answer([Answer.BROKE, base, step, *failure])

    def _answer(self, command: list[Any]) -> None:
        self._send(encode([command], []))

    def _answer_tensor(self, command: list[Any], tensor: torch.Tensor) -> None:
        laid = in_memory_order(tensor.detach().cpu().resolve_conj().resolve_neg())
        shape, stride = list(tensor.shape), list(_strides(tensor))
        meta = [shape, stride, 0, pack_meta(meta_of(tensor))[3]]
        # Later operators may change it in place while it is still being sent.
        self._send(encode([[*command, meta]], [bytes(view_of(laid))]))

    def _failed(self, error: Exception, reply: int) -> None:
        if reply:
            failure = self.failures.take() or described(error)
            self._answer([Answer.FAILED, reply, *failure])
        else:
            self.failures.note(error)
        if not isinstance(error, (RuntimeError, ValueError, TypeError, IndexError)):
            logging.getLogger(__name__).debug('an operator failed: %s', error)


def in_memory_order(tensor: torch.Tensor) -> torch.Tensor:
    """Contiguous, with the elements in the order in which a dense tensor has them in memory."""
    order = _memory_order(tensor)
    return tensor.permute(order).contiguous()


def _memory_order(tensor: torch.Tensor) -> list[int]:
    strides = tensor.stride()
    order = sorted(range(tensor.dim()), key=lambda axis: -strides[axis])
    dense = tensor.permute(order).is_contiguous() if tensor.dim() else True
    return order if dense else list(range(tensor.dim()))


def _strides(tensor: torch.Tensor) -> Sequence[int]:
    """Those that ``in_memory_order`` leaves it with: its own where it is dense."""
    order = _memory_order(tensor)
    if not tensor.numel() or tensor.permute(order).is_contiguous():
        return tensor.stride()
    strides, step = [0] * tensor.dim(), 1
    for axis in reversed(order):
        strides[axis] = step
        step *= max(tensor.shape[axis], 1)
    return strides


def _device_name(device: torch.device) -> str:
    if device.type == 'cuda':
        return torch.cuda.get_device_name(device)
    return f'offload_ros server ({device.type})'
