"""Packets of a connection: ``msg/Packet.msg`` in its serialised form (CDR, little-endian).

They are packed here and published as they are: neither ROS nor DDS converts them field by field,
and the same bytes travel through an in-process queue.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
import enum
import struct
from typing import NamedTuple
import zlib

from offload_ros.wire.tensors import WireError

ENCAPSULATION = b'\x00\x01\x00\x00'  # CDR of version 1, little-endian
HEADER = struct.Struct('<QQQQIIBBxxI')
OVERHEAD = len(ENCAPSULATION) + HEADER.size
MAX_RANGES = 32
_ACK = struct.Struct('<QQQ')
_RANGE = struct.Struct('<QQ')
_CHECK = struct.Struct('<I')
_CHECK_AT = 36


class Kind(enum.IntEnum):
    """Values of ``msg/Packet.msg``."""

    DATA = 1
    ACK = 2
    CANCEL = 3
    REFUSE = 4
    PING = 5


class Packet(NamedTuple):
    """One packet; fields as in ``msg/Packet.msg``."""

    number: int
    key: int = 0
    offset: int = 0
    total: int = 0
    budget_ms: int = 0
    kind: int = Kind.DATA
    priority: int = 0
    data: bytes | memoryview = b''


class Ack(NamedTuple):
    """What an ACK tells. ``ranges``: received numbers [first, last], the newest first.

    ``delivered_bytes``: of all packets so far. ``arrived_ns``: when the newest packet came;
    ``sent_ns``: when this was written; both on the clock of the receiver, for differences only.
    """

    delivered_bytes: int
    arrived_ns: int
    sent_ns: int
    ranges: Sequence[tuple[int, int]]


def header_of(packet: Packet, length: int, salt: int = 0) -> bytes:
    """The fields of ``packet`` with ``length`` bytes of data to follow.

    ``salt``: of the connection. It enters the check, so that no packet of another one passes.
    """
    number, key, offset, total, budget_ms, kind, priority, _ = packet
    header = HEADER.pack(number, key, offset, total, budget_ms, 0, kind, priority, length)
    check = _CHECK.pack(zlib.crc32(header, salt))
    return header[:_CHECK_AT] + check + header[_CHECK_AT + _CHECK.size :]


def join(header: bytes, pieces: Iterable[bytes | memoryview]) -> bytes:
    """The packet as it travels."""
    return b''.join((ENCAPSULATION, header, *pieces))


def unpack(received: bytes, salt: int = 0) -> tuple[bytes, Packet]:
    """A received packet and its header; ``WireError`` when it is none of this connection."""
    if len(received) < OVERHEAD:
        raise WireError(f'a packet of {len(received)} bytes, at least {OVERHEAD} are needed')
    if received[:2] != ENCAPSULATION[:2]:
        raise WireError(f'a packet in the encoding {received[:2].hex()}, little-endian CDR is used')
    header = received[len(ENCAPSULATION) : OVERHEAD]
    number, key, offset, total, budget_ms, check, kind, priority, length = HEADER.unpack(header)
    # CDR may pad the end to four bytes.
    if not 0 <= len(received) - OVERHEAD - length < 4:
        raise WireError(f'a packet says {length} bytes of data and has {len(received) - OVERHEAD}')
    unchecked = header[:_CHECK_AT] + bytes(_CHECK.size) + header[_CHECK_AT + _CHECK.size :]
    if zlib.crc32(unchecked, salt) != check:
        raise WireError('a damaged packet, or one of another connection')
    data = memoryview(received)[OVERHEAD : OVERHEAD + length]
    return header, Packet(number, key, offset, total, budget_ms, kind, priority, data)


def pack_ack(ack: Ack) -> bytes:
    """The data of an ACK packet."""
    parts = [_ACK.pack(ack.delivered_bytes, ack.arrived_ns, ack.sent_ns)]
    parts += [_RANGE.pack(*each) for each in ack.ranges[:MAX_RANGES]]
    return b''.join(parts)


def unpack_ack(data: bytes | memoryview) -> Ack:
    """``WireError`` unless ranges are in order, apart from each other, and at most
    ``MAX_RANGES``."""
    size, rest = divmod(len(data) - _ACK.size, _RANGE.size)
    if rest or not 1 <= size <= MAX_RANGES:
        raise WireError(f'an acknowledgement of {len(data)} bytes')
    ranges = [_RANGE.unpack_from(data, _ACK.size + i * _RANGE.size) for i in range(size)]
    limit = 1 << 64
    for first, last in ranges:
        if not first <= last < limit:
            raise WireError('an acknowledgement whose ranges are not in order')
        limit = first - 1  # a number between two ranges is missing
    delivered_bytes, arrived_ns, sent_ns = _ACK.unpack_from(data)
    return Ack(delivered_bytes, arrived_ns, sent_ns, ranges)
