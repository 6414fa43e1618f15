"""The receiving half of a connection: transfers put together in place, read while they arrive."""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
import enum
from functools import partial
import logging
import math
import threading
import time
from typing import NamedTuple

import numpy as np

from offload_ros.wire.packet import Packet
from offload_ros.wire.tensors import WireError

REMEMBERED = 4096  # ended transfers whose late packets are known to be late
IDLE_S = 30.0  # a transfer that gets nothing for so long is given up
MAX_SPANS = 1024  # of one transfer; a window's worth of chunks leaves fewer holes


class State(enum.Enum):
    """How a transfer stands."""

    ACTIVE = 'active'
    DONE = 'done'
    CANCELLED = 'cancelled'
    EXPIRED = 'expired'
    REFUSED = 'refused'
    LOST = 'lost'


class TransferError(Exception):
    """A transfer ended without all its bytes; ``state`` and the text say why."""

    def __init__(self, state: State, why: str) -> None:
        super().__init__(why)
        self.state = state


@dataclass(frozen=True)
class ReceiveLimits:
    """What one peer may make a receiver hold: ``total_bytes`` in all, in at most ``transfers`` of
    at most ``transfer_bytes`` (0: as much) each."""

    total_bytes: int = 64 << 20
    transfers: int = 64
    transfer_bytes: int = 0

    def __post_init__(self) -> None:
        if self.total_bytes < 1 or self.transfers < 1 or self.transfer_bytes < 0:
            raise ValueError(
                'total_bytes and transfers must be at least 1, transfer_bytes at least 0'
            )

    @property
    def largest_bytes(self) -> int:
        """Of one transfer."""
        return self.transfer_bytes or self.total_bytes


class Incoming:
    """One transfer on its way in. ``buffer``: uint8, ``total`` bytes; those before ``contiguous``
    are there.

    Consumers read in any thread, and stop with ``TransferError`` when the transfer ends early.
    """

    def __init__(self, key: int, total: int, buffer: np.ndarray, expires_s: float) -> None:
        self.key = key
        self.total = total
        self.buffer = buffer
        self.contiguous = 0
        self.state = State.ACTIVE
        self.why = ''
        self.expires_s = expires_s
        self.heard_s = -math.inf
        self._spans: list[tuple[int, int]] = []  # received, disjoint, in order, never touching
        self._changed = threading.Condition()
        self._on_end: list[Callable[[Incoming], None]] = []

    def rows(
        self, row_bytes: int, start: int = 0, timeout_s: float = math.inf
    ) -> Iterator[memoryview]:
        """Blocks of whole contiguous rows as they arrive, in order, from byte ``start``.

        Each is a view of ``buffer``, of one row of ``row_bytes`` or more. ``TransferError`` when
        the rest will not come; ``TimeoutError`` when nothing new came for ``timeout_s``.
        """
        if row_bytes < 1 or start < 0 or (self.total - start) % row_bytes:
            raise ValueError(
                f'{self.total} bytes from {start} on are no whole rows of {row_bytes} bytes'
            )
        view = self.buffer.data
        while start < self.total:
            there = self.wait_for(start + row_bytes, timeout_s)
            stop = there - (there - start) % row_bytes
            yield view[start:stop]
            start = stop

    def wait_for(self, count: int, timeout_s: float = math.inf) -> int:
        """Wait until the first ``count`` bytes are there; how many are.

        ``TransferError``, ``TimeoutError`` as for ``rows``.
        """
        end_s = time.monotonic() + timeout_s
        with self._changed:
            while self.contiguous < count and self.state is State.ACTIVE:
                left_s = end_s - time.monotonic()
                if left_s <= 0:
                    raise TimeoutError(f'transfer {self.key}: {self.contiguous} of {count} bytes')
                self._changed.wait(min(left_s, threading.TIMEOUT_MAX))
            if self.contiguous < count:
                raise TransferError(self.state, self.why)
            return self.contiguous

    def wait(self, timeout_s: float = math.inf) -> np.ndarray:
        """The whole transfer, (total,) uint8; errors as for ``rows``."""
        self.wait_for(self.total, timeout_s)
        return self.buffer

    def when_ended(self, call: Callable[[Incoming], None]) -> None:
        """``call(self)`` once it ended, well or not: at once if so already, else where it ends."""
        with self._changed:
            if self.state is State.ACTIVE:
                self._on_end.append(call)
                return
        call(self)

    @property
    def scattered(self) -> bool:
        """In more pieces than an honest sender leaves."""
        return len(self._spans) > MAX_SPANS

    def write(self, offset: int, data: bytes | memoryview) -> bool:
        """Take up bytes; True when that was the last missing one. Doubles change nothing.

        What is there already is never written again: a consumer may be reading it.
        """
        stop = offset + len(data)
        position = bisect_right(self._spans, (offset, math.inf))
        before = self._spans[position - 1] if position else (0, 0)
        after = self._spans[position] if position < len(self._spans) else (self.total, self.total)
        if before[1] > offset or after[0] < stop:
            self._write_missing(offset, stop, data)
        elif stop > offset:
            self.buffer.data[offset:stop] = data
            self._insert(position, offset, stop)
        with self._changed:
            if self._spans and self._spans[0][0] == 0:
                self.contiguous = self._spans[0][1]
            complete = self.contiguous == self.total
            self._changed.notify_all()
        return complete

    def end(self, state: State, why: str = '') -> None:
        """No more will be written; consumers wake."""
        with self._changed:
            if self.state is not State.ACTIVE:
                return
            self.state, self.why = state, why
            calls, self._on_end = self._on_end, []
            self._changed.notify_all()
        for call in calls:
            call_safely(partial(call, self))

    def _write_missing(self, offset: int, stop: int, data: bytes | memoryview) -> None:
        """Overlapping what came before: only the holes in [offset, stop)."""
        at, holes = offset, []
        for first, last in self._spans:
            if last <= at:
                continue
            if first >= stop:
                break
            if first > at:
                holes.append((at, first))
            at = last
        if at < stop:
            holes.append((at, stop))
        view = memoryview(data)
        for first, last in holes:
            self.buffer.data[first:last] = view[first - offset : last - offset]
            self._insert(bisect_right(self._spans, (first, math.inf)), first, last)

    def _insert(self, position: int, first: int, last: int) -> None:
        """Add a span that overlaps none, joined with those that it touches."""
        begin, end = position, position
        if position and self._spans[position - 1][1] == first:
            begin, first = position - 1, self._spans[position - 1][0]
        if position < len(self._spans) and self._spans[position][0] == last:
            end, last = position + 1, self._spans[position][1]
        self._spans[begin:end] = [(first, last)]


def call_safely(call: Callable[[], None]) -> None:
    """What a user of a channel wants to be told; an error there must not end the channel."""
    try:
        call()
    except Exception:
        logging.getLogger(__name__).exception('a callback of a channel failed')


class _Ended(NamedTuple):
    state: State
    why: str
    begun: bool


class Reassembly:
    """All transfers of one peer. Not safe between threads: the connection holds its lock."""

    def __init__(self, limits: ReceiveLimits) -> None:
        self.limits = limits
        self._active: dict[int, Incoming] = {}
        self._ended: OrderedDict[int, _Ended] = OrderedDict()
        self._destinations: dict[int, np.ndarray] = {}
        self._held_bytes = 0
        self._look_s = math.inf  # nothing expires before
        self.ended_early = False  # one of which nothing had come, since this was last cleared
        # Their consumers are told by whoever holds no lock: what they call may send.
        self.to_tell: list[Callable[[], None]] = []

    @property
    def held_bytes(self) -> int:
        """Memory taken for transfers that are under way."""
        return self._held_bytes

    def expect(self, key: int, destination: np.ndarray) -> None:
        """Write transfer ``key`` into ``destination``, (total,) uint8, instead of new memory."""
        flags = destination.flags
        if destination.dtype != np.uint8 or destination.ndim != 1:
            raise ValueError('a destination is a one-dimensional array of uint8')
        if not flags.c_contiguous or not flags.writeable:
            raise ValueError('a destination is contiguous and may be written')
        if key in self._active or key in self._ended:
            raise ValueError(f'transfer {key} has begun to arrive')
        self._destinations[key] = destination

    def data(self, packet: Packet, now_s: float) -> tuple[Incoming | None, bool]:
        """Take up a DATA packet: its transfer (None: ended before), and whether it is new.

        ``WireError`` says why the transfer is refused, or was given up before; the packet must
        then not be acknowledged, or the sender would take the transfer for delivered.
        """
        key, total, length = packet.key, packet.total, len(packet.data)
        ended = self._ended.get(key)
        if ended is not None:
            if ended.state in (State.DONE, State.CANCELLED):
                return None, False
            raise WireError(ended.why)
        known = self._active.get(key)
        problem = ''
        if packet.offset + length > total or (length == 0) != (total == 0):
            problem = f'bytes {packet.offset} to {packet.offset + length} of a transfer of {total}'
        elif known is not None and known.total != total:
            problem = f'a transfer of {known.total} bytes that now has {total}'
        elif known is None:
            problem = self._no_room(key, total)
        new = known is None
        if known is None and not problem:
            try:
                known = self._active[key] = self._begin(packet, now_s)
            except MemoryError:  # the sender must know: it would send again and again
                problem = f'there is no memory for a transfer of {total} bytes'
        if known is None or problem:
            self.end(key, State.REFUSED, problem)
            raise WireError(problem)
        known.heard_s = now_s
        if known.write(packet.offset, packet.data):
            self.end(key, State.DONE)
        elif known.scattered:
            problem = f'a transfer in more than {MAX_SPANS} pieces'
            self.end(key, State.REFUSED, problem)
            raise WireError(problem)
        return known, new

    def end(self, key: int, state: State, why: str = '') -> None:
        """Transfer ``key`` ends, also if none of it came yet; late packets of it are dropped."""
        if key in self._ended:
            return
        known = self._active.pop(key, None)
        self._destinations.pop(key, None)
        self._ended[key] = _Ended(state, why, known is not None)
        if len(self._ended) > REMEMBERED:
            self._ended.popitem(last=False)
        if known is not None:
            self._held_bytes -= known.total
            self.to_tell.append(partial(known.end, state, why))
        else:
            self.ended_early = True

    def ended_unbegun(self, key: int) -> TransferError | None:
        """Why nothing of transfer ``key`` will come, if it ended before any of it came."""
        ended = self._ended.get(key)
        if ended is None or ended.begun:
            return None
        return TransferError(ended.state, f'transfer {key}: {ended.why}')

    def expire(self, now_s: float) -> None:
        """Give up what is too late to be of use, and what nothing comes for."""
        if now_s < self._look_s:
            return
        for key, transfer in list(self._active.items()):
            if now_s >= transfer.expires_s:
                self.end(key, State.EXPIRED, 'it did not arrive in time')
            elif now_s >= transfer.heard_s + IDLE_S:
                self.end(key, State.LOST, f'nothing of it came for {IDLE_S:.0f} s')
        self._look_s = min(
            (min(each.expires_s, each.heard_s + IDLE_S) for each in self._active.values()),
            default=math.inf,
        )

    def next_expiry_s(self) -> float:
        """When ``expire`` may have something to do; not later than it has."""
        return self._look_s

    def close(self, why: str) -> None:
        """The peer is gone."""
        for key in list(self._active):
            self.end(key, State.LOST, why)
        self._look_s = math.inf

    def _no_room(self, key: int, total: int) -> str:
        limits, destination = self.limits, self._destinations.get(key)
        if destination is not None and len(destination) != total:
            return f'a transfer of {total} bytes, {len(destination)} are wanted'
        if len(self._active) >= limits.transfers:
            return f'{limits.transfers} transfers are under way'
        if total > limits.largest_bytes:
            return f'a transfer of {total} bytes, at most {limits.largest_bytes} are allowed'
        if self._held_bytes + total > limits.total_bytes:
            return f'{self._held_bytes} bytes are under way, {total} more are too many'
        return ''

    def _begin(self, packet: Packet, now_s: float) -> Incoming:
        buffer = self._destinations.pop(packet.key, None)
        if buffer is None:
            buffer = np.empty(packet.total, np.uint8)
        self._held_bytes += packet.total
        expires_s = now_s + packet.budget_ms / 1000.0 if packet.budget_ms else math.inf
        self._look_s = min(self._look_s, expires_s, now_s + IDLE_S)
        return Incoming(packet.key, packet.total, buffer, expires_s)
