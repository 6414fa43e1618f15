"""The cryptography of a handshake: proofs of the pre-shared key, and the keys of a session."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
import hashlib
import hmac

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from offload_ros.wire.handshake_messages import (
    HandshakeError,
    Hello,
    Runtime,
    Welcome,
    without_proof,
)
from offload_ros.wire.key_file import PresharedKey
from offload_ros.wire.seal import KEY_BYTES, Seal


@dataclass(frozen=True)
class Established:
    """A session that both sides agreed on. Another one has other keys, also of the same peers."""

    peer: str  # name
    peer_session: str
    runtime: Runtime  # of the peer
    host: str  # token of the peer's host
    seal_up: Seal | None  # robot to server; None without a key
    seal_down: Seal | None
    salt: int  # 32 bits that tell packets of this session from others; no secret
    models: Mapping[str, frozenset[str]] = field(default_factory=dict)  # of a server
    heartbeat: int = 0  # counter of a server's last one, for ``HeartbeatGuard.open``

    @property
    def robot_salts(self) -> tuple[int, int]:
        """(outgoing, incoming) of the robot's ``Connection``: a packet is no packet of the other
        way."""
        return self.salt, self.salt ^ 0xFFFFFFFF

    @property
    def server_salts(self) -> tuple[int, int]:
        """(outgoing, incoming) of the server's ``Connection``."""
        return self.robot_salts[::-1]


class Proofs:
    """What only a holder of the pre-shared key can say, hex of HMAC-SHA256, a key for each role."""

    def __init__(self, key: PresharedKey) -> None:
        self.key = key
        self._hello = key.derive('hello of robot')
        self._welcome = key.derive('welcome of server')
        self._confirm = key.derive('confirm of robot')

    def of_hello(self, hello: Hello) -> str:
        """The proof that belongs into ``hello``."""
        return _hmac(self._hello, without_proof(hello))

    def of_welcome(self, hello: bytes, welcome: Welcome) -> str:
        """The proof that belongs into ``welcome``, which answers ``hello``."""
        return _hmac(self._welcome, transcript(hello, without_proof(welcome)))

    def of_confirm(self, hello: bytes, welcome: bytes) -> str:
        """The proof of the robot, to both messages as they travelled."""
        return _hmac(self._confirm, transcript(hello, welcome))


def equal(expected: str, got: str) -> bool:
    """Whether a proof is right, in constant time."""
    return hmac.compare_digest(expected.encode(), got.encode())


def transcript(hello: bytes, welcome: bytes) -> bytes:
    """SHA-256 (32 bytes) of both messages, their border included."""
    return hashlib.sha256(len(hello).to_bytes(8, 'little') + hello + welcome).digest()


def public_of(share: X25519PrivateKey | None) -> str:
    """The public key in hex; empty for None."""
    if share is None:
        return ''
    return share.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw).hex()


def establish(
    proofs: Proofs | None,
    share: X25519PrivateKey | None,
    hello: bytes,
    welcome: bytes,
    peer: Hello | Welcome,
) -> Established:
    """The session that ``hello`` and ``welcome`` began, for the receiver of ``peer``.

    ``share``: own private key, which must not be used again. ``HandshakeError`` for a public key of
    the peer with which there is no secret.
    """
    salt = transcript(hello, welcome)
    up = down = None
    if proofs is not None and share is not None:
        agreed = _agree(share, peer.ephemeral) + proofs.key.secret
        up, down = (
            Seal(HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=salt, info=info).derive(agreed))
            for info in (b'offload_ros session up', b'offload_ros session down')
        )
    of_server = isinstance(peer, Welcome)
    return Established(
        peer=peer.server if of_server else peer.robot,
        peer_session=peer.server_session if of_server else peer.robot_session,
        runtime=peer.runtime,
        host=peer.host,
        seal_up=up,
        seal_down=down,
        salt=int.from_bytes(salt[:4], 'little'),
        models=_frozen(peer.models) if isinstance(peer, Welcome) else {},
        heartbeat=peer.heartbeat if isinstance(peer, Welcome) else 0,
    )


def _frozen(models: Mapping[str, tuple[str, ...]]) -> dict[str, frozenset[str]]:
    return {name: frozenset(hashes) for name, hashes in models.items()}


def _agree(share: X25519PrivateKey, ephemeral: str) -> bytes:
    try:
        return share.exchange(X25519PublicKey.from_public_bytes(bytes.fromhex(ephemeral)))
    except ValueError:  # a point of low order: everyone would know the secret
        raise HandshakeError('an ephemeral key that gives no secret') from None


def _hmac(key: bytes, message: bytes) -> str:
    return hmac.new(key, message, hashlib.sha256).hexdigest()
