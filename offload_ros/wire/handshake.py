"""Robot and server agree on a session: Hello, Welcome, Confirm; with a key they prove it to each
other.

With a pre-shared key (``wire.key_file``), of which each proof has its own derived key::

    robot  -> server  Hello    nonce, X25519 share, HMAC over the Hello
    server -> robot   Welcome  nonce, X25519 share, HMAC over Hello and Welcome
    robot  -> server  Confirm  HMAC over Hello and Welcome with its proof
    key of a direction = HKDF(X25519 secret | pre-shared key, salt: hash of Hello and Welcome)

(an X25519 exchange authenticated by a shared key, as in TLS 1.3 ``psk_dhe_ke``, RFC 8446). Shares
serve one exchange and are deleted: who steals the key file later cannot read what was recorded.
Names and sessions of both are in what is proven, and the proofs of the roles have different keys,
so that no message is good for another pair, another session or the other way. All who hold the key
trust each other.

Without a key the same messages travel without proofs; then anyone in the domain may be robot or
server. In both cases only a ``Confirm`` that answers a nonce just made changes a session, so that a
record changes nothing.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
import secrets
import time
from typing import TypeVar, cast

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from offload_ros.wire.handshake_keys import (
    Established,
    Proofs,
    equal,
    establish,
    public_of,
)
from offload_ros.wire.handshake_messages import (
    Confirm,
    HandshakeError,
    HandshakeRefused,
    Hello,
    Refusal,
    Runtime,
    Welcome,
    digest,
    read,
)
from offload_ros.wire.key_file import PresharedKey

MAX_ROBOTS = 64  # with a session on one server
MAX_PENDING = 64  # Welcomes that wait for their Confirm, on one server; the oldest goes first
MAX_PENDING_OF_ROBOT = 4
MAX_ATTEMPTS = 64  # sessions of servers that a robot talks to
MAX_REMEMBERED = 4096  # Hellos that were used up
PENDING_S = 5.0  # a Confirm that takes longer is too late
SPACING_S = 0.05  # one Hello is not answered more often, nor a refusal sent
NEW_HELLO_S = 0.2  # another Hello of the same session of a robot is not taken up sooner
RENEW_S = 3.0  # a robot that was welcomed and heard no more starts anew


@dataclass
class _Attempt:
    """Of a robot: one Hello and what came of it."""

    hello: Hello
    sent: bytes
    name: str  # digest of what was sent
    share: X25519PrivateKey | None
    welcome: str = ''  # digest of the one that was taken
    welcomed_s: float = 0.0
    confirm: bytes = b''
    settled: bool = False

    def overdue(self, now: float) -> bool:
        """Whether the server seems not to have got the Confirm, nor will."""
        return bool(self.welcome) and not self.settled and now - self.welcomed_s > RENEW_S


@dataclass
class _Pending:
    """Of a server: one Hello and the Welcome to it."""

    hello: Hello
    sent: bytes
    name: str  # digest of the Hello
    welcome: bytes
    welcome_name: str
    share: X25519PrivateKey | None
    made_s: float
    answered_s: float


class RobotHandshake:
    """The robot's side, with all servers. Not safe between threads.

    ``hello`` is sent with each heartbeat of the server until the server's first packet of the
    session was opened; then ``settle`` is called. After a loss ``forget`` begins anew.
    """

    def __init__(
        self,
        robot: str,
        session: str,
        runtime: Runtime,
        key: PresharedKey | None = None,
        host: str = '',
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.robot, self.session = robot, session
        self._runtime, self._host, self._clock = runtime, host, clock
        self._proofs = Proofs(key) if key else None
        self._attempts: OrderedDict[tuple[str, str], _Attempt] = OrderedDict()

    def hello(self, server: str, server_session: str) -> bytes:
        """The Hello for this session of a server, the same bytes until a new one is needed.

        ``ValueError`` for a name or session that no message can carry.
        """
        peer = (server, server_session)
        attempt = self._attempts.get(peer)
        if attempt is None or attempt.overdue(self._clock()):
            attempt = self._attempts[peer] = self._begin(server, server_session)
        self._attempts.move_to_end(peer)
        if len(self._attempts) > MAX_ATTEMPTS:
            others = list(self._attempts)[:-1]
            del self._attempts[min(others, key=lambda each: self._attempts[each].settled)]
        return attempt.sent

    def on_welcome(self, data: bytes | memoryview) -> tuple[bytes | None, Established | None]:
        """The Confirm to send, and the session when it is a new one; also takes a Refusal.

        (Confirm, None) for a Welcome that came again, (None, None) when it did after ``settle``.
        ``HandshakeRefused`` says what the user must change, ``HandshakeError`` all else that is
        wrong; neither changes anything.
        """
        message = cast('Welcome | Refusal', read(data, Welcome, Refusal))
        attempt = next(
            (each for each in self._attempts.values() if each.name == message.hello), None
        )
        if attempt is None:
            raise HandshakeError('welcome: not to a Hello of now')
        if isinstance(message, Refusal):
            if attempt.welcome:
                raise HandshakeError('refusal: of a Hello that was welcomed')
            raise HandshakeRefused(message.text(self.robot, attempt.hello.server))
        if attempt.welcome:
            if attempt.welcome != digest(data):
                raise HandshakeError('welcome: another one for a Hello that was welcomed')
            return (None if attempt.settled else attempt.confirm), None
        return self._accept(attempt, message, bytes(data))

    def settle(self, server: str, server_session: str) -> None:
        """The first packet of the session came from the server: it has the Confirm."""
        attempt = self._attempts.get((server, server_session))
        if attempt is not None and attempt.welcome:
            attempt.settled = True

    def forget(self, server: str, server_session: str) -> None:
        """The session is lost: the next ``hello`` asks for a new one."""
        self._attempts.pop((server, server_session), None)

    def _begin(self, server: str, server_session: str) -> _Attempt:
        share = X25519PrivateKey.generate() if self._proofs else None
        hello = Hello(
            robot=self.robot,
            robot_session=self.session,
            server=server,
            server_session=server_session,
            nonce=secrets.token_hex(32),
            runtime=self._runtime,
            host=self._host,
            ephemeral=public_of(share),
        )
        if self._proofs:
            hello = replace(hello, proof=self._proofs.of_hello(hello))
        sent = hello.to_bytes()
        return _Attempt(hello, sent, digest(sent), share)

    def _accept(
        self, attempt: _Attempt, welcome: Welcome, data: bytes
    ) -> tuple[bytes, Established]:
        hello = attempt.hello
        if _parties(welcome) != _parties(hello):
            raise HandshakeError('welcome: for another pair')
        if welcome.keyed != hello.keyed:
            reason = 'server_keyless' if hello.keyed else 'robot_keyless'
            raise HandshakeRefused(Refusal(welcome.hello, reason).text(hello.robot, hello.server))
        proof = ''
        if self._proofs:
            if not equal(self._proofs.of_welcome(attempt.sent, welcome), welcome.proof):
                raise HandshakeError('welcome: not proven')
            proof = self._proofs.of_confirm(attempt.sent, data)
        established = establish(self._proofs, attempt.share, attempt.sent, data, welcome)
        attempt.share = None  # used once: one share never makes the same keys twice
        attempt.welcome, attempt.welcomed_s = digest(data), self._clock()
        attempt.confirm = Confirm(attempt.welcome, proof).to_bytes()
        return attempt.confirm, established


class ServerHandshake:
    """The server's side, with all robots. Not safe between threads.

    ``models``: gives name and content hashes of what is served now. ``heartbeat``: gives the
    counter of the last heartbeat. After ``on_confirm`` the server must send a packet of the new
    session, which tells the robot that the Confirm came.
    """

    def __init__(
        self,
        server: str,
        session: str,
        runtime: Runtime,
        models: Callable[[], Mapping[str, Iterable[str]]],
        key: PresharedKey | None = None,
        host: str = '',
        heartbeat: Callable[[], int] = lambda: 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.server, self.session = server, session
        self._runtime, self._models, self._host = runtime, models, host
        self._heartbeat, self._clock = heartbeat, clock
        self._proofs = Proofs(key) if key else None
        self._pending: OrderedDict[str, _Pending] = OrderedDict()  # by digest of the Hello
        self._live: dict[str, _Pending] = {}  # by name of the robot
        self._replaced: OrderedDict[tuple[str, str], None] = OrderedDict()  # robot, its session
        self._used: OrderedDict[str, None] = OrderedDict()  # digests of Hellos
        self._refused_s = -1e9

    def on_message(self, data: bytes | memoryview) -> tuple[bytes | None, Established | None]:
        """``on_hello`` or ``on_confirm``, whichever ``data`` is: what to send, and a new
        session."""
        if b'"kind":"confirm"' in bytes(data[: Confirm.MAX_BYTES]):
            return None, self.on_confirm(data)
        return self.on_hello(data), None

    def on_hello(self, data: bytes | memoryview) -> bytes | None:
        """The Welcome to send; None when this Hello was answered a moment ago.

        No session changes. ``HandshakeRefused`` (its ``reply`` is to be sent if there is one) says
        what the user must change; ``HandshakeError`` is all else that is wrong.
        """
        now = self._clock()
        try:
            hello = read(data, Hello)
        except HandshakeRefused as error:
            error.reply = self._refusal(digest(data), 'protocol', now)
            raise
        name = digest(data)
        self._check(hello, name, now)
        self._expire(now)
        live = self._live.get(hello.robot)
        known = live if live is not None and live.name == name else self._pending.get(name)
        if known is None:
            return self._begin(hello, name, bytes(data), now).welcome
        if now - known.answered_s < SPACING_S:
            return None
        known.answered_s = now
        return known.welcome

    def on_confirm(self, data: bytes | memoryview) -> Established | None:
        """The session that begins, in place of the robot's last one; None when it has begun
        already.

        Errors as of ``on_hello``; only a Confirm that is right changes anything.
        """
        confirm = read(data, Confirm)
        if any(live.welcome_name == confirm.welcome for live in self._live.values()):
            return None
        self._expire(self._clock())
        pending = next(
            (each for each in self._pending.values() if each.welcome_name == confirm.welcome), None
        )
        if pending is None:
            raise HandshakeError('confirm: not of a Welcome of now')
        expected = self._proofs.of_confirm(pending.sent, pending.welcome) if self._proofs else ''
        if not equal(expected, confirm.proof):
            raise HandshakeError('confirm: not proven')
        hello = pending.hello
        if self._is_full(hello):
            raise HandshakeRefused(Refusal(pending.name, 'full').text(hello.robot, self.server))
        established = establish(self._proofs, pending.share, pending.sent, pending.welcome, hello)
        self._take_over(pending)
        return established

    def forget(self, robot: str, robot_session: str) -> None:
        """The session of a robot ended."""
        live = self._live.get(robot)
        if live is None or live.hello.robot_session != robot_session:
            return
        del self._live[robot]
        for each in [each for each in self._replaced if each[0] == robot]:
            del self._replaced[each]

    def _check(self, hello: Hello, name: str, now: float) -> None:
        """Whether this Hello may have an answer; cheap, and without memory of who asked."""
        if (hello.server, hello.server_session) != (self.server, self.session):
            raise HandshakeError('hello: to another session of a server')
        reason = ''
        if hello.keyed != (self._proofs is not None):
            reason = 'server_keyless' if hello.keyed else 'robot_keyless'
        elif self._proofs and not equal(self._proofs.of_hello(hello), hello.proof):
            reason = 'other_key'
        elif (hello.robot, hello.robot_session) in self._replaced:
            reason = 'replaced'
        elif self._is_full(hello):
            reason = 'full'
        if reason:
            text = Refusal(name, reason).text(hello.robot, self.server)
            raise HandshakeRefused(text, self._refusal(name, reason, now))
        live = self._live.get(hello.robot)
        if name in self._used and (live is None or live.name != name):
            raise HandshakeError('hello: used up')

    def _begin(self, hello: Hello, name: str, data: bytes, now: float) -> _Pending:
        same = [each for each in self._pending.values() if each.hello.robot == hello.robot]
        if any(
            each.hello.robot_session == hello.robot_session and now - each.made_s < NEW_HELLO_S
            for each in same
        ):
            raise HandshakeError('hello: too soon after another one')
        share = X25519PrivateKey.generate() if self._proofs else None
        welcome = Welcome(
            *_parties(hello),
            hello=name,
            nonce=secrets.token_hex(32),
            runtime=self._runtime,
            models={model: tuple(sorted(each)) for model, each in self._models().items()},
            heartbeat=self._heartbeat(),
            host=self._host,
            ephemeral=public_of(share),
        )
        if self._proofs:
            welcome = replace(welcome, proof=self._proofs.of_welcome(data, welcome))
        if len(same) >= MAX_PENDING_OF_ROBOT:
            del self._pending[same[0].name]
        elif len(self._pending) >= MAX_PENDING:
            self._pending.popitem(last=False)
        sent = welcome.to_bytes()
        pending = _Pending(hello, data, name, sent, digest(sent), share, now, now)
        self._pending[name] = pending
        return pending

    def _take_over(self, pending: _Pending) -> None:
        """A right Confirm came: this session of the robot replaces its last one."""
        pending.share = None  # used once
        robot = pending.hello.robot
        last = self._live.get(robot)
        if last is not None and last.hello.robot_session != pending.hello.robot_session:
            _remember(self._replaced, (robot, last.hello.robot_session))
        self._live[robot] = pending
        _remember(self._used, pending.name)
        # A Confirm of another attempt that comes late must not undo this one.
        for each in [each for each in self._pending.values() if each.hello.robot == robot]:
            del self._pending[each.name]

    def _is_full(self, hello: Hello) -> bool:
        return len(self._live) >= MAX_ROBOTS and hello.robot not in self._live

    def _expire(self, now: float) -> None:
        while self._pending:
            oldest = next(iter(self._pending.values()))
            if now - oldest.made_s <= PENDING_S:
                return
            del self._pending[oldest.name]

    def _refusal(self, name: str, reason: str, now: float) -> bytes | None:
        if now - self._refused_s < SPACING_S:
            return None
        self._refused_s = now
        return Refusal(name, reason).to_bytes()


Entry = TypeVar('Entry')


def _remember(entries: OrderedDict[Entry, None], entry: Entry) -> None:
    entries[entry] = None
    if len(entries) > MAX_REMEMBERED:
        entries.popitem(last=False)


def _parties(message: Hello | Welcome) -> tuple[str, str, str, str]:
    return message.robot, message.robot_session, message.server, message.server_session
