"""Messages of a program and its session in order over a ``Channel``, which delivers as it likes.

The stream ``OPERATORS`` carries messages (``rrto.messages``), parts of large ones, and the mark of
a new beginning; ``CREDITS`` how much of it the receiver has done, so that a sender never makes it
hold more than ``MAX_WAITING_BYTES``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
import contextlib
from itertools import count
import queue
import struct
import threading

from offload_ros.rrto.link import Buffers, OnLost, OnMessage, ServerLost
from offload_ros.wire.channel import Channel, key_of, number_of
from offload_ros.wire.exchange import CREDITS, OPERATORS
from offload_ros.wire.incoming import Incoming, State, TransferError
from offload_ros.wire.outgoing import Outgoing

PRIORITY = 160  # before images of other models, behind what is urgent
MAX_WAITING_BYTES = 32 << 20  # sent and not yet done: the receiver holds that much
NOTE_BYTES = MAX_WAITING_BYTES // 4  # done before the sender is told
PART_BYTES = 8 << 20  # larger messages travel in parts
LEAST_BYTES = 4096  # what a small message counts: it costs more than its bytes
# Under way at once; a receiver's channel refuses more than 64 transfers.
MAX_TRANSFERS = 32
MAX_FLIGHT_BYTES = 2 * PART_BYTES
MAX_MESSAGE_BYTES = 4 << 30
LAST_WORDS_S = 0.5
TOO_MUCH = 'more is sent than was agreed, or a message of the stream is missing'
PART, BEGIN = b'RP', b'RB'
END, MAX_WHY = b'RE: ', 1000  # of ``CREDITS``: no more is taken, and why
_HEAD = struct.Struct('<2s6xQ')  # PART: bytes of the whole message; then comes the part
_CREDIT = struct.Struct('<Q')
MAX_PIECE_BYTES = PART_BYTES + _HEAD.size
# What a channel must be ready to receive of this, beside all else.
ROOM_BYTES = MAX_FLIGHT_BYTES + MAX_TRANSFERS * (_HEAD.size + _CREDIT.size)


class OrderedMessages:
    """One end: whole messages, in the order in which they were sent.

    ``on_message``, ``on_begin`` and, at last, ``on_lost`` come from one thread of its own, which
    begins with the first of them; ``on_arrival`` from the channel's, before a message's turn.
    """

    def __init__(
        self,
        channel: Channel,
        on_message: OnMessage,
        on_lost: OnLost,
        name: str = 'operators',
        on_arrival: OnMessage = lambda data: None,
        on_begin: Callable[[], None] = lambda: None,
        max_message_bytes: int = MAX_MESSAGE_BYTES,
    ) -> None:
        self._channel = channel
        self._on_message, self._on_lost = on_message, on_lost
        self._on_arrival, self._on_begin = on_arrival, on_begin
        self._max_message_bytes = max_message_bytes
        self._lost = ''
        # What goes out. One message at a time: its parts must follow each other.
        self._sending = threading.Lock()
        self._room = threading.Condition()
        self._numbers = count()
        self._sent_bytes = self._done_bytes = 0  # since the beginning, as counted
        self._pending: deque[tuple[int, Buffers, int]] = deque()
        self._flight = self._flight_bytes = 0
        # What comes in.
        self._early: dict[int, memoryview] = {}
        self._next = 0
        self._held_bytes = 0
        self._notes = count()
        self._delivered_bytes = self._told_bytes = 0
        self._whole: bytearray | None = None  # of parts
        self._filled = 0
        self._broken = False  # what follows has lost its meaning
        self._ready: queue.SimpleQueue[memoryview | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._deliver, name=name, daemon=True)
        self._started = False
        channel.listen(OPERATORS, self._on_incoming)
        channel.listen(CREDITS, self._on_credit)
        channel.when_closed(self.lose)

    @property
    def lost(self) -> str:
        """Why the other side is gone; empty while it is there."""
        return self._lost

    def send(self, buffers: Buffers) -> None:
        """Returns as soon as there is room. ``ServerLost`` when the other side is gone."""
        total = sum(len(each) for each in buffers)
        with self._sending:
            if total <= PART_BYTES:
                self._send(list(buffers), total)
                return
            for part in _parts(buffers):
                size = sum(len(each) for each in part)
                self._send([_HEAD.pack(PART, total), *part], size + _HEAD.size)

    def begin(self) -> None:
        """Tell the other side that what follows has nothing to do with what came before."""
        with self._sending:
            self._send([_HEAD.pack(BEGIN, 0)], _HEAD.size)

    def wait_sent(self, timeout_s: float) -> None:
        """Until all has arrived, or the time is over."""
        with self._room:
            self._room.wait_for(
                lambda: bool(self._lost) or not (self._flight or self._pending), timeout_s
            )

    def lose(self, why: str) -> None:
        """The other side is gone."""
        with self._room:
            if self._lost:
                return
            self._lost = why or 'the channel was closed'
            self._pending.clear()
            self._room.notify_all()
            self._tell(None)

    def _break_off(self, why: str) -> None:
        """What comes cannot be understood: the other side must not wait for answers to it."""
        self._channel.send(key_of(CREDITS, next(self._notes)), END + why.encode(), PRIORITY)
        self.lose(why)

    # --- out

    def _send(self, buffers: Buffers, size: int) -> None:
        counted = max(size, LEAST_BYTES)
        with self._room:
            while self._sent_bytes - self._done_bytes + counted > MAX_WAITING_BYTES:
                if self._lost:
                    break
                self._room.wait()
            if self._lost:
                raise ServerLost(self._lost)
            self._sent_bytes += counted
            self._pending.append((next(self._numbers), buffers, size))
        self._pump()

    def _pump(self) -> None:
        """Hand to the channel what may be under way."""
        while True:
            with self._room:
                if not self._pending or self._flight >= MAX_TRANSFERS:
                    return
                if self._flight and self._flight_bytes + self._pending[0][2] > MAX_FLIGHT_BYTES:
                    return
                number, buffers, size = self._pending.popleft()
                self._flight += 1
                self._flight_bytes += size
            sent = self._channel.send(key_of(OPERATORS, number), list(buffers), PRIORITY)
            sent.when_ended(self._on_sent)

    def _on_sent(self, sent: Outgoing) -> None:
        with self._room:
            self._flight -= 1
            self._flight_bytes -= sent.total
            self._room.notify_all()
        if sent.state is State.DONE:
            self._pump()
        else:
            self.lose(sent.why)

    def _on_credit(self, incoming: Incoming) -> None:
        incoming.when_ended(self._on_credit_arrived)

    def _on_credit_arrived(self, incoming: Incoming) -> None:
        if incoming.state is not State.DONE:
            return
        data = bytes(incoming.buffer[: len(END) + MAX_WHY])
        if data.startswith(END):
            self.lose(data[len(END) :].decode(errors='replace'))
        if len(data) != _CREDIT.size:
            return
        (done_bytes,) = _CREDIT.unpack(data)
        with self._room:
            if self._done_bytes < done_bytes <= self._sent_bytes:
                self._done_bytes = done_bytes
                self._room.notify_all()

    # --- in

    def _on_incoming(self, incoming: Incoming) -> None:
        if incoming.total > MAX_PIECE_BYTES:
            why = f'a piece of {incoming.total} bytes, {PART_BYTES} are allowed'
            self._channel.refuse(incoming.key, why)
            self._break_off(why)
            return
        incoming.when_ended(self._on_arrived)

    def _on_arrived(self, incoming: Incoming) -> None:
        if incoming.state is not State.DONE:
            self.lose(incoming.why)
            return
        data: memoryview = incoming.buffer.data
        self._on_arrival(data)
        with self._room:
            if self._lost:
                return
            self._held_bytes += max(len(data), LEAST_BYTES)
            if self._held_bytes > MAX_WAITING_BYTES:
                self._early.clear()
            else:
                self._early[number_of(incoming.key)] = data
                while self._next in self._early:
                    self._tell(self._early.pop(self._next))
                    self._next += 1
                return
        self._break_off(TOO_MUCH)

    def _tell(self, data: memoryview | None) -> None:
        """The lock is held."""
        self._ready.put(data)
        if not self._started:
            self._started = True
            self._thread.start()

    def _deliver(self) -> None:
        while (data := self._ready.get()) is not None:
            if not self._broken:
                self._take(data)
            self._did(max(len(data), LEAST_BYTES))
        self._whole = None
        self._on_lost(self._lost)

    def _take(self, data: memoryview) -> None:
        kind, total = (b'', 0) if len(data) < _HEAD.size else _HEAD.unpack_from(data)
        if kind == BEGIN:
            self._whole = None
            self._on_begin()
        elif kind == PART:
            self._take_part(data[_HEAD.size :], total)
        else:
            self._on_message(data)

    def _take_part(self, data: memoryview, total: int) -> None:
        if self._whole is None:
            if total > self._max_message_bytes:
                allowed = self._max_message_bytes / 1e6
                self._broken = True
                self._break_off(f'a message of {total / 1e6:.0f} MB, {allowed:.0f} MB are allowed')
                return
            self._whole, self._filled = bytearray(total), 0
        whole, end = self._whole, self._filled + len(data)
        if total != len(whole) or end > total:
            self._broken = True
            self._break_off('the parts of a message do not fit together')
            return
        whole[self._filled : end] = data
        self._filled = end
        if end == total:
            self._whole = None
            self._on_message(memoryview(whole))

    def _did(self, counted: int) -> None:
        with self._room:
            self._held_bytes -= counted
            self._delivered_bytes += counted
            if self._delivered_bytes - self._told_bytes < NOTE_BYTES or self._lost:
                return
            self._told_bytes = self._delivered_bytes
        note = _CREDIT.pack(self._delivered_bytes)
        self._channel.send(key_of(CREDITS, next(self._notes)), note, PRIORITY)


class ChannelLink:
    """The program's ``Link``. ``max_message_bytes``: of one answer."""

    def __init__(self, channel: Channel, max_message_bytes: int = MAX_MESSAGE_BYTES) -> None:
        self._lock = threading.Lock()
        self._awaited = 0  # beginnings that the server has not answered
        self._listeners: tuple[OnMessage, OnLost] | None = None
        self._messages = OrderedMessages(
            channel,
            self._receive,
            self._end,
            on_begin=self._begun,
            max_message_bytes=max_message_bytes,
        )

    @property
    def lost(self) -> str:
        """Why the server is gone; empty while it is there."""
        return self._messages.lost

    def listen(self, on_message: OnMessage, on_lost: OnLost) -> None:
        """See ``Link``."""
        with self._lock:
            self._listeners = on_message, on_lost
        if self._messages.lost:
            on_lost(self._messages.lost)

    def send(self, buffers: Buffers) -> None:
        """See ``Link``."""
        self._messages.send(buffers)

    def restart(self) -> None:
        """End the session on the server, and begin another one on the same channel: to be followed
        by ``listen``. ``ServerLost``."""
        with self._lock:
            self._listeners = None
            self._awaited += 1
        self._messages.begin()

    def lose(self, why: str) -> None:
        """The server is gone."""
        self._messages.lose(why)

    def close(self) -> None:
        """See ``Link``; the server frees what the session held."""
        with contextlib.suppress(ServerLost, TransferError):
            self.restart()
            self._messages.wait_sent(LAST_WORDS_S)
        self.lose('the session is closed')

    def _begun(self) -> None:
        """The server's last answer to the session before."""
        with self._lock:
            self._awaited -= 1

    def _receive(self, data: memoryview) -> None:
        with self._lock:
            awaited, listeners = self._awaited, self._listeners
        if listeners is not None and not awaited:
            listeners[0](data)

    def _end(self, why: str) -> None:
        with self._lock:
            listeners = self._listeners
        if listeners is not None:
            listeners[1](why)


def _parts(buffers: Buffers) -> list[Buffers]:
    """Views of ``buffers`` of at most ``PART_BYTES`` together."""
    parts: list[list[memoryview]] = [[]]
    room = PART_BYTES
    for buffer in buffers:
        view = memoryview(buffer).cast('B')
        while len(view):
            piece, view = view[:room], view[room:]
            parts[-1].append(piece)
            room -= len(piece)
            if not room:
                parts.append([])
                room = PART_BYTES
    return [part for part in parts if part]
