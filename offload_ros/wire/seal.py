"""Authenticated encryption of the packets of one direction, and the numbers that came already.

AES-256-GCM (NIST SP 800-38D), always: both sides must use the same cipher, and processors with AES
instructions run it two to three times as fast as ChaCha20-Poly1305.
"""

from __future__ import annotations

import cryptography
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEY_BYTES = 32
TAG_BYTES = 16
MAX_PAYLOAD_BYTES = 2**31 - 1 - TAG_BYTES  # of one call of the library
_NONCE_BYTES = 12
_MAX_NUMBER = 2**64 - 1
_TAKES_VIEWS = int(cryptography.__version__.split('.')[0]) >= 41  # older ones want bytes


class SealError(ValueError):
    """What came was not sealed by the peer in this form; nothing of it may be used."""


class Seal:
    """One direction of one connection; the same ``key`` must never serve a second ``Seal`` that
    seals.

    A packet's number is the nonce: two payloads under one number would reveal both and allow to
    forge others. So numbers must rise, and a new connection needs a new key (``wire.handshake``).
    One key carries 2^48 bytes with a chance below 2^-40 of anybody telling it from random, so
    that it is not renewed within a connection. Calls of one ``Seal`` must not overlap in time.
    """

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise ValueError(f'a key has {KEY_BYTES} bytes, this one {len(key)}')
        self._cipher = AESGCM(key)
        self._last = -1

    def seal(self, header: bytes, number: int, payload: bytes | memoryview) -> bytes:
        """``payload`` encrypted, with a tag of 16 bytes behind it that covers ``header`` too.

        ``ValueError`` for a ``number`` that is not above the last one, or not below 2^64.
        """
        if not self._last < number <= _MAX_NUMBER:
            raise ValueError(f'packet {number} after packet {self._last}: numbers must rise')
        self._last = number  # also if sealing fails: skipping a number is harmless, reuse is not
        return self._cipher.encrypt(_nonce(number), _readable(payload), header)

    def open(self, header: bytes, number: int, sealed: bytes | memoryview) -> bytes:
        """The payload; ``SealError`` unless the peer sealed exactly this under this number and
        header."""
        if not 0 <= number <= _MAX_NUMBER:
            raise SealError(f'packet number {number} is not of 64 bits')
        if not TAG_BYTES <= len(sealed) <= MAX_PAYLOAD_BYTES + TAG_BYTES:
            raise SealError(f'a sealed packet cannot have {len(sealed)} bytes')
        try:
            return self._cipher.decrypt(_nonce(number), _readable(sealed), header)
        except InvalidTag:
            raise SealError('a packet that the peer did not seal') from None


class ReplayWindow:
    """Which packet numbers came (RFC 4303, section 3.4.3), for a receiver without other records.

    Packets may overtake each other by up to ``size`` numbers; one further behind counts as came.
    Time and memory do not depend on how far numbers jump.
    """

    def __init__(self, size: int = 4096) -> None:
        if size < 1:
            raise ValueError('a replay window holds at least 1 number')
        self._size = size
        self._highest = -1
        self._came = 0  # bit i: highest - i came

    def fresh(self, number: int) -> bool:
        """Whether ``number`` (0 or above) can be new. Nothing is marked: it is not verified yet."""
        behind = self._highest - number
        if behind < 0:
            return True
        return number >= 0 and behind < self._size and not self._came >> behind & 1

    def mark(self, number: int) -> None:
        """``number`` of a packet that verified came; no effect on one that is not ``fresh``."""
        if not self.fresh(number):
            return
        ahead = number - self._highest
        if ahead <= 0:
            self._came |= 1 << -ahead
            return
        kept = self._came << ahead if ahead < self._size else 0
        self._came = (kept | 1) & ((1 << self._size) - 1)
        self._highest = number


def _nonce(number: int) -> bytes:
    return number.to_bytes(_NONCE_BYTES, 'little')


def _readable(data: bytes | memoryview) -> bytes | memoryview:
    return data if _TAKES_VIEWS or isinstance(data, bytes) else bytes(data)
