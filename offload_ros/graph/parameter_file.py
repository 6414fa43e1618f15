"""The head of a safetensors file, read before anything of the file is."""

from __future__ import annotations

import json
import struct
from typing import Any

import torch

from offload_ros.graph.graph import Graph, GraphError

MAX_HEAD = 64 << 20
DTYPES_OF_FILES = {
    'F64': torch.float64, 'F32': torch.float32, 'F16': torch.float16, 'BF16': torch.bfloat16,
    'I64': torch.int64, 'I32': torch.int32, 'I16': torch.int16, 'I8': torch.int8,
    'U32': torch.uint32, 'U16': torch.uint16, 'U8': torch.uint8, 'BOOL': torch.bool,
    'C64': torch.complex64,
}  # fmt: skip


def check_head(graph: Graph, data: bytes) -> None:
    """``GraphError`` unless it lists exactly the parameters of ``graph``, with their shapes and
    dtypes, and the file holds as many bytes as they take."""
    head, rest = _head(data)
    head.pop('__metadata__', None)
    missing, unknown = graph.parameters.keys() - head.keys(), head.keys() - graph.parameters.keys()
    if missing or unknown:
        names = sorted(missing)[:5] or sorted(unknown)[:5]
        kind = 'lacks' if missing else 'has what the graph does not know:'
        raise GraphError(f'the file of parameters {kind} {", ".join(each[:100] for each in names)}')
    total = 0
    for name, spec in graph.parameters.items():
        found = head[name]
        if not isinstance(found, dict):
            raise GraphError(f'parameter {name}: its entry in the file is broken')
        order = spec.order or range(len(spec.shape))
        shape = [spec.shape[axis] for axis in order]
        if (
            DTYPES_OF_FILES.get(str(found.get('dtype'))) != spec.dtype
            or found.get('shape') != shape
        ):
            raise GraphError(
                f'parameter {name} has another shape or dtype in the file than in the graph '
                f'({spec.dtype} {shape})'
            )
        total += spec.nbytes
    if rest != total:
        raise GraphError(f'the file of parameters holds {rest} bytes, the parameters take {total}')


def _head(data: bytes) -> tuple[dict[str, Any], int]:
    """The head, and the bytes that follow it."""
    if len(data) < 8:
        raise GraphError('the file of parameters ends in its head')
    (size,) = struct.unpack('<Q', data[:8])
    if size > min(len(data) - 8, MAX_HEAD):
        raise GraphError('the file of parameters is not safetensors, or ends in its head')
    try:
        head = json.loads(data[8 : 8 + size])
    except (ValueError, RecursionError):
        head = None
    if not isinstance(head, dict):
        raise GraphError('the file of parameters is not safetensors: its head is not JSON')
    return head, len(data) - 8 - size
