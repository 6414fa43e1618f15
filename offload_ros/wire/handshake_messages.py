"""The messages of a handshake: JSON in one exact form, checked field by field.

A message is accepted only if encoding what was read gives the same bytes again: no two forms of one
message, no double or unknown fields, no changed bit that goes unnoticed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
import hashlib
import json
import re
from typing import Any, ClassVar, NoReturn, TypeVar

PROTOCOL = 2
MAX_NAME = 255
MAX_HOST = 64
MAX_TORCH = 100
MAX_DESCRIPTION = 500
MAX_THREADS = 65536
MAX_HASHES = 1000
_MAX_DIGITS = 20
_HEX = re.compile(r'[0-9a-f]*')


class HandshakeError(ValueError):
    """A message that is not understood, not meant for us, not genuine or out of time: drop it."""


class HandshakeRefused(HandshakeError):
    """Both sides work, but do not go together; the text says what the user must change.

    ``reply``: a message that tells the other side, to be published; None when there is none.
    """

    def __init__(self, text: str, reply: bytes | None = None) -> None:
        super().__init__(text)
        self.reply = reply


@dataclass(frozen=True)
class Runtime:
    """What decides whether two machines compute equal bits."""

    torch: str  # version
    threads: int
    description: str = ''

    def __post_init__(self) -> None:
        _check_text('torch', self.torch, MAX_TORCH)
        _check_text('description', self.description, MAX_DESCRIPTION)
        _check_int('threads', self.threads, MAX_THREADS)


Some = TypeVar('Some', bound='Message')


class Message:
    """What all messages have. Building one from wrong values raises ``ValueError``."""

    KIND: ClassVar[str]
    SENDER: ClassVar[str]
    RECEIVER: ClassVar[str]
    MAX_BYTES: ClassVar[int] = 16 << 10

    def to_bytes(self) -> bytes:
        """The message as it travels."""
        content = {'kind': self.KIND, 'protocol': PROTOCOL, **asdict(self)}  # type: ignore[call-overload]
        text = json.dumps(content, ensure_ascii=False, separators=(',', ':'), sort_keys=True)
        encoded = text.encode()
        if len(encoded) > self.MAX_BYTES:
            raise ValueError(f'{self.KIND}: {len(encoded)} bytes, the limit is {self.MAX_BYTES}')
        return encoded

    @classmethod
    def from_bytes(cls: type[Some], data: bytes | memoryview) -> Some:
        """``read`` for this kind alone."""
        return read(data, cls)

    @classmethod
    def _from_content(cls: type[Some], content: dict[str, Any]) -> Some:
        if 'runtime' in content:
            runtime = _mapping('runtime', content['runtime'])
            _check_fields('runtime', runtime, Runtime)
            content['runtime'] = Runtime(**runtime)
        return cls(**content)


@dataclass(frozen=True)
class Hello(Message):
    """Robot to server: who asks for a session of whom."""

    KIND: ClassVar[str] = 'hello'
    SENDER: ClassVar[str] = 'robot'
    RECEIVER: ClassVar[str] = 'server'

    robot: str
    robot_session: str  # 16 hex digits, new at each start
    server: str
    server_session: str
    nonce: str
    runtime: Runtime
    host: str = ''  # equal tokens: same host
    ephemeral: str = ''  # X25519 public key, 64 hex digits; empty without a pre-shared key
    proof: str = ''

    def __post_init__(self) -> None:
        _check_parties(self)

    @property
    def keyed(self) -> bool:
        """Whether the robot has a pre-shared key."""
        return bool(self.ephemeral)


@dataclass(frozen=True)
class Welcome(Message):
    """Server to robot: the answer to one ``Hello``."""

    KIND: ClassVar[str] = 'welcome'
    SENDER: ClassVar[str] = 'server'
    RECEIVER: ClassVar[str] = 'robot'
    MAX_BYTES: ClassVar[int] = 128 << 10  # 1000 hashes of 64 digits do not fit in less

    robot: str
    robot_session: str
    server: str
    server_session: str
    hello: str  # SHA-256 of the Hello as it came
    nonce: str
    runtime: Runtime
    models: Mapping[str, tuple[str, ...]]  # name -> content hashes, sorted
    heartbeat: int = 0  # the counter of the server's last one
    host: str = ''
    ephemeral: str = ''
    proof: str = ''

    def __post_init__(self) -> None:
        _check_parties(self)
        _check_hex('hello', self.hello, 64)
        _check_int('heartbeat', self.heartbeat, 2**64 - 1)
        if sum(max(1, len(hashes)) for hashes in self.models.values()) > MAX_HASHES:
            raise ValueError(f'models: more than {MAX_HASHES} hashes')
        for name, hashes in self.models.items():
            for text in (name, *hashes):
                _check_text('models', text, MAX_NAME, least=1)

    @property
    def keyed(self) -> bool:
        """Whether the server has a pre-shared key."""
        return bool(self.ephemeral)

    @classmethod
    def _from_content(cls, content: dict[str, Any]) -> Welcome:
        models = _mapping('models', content['models'])
        if not all(isinstance(hashes, list) for hashes in models.values()):
            raise ValueError('models: lists of hashes are wanted')
        content['models'] = {name: tuple(hashes) for name, hashes in models.items()}
        return super()._from_content(content)


@dataclass(frozen=True)
class Confirm(Message):
    """Robot to server: the robot took the ``Welcome``."""

    KIND: ClassVar[str] = 'confirm'
    SENDER: ClassVar[str] = 'robot'
    RECEIVER: ClassVar[str] = 'server'

    welcome: str  # SHA-256 of the Welcome as it came
    proof: str = ''

    def __post_init__(self) -> None:
        _check_hex('welcome', self.welcome, 64)
        _check_hex('proof', self.proof, 64, or_empty=True)


@dataclass(frozen=True)
class Refusal(Message):
    """Server to robot: why a ``Hello`` gets no ``Welcome``. Not proven: for a log line only."""

    KIND: ClassVar[str] = 'refusal'
    SENDER: ClassVar[str] = 'server'
    RECEIVER: ClassVar[str] = 'robot'
    # With {robot} and {server}; the log of both sides shows the same sentence.
    REASONS: ClassVar[Mapping[str, str]] = {
        'protocol': 'robot and server {server} speak different protocols: install the same version '
        'of offload_ros on both',
        'robot_keyless': 'server {server} has a key and robot {robot} has none: give the robot the '
        "server's key file (--key-file)",
        'server_keyless': 'robot {robot} has a key and server {server} has none: give the server '
        "the robot's key file (--key-file)",
        'other_key': 'robot {robot} and server {server} have different keys: give both the same '
        'key file (--key-file)',
        'replaced': 'another robot named {robot} took over the session with server {server}: give '
        'each robot a name of its own',
        'full': 'server {server} has as many robots as it takes: end some, or start another server',
    }

    hello: str  # SHA-256 of the refused Hello
    reason: str

    def __post_init__(self) -> None:
        _check_hex('hello', self.hello, 64)
        if not isinstance(self.reason, str) or self.reason not in self.REASONS:
            raise ValueError('reason: an unknown one')

    def text(self, robot: str, server: str) -> str:
        """The reason in words."""
        return self.REASONS[self.reason].format(robot=robot, server=server)


def read(data: bytes | memoryview, *kinds: type[Some]) -> Some:
    """The message of one of ``kinds`` in ``data``, whatever a stranger put there.

    ``HandshakeRefused`` for another version of the protocol, ``HandshakeError`` for all else.
    """
    names = ' or '.join(kind.KIND for kind in kinds)
    if len(data) > max(kind.MAX_BYTES for kind in kinds):
        raise HandshakeError(f'{names}: {len(data)} bytes are too many')
    data = bytes(data)
    try:
        content = json.loads(
            data.decode(), parse_int=_parse_int, parse_float=_no, parse_constant=_no
        )
    except (ValueError, RecursionError):
        raise HandshakeError(f'{names}: not readable as JSON') from None
    if not isinstance(content, dict):
        raise HandshakeError(f'{names}: not a JSON object')
    protocol = content.pop('protocol', None)
    if type(protocol) is not int:
        raise HandshakeError(f'{names}: no protocol version')
    if protocol != PROTOCOL:
        raise HandshakeRefused(
            f'{kinds[0].SENDER} speaks protocol {protocol}, this {kinds[0].RECEIVER} {PROTOCOL}: '
            'install the same version of offload_ros on both'
        )
    named = content.pop('kind', None)
    kind = next((each for each in kinds if named == each.KIND), None)
    if kind is None:
        raise HandshakeError(f'{names}: a message of another kind')
    try:
        _check_fields(kind.KIND, content, kind)
        message = kind._from_content(content)
        same = message.to_bytes() == data  # also refuses what is longer than this kind may be
    except ValueError as error:
        raise HandshakeError(str(error)) from None
    if not same:
        raise HandshakeError(f'{kind.KIND}: not in the one form of this message')
    return message


def digest(message: bytes | memoryview) -> str:
    """How a message refers to another one: SHA-256 in hex."""
    return hashlib.sha256(message).hexdigest()


def without_proof(message: Hello | Welcome) -> bytes:
    """What the proof in ``message`` covers."""
    return replace(message, proof='').to_bytes()


def _check_parties(message: Hello | Welcome) -> None:
    _check_text('robot', message.robot, MAX_NAME, least=1)
    _check_text('server', message.server, MAX_NAME, least=1)
    _check_text('host', message.host, MAX_HOST)
    _check_hex('robot_session', message.robot_session, 16)
    _check_hex('server_session', message.server_session, 16)
    _check_hex('nonce', message.nonce, 64)
    _check_hex('ephemeral', message.ephemeral, 64, or_empty=True)
    _check_hex('proof', message.proof, 64, or_empty=True)
    if message.proof and not message.ephemeral:
        raise ValueError('proof: without an ephemeral key')
    if not isinstance(message.runtime, Runtime):
        raise ValueError('runtime: wrong type')


def _check_text(name: str, value: object, most: int, least: int = 0) -> None:
    if not isinstance(value, str) or not least <= len(value) <= most:
        raise ValueError(f'{name}: {least} to {most} characters are wanted')
    if not value.isprintable():  # it may enter a log: no line breaks, no control sequences
        raise ValueError(f'{name}: only printable characters are allowed')


def _check_hex(name: str, value: object, length: int, or_empty: bool = False) -> None:
    if or_empty and value == '':
        return
    if not isinstance(value, str) or len(value) != length or not _HEX.fullmatch(value):
        raise ValueError(f'{name}: {length} hex digits are wanted')


def _check_int(name: str, value: object, most: int) -> None:
    if type(value) is not int or not 0 <= value <= most:
        raise ValueError(f'{name}: a whole number from 0 to {most} is wanted')


def _check_fields(name: str, content: Mapping[str, Any], kind: Any) -> None:
    if set(content) != {each.name for each in fields(kind)}:
        raise ValueError(f'{name}: fields are missing or unknown')


def _mapping(name: str, value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f'{name}: an object is wanted')
    return value


def _parse_int(digits: str) -> int:
    if len(digits) > _MAX_DIGITS:  # converting takes time that grows with the square
        raise ValueError('a number that is too long')
    return int(digits)


def _no(_: str) -> NoReturn:
    raise ValueError('fractions are not used')
