"""The robot's side of A-MOT on one channel: messages about an image, and the server's answers."""

from __future__ import annotations

from functools import partial
import itertools
import threading
import time
from typing import Any
import weakref

from offload_ros.amot.messages import (
    MAX_MESSAGE_BYTES,
    NUMBERS,
    PRIORITY,
    Answer,
    Answered,
    Asked,
    Cancel,
    Failed,
    answer_from_bytes,
    asked_to_buffers,
    bytes_in,
)
from offload_ros.wire.channel import Channel, key_of, number_of
from offload_ros.wire.errors import WireError
from offload_ros.wire.exchange import PATCHES
from offload_ros.wire.incoming import Incoming, State
from offload_ros.wire.outgoing import Outgoing


class PatchesFailed(Exception):
    """No answer comes for an image, and why."""


class _Waiting:
    def __init__(self) -> None:
        self.event = threading.Event()
        self.answer: Answer | None = None
        self.received_bytes = 0
        self.why = ''

    def fail(self, why: str) -> None:
        self.why = self.why or why
        self.event.set()


class Conversation:
    """About one image; any thread may ``end`` it. ``waited_s``: for answers, in all."""

    def __init__(self, link: PatchLink, deadline_s: float) -> None:
        self.bytes_up = self.bytes_down = 0
        self.waited_s = self.server_s = self.compute_s = 0.0
        self.number = 0  # of the first message
        self._link = link
        self._deadline_s = deadline_s
        self._lock = threading.Lock()
        self._waiting: _Waiting | None = None
        self._over = ''
        self._answered = False

    def ask(self, asked: Asked) -> Answer:
        """The answer to the next message; ``PatchesFailed``, at the latest at the deadline."""
        waiting = _Waiting()
        with self._lock:
            if self._over:
                raise PatchesFailed(self._over)
            self._waiting = waiting
        began_s = time.monotonic()
        number, size = self._link.post(asked, waiting, self._deadline_s)
        self.number = self.number or number
        self.bytes_up += size
        try:
            waiting.event.wait(max(0.0, self._deadline_s - time.monotonic()))
        finally:
            self._link.forget(number)
        self.waited_s += time.monotonic() - began_s
        if waiting.answer is None:
            raise PatchesFailed(waiting.why or 'the server did not answer in time')
        self.bytes_down += waiting.received_bytes
        if isinstance(waiting.answer, Failed):
            self._answered = True  # nothing is kept there
            raise PatchesFailed(waiting.answer.why)
        self.server_s += waiting.answer.server_s
        self.compute_s += waiting.answer.compute_s
        self._answered = isinstance(waiting.answer, Answered)
        return waiting.answer

    def end(self, why: str) -> None:
        """``ask`` ends now with ``PatchesFailed``."""
        with self._lock:
            self._over = self._over or why
            waiting = self._waiting
        if waiting is not None:
            waiting.fail(why)

    def close(self) -> None:
        """The server need not go on where it has not answered."""
        if self.number and not self._answered:
            self._link.cancel(self.number)


class PatchLink:
    """Of one channel; safe between threads. ``link_on`` gives the one that it has."""

    def __init__(self, channel: Channel) -> None:
        # The channel holds this object by its listeners; the other way it would live for ever.
        self._channel: Any = weakref.proxy(channel)
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._waiting: dict[int, _Waiting] = {}
        self._lost = ''
        channel.listen(PATCHES, self._on_message)
        channel.when_closed(self._lose)

    def converse(self, deadline_s: float) -> Conversation:
        """About another image; ``deadline_s`` on the steady clock."""
        return Conversation(self, deadline_s)

    def post(self, asked: Asked, waiting: _Waiting, deadline_s: float) -> tuple[int, int]:
        """Send a message whose answer ``waiting`` gets: its number and bytes."""
        number = next(self._numbers)
        with self._lock:
            if self._lost:
                raise PatchesFailed(self._lost)
            self._waiting[number] = waiting
        buffers = asked_to_buffers(asked)
        sent = self._channel.send(key_of(PATCHES, number), buffers, PRIORITY, deadline_s)
        sent.when_ended(partial(self._on_sent, waiting))
        return number, bytes_in(buffers)

    def forget(self, number: int) -> None:
        """Nobody waits for the answer to this message any more."""
        with self._lock:
            self._waiting.pop(number, None)

    def cancel(self, number: int) -> None:
        """Of the image whose first message had this number nothing is needed any more."""
        if not self._lost:
            self._channel.cancel(key_of(PATCHES, number))
            buffers = asked_to_buffers(Cancel(number))
            self._channel.send(key_of(PATCHES, next(self._numbers)), buffers, PRIORITY + 1)

    @staticmethod
    def _on_sent(waiting: _Waiting, sent: Outgoing) -> None:
        if sent.state is not State.DONE:
            waiting.fail(f'patches did not reach the server: {sent.why}')

    def _on_message(self, incoming: Incoming) -> None:
        with self._lock:
            waiting = self._waiting.get(number_of(incoming.key) % NUMBERS)
        if waiting is None or incoming.total > MAX_MESSAGE_BYTES:
            self._channel.refuse(incoming.key, 'nobody waits for it')
            return
        incoming.when_ended(partial(self._on_answer, waiting))

    @staticmethod
    def _on_answer(waiting: _Waiting, incoming: Incoming) -> None:
        if incoming.state is not State.DONE:
            waiting.fail(f'the answer of the server broke off: {incoming.why}')
            return
        try:
            answer = answer_from_bytes(incoming.buffer)
        except WireError as error:
            waiting.fail(f'the server sent a bad answer: {error}')
            return
        waiting.answer, waiting.received_bytes = answer, incoming.total
        waiting.event.set()

    def _lose(self, why: str) -> None:
        with self._lock:
            self._lost = why or 'the channel was closed'
            waiting = list(self._waiting.values())
        for each in waiting:
            each.fail(self._lost)


_links: weakref.WeakKeyDictionary[Channel, PatchLink] = weakref.WeakKeyDictionary()
_making = threading.Lock()


def link_on(channel: Channel) -> PatchLink:
    """The link on ``channel``, made when it is asked for first: models share it."""
    with _making:
        if channel not in _links:
            _links[channel] = PatchLink(channel)
        return _links[channel]
