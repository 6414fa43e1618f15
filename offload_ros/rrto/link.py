"""The way between a program and its session on a server, and one that stays in this process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
import queue
import threading
import time
from typing import Protocol

from offload_ros.rrto.executor import OperatorSession
from offload_ros.rrto.messages import Code, decode
from offload_ros.rrto.operators import AllowedOperators
from offload_ros.wire.errors import WireError

NO_LIMIT_BYTES = 1 << 62
Buffers = Sequence[bytes | memoryview]
OnMessage = Callable[[memoryview], object]
OnLost = Callable[[str], None]


class ServerLost(ConnectionError):
    """The server or the link to it is gone, in the middle of a program."""


class Link(Protocol):
    """Messages in order, both ways. ``send`` takes buffers that may change as soon as it returns
    only if they are ``bytes``; it raises ``ServerLost`` once the server is gone."""

    def listen(self, on_message: OnMessage, on_lost: OnLost) -> None:
        """Who gets the answers, and the news that there will be none, from another thread."""

    def send(self, buffers: Buffers) -> None:
        """One message to the server."""

    def close(self) -> None:
        """End the session."""


class Loopback:
    """A session in a thread of this process. ``round_trip_s``: answers are held back by that."""

    def __init__(self, session_of: Callable[..., OperatorSession], round_trip_s: float = 0.0):
        self._inbox: queue.SimpleQueue[tuple[float, bytearray] | None] = queue.SimpleQueue()
        self._outbox: queue.SimpleQueue[tuple[float, bytearray] | None] = queue.SimpleQueue()
        self._round_trip_s = round_trip_s
        self._lost = ''
        self.messages_up = self.bytes_up = self.messages_down = self.bytes_down = 0
        self.session = session_of(self._answer)
        self._threads = [
            threading.Thread(target=each, daemon=True, name=name)
            for name, each in (('rrto server', self._serve), ('rrto answers', self._deliver))
        ]

    def listen(self, on_message: OnMessage, on_lost: OnLost) -> None:
        """See ``Link``."""
        self._on_message, self._on_lost = on_message, on_lost
        for thread in self._threads:
            thread.start()

    def send(self, buffers: Buffers) -> None:
        """See ``Link``."""
        if self._lost:
            raise ServerLost(self._lost)
        data = bytearray(b''.join(buffers))
        self.messages_up += 1
        self.bytes_up += len(data)
        self._look(data)
        self._inbox.put((time.monotonic(), data))

    def lose(self, why: str) -> None:
        """As if the server went away: nothing is answered any more."""
        self._lost = why
        self._on_lost(why)

    def close(self) -> None:
        """See ``Link``."""
        self._inbox.put(None)
        for thread in self._threads:
            if thread.is_alive() and thread is not threading.current_thread():
                thread.join(10.0)
        self.session.close()

    def _look(self, data: bytearray) -> None:
        for frame in aborts_in(memoryview(data)):
            self.session.abort(frame)

    def _answer(self, buffers: list[bytes | memoryview]) -> None:
        data = bytearray(b''.join(buffers))
        self.messages_down += 1
        self.bytes_down += len(data)
        self._outbox.put((time.monotonic() + self._round_trip_s, data))

    def _serve(self) -> None:
        while (item := self._inbox.get()) is not None:
            if self._lost:
                continue
            try:
                self.session.receive(memoryview(item[1]))
            except Exception as error:
                self._lost = f'the server ended the session: {error}'
                self._on_lost(self._lost)
                if not isinstance(error, WireError):  # a fault of this package
                    raise
        self._outbox.put(None)

    def _deliver(self) -> None:
        while (item := self._outbox.get()) is not None:
            due_s, data = item
            wait_s = due_s - time.monotonic()
            if wait_s > 0:
                time.sleep(wait_s)
            if not self._lost:
                self._on_message(memoryview(data))


def on_this_machine() -> Loopback:
    """A session for a program of this very process, which may run what it likes."""
    return Loopback(
        lambda send: OperatorSession(
            send, AllowedOperators(all_there_are=True), memory_bytes=NO_LIMIT_BYTES
        )
    )


def aborts_in(data: memoryview) -> list[int]:
    """Frames that a message aborts, so that the server need not finish them first."""
    if len(data) > 1 << 16:  # an ABORT travels with little else
        return []
    try:
        commands = decode(data).commands
    except WireError:
        return []
    aborts = (each[1] for each in commands if each[0] == Code.ABORT and len(each) > 1)
    return [frame for frame in aborts if type(frame) is int]
