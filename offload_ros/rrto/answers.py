"""What the server has answered, for those who wait for it."""

from __future__ import annotations

import builtins
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
import threading
from typing import Any

import torch

from offload_ros.rrto.calls import tensor_from, unpack_meta
from offload_ros.rrto.link import ServerLost
from offload_ros.rrto.messages import Answer, decode
from offload_ros.rrto.results import unpack_result
from offload_ros.rrto.shim.interrupts import deferred
from offload_ros.wire.errors import WireError

# Classes that an operator may raise on the server, and the program then gets.
_ERRORS: dict[str, type[Exception]] = {
    name: getattr(builtins, name)
    for name in (
        'RuntimeError',
        'ValueError',
        'TypeError',
        'IndexError',
        'KeyError',
        'NotImplementedError',
        'AssertionError',
        'OverflowError',
        'ZeroDivisionError',
        'MemoryError',
    )
}
_ERRORS['LinAlgError'] = torch._C._LinAlgError  # type: ignore[attr-defined]
_ERRORS['_LinAlgError'] = torch._C._LinAlgError  # type: ignore[attr-defined]
_ERRORS['OutOfMemoryError'] = torch.cuda.OutOfMemoryError
_NOTHING = object()


class ServerError(RuntimeError):
    """The server could not do what was asked, and not because of the program."""


@dataclass
class Awaited:
    """``tensors``: arguments of the call whose result is described."""

    tensors: int = 0
    value: Any = _NOTHING
    error: Exception | None = None

    @property
    def done(self) -> bool:
        """An answer is there."""
        return self.value is not _NOTHING or self.error is not None


@dataclass
class Pushed:
    """What the server has read out of a frame so far, by step: a value or an error."""

    values: dict[int, Any] = field(default_factory=dict)


class Answers:
    """``released`` is the client's lock, held once by who calls: given back while waiting, so that
    other threads of the program go on. The link's thread never takes it: it must not wait for a
    program that is just sending."""

    def __init__(self, released: Any) -> None:
        self._released = released
        self._ready = threading.Condition(threading.Lock())
        self._awaited: dict[int, Awaited] = {}
        self._frames: dict[int, Pushed] = {}
        self._numbers = count(1)
        self._lost = ''
        self.bytes = 0
        self.messages = 0

    def expect(self, tensors: int) -> tuple[int, Awaited]:
        """(number of the reply, what will have it)."""
        number, awaited = next(self._numbers), Awaited(tensors)
        with self._ready:
            self._awaited[number] = awaited
        return number, awaited

    def expect_frame(self, base: int) -> Pushed:
        """Reads of a frame will come."""
        with self._ready:
            pushed = self._frames[base] = Pushed()
        return pushed

    def drop_frame(self, base: int) -> None:
        """What comes of a frame from now on is stale."""
        with self._ready:
            self._frames.pop(base, None)

    def awaits(self, reply: int) -> bool:
        """Whether an answer is still to come."""
        return reply in self._awaited

    @property
    def lost(self) -> str:
        """Why there will be no more answers; empty while there are."""
        return self._lost

    def check(self) -> None:
        """``ServerLost`` when there will be no more answers."""
        if self._lost:
            raise ServerLost(f'{self._lost}: what the program has there is gone')

    def wait(self, awaited: Awaited) -> Any:
        """The answer's value. ``ServerLost``; or what the operator raised."""
        self._wait_for(lambda: awaited.done)
        if awaited.error is not None:
            raise awaited.error
        return awaited.value

    def wait_pushed(self, pushed: Pushed, step: int) -> Any:
        """The value that a step of a frame reads. Raises what an operator before it raised."""
        self._wait_for(lambda: step in pushed.values)
        value = pushed.values.pop(step)
        if isinstance(value, Exception):
            raise value
        return value

    def on_message(self, data: memoryview) -> str:
        """Of the link, in its thread. Why there will be no more answers; empty: there will."""
        ended = ''
        with self._ready:
            self.bytes += len(data)
            self.messages += 1
            try:
                message = decode(data)
                payloads = iter(message.payloads)
                for command in message.commands:
                    if command[0] == Answer.ENDED:
                        ended = f'the server ended the session: {command[1]}'
                    else:
                        self._take(command, payloads)
            except (WireError, TypeError, ValueError, LookupError, StopIteration) as error:
                ended = f'the server answers what cannot be understood: {error}'
            self._ready.notify_all()
        return ended

    def on_lost(self, why: str) -> None:
        """Of the link: no more answers will come."""
        with self._ready:
            self._lost = self._lost or why
            self._ready.notify_all()

    def _wait_for(self, ready: Callable[[], bool]) -> None:
        if ready():
            return
        self._released.release()
        try:
            with self._ready:
                while not ready():
                    self.check()
                    self._ready.wait(deferred.look_s)
                    deferred.point()
        finally:
            self._released.acquire()

    def _take(self, command: list[Any], payloads: Any) -> None:
        code, *fields = command
        if code in (Answer.READ, Answer.READ_VALUE, Answer.BROKE):
            self._take_pushed(code, fields, payloads)
            return
        awaited = self._awaited.pop(fields[0], None)
        value: Any = None
        if code == Answer.TENSOR:
            value = _tensor(fields[1], next(payloads))
        elif code == Answer.STATE:
            value = [
                *fields[1:],
                [bytes(next(payloads)) for _ in range(fields[3] + len(fields[2]))],
            ]
        if awaited is None:
            return
        if code == Answer.DONE:
            awaited.value = unpack_result(fields[1], awaited.tensors)
        elif code in (Answer.TENSOR, Answer.STATE):
            awaited.value = value
        elif code == Answer.VALUE:
            awaited.value = fields[1]
        elif code == Answer.FAILED:
            awaited.error = error_of(fields[1], fields[2])
        else:
            raise WireError(f'answer {code}')

    def _take_pushed(self, code: int, fields: list[Any], payloads: Any) -> None:
        base, step = fields[:2]
        value = _tensor(fields[2], next(payloads)) if code == Answer.READ else fields[2]
        pushed = self._frames.get(base)
        if pushed is None:
            return
        if code == Answer.BROKE:
            pushed.values[step] = error_of(fields[2], fields[3])
        else:
            pushed.values[step] = value


def error_of(kind: str, text: str) -> Exception:
    """What to raise for an error of the server."""
    if kind == 'WireError':
        return ServerError(text)
    made = _ERRORS.get(kind)
    return made(text) if made is not None else ServerError(f'{kind}: {text}')


def _tensor(fields: Any, data: memoryview) -> torch.Tensor:
    """A tensor whose elements came in memory order; its own, to be changed by the program."""
    meta = unpack_meta(fields)
    order = sorted(range(len(meta.shape)), key=lambda axis: -meta.stride[axis])
    laid = tensor_from([meta.shape[axis] for axis in order], meta.dtype, data)
    inverse = sorted(range(len(order)), key=lambda axis: order[axis])
    tensor = laid.permute(inverse)
    strides = zip(tensor.shape, tensor.stride(), meta.stride, strict=True)
    if all(extent == 1 or mine == theirs for extent, mine, theirs in strides):
        tensor = tensor.as_strided(tensor.shape, meta.stride)  # also where it does not matter
    return tensor
