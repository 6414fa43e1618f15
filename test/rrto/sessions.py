"""Programs run on the CPU and in sessions of each mode, frame by frame, and are compared."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
import gc
from itertools import pairwise
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_flatten, tree_map

from offload_ros.rrto.client import OperatorClient
from offload_ros.rrto.executor import OperatorSession
from offload_ros.rrto.link import Loopback
from offload_ros.rrto.messages import Code
from offload_ros.rrto.outbox import Standby
from offload_ros.rrto.shim import tensor

MODES = ('rpc', 'pipelined', 'replay')
# program(device) -> frame(index) -> what the frame gives: CPU tensors and Python values
Program = Callable[[str], Callable[[int], Any]]


@dataclass(frozen=True)
class Cost:
    """What one frame sent; ``replayed``: inferences that a unit served."""

    blocking: int
    messages: int
    control_bytes: int
    payload_bytes: int
    replayed: int
    aborts: int
    recomputed: int

    @property
    def is_replay(self) -> bool:
        """One message with the input, at most one wait for the answer."""
        return (
            self.replayed >= 1
            and self.blocking <= 1  # none where the answer was there first
            and self.messages == 1
            and self.control_bytes < 1000
            and not self.aborts
            and not self.recomputed
        )


class Session:
    """A client and its server in this process; operators go there while it is ``current``."""

    def __init__(
        self,
        mode: str = 'replay',
        link: Callable[..., Loopback] = Loopback,
        standby: Standby | None = None,
        **options: Any,
    ) -> None:
        self.mode = mode
        self.link = link(lambda send: OperatorSession(send, **options))
        self.client = OperatorClient(self.link, mode, standby)
        self.costs: list[Cost] = []

    def make_current(self) -> None:
        """The device of the installed shim from now on."""
        tensor.bind(self.client)

    @property
    def server(self) -> OperatorSession:
        """The other end."""
        return self.link.session

    @property
    def statistics(self) -> Any:
        """Of the client."""
        return self.client.statistics

    def handles(self) -> int:
        """How many tensors the server holds for the program, after a collection here."""
        gc.collect()
        with self.client.lock:
            for recording in self.client._recordings:
                recording.interrupt()
            self.client._ask(Code.SYNCHRONIZE)  # what was sent is done
        return len(self.server.table)

    def _totals(self) -> tuple[int, ...]:
        made = self.statistics
        control = made.control_bytes
        payload = made.bytes_up - control
        return (
            made.blocking,
            self.link.messages_up,
            control,
            payload,
            made.inferences,
            made.aborts,
            made.recomputed,
        )

    def measured(self, action: Callable[[], Any]) -> Any:
        """Run it and note what it cost."""
        before = self._totals()
        try:
            return action()
        finally:
            after = self._totals()
            self.costs.append(Cost(*(new - old for new, old in zip(after, before, strict=True))))

    def play(self, program: Program, frames: int) -> list[Any]:
        """Results of the frames; ``costs`` has one entry for each."""
        torch.manual_seed(0)
        frame = program('cuda')
        self.costs.clear()
        return [own(self.measured(partial(frame, index))) for index in range(frames)]

    def close(self) -> None:
        """End it."""
        self.client.close()


def on_cpu(program: Program, frames: int) -> list[Any]:
    """Results of a program without a session."""
    torch.manual_seed(0)
    frame = program('cpu')
    return [own(frame(index)) for index in range(frames)]


def own(results: Any) -> Any:
    """Results as they are now: on the CPU, ``x.cpu()`` is ``x``."""
    return tree_map(lambda each: each.clone() if isinstance(each, torch.Tensor) else each, results)


def bits(value: Any) -> Any:
    """What is compared: dtype, shape, strides and every bit."""
    if not isinstance(value, torch.Tensor):
        return type(value), repr(value)
    assert value.device.type == 'cpu'
    flat = torch.empty(value.shape, dtype=value.dtype).copy_(value.detach()).reshape(-1)
    data = flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b''
    return value.dtype, tuple(value.shape), value.stride(), data


def assert_equal(found: list[Any], expected: list[Any], what: str = '') -> None:
    """Frame by frame, bit by bit."""
    assert len(found) == len(expected)
    for index, (one, other) in enumerate(zip(found, expected, strict=True)):
        ones, tree = tree_flatten(one)
        others, other_tree = tree_flatten(other)
        assert tree == other_tree, f'{what} frame {index}'
        for place, (a, b) in enumerate(zip(ones, others, strict=True)):
            assert bits(a) == bits(b), f'{what} frame {index} value {place}:\n{a}\n{b}'


def assert_replays(session: Session, since: int) -> None:
    """Each frame from ``since`` on is one message and one wait."""
    assert [index for index, cost in enumerate(session.costs) if not cost.is_replay] == list(
        range(since)
    )


def layers(seed: int, *sizes: int) -> nn.Sequential:
    """A perceptron with weights of its own."""
    generator = torch.Generator().manual_seed(seed)
    model = nn.Sequential()
    for inputs, outputs in pairwise(sizes):
        layer = nn.Linear(inputs, outputs)
        for each in layer.parameters():
            each.data.copy_(torch.randn(each.shape, generator=generator))
        model.extend([layer, nn.ReLU(inplace=True)])
    return model.requires_grad_(False)


def image(index: int, *shape: int) -> torch.Tensor:
    """Input of a frame, new each time."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1000 + index))
