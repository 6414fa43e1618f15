"""``Channel``: transfers to and from one peer, over DDS topics or an in-process queue alike.

The transport gives ``publish(packet)`` to the channel and hands it what comes with ``receive``.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from functools import partial
import logging
import math
import threading
import time

import numpy as np

from offload_ros.wire.connection import Connection, Counters
from offload_ros.wire.incoming import Incoming, State, TransferError, call_safely
from offload_ros.wire.outgoing import NORMAL_PRIORITY, URGENT_PRIORITY, Outgoing

STREAM_SHIFT = 48
MAX_UNCLAIMED = 64  # transfers that came and that nobody has asked for
MAX_URGENT_BYTES = 16_384
# While packets come, the thread looks by itself so often: waking it for each small one would cost
# that one 0.1 ms.
TICK_S, ACTIVE_S = 0.004, 0.1
Buffer = bytes | bytearray | memoryview | np.ndarray


def key_of(stream: int, number: int) -> int:
    """The key of transfer ``number`` (below 2^48) of a stream (below 2^16): one stream for each
    use of a channel."""
    if not 0 <= stream < 1 << 16 or not 0 <= number < 1 << STREAM_SHIFT:
        raise ValueError(f'stream {stream}, number {number}: below 2^16 and 2^48 are allowed')
    return stream << STREAM_SHIFT | number


def number_of(key: int) -> int:
    """The number that ``key_of`` made a key of."""
    return key & ((1 << STREAM_SHIFT) - 1)


class Channel:
    """A ``Connection`` with a thread that publishes, safe between threads.

    ``publish`` may block for a while (a middleware's send buffer): only the channel's own thread
    waits for it, except that ``send`` publishes a transfer of one packet itself when nothing else
    waits and there is credit for it, which cannot block.
    """

    def __init__(
        self,
        publish: Callable[[bytes], None],
        connection: Connection | None = None,
        name: str = 'channel',
    ) -> None:
        self._publish = publish
        self._connection = connection or Connection()
        self._lock = threading.RLock()
        self._work_waits = threading.Condition(self._lock)
        self._arrived = threading.Condition(self._lock)
        self._publishing = threading.Lock()
        self._listeners: dict[int, Callable[[Incoming], None]] = {}
        self._unclaimed: OrderedDict[int, Incoming] = OrderedDict()
        self._asked_s = math.inf  # when the thread looks again
        self._closed = ''
        self._on_close: list[Callable[[str], None]] = []
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    @property
    def counters(self) -> Counters:
        """Packets and bytes since it was opened."""
        return self._connection.counters

    @property
    def in_flight_bytes(self) -> int:
        """Sent and not yet acknowledged."""
        return self._connection.in_flight_bytes

    def send(
        self,
        key: int,
        buffers: Buffer | Sequence[Buffer],
        priority: int = NORMAL_PRIORITY,
        deadline_s: float = math.inf,
    ) -> Outgoing:
        """Send one buffer, or several as one transfer; returns at once.

        The bytes must not change until it has ended. ``priority``: 0 to 254, higher first;
        ``URGENT_PRIORITY`` and more (at most 16 kB) does not even wait for credit. ``deadline_s``
        on the steady clock: what is not sent by then is not sent. A key is used once.
        """
        if isinstance(buffers, Buffer):
            buffers = [buffers]
        transfer = Outgoing(key, buffers, priority, deadline_s)  # type: ignore[arg-type]
        if priority >= URGENT_PRIORITY and transfer.total > MAX_URGENT_BYTES:
            raise ValueError(f'an urgent transfer has at most {MAX_URGENT_BYTES} bytes')
        with self._lock:
            if self._closed:
                transfer.end(State.LOST, self._closed)
                transfer.tell()
                return transfer
            alone = self._connection.has_credit_for(transfer.total)
            self._connection.send(transfer)
            if not alone:
                self._wake()
                return transfer
        if self._publishing.acquire(blocking=False):
            try:
                self._publish_next()
            finally:
                self._publishing.release()
        with self._lock:
            left = transfer.begun and not self._connection.has_news
            self._wake(self._connection.next_s() if left else -math.inf)
        return transfer

    def cancel(self, key: int, why: str = 'cancelled') -> bool:
        """Send no more of a transfer; False when it is not under way."""
        with self._lock:
            known = self._connection.cancel(key, why)
            self._wake()
        return known

    def listen(self, stream: int, call: Callable[[Incoming], None]) -> None:
        """``call(transfer)`` in the receiving thread as soon as a transfer of ``stream`` begins to
        arrive; it must not block."""
        with self._lock:
            self._listeners[stream] = call
            waiting = [key for key in self._unclaimed if key >> STREAM_SHIFT == stream]
            transfers = [self._unclaimed.pop(key) for key in waiting]
        for transfer in transfers:
            call(transfer)

    def expect(self, key: int, destination: np.ndarray) -> None:
        """Write transfer ``key`` into ``destination``, (total,) uint8; before it begins to
        arrive."""
        with self._lock:
            self._connection.reassembly.expect(key, destination)

    def incoming(self, key: int, timeout_s: float = math.inf) -> Incoming:
        """The transfer ``key`` once it has begun to arrive; for keys that nobody listens for.

        ``TimeoutError``, or ``TransferError`` when the channel is closed, or when the transfer
        ended before any of it came.
        """
        end_s = time.monotonic() + timeout_s
        with self._lock:
            while key not in self._unclaimed:
                left_s = end_s - time.monotonic()
                if self._closed:
                    raise TransferError(State.LOST, self._closed)
                ended = self._connection.reassembly.ended_unbegun(key)
                if ended is not None:
                    raise ended
                if left_s <= 0:
                    raise TimeoutError(f'transfer {key} has not begun to arrive')
                self._arrived.wait(min(left_s, threading.TIMEOUT_MAX))
            return self._unclaimed.pop(key)

    def rows(self, key: int, row_bytes: int, timeout_s: float = math.inf) -> Iterator[memoryview]:
        """Blocks of whole contiguous rows of ``key`` as they arrive, as ``Incoming.rows``."""
        return self.incoming(key, timeout_s).rows(row_bytes, timeout_s=timeout_s)

    def refuse(self, key: int, why: str = 'not needed') -> None:
        """Receive no more of a transfer, and tell the peer."""
        with self._lock:
            self._connection.refuse(key, why)
            calls = self._after_change()
        self._call(calls)

    def ping(self) -> None:
        """Measure the round trip once."""
        with self._lock:
            self._connection.ping()
            self._wake()

    def receive(self, packet: bytes) -> None:
        """What the transport received for this channel, good or bad."""
        now_s = time.monotonic()
        with self._lock:
            if self._closed:
                return
            self._connection.receive(packet, now_s)
            calls = self._after_change()
        self._call(calls)

    def close(self, why: str = 'the channel was closed') -> None:
        """End all transfers and the thread."""
        with self._lock:
            self._end(why)
            calls = self._after_change()
        self._call(calls)
        if self._thread is not threading.current_thread():
            self._thread.join(5.0)

    def when_closed(self, call: Callable[[str], None]) -> None:
        """``call(why)`` when it is closed, by whomever; at once if it is so already."""
        with self._lock:
            if not self._closed:
                self._on_close.append(call)
                return
        call(self._closed)

    def _after_change(self) -> list[Callable[[], None]]:
        """What to tell consumers once the lock, which the caller holds, is free: they may send."""
        calls: list[Callable[[], None]] = []
        if self._closed:
            calls += [partial(call, self._closed) for call in self._on_close]
            self._on_close = []
        if self._connection.has_news:
            arrivals, ended = self._connection.take_news()
            for transfer in arrivals:
                listener = self._listeners.get(transfer.key >> STREAM_SHIFT)
                if listener is not None:
                    calls.append(partial(listener, transfer))
                else:
                    self._keep_unclaimed(transfer)
            calls += ended
            self._arrived.notify_all()
        self._wake(self._connection.wanted_s())
        return calls

    def _keep_unclaimed(self, transfer: Incoming) -> None:
        """Those that nobody has asked for yet, within the limits of what is under way."""
        unclaimed = self._unclaimed
        unclaimed[transfer.key] = transfer
        limit = self._connection.reassembly.limits.total_bytes
        while len(unclaimed) > MAX_UNCLAIMED or (
            len(unclaimed) > 1 and sum(each.total for each in unclaimed.values()) > limit
        ):
            _, forgotten = unclaimed.popitem(last=False)
            if forgotten.state is State.ACTIVE:
                self._connection.refuse(forgotten.key, 'nobody asks for it')

    @staticmethod
    def _call(calls: list[Callable[[], None]]) -> None:
        for call in calls:
            call_safely(call)

    def _wake(self, at_s: float = -math.inf) -> None:
        """The thread looks again, by about ``at_s``; the caller holds the lock."""
        if at_s < self._asked_s - TICK_S / 2:
            self._asked_s = at_s
            self._work_waits.notify()

    def _work(self) -> None:
        try:
            while self._wait_for_work():
                with self._publishing:
                    while self._publish_next():
                        pass
                with self._lock:
                    asked_s = self._connection.next_s()
                    if self._connection.active_s > time.monotonic() - ACTIVE_S:
                        asked_s = min(asked_s, time.monotonic() + TICK_S)
                    self._asked_s = min(self._asked_s, asked_s)
                    calls = self._after_change() if self._connection.has_news else []
                self._call(calls)
        except Exception as error:
            logging.getLogger(__name__).exception('a channel failed')
            with self._lock:
                self._end(f'{type(error).__name__}: {error}')
        with self._lock:  # if publishing failed in another thread, nobody told them yet
            calls = self._after_change()
        self._call(calls)

    def _wait_for_work(self) -> bool:
        """Until the thread has something to do; False when the channel is closed."""
        with self._lock:
            while not self._closed:
                left_s = self._asked_s - time.monotonic()
                if left_s <= 0:
                    self._asked_s = math.inf
                    return True
                self._work_waits.wait(min(left_s, threading.TIMEOUT_MAX))
            return False

    def _publish_next(self) -> bool:
        """Publish one packet; False when there is none now. Callers hold ``_publishing``."""
        with self._lock:
            packet = None if self._closed else self._connection.next_packet(time.monotonic())
        if packet is None:
            return False
        try:
            self._publish(packet)
        except Exception as error:  # the transport is gone, e.g. destroyed by another thread
            logging.getLogger(__name__).debug('publishing failed', exc_info=True)
            with self._lock:
                self._end(f'{type(error).__name__}: {error}')
            return False
        return True

    def _end(self, why: str) -> None:
        """All transfers end; who waits is told by ``_after_change``."""
        if not self._closed:
            self._closed = why or 'closed'
            self._connection.close(why)
            self._arrived.notify_all()
            self._wake()
