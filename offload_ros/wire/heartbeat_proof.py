"""Heartbeats that only a holder of the key can make, and that count once."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
import enum
import hashlib
import hmac

from offload_ros.wire.key_file import PresharedKey

MAX_SESSIONS = 256  # of servers, remembered


class HeartbeatProof:
    """Proofs (HMAC-SHA256, RFC 2104) of heartbeats, for server and robot."""

    def __init__(self, key: PresharedKey) -> None:
        self._key = key.derive('heartbeat')

    def proof(self, fields: bytes, counter: int) -> bytes:
        """The proof (32 bytes) of a heartbeat.

        ``fields``: all that it says, in one form, with server, session and closing. ``counter``:
        rises with every heartbeat of a session, the closing one included; below 2^64.
        """
        return hmac.digest(self._key, counter.to_bytes(8, 'little') + fields, hashlib.sha256)

    def check(self, fields: bytes, counter: int, proof: bytes) -> bool:
        """Whether a holder of the key made it; when is for ``HeartbeatGuard`` to say."""
        if not 0 <= counter < 2**64:
            return False
        return hmac.compare_digest(self.proof(fields, counter), bytes(proof))


class Freshness(enum.Enum):
    """What a proven heartbeat is worth."""

    FRESH = 'fresh'  # the server of a session that was opened says this now
    UNKNOWN = 'unknown'  # may be a record of long ago: good for sending a Hello, for nothing else
    STALE = 'stale'  # came before, or is older than one that came: drop it


@dataclass
class _Session:
    highest: int  # counter
    opened: bool = False


class HeartbeatGuard:
    """Which heartbeats are news; only those whose proof is right may be shown to it.

    A record of a session proves nothing about now. Only a handshake does: it holds a number that
    the robot made up just before. Its Welcome also says how far the server had counted.
    """

    def __init__(self) -> None:
        self._sessions: OrderedDict[tuple[str, str], _Session] = OrderedDict()

    def take(self, server: str, session: str, counter: int) -> Freshness:
        """Judge a proven heartbeat, and refuse it from now on."""
        known = self._of(server, session)
        if counter <= known.highest:
            return Freshness.STALE
        known.highest = counter
        return Freshness.FRESH if known.opened else Freshness.UNKNOWN

    def open(self, server: str, session: str, counter: int) -> None:
        """A handshake with this session was completed; ``counter``: ``Established.heartbeat``.

        Other sessions of this server are closed: it was restarted.
        """
        for (other, _), each in self._sessions.items():
            each.opened = each.opened and other != server
        known = self._of(server, session)
        known.opened = True
        known.highest = max(known.highest, counter)

    def close(self, server: str, session: str) -> None:
        """The session ended: it takes a new handshake for a heartbeat of it to count again."""
        if (server, session) in self._sessions:
            self._sessions[server, session].opened = False

    def _of(self, server: str, session: str) -> _Session:
        known = self._sessions.setdefault((server, session), _Session(-1))
        self._sessions.move_to_end((server, session))
        if len(self._sessions) > MAX_SESSIONS:
            # An opened one goes last: without its counter its recorded heartbeats would be news.
            names = list(self._sessions)[:-1]
            del self._sessions[min(names, key=lambda name: self._sessions[name].opened)]
        return known
