"""Values on their way out: in order, and no more under way than a receiver takes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
import math
import threading
from typing import Any

from offload_ros.cuts.messages import PRIORITY
from offload_ros.wire.incoming import State
from offload_ros.wire.outgoing import Outgoing

MAX_TRANSFERS, MAX_BYTES = 16, 16 << 20  # under way at once; a larger value goes alone
# What a channel must be ready to receive for this beside all else.
ROOM_BYTES = MAX_BYTES + (6 << 20)
ROOM_TRANSFERS = 2 * MAX_TRANSFERS
LOWEST_PRIORITY = PRIORITY - MAX_TRANSFERS


@dataclass(eq=False)
class _Waiting:
    """A value in the queue; without ``buffers`` while it is being coded."""

    key: int
    buffers: list[bytes | memoryview] | None
    deadline_s: float
    on_end: Callable[[Outgoing], None]


class ValueSender:
    """Of one channel, safe between threads. The link is first in, first out: of what is under way
    the older has the higher priority, so that the first value arrives whole first."""

    def __init__(self, channel: Any) -> None:  # a Channel, or a proxy of one
        self._channel = channel
        self._lock = threading.Lock()
        self._waiting: deque[_Waiting] = deque()
        self._coder: ThreadPoolExecutor | None = None
        self._flight: dict[int, int] = {}  # key: bytes
        self._turn = 0

    def send(
        self,
        key: int,
        buffers: list[bytes | memoryview],
        deadline_s: float = math.inf,
        on_end: Callable[[Outgoing], None] = lambda sent: None,
    ) -> None:
        """Queue a value; ``on_end`` when all of it has arrived, or will not."""
        with self._lock:
            self._waiting.append(_Waiting(key, buffers, deadline_s, on_end))
        self._pump()

    def send_coded(
        self,
        key: int,
        code: Callable[[], list[bytes | memoryview]],
        failed: Callable[[str], None],
        deadline_s: float = math.inf,
        on_end: Callable[[Outgoing], None] = lambda sent: None,
    ) -> None:
        """The same of a value that ``code`` makes in a thread for that: the caller goes on
        computing. What is queued later leaves later, as the cost model has it. ``failed``: with
        what ``code`` raised, then nothing is sent."""
        waiting = _Waiting(key, None, deadline_s, on_end)
        with self._lock:
            self._waiting.append(waiting)
            if self._coder is None:
                self._coder = ThreadPoolExecutor(1, 'coder')
            coder = self._coder
        coder.submit(self._fill, waiting, code, failed)

    def _fill(
        self,
        waiting: _Waiting,
        code: Callable[[], list[bytes | memoryview]],
        failed: Callable[[str], None],
    ) -> None:
        with self._lock:
            if waiting not in self._waiting:  # it was withdrawn
                return
        try:
            buffers = code()
        except Exception as error:  # no memory, say
            self.withdraw(waiting.key, waiting.key, 'it was not coded')
            failed(f'a value was not coded: {type(error).__name__}: {error}')
        else:
            with self._lock:
                waiting.buffers = buffers
        self._pump()

    def withdraw(self, first: int, last: int, why: str) -> None:
        """Send no more of the values with keys ``first`` to ``last``."""
        with self._lock:
            self._waiting = deque(each for each in self._waiting if not first <= each.key <= last)
            under_way = [key for key in self._flight if first <= key <= last]
        for key in under_way:
            self._channel.cancel(key, why)

    def _pump(self) -> None:
        while True:
            with self._lock:
                if not self._waiting or len(self._flight) >= MAX_TRANSFERS:
                    return
                key, buffers = self._waiting[0].key, self._waiting[0].buffers
                if buffers is None:
                    return  # until it is coded
                size = sum(len(each) for each in buffers)
                if self._flight and sum(self._flight.values()) + size > MAX_BYTES:
                    return
                head = self._waiting.popleft()
                # Falls while transfers are under way, and begins again when none is.
                self._turn = self._turn + 1 if self._flight else 0
                priority = max(PRIORITY - self._turn, LOWEST_PRIORITY)
                self._flight[key] = size
            sent = self._channel.send(key, list(buffers), priority, head.deadline_s)
            sent.when_ended(partial(self._ended, key, head.on_end))

    def _ended(self, key: int, on_end: Callable[[Outgoing], None], sent: Outgoing) -> None:
        with self._lock:
            self._flight.pop(key, None)
            if sent.state is State.LOST:
                self._waiting.clear()  # there is nobody any more
        on_end(sent)
        self._pump()
