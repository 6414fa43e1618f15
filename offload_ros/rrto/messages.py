"""What program and server say to each other, as bytes: a list of commands and their payloads.

One message is one transfer of the channel::

    b'RR' version(u8) 0 | commands(u32) payloads(u32) | length(u64) of each payload
    | msgpack of the commands | each payload, padded to 64 bytes

A command is a msgpack array that begins with its code; the payloads that belong to it follow in the
order of the commands. Nothing in it is executable: operators are named, and looked up in a list.
"""

from __future__ import annotations

from collections.abc import Sequence
import enum
import struct
from typing import Any, NamedTuple

import msgpack

from offload_ros.rrto.calls import unpack
from offload_ros.wire.errors import WireError

VERSION = 1
MAX_COMMANDS_BYTES = 16 << 20
MAX_PAYLOADS = 1 << 16
ALIGNMENT = 64
_HEAD = struct.Struct('<2sBxII')
_PACK = msgpack.Packer(autoreset=True)


class Code(enum.IntEnum):
    """Commands of the program, with their fields.

    Handles are ``operator number << 16 | output``. ``reply``: number of the answer that is awaited,
    0: none.
    """

    DEFINE = 1  # call, operator's name, template: from now on this call is known by its number
    CALL = 2  # reply, operator number, call, [handles]; + its payloads
    READ = 3  # reply, handle
    FREE = 4  # [handles]
    SYNCHRONIZE = 5  # reply
    INSTALL = 6  # unit, [[call, reads, [references]]], [[step, output] that are kept], slots
    KEEP = 7  # unit, [[step, output]]
    # thread, frame, unit, steps to run up to, sure, [carried handles], new payloads; + those. Again
    # for a frame that runs: more steps, more payloads, or now sure which unit it is.
    RUN = 8
    ABORT = 9  # frame, steps that stand, [handles that live]
    FORGET = 10  # unit
    SEED = 11  # generator, seed
    GET_RANDOM_STATE = 12  # reply, generator
    SET_RANDOM_STATE = 13  # generator; + payload
    MEMORY = 14  # reply
    UNDEFINE = 15  # [calls]: they are not used again, but by the units that have them
    STATE = 16  # reply, [handles]
    RESTORE = 17  # tensors, generators, storages: what STATE was answered with; + their payloads


class Answer(enum.IntEnum):
    """Commands of the server, with their fields."""

    DONE = 1  # reply, result as ``results.pack_result`` gives it
    TENSOR = 2  # reply, meta; + payload
    FAILED = 3  # reply, class of the error, text
    VALUE = 4  # reply, value
    READ = 5  # frame, step, meta; + payload: unasked, of a unit
    READ_VALUE = 6  # frame, step, value
    BROKE = 7  # frame, step, class of the error, text: instead of what the step reads
    ENDED = 8  # why: the session is over
    # reply, tensors and generators as ``state`` has them, number of storages; + storages, states
    STATE = 9


class Message(NamedTuple):
    """``payloads``: views of the bytes received."""

    commands: list[list[Any]]
    payloads: list[memoryview]


def encode(
    commands: Sequence[Sequence[Any]], payloads: Sequence[bytes | memoryview]
) -> list[bytes | memoryview]:
    """Buffers to send one after the other."""
    body = _PACK.pack(commands)
    lengths = [len(payload) for payload in payloads]
    head = _HEAD.pack(b'RR', VERSION, len(body), len(lengths)) + struct.pack(
        f'<{len(lengths)}Q', *lengths
    )
    buffers: list[bytes | memoryview] = [head + body + _padding(len(head) + len(body))]
    if not payloads:
        buffers[0] = head + body
    for payload in payloads:
        buffers.append(payload)
        padding = _padding(len(payload))
        if padding:
            buffers.append(padding)
    return buffers


def decode(data: memoryview) -> Message:
    """``WireError`` when it is no message; takes no memory before the lengths are checked."""
    if len(data) < _HEAD.size:
        raise WireError(f'a message of {len(data)} bytes')
    magic, version, size, count = _HEAD.unpack_from(data)
    if magic != b'RR' or version != VERSION:
        raise WireError(f'a message {magic!r} of version {version}, {VERSION} is understood')
    if size > MAX_COMMANDS_BYTES or count > MAX_PAYLOADS:
        raise WireError(f'a message of {size} bytes of commands and {count} payloads')
    at = _HEAD.size + 8 * count
    if at + size > len(data):
        raise WireError(f'a message of {len(data)} bytes ends in its commands')
    lengths = struct.unpack_from(f'<{count}Q', data, _HEAD.size)
    commands = unpack(data[at : at + size])
    if not isinstance(commands, list) or not all(
        isinstance(each, list) and each and isinstance(each[0], int) for each in commands
    ):
        raise WireError('commands are lists that begin with a code')
    at += size
    payloads = []
    for length in lengths:
        at += -at % ALIGNMENT
        if at + length > len(data):
            raise WireError(f'a message of {len(data)} bytes ends in a payload')
        payloads.append(data[at : at + length])
        at += length
    return Message(commands, payloads)


def _padding(length: int) -> bytes:
    return bytes(-length % ALIGNMENT)
