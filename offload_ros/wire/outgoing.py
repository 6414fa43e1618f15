"""The sending half of a connection: transfers cut into chunks, the most urgent first, fairly."""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
import math
import threading

from offload_ros.wire.incoming import REMEMBERED, State, TransferError, call_safely
from offload_ros.wire.packet import Kind

PROTOCOL_PRIORITY = 255  # the connection's own
URGENT_PRIORITY = 240  # from here on, small transfers need no credit
NORMAL_PRIORITY = 128
MAX_KEY = (1 << 64) - 1
MAX_BUDGET_S = 4e6  # as milliseconds it fits 32 bits


class Outgoing:
    """One transfer on its way out; its owner may wait for it or cancel it through the channel.

    ``buffers`` are sent one after the other as one transfer, and not copied: they must not change
    until it has ended.
    """

    def __init__(
        self,
        key: int,
        buffers: Sequence[bytes | memoryview],
        priority: int = NORMAL_PRIORITY,
        deadline_s: float = math.inf,
        kind: Kind = Kind.DATA,
    ) -> None:
        if not 0 <= key <= MAX_KEY:
            raise ValueError(f'key {key}: 0 to 2^64 - 1 is allowed')
        if not 0 <= priority < PROTOCOL_PRIORITY + (kind != Kind.DATA):
            raise ValueError(f'priority {priority}: 0 to {PROTOCOL_PRIORITY - 1} is allowed')
        if math.isnan(deadline_s):
            raise ValueError('deadline_s is a time on the steady clock, or inf for none')
        views = [memoryview(buffer) for buffer in buffers]
        if not all(view.c_contiguous for view in views):
            raise ValueError('a buffer to send is contiguous: copy it first')
        views = [view.cast('B') for view in views if view.nbytes]
        self.key = key
        self.kind = kind
        self.priority = priority
        self.deadline_s = deadline_s
        self.total = sum(len(view) for view in views)
        self.state = State.ACTIVE
        self.why = ''
        self.next_offset = 0
        self._views = views
        self._starts = [0]
        for view in views:
            self._starts.append(self._starts[-1] + len(view))
        self._again: deque[tuple[int, int]] = deque()  # (offset, length) that was lost
        self._unacknowledged: set[int] = set()  # offsets
        self._begun = False
        self._ended = threading.Event()
        self._on_end: list[Callable[[Outgoing], None]] = []
        self._told = False
        self._lock = threading.Lock()

    @property
    def begun(self) -> bool:
        """Whether the other side can know of it."""
        return self._begun

    def wait(self, timeout_s: float = math.inf) -> None:
        """Until all of it was acknowledged; ``TransferError`` when it ended otherwise,
        ``TimeoutError`` after ``timeout_s``."""
        if not self._ended.wait(min(timeout_s, threading.TIMEOUT_MAX)):
            raise TimeoutError(f'transfer {self.key} is still under way')
        if self.state is not State.DONE:
            raise TransferError(self.state, self.why)

    def end(self, state: State, why: str = '') -> None:
        """Nothing more of it is sent, and its buffers are free."""
        if self.state is State.ACTIVE:
            self.state, self.why = state, why
            self._views = []
            self._ended.set()

    def when_ended(self, call: Callable[[Outgoing], None]) -> None:
        """``call(self)`` once it ended, well or not: at once if so already, else where it ends."""
        with self._lock:
            if not self._told:
                self._on_end.append(call)
                return
        call(self)

    def tell(self) -> None:
        """Call what waits for the end; the owner of the connection does so, holding no lock."""
        with self._lock:
            self._told = True
            calls, self._on_end = self._on_end, []
        for call in calls:
            call_safely(partial(call, self))

    def has_more(self) -> bool:
        """Whether something is to be sent now."""
        if self.state is not State.ACTIVE:
            return False
        return bool(self._again) or self.next_offset < self.total or not self._begun

    def next_chunk(self, chunk_bytes: int) -> tuple[int, int]:
        """(offset, length) of what is sent next; lost pieces as they were cut first."""
        self._begun = True
        if self._again:
            offset, length = self._again.popleft()
        else:
            offset, length = self.next_offset, min(chunk_bytes, self.total - self.next_offset)
            self.next_offset += length
        self._unacknowledged.add(offset)
        return offset, length

    def pieces(self, offset: int, length: int) -> Iterator[memoryview]:
        """The bytes of a chunk, out of as many buffers as it spans."""
        stop = offset + length
        index = bisect_right(self._starts, offset) - 1
        while offset < stop:
            start, view = self._starts[index], self._views[index]
            piece = view[offset - start : stop - start]
            yield piece
            offset += len(piece)
            index += 1

    def acknowledged(self, offset: int) -> bool:
        """A chunk arrived; True when that was the last one."""
        self._unacknowledged.discard(offset)
        if self._again:  # it was only thought to be lost
            self._again = deque(each for each in self._again if each[0] != offset)
        return self._begun and not self._unacknowledged and self.next_offset == self.total

    def lost(self, offset: int, length: int) -> None:
        """A chunk did not arrive, as far as one can tell: to be sent again."""
        if self.state is State.ACTIVE and offset in self._unacknowledged:
            self._again.append((offset, length))

    def budget_ms(self, now_s: float) -> int:
        """What is left until the deadline, for the packet; 0: none."""
        if math.isinf(self.deadline_s):
            return 0
        left_ms = math.ceil(1000.0 * min(self.deadline_s - now_s, MAX_BUDGET_S))
        return max(1, left_ms)  # rounded up: the sender gives up before the receiver


class SendQueue:
    """Who sends next: the highest priority; transfers of equal priority in turn, chunk by chunk."""

    def __init__(self) -> None:
        self._queues: dict[int, deque[Outgoing]] = {}
        self._priorities: list[int] = []  # those of _queues, the highest first
        self._active: dict[tuple[Kind, int], Outgoing] = {}
        self._used: OrderedDict[int, None] = OrderedDict()
        self._look_s = math.inf  # no deadline is earlier

    def add(self, transfer: Outgoing) -> None:
        """``ValueError`` when its key was used before: the receiver would take it for old news."""
        if transfer.kind == Kind.DATA:
            if transfer.key in self._used:
                raise ValueError(f'key {transfer.key} was used before')
            self._used[transfer.key] = None
            if len(self._used) > REMEMBERED:
                self._used.popitem(last=False)
        self._active[transfer.kind, transfer.key] = transfer
        if transfer.priority not in self._queues:
            self._queues[transfer.priority] = deque()
            self._priorities = sorted(self._queues, reverse=True)
        self._queues[transfer.priority].append(transfer)
        self._look_s = min(self._look_s, transfer.deadline_s)

    def get(self, key: int, kind: Kind = Kind.DATA) -> Outgoing | None:
        """The transfer of this key that is under way."""
        return self._active.get((kind, key))

    def active(self) -> list[Outgoing]:
        """All that are under way."""
        return list(self._active.values())

    def remove(self, transfer: Outgoing) -> None:
        """It has ended."""
        if self._active.get((transfer.kind, transfer.key)) is transfer:
            del self._active[transfer.kind, transfer.key]
            self._queues[transfer.priority].remove(transfer)
            if not self._active:
                self._look_s = math.inf

    def first(self, least: int = 0) -> Outgoing | None:
        """The transfer that sends next, of priority ``least`` or more; it goes to the end of its
        queue."""
        for priority in self._priorities:
            if priority < least:
                break
            queue = self._queues[priority]
            for _ in range(len(queue)):
                transfer = queue[0]
                queue.rotate(-1)
                if transfer.has_more():
                    return transfer
        return None

    def waits(self, least: int = 0) -> bool:
        """Whether any of them, of priority ``least`` or more, has something to send."""
        return any(each.priority >= least and each.has_more() for each in self._active.values())

    def expired(self, now_s: float) -> list[Outgoing]:
        """Those whose deadline has passed; the caller ends them."""
        if now_s < self._look_s:
            return []
        deadlines = [each.deadline_s for each in self._active.values()]
        self._look_s = min((each for each in deadlines if each > now_s), default=math.inf)
        return [each for each in self._active.values() if now_s >= each.deadline_s]

    def next_deadline_s(self) -> float:
        """When ``expired`` may have something; not later than it has."""
        return self._look_s
