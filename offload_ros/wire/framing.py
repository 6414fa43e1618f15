"""Requests and replies as transfers of a channel: a JSON header, then the tensors' bytes.

Layout: length of the header (u32, little-endian), the header, then each tensor's data; every part
begins at a multiple of 64 bytes, so that tensors are used where they arrived.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
import json
import math
import struct
from typing import Any, NamedTuple

import numpy as np
import torch

from offload_ros.wire.codecs import RAW
from offload_ros.wire.exchange import Kind, Reply, Request, Status
from offload_ros.wire.tensors import (
    CODE_OF_DTYPE,
    Limits,
    TensorData,
    WireError,
    checked_dtype,
    data_of,
    decode_all,
)

ALIGNMENT = 64
MAX_HEADER_BYTES = 1 << 20
MAX_TEXT = 1000
MAX_BATCH = 1 << 16
_LENGTH = struct.Struct('<I')
Buffer = bytes | memoryview


Coder = Callable[[str, torch.Tensor, memoryview, bool], tuple[int, memoryview]]
"""(name, tensor, its bytes, whether they are coded already) to (codec, bytes that travel)."""


def raw(name: str, tensor: torch.Tensor, data: memoryview, opaque: bool) -> tuple[int, memoryview]:
    """The ``Coder`` that codes nothing."""
    return RAW, data


class Framed(NamedTuple):
    """The buffers of one transfer, and how many of their bytes are the tensors', as coded."""

    buffers: list[Buffer]
    tensor_bytes: int


def frame_request(request: Request, coder: Coder = raw) -> Framed:
    """A request as one transfer; ``ValueError`` for a tensor that cannot travel."""
    head = {
        'kind': int(request.kind),
        'seq': request.seq,
        'model': request.model,
        'hash': request.model_hash,
        'budget_s': request.budget_s if math.isfinite(request.budget_s) else 0.0,
        'priority': request.priority,
    }
    return _frame(head, request.inputs, request.buffers, request.opaque, coder)


def frame_reply(reply: Reply, coder: Coder = raw) -> Framed:
    """A reply as one transfer."""
    head = {
        'seq': reply.seq,
        'status': int(reply.status),
        'detail': reply.detail[:MAX_TEXT],
        'queue_s': reply.queue_s,
        'compute_s': reply.compute_s,
        'server_s': reply.server_s,
        'batched_with': reply.batched_with,
    }
    return _frame(head, reply.outputs, {}, frozenset(), coder)


def parse_request(
    received: np.ndarray, limits: Limits, robot: str, session: str, server_session: str
) -> Request:
    """The request in (n,) uint8; ``WireError`` says what is wrong with it."""
    head, tensors, _ = _parse(received, limits)
    return Request(
        robot=robot,
        session=session,
        server_session=server_session,
        seq=_whole(head, 'seq', 1 << 48),
        model=_text(head, 'model'),
        model_hash=_text(head, 'hash'),
        budget_s=_seconds(head, 'budget_s'),
        inputs=tensors,
        priority=_whole(head, 'priority', 256),
        kind=_member(head, 'kind', Kind),
    )


def parse_reply(
    received: np.ndarray, limits: Limits, server: str, server_session: str, session: str
) -> Reply:
    """The reply in (n,) uint8; ``WireError`` says what is wrong with it."""
    head, tensors, size = _parse(received, limits)
    return Reply(
        server=server,
        server_session=server_session,
        session=session,
        seq=_whole(head, 'seq', 1 << 48),
        status=_member(head, 'status', Status),
        detail=_text(head, 'detail'),
        queue_s=_seconds(head, 'queue_s'),
        compute_s=_seconds(head, 'compute_s'),
        server_s=_seconds(head, 'server_s'),
        outputs=tensors,
        tensor_bytes=size,
        batched_with=_whole(head, 'batched_with', MAX_BATCH),
    )


def _frame(
    head: dict[str, Any],
    tensors: Mapping[str, torch.Tensor],
    buffers: Mapping[str, Any],
    opaque: frozenset[str],
    coder: Coder,
) -> Framed:
    """``buffers``: by tensor name, bytes that already hold exactly its data."""
    entries: list[list[Any]] = []
    head['tensors'] = entries
    parts: list[Buffer] = []
    for name, tensor in tensors.items():
        code = CODE_OF_DTYPE.get(tensor.dtype)
        if code is None:
            raise ValueError(
                f"tensor '{name}' has dtype {tensor.dtype}, which the wire does not carry"
            )
        data = memoryview(buffers[name]) if name in buffers else data_of(tensor)
        if len(data) != tensor.nbytes:
            raise ValueError(
                f"tensor '{name}' needs {tensor.nbytes} bytes, its buffer has {len(data)}"
            )
        codec, coded = coder(name, tensor, data, name in opaque)
        entries.append([name, code, list(tensor.shape), codec, len(coded)])
        parts += [_padding(sum(len(part) for part in parts)), coded]
    text = json.dumps(head).encode()
    start = _LENGTH.pack(len(text)) + text
    size = sum(entry[4] for entry in entries)
    return Framed([start + _padding(len(start)), *(part for part in parts if len(part))], size)


def _padding(length: int) -> bytes:
    return b'\0' * (-length % ALIGNMENT)


def _parse(
    received: np.ndarray, limits: Limits
) -> tuple[dict[str, Any], dict[str, torch.Tensor], int]:
    """The header, the tensors, and their bytes as they travelled."""
    view = received.data
    if len(view) < _LENGTH.size:
        raise WireError(f'a message of {len(view)} bytes')
    (length,) = _LENGTH.unpack_from(view)
    at = _LENGTH.size + length
    if length > MAX_HEADER_BYTES or at > len(view):
        raise WireError(f'a message of {len(view)} bytes whose header has {length}')
    try:
        head = json.loads(bytes(view[_LENGTH.size : at]))
    except (ValueError, RecursionError):
        raise WireError('a message whose header is no JSON') from None
    if not isinstance(head, dict) or not isinstance(head.get('tensors'), list):
        raise WireError('a message whose header has no list of tensors')
    if len(head['tensors']) > limits.tensors:
        raise WireError(
            f'{len(head["tensors"])} tensors in one message, at most {limits.tensors} are allowed'
        )
    parts = []
    for entry in head['tensors']:
        name, code, shape, codec, size = _entry(entry)
        at += -at % ALIGNMENT if size else 0
        if at + size > len(view):
            raise WireError(f"tensor '{name}': {size} bytes, the message has {len(view) - at} left")
        parts.append(TensorData(name, code, shape, codec, view[at : at + size]))
        at += size
    return head, decode_all(parts, limits), sum(len(part.data) for part in parts)


def _entry(entry: Any) -> tuple[str, int, list[int], int, int]:
    """[name, dtype, shape, codec, bytes] of a tensor, checked for their types."""
    if not isinstance(entry, list) or len(entry) != 5:
        raise WireError('a tensor is described by name, dtype, shape, codec and size')
    name, code, shape, codec, size = entry
    if not isinstance(name, str) or len(name) > MAX_TEXT or not isinstance(shape, list):
        raise WireError('a tensor has no name or no shape')
    if not name.isprintable():  # it may enter a log: no line breaks, no control sequences
        raise WireError(f'a tensor is named {_shown(name)}, only printable characters are allowed')
    if not all(_is_whole(each) for each in (code, codec, size, *shape)):
        raise WireError(f"tensor '{name}': dtype, codec, size and shape are whole numbers from 0")
    checked_dtype(name, code)
    return name, code, shape, codec, size


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 63


def _whole(head: Mapping[str, Any], name: str, limit: int) -> int:
    value = head.get(name)
    if not _is_whole(value) or value >= limit:  # type: ignore[operator]
        raise WireError(f'{name} is {_shown(value)}, a whole number below {limit} is wanted')
    return value  # type: ignore[return-value]


def _text(head: Mapping[str, Any], name: str) -> str:
    value = head.get(name)
    if not isinstance(value, str) or len(value) > MAX_TEXT:
        raise WireError(f'{name} is {_shown(value)}, a text is wanted')
    return ''.join(each if each.isprintable() else ' ' for each in value)  # it may enter a log


def _seconds(head: Mapping[str, Any], name: str) -> float:
    value = head.get(name)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1e9:
        raise WireError(f'{name} is {_shown(value)}, seconds are wanted')
    return float(value)


def _member(head: Mapping[str, Any], name: str, kind: Any) -> Any:
    try:
        return kind(_whole(head, name, 256))
    except ValueError:
        raise WireError(f'{name} {_shown(head.get(name))} is unknown') from None


def _shown(value: Any) -> str:
    return repr(value)[:40]
