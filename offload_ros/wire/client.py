"""The robot's side of a request: sent to one server, ended by its reply, its loss, a cancel, or
the deadline."""

from __future__ import annotations

from collections.abc import Callable
import contextlib
from dataclasses import dataclass, field
import itertools
import secrets
import threading
import time
from typing import TYPE_CHECKING, NamedTuple

from offload_ros.strategy import LinkState
from offload_ros.wire.directory import ServerDirectory, ServerState
from offload_ros.wire.exchange import Kind, Reply, Request

if TYPE_CHECKING:
    from offload_ros.models.model import Model
    from offload_ros.strategy import Frame
    from offload_ros.wire.channel import Channel


def new_session() -> str:
    """16 hex digits that name one life of a node."""
    return secrets.token_hex(8)


class NoReply(Exception):
    """A request that no reply will come for, and why."""


class Answered(NamedTuple):
    """``bytes_up``: of the request's tensors, as they travelled."""

    reply: Reply
    round_trip_s: float
    bytes_up: int


@dataclass
class _Pending:
    server: ServerState
    done: threading.Event = field(default_factory=threading.Event)
    reply: Reply | None = None
    received_s: float = 0.0
    why: str = ''


class OffloadClient:
    """Sends requests through ``transmit``, which returns how many bytes of tensors travel, and
    matches replies by sequence number; safe between threads."""

    def __init__(
        self,
        robot: str,
        session: str,
        directory: ServerDirectory,
        transmit: Callable[[ServerState, Request], int],
    ) -> None:
        self.robot = robot
        self.session = session
        self.directory = directory
        self.preferred_server = ''
        self.placement = 'server'  # of recorded units (``rrto.options.PLACEMENTS``)
        # By server name: what is known of the link, and the channel while there is one.
        self.link_state: Callable[[str], LinkState] = lambda _: LinkState()
        self.channel_to: Callable[[str], Channel | None] = lambda _: None
        self._transmit = transmit
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._pending: dict[int, _Pending] = {}
        directory.on_lost = self._server_lost

    def server_for(self, model: Model) -> tuple[ServerState | None, str]:
        """The server that would run ``model`` now, or None and why."""
        return self.directory.choose(model.name, model.hash, self.preferred_server)

    def call(
        self,
        server: ServerState,
        model: Model,
        frame: Frame,
        deadline_s: float,
        started: Callable[[int], None] | None = None,
        model_hash: str = '',
    ) -> Answered:
        """Send one frame to ``server`` and wait for its reply.

        ``started`` receives the request's number (for ``cancel``) before it is sent;
        ``model_hash``: of another variant of ``model``, which is to run instead. ``NoReply`` says
        why nothing came, at the latest at ``deadline_s`` (steady clock).
        """
        number = next(self._numbers)
        pending = _Pending(server)
        with self._lock:
            self._pending[number] = pending
        if started is not None:
            started(number)
        try:
            # From here on its loss ends this call; one before it would have gone unheard.
            if not self.directory.holds(server.name, server.session):
                raise NoReply(f'server {server.name} is lost')
            sent_s = time.monotonic()
            request = Request(
                robot=self.robot,
                session=self.session,
                server_session=server.session,
                seq=number,
                model=model.name,
                model_hash=model_hash or model.hash,
                budget_s=max(0.0, deadline_s - sent_s),
                inputs=frame.inputs,
                buffers=frame.buffers,
                opaque=model.config.opaque_inputs,
            )
            try:
                bytes_up = self._transmit(server, request)
            except Exception as error:  # e.g. its publisher was closed in another thread just now
                raise NoReply(
                    f'the request cannot be sent to server {server.name}: '
                    f'{type(error).__name__}: {error}'
                ) from error
            pending.done.wait(max(0.0, deadline_s - time.monotonic()))
        finally:
            with self._lock:
                self._pending.pop(number, None)
        if pending.reply is None:
            if self.directory.holds(server.name, server.session):
                self._withdraw(server, number)
            raise NoReply(pending.why or f'server {server.name} did not answer in time')
        return Answered(pending.reply, pending.received_s - sent_s, bytes_up)

    def cancel(self, number: int, why: str = 'cancelled') -> None:
        """End a waiting ``call``; its reply, should it still come, is dropped."""
        with self._lock:
            pending = self._pending.get(number)
        if pending is not None:
            pending.why = why
            pending.done.set()

    def _withdraw(self, server: ServerState, number: int) -> None:
        """Tell the server that nobody waits any more, so that it need not compute."""
        request = Request(self.robot, self.session, server.session, number, kind=Kind.CANCEL)
        with contextlib.suppress(Exception):  # best effort: the budget ends it there too
            self._transmit(server, request)

    def waits_for(self, number: int) -> bool:
        """Whether a reply of this number would be of use."""
        with self._lock:
            pending = self._pending.get(number)
            return pending is not None and not pending.done.is_set()

    def on_reply(self, reply: Reply) -> bool:
        """Hand a received reply to its call; False when nobody waits for it (late, foreign,
        doubled)."""
        received_s = time.monotonic()
        with self._lock:
            pending = self._pending.get(reply.seq)
            if (
                pending is None
                or pending.done.is_set()
                or reply.session != self.session
                or (reply.server, reply.server_session)
                != (pending.server.name, pending.server.session)
            ):
                return False
            pending.reply, pending.received_s = reply, received_s
        pending.done.set()
        return True

    def _server_lost(self, name: str, session: str, why: str) -> None:
        with self._lock:
            ended = [
                pending
                for pending in self._pending.values()
                if (pending.server.name, pending.server.session) == (name, session)
            ]
        for pending in ended:
            pending.why = why
            pending.done.set()
