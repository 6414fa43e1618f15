"""Tensors of a session as bytes, with what they share, and back in another session."""

from __future__ import annotations

from typing import Any

import torch

from offload_ros.rrto.calls import code_of, dtype_of, unpack_meta
from offload_ros.rrto.handles import HandleTable
from offload_ros.wire.errors import WireError

Fields = list[list[Any]]


def state_of(table: HandleTable, handles: list[int]) -> tuple[Fields, list[bytes]]:
    """[handle, index of its storage, dtype, shape, strides, offset, conjugated, negated] of each
    tensor that is there, and the storages' bytes."""
    places: dict[int, int] = {}
    fields: Fields = []
    storages: list[bytes] = []
    for handle in handles:
        if handle not in table:
            continue
        tensor = table[handle].detach()
        storage = tensor.untyped_storage()
        if storage._cdata not in places:
            places[storage._cdata] = len(storages)
            flat = torch.empty(0, dtype=torch.uint8, device=tensor.device)
            values: Any = flat.set_(storage).cpu().numpy()  # type: ignore[call-overload]
            storages.append(values.tobytes())
        fields.append(
            [
                handle,
                places[storage._cdata],
                code_of(tensor.dtype),
                list(tensor.shape),
                list(tensor.stride()),
                tensor.storage_offset(),
                tensor.is_conj(),
                tensor.is_neg(),
            ]
        )
    return fields, storages


def restore(
    table: HandleTable, fields: Fields, storages: list[memoryview], device: torch.device
) -> None:
    """Hold the tensors that ``state_of`` gave, in place of those with their handles. ``WireError``
    when they make no sense; ``torch.cuda.OutOfMemoryError``."""
    bases = [
        torch.frombuffer(bytearray(each), dtype=torch.uint8).to(device)
        if len(each)
        else torch.empty(0, dtype=torch.uint8, device=device)
        for each in storages
    ]
    for handle, place, code, shape, stride, offset, conjugated, negated in fields:
        meta = unpack_meta([shape, stride, offset, code])
        if type(handle) is not int or handle <= 0 or not 0 <= place < len(bases):
            raise WireError(f'a tensor {handle!r} of storage {place!r} cannot be restored')
        base, dtype = bases[place], dtype_of(code)
        whole = base[: len(base) // dtype.itemsize * dtype.itemsize].view(dtype)
        try:
            tensor = whole.as_strided(meta.shape, meta.stride, meta.offset)
        except RuntimeError as error:  # beyond the storage
            raise WireError(f'tensor {handle} cannot be restored: {error}') from None
        if conjugated:
            tensor = tensor.conj()
        table.free([handle])
        table.put(handle, torch._neg_view(tensor) if negated else tensor)
