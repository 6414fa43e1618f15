"""A link inside the process: bandwidth, delay, loss, cuts and traces without any privileges.

For the demo and for tests. Benchmarks use real networks (``benchmarks/testbed``).
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
import math
import random
import threading
import time

QUEUE_S = 0.05  # what an access point buffers, as time on its link
LEAST_QUEUE_BYTES = 312_000  # and no less, as access points do


@dataclass(frozen=True)
class LinkShape:
    """One direction of a link. ``trace``: (seconds, bytes/s) steps, repeated, instead of
    ``bytes_per_s``."""

    bytes_per_s: float = math.inf
    delay_s: float = 0.0
    loss: float = 0.0
    cut: bool = False
    trace: Sequence[tuple[float, float]] = ()

    def __post_init__(self) -> None:
        if not self.bytes_per_s > 0 or not 0 <= self.delay_s < math.inf:
            raise ValueError('a link needs bytes_per_s above 0 and delay_s of 0 or more')
        if not 0 <= self.loss <= 1:
            raise ValueError('loss is a share: 0 to 1')
        times = [at_s for at_s, _ in self.trace]
        rates = [rate for _, rate in self.trace]
        rising = all(first < second for first, second in pairwise(times))
        if self.trace and (len(times) < 2 or times[0] != 0 or not rising or max(rates) <= 0):
            raise ValueError('a trace begins at 0 s, its times rise, and some rate is above 0')
        if not all(rate >= 0 for rate in rates):
            raise ValueError('a trace has no rate below 0')

    def rate_at(self, elapsed_s: float) -> tuple[float, float]:
        """(bytes/s, seconds until that changes) at a time since the shape was set."""
        if not self.trace:
            return self.bytes_per_s, math.inf
        times = [at_s for at_s, _ in self.trace]
        period_s = times[-1] + (times[-1] - times[-2])
        at_s = elapsed_s % period_s
        index = bisect_right(times, at_s) - 1
        ends_s = times[index + 1] if index + 1 < len(times) else period_s
        return self.trace[index][1], ends_s - at_s

    @property
    def plain(self) -> bool:
        """Nothing to emulate."""
        return not (self.cut or self.loss or self.delay_s or self.trace) and math.isinf(
            self.bytes_per_s
        )


class Shaper:
    """Delivers packets as a link of some shape would; ``send`` never blocks.

    Packets beyond the queue are dropped, as an access point does. ``shape`` may be set at any time.
    ``since_s``: when its trace began (steady clock; None: now).
    """

    def __init__(
        self,
        deliver: Callable[[bytes], None],
        shape: LinkShape | None = None,
        seed: int = 0,
        name: str = 'link',
        since_s: float | None = None,
    ) -> None:
        self._deliver = deliver
        self._chance = random.Random(seed)
        self._changed = threading.Condition()
        self._queue: deque[tuple[float, bytes]] = deque()  # (arrival, packet), in order
        self._free_s = 0.0  # when the link has sent all that it has
        self._closed = False
        self._shape = shape or LinkShape()
        self._since_s = time.monotonic() if since_s is None else since_s
        self.dropped = 0
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    @property
    def shape(self) -> LinkShape:
        """What it emulates now."""
        return self._shape

    @shape.setter
    def shape(self, shape: LinkShape) -> None:
        with self._changed:
            now_s = time.monotonic()
            self._shape, self._since_s = shape, now_s
            if shape.cut:
                return
            # What waits goes on at the new rate; a slow one would block the link for long after.
            waiting = [packet for _, packet in self._queue]
            self._queue.clear()
            self._free_s = now_s
            for packet in waiting:
                self._enqueue(packet, now_s)
            self._changed.notify()

    def send(self, packet: bytes) -> None:
        """Put a packet on the link."""
        now_s = time.monotonic()
        with self._changed:
            shape = self._shape
            if self._closed:
                return
            if shape.cut or (shape.loss and self._chance.random() < shape.loss):
                self.dropped += 1
                return
            begin_s = max(now_s, self._free_s)
            rate, _ = shape.rate_at(begin_s - self._since_s)
            allowed = max(LEAST_QUEUE_BYTES, rate * QUEUE_S) if math.isfinite(rate) else math.inf
            waiting_bytes = (begin_s - now_s) * rate if begin_s > now_s else 0.0
            if waiting_bytes > allowed or (rate == 0 and begin_s > now_s + QUEUE_S):
                self.dropped += 1
                return
            self._enqueue(packet, begin_s)
            self._changed.notify()

    def _enqueue(self, packet: bytes, begin_s: float) -> None:
        begin_s = max(begin_s, self._free_s)
        self._free_s = begin_s + self._duration_s(len(packet), begin_s)
        self._queue.append((self._free_s + self._shape.delay_s, packet))

    def close(self) -> None:
        """Drop what is on the link and end the thread."""
        with self._changed:
            self._closed = True
            self._queue.clear()
            self._changed.notify()
        if self._thread is not threading.current_thread():
            self._thread.join(5.0)

    def _duration_s(self, size: int, begin_s: float) -> float:
        """How long the link sends ``size`` bytes, over all steps of its trace."""
        took_s, left = 0.0, float(size)
        while left > 0:
            rate, holds_s = self._shape.rate_at(begin_s + took_s - self._since_s)
            if rate * holds_s >= left:
                return took_s + (left / rate if math.isfinite(rate) else 0.0)
            left -= rate * holds_s
            took_s += max(holds_s, 1e-6)  # at a step's edge, rounding may leave none
        return took_s

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._closed:
                    left_s = self._queue[0][0] - time.monotonic() if self._queue else math.inf
                    if left_s <= 0:
                        break
                    self._changed.wait(min(left_s, threading.TIMEOUT_MAX))
                if self._closed:
                    return
                _, packet = self._queue.popleft()
            self._deliver(packet)
