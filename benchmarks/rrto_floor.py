"""What the robot computes per operator beyond the dispatcher, without network and server.

Dispatch floor: the program on wrapper tensors whose device answers each call from a list that was
made before, without looking at it; nothing can be cheaper on this mechanism. Beside it, in turn, a
client in each mode whose link answers at once, from another thread, what a real session answered
before. Counted is the CPU time of the program's thread alone: all of an inference, and of that
what comes before the read (the walk; what comes after could be done while the server computes).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
import copy
from functools import partial
import json
import queue
import sys
import threading
import time
from typing import Any

import torch
from torch import nn

from benchmarks import rrto_networks
from offload_ros.nodes.process import SWITCH_INTERVAL_S
from offload_ros.rrto.client import OperatorClient
from offload_ros.rrto.executor import OperatorSession
from offload_ros.rrto.link import Buffers, OnLost, OnMessage
from offload_ros.rrto.messages import Answer, Code, decode, encode
from offload_ros.rrto.metadata import TensorMeta
from offload_ros.rrto.options import MODES
from offload_ros.rrto.shim import tensor
from offload_ros.rrto.shim.device import NoDevice
from offload_ros.rrto.shim.install import install
from offload_ros.rrto.shim.tensor import RemoteTensor, remote
from offload_ros.rrto.statistics import Statistics

RECORDED = 6  # inferences until all that will be asked has been answered once
FLOOR = 'floor'


class EchoLink:
    """A ``Link`` whose session computes until ``echo`` is set; from then on it repeats itself."""

    def __init__(self) -> None:
        self.echo = False
        self._session = OperatorSession(self._answer)
        self._inbox: queue.SimpleQueue[Buffers | None] = queue.SimpleQueue()
        self._asked: dict[int, tuple[str, int]] = {}  # by reply
        self._frames: dict[int, int] = {}  # unit by frame
        self._answers: dict[tuple[str, int], tuple[list[Any], list[bytes]]] = {}
        self._pushes: dict[int, dict[int, tuple[list[Any], list[bytes]]]] = {}  # by unit and step
        self._thread = threading.Thread(target=self._work, daemon=True)

    def listen(self, on_message: OnMessage, on_lost: OnLost) -> None:
        """See ``Link``."""
        self._on_message, self._on_lost = on_message, on_lost
        self._thread.start()

    def send(self, buffers: Buffers) -> None:
        """See ``Link``."""
        self._inbox.put(buffers)

    def close(self) -> None:
        """See ``Link``."""
        self._inbox.put(None)
        self._thread.join(10.0)
        self._session.close()

    def _work(self) -> None:
        try:
            while (buffers := self._inbox.get()) is not None:
                message = decode(memoryview(bytearray(b''.join(buffers))))
                for command in message.commands:
                    self._note(command)
                if not self.echo:
                    self._session.execute(message)
        except Exception as error:  # the program would wait for ever
            self._on_lost(f'{type(error).__name__}: {error}')

    def _note(self, command: list[Any]) -> None:
        code, *fields = command
        if code == Code.RUN:
            base, unit = fields[1:3]
            known = base in self._frames
            self._frames[base] = unit
            if self.echo and not known:
                for step, (rest, payloads) in self._pushes[unit].items():
                    self._tell([rest[0], base, step, *rest[1:]], payloads)
            return
        if code not in (Code.CALL, Code.READ, Code.SYNCHRONIZE) or not fields[0]:
            return
        question = (Code(code).name, fields[2] if code == Code.CALL else 0)
        if not self.echo:
            self._asked[fields[0]] = question
            return
        rest, payloads = self._answers[question]
        self._tell([rest[0], fields[0], *rest[1:]], payloads)

    def _tell(self, command: list[Any], payloads: Sequence[bytes]) -> None:
        self._on_message(memoryview(bytearray(b''.join(encode([command], payloads)))))

    def _answer(self, buffers: list[bytes | memoryview]) -> None:
        data = memoryview(bytearray(b''.join(buffers)))
        message = decode(data)
        payloads = iter(message.payloads)
        for code, first, *rest in message.commands:
            own = [bytes(next(payloads))] if code in (Answer.TENSOR, Answer.READ) else []
            if code in (Answer.READ, Answer.READ_VALUE):
                pushes = self._pushes.setdefault(self._frames[first], {})
                pushes[rest[0]] = ([code, *rest[1:]], own)
            elif first in self._asked:
                self._answers[self._asked.pop(first)] = ([code, *rest], own)
        self._on_message(data)


class _NoOwner:
    """In place of a ``HandleOwner``: nothing happens when the tensor dies."""

    handle = 0
    shared = False


class Floor:
    """The device of the dispatch floor: ``record`` a program once, ``refill`` before each run."""

    def __init__(self) -> None:
        self.freed: deque[int] = deque()
        self._client: OperatorClient | None = None
        self._forms: list[Any] = []
        self._ready: list[Any] = []

    def record(self, client: OperatorClient, program: Callable[[], Any]) -> int:
        """Note what the calls of ``program`` give; how many there are."""
        self._client, self._forms = client, []
        tensor.bind(self)
        program()
        self._client = None
        return len(self._forms)

    def refill(self) -> None:
        """Make the results of the next inference, the last one first."""
        self._ready = [_made(form) for form in reversed(self._forms)]

    def call(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """See ``Device``."""
        if self._client is None:
            return self._ready.pop()
        result = self._client.call(func, args, kwargs)
        self._forms.append(_form(result))
        return result


def _form(result: Any) -> Any:
    if isinstance(result, RemoteTensor):
        return result._meta
    if isinstance(result, (list, tuple)):
        return [_form(each) for each in result]
    return result


def _made(form: Any) -> Any:
    if isinstance(form, TensorMeta):
        return remote(_NoOwner(), form)  # type: ignore[arg-type]
    if isinstance(form, list):
        return [_made(each) for each in form]
    return form


class Bench:
    """One network in all modes and on the floor."""

    def __init__(self, name: str, size: int) -> None:
        torch.manual_seed(0)
        network = getattr(rrto_networks, name)().eval()
        chance = torch.Generator().manual_seed(size)
        self._image = torch.randint(0, 256, (size, size, 3), dtype=torch.uint8, generator=chance)
        self._links: list[EchoLink] = []
        self._clients: dict[str, OperatorClient] = {}
        self._programs: dict[str, Callable[[], float]] = {}
        for mode in MODES:
            link = EchoLink()
            client = self._clients[mode] = OperatorClient(link, mode)
            if isinstance(tensor.current(), NoDevice):
                install(client)
            tensor.bind(client)
            copied = copy.deepcopy(network).to('cuda')
            program = self._programs[mode] = partial(self._infer, copied)
            for _ in range(RECORDED):
                program()
            self._links.append(link)
        self._floor = Floor()
        self.operators = self._floor.record(self._clients['replay'], self._programs['replay'])
        self._programs[FLOOR] = self._programs['replay']
        for link in self._links:
            link.echo = True

    def _infer(self, network: nn.Module) -> float:
        with torch.inference_mode():
            values = network(self._image.to('cuda'))
            at_read_s = time.thread_time()
            values.cpu()
        return at_read_s

    def cpu_s(self, mode: str) -> tuple[float, float]:
        """CPU time of this thread for an inference: until its read, and all of it."""
        if mode == FLOOR:
            self._floor.refill()
        tensor.bind(self._floor if mode == FLOOR else self._clients[mode])
        program = self._programs[mode]
        before_s = time.thread_time()
        at_read_s = program()
        return at_read_s - before_s, time.thread_time() - before_s

    def statistics(self, mode: str) -> Statistics:
        """Of the client of a mode."""
        return self._clients[mode].statistics

    def close(self) -> None:
        """End the sessions."""
        for client in self._clients.values():
            client.close()


def measure(name: str, size: int, pairs: int) -> dict[str, Any]:
    """CPU seconds of ``pairs`` inferences by mode; ``SystemExit`` when a replay was not one."""
    bench = Bench(name, size)
    order = [FLOOR, *MODES]
    found: dict[str, list[tuple[float, float]]] = {mode: [] for mode in order}
    replay = bench.statistics('replay')
    for index in range(pairs + 3):
        before = replay.replayed
        for mode in order:
            cpu_s = bench.cpu_s(mode)
            if index >= 3:
                found[mode].append(cpu_s)
        if replay.replayed - before != bench.operators:
            raise SystemExit(f'error: {name} {size}: {replay.lines("replay")}')
        order = order[1:] + order[:1]
    bench.close()
    return {'network': name, 'size': size, 'operators': bench.operators, 'cpu_s': found}


def drive(cases: Sequence[Sequence[Any]], pairs: int) -> None:
    """Print a line of JSON per case."""
    torch.set_num_threads(1)
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    for name, size in cases:
        print(json.dumps(measure(name, size, pairs)), flush=True)
