"""A server's sessions of programs: one thread and one table of tensors for each robot."""

from __future__ import annotations

from collections.abc import Callable, Iterable
import contextlib
import logging
import threading

from offload_ros.rrto.channel_link import OrderedMessages
from offload_ros.rrto.executor import OperatorSession
from offload_ros.rrto.link import ServerLost, aborts_in
from offload_ros.rrto.messages import MAX_COMMANDS_BYTES, Answer, encode
from offload_ros.rrto.operators import AllowedOperators
from offload_ros.wire.channel import Channel
from offload_ros.wire.errors import WireError

ROOM_BYTES = 1 << 20  # for small payloads that come together with a large one


class OperatorHost:
    """``sessions``: how many programs at a time, 0: none; as ``limit`` it may be changed, for those
    that begin then. ``operators``: names of operators beside
    those of ``operator_names`` that programs may run. ``after_session`` is called when the tensors
    of a program were freed."""

    def __init__(
        self,
        device: str = 'cpu',
        sessions: int = 8,
        memory_bytes: int = 4 << 30,
        operators: Iterable[str] = (),
        after_session: Callable[[], None] = lambda: None,
    ) -> None:
        self._device = device
        self.limit = sessions
        self._memory_bytes = memory_bytes
        self._operators = AllowedOperators(operators)
        self._after_session = after_session
        self._open: set[HostedSession] = set()
        self._lock = threading.Lock()

    @property
    def max_message_bytes(self) -> int:
        """Of one message: what a program may hold in all, and its commands."""
        return self._memory_bytes + MAX_COMMANDS_BYTES + ROOM_BYTES

    def __len__(self) -> int:
        return len(self._open)

    def serve(self, channel: Channel, robot: str) -> HostedSession:
        """Answer the programs of a robot on its channel, from its first operator on."""
        return HostedSession(self, channel, robot)

    def admit(self, session: HostedSession) -> OperatorSession | None:
        """A table for a program that begins; None when there are too many."""
        with self._lock:
            if len(self._open) >= self.limit:
                return None
            self._open.add(session)
        return OperatorSession(session.send, self._operators, self._device, self._memory_bytes)

    def leave(self, session: HostedSession) -> None:
        """It is over."""
        with self._lock:
            self._open.discard(session)
        self._after_session()

    def refusal(self) -> str:
        """Why a program was not admitted."""
        if not self.limit:
            return 'this server runs no operators of programs (parameter rrto.sessions is 0)'
        return f'{self.limit} programs run on this server already (parameter rrto.sessions)'


class HostedSession:
    """One robot's program; ended by ``close``, by the program, or by a message that makes no
    sense."""

    def __init__(self, host: OperatorHost, channel: Channel, robot: str) -> None:
        self._host = host
        self._robot = robot
        self._session: OperatorSession | None = None
        self._over = ''
        self._messages = OrderedMessages(
            channel,
            self._receive,
            self._end,
            f'operators {robot}',
            self._look,
            self._begin,
            host.max_message_bytes,
        )

    def send(self, buffers: list[bytes | memoryview]) -> None:
        """An answer; to nobody when the robot is gone."""
        try:
            self._messages.send(buffers)
        except ServerLost as error:
            self._over = str(error)

    def close(self) -> None:
        """The robot is gone: its tensors, too."""
        self._over = self._over or 'the robot is gone'
        self._messages.lose(self._over)

    def _look(self, data: memoryview) -> None:
        session = self._session
        if session is not None:
            for frame in aborts_in(data):
                session.abort(frame)

    def _begin(self) -> None:
        """The robot's last program has ended; another one may follow."""
        self._free()
        self._over = self._messages.lost
        with contextlib.suppress(ServerLost):
            self._messages.begin()

    def _receive(self, data: memoryview) -> None:
        if self._over:
            return
        if self._session is None:
            self._session = self._host.admit(self)
            if self._session is None:
                self._refuse(self._host.refusal())
                return
        try:
            self._session.receive(data)
        except WireError as error:
            self._warn(str(error))
            self._refuse(str(error))
        except Exception as error:  # a fault of this package: of one program, not of the server
            logging.getLogger(__name__).exception('the program of robot %s', self._robot)
            self._refuse(f'the server failed: {type(error).__name__}: {error}')

    def _warn(self, why: str) -> None:
        logging.getLogger(__name__).warning(
            'the program of robot %s is ended: %s', self._robot, why
        )

    def _refuse(self, why: str) -> None:
        """Nothing can be answered any more: what follows in its stream has lost its meaning."""
        self.send(encode([[Answer.ENDED, why]], []))
        self._over = why
        self._free()

    def _end(self, why: str) -> None:
        self._over = self._over or why
        self._free()

    def _free(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            session.close()
            self._host.leave(self)
