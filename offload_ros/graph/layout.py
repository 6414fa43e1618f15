"""How a tensor lies in memory, and bringing one that came over a link to lie so."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def order_of(shape: Sequence[int], strides: Sequence[int]) -> tuple[int, ...] | None:
    """The axes by falling stride; None for row-major, and where elements share memory (an expanded
    axis): such a tensor is row-major once it is copied."""
    if tuple(strides) == _dense(shape, range(len(shape))) or _repeats(shape, strides):
        return None
    order = tuple(sorted(range(len(shape)), key=lambda axis: (-strides[axis], axis)))
    return None if order == tuple(range(len(shape))) else order


def gapped_strides(shape: Sequence[int], strides: Sequence[int]) -> tuple[int, ...] | None:
    """The strides of a view that leaves gaps or repeats elements; None where its order says all."""
    order = order_of(shape, strides) or range(len(shape))
    dense = _dense(shape, order)
    same = all(
        extent <= 1 or old == new for extent, old, new in zip(shape, strides, dense, strict=True)
    )
    return None if same or 0 in shape else tuple(strides)


def storage_elements(shape: Sequence[int], strides: Sequence[int]) -> int:
    """Elements from the first to the last of a tensor that lies so."""
    if 0 in shape:
        return 0
    return 1 + sum((extent - 1) * step for extent, step in zip(shape, strides, strict=True))


def laid_out(
    tensor: torch.Tensor, order: Sequence[int] | None, strides: Sequence[int] | None = None
) -> torch.Tensor:
    """``tensor``, copied where its axes do not lie in ``order``, or not by ``strides`` where these
    are given."""
    if strides is not None:
        return _with_strides(tensor, strides)
    if order_of(tensor.shape, tensor.stride()) == (None if order is None else tuple(order)):
        return tensor
    if order is None:
        return tensor.contiguous()
    inverse = sorted(range(len(order)), key=order.__getitem__)
    return tensor.permute(*order).contiguous().permute(*inverse)


def _with_strides(tensor: torch.Tensor, strides: Sequence[int]) -> torch.Tensor:
    if tensor.stride() == tuple(strides):
        return tensor
    single = tensor
    for axis, (extent, step) in enumerate(zip(tensor.shape, strides, strict=True)):
        if step == 0 and extent > 1:
            single = single.narrow(axis, 0, 1)
    memory = tensor.new_empty(storage_elements(tensor.shape, strides))
    memory.as_strided(single.shape, strides).copy_(single)
    return memory.as_strided(tensor.shape, strides)


def _dense(shape: Sequence[int], order: Sequence[int]) -> tuple[int, ...]:
    """Strides without gaps, the last axis of ``order`` innermost."""
    strides, step = [0] * len(shape), 1
    for axis in reversed(order):
        strides[axis] = step
        step *= max(shape[axis], 1)
    return tuple(strides)


def _repeats(shape: Sequence[int], strides: Sequence[int]) -> bool:
    return any(step == 0 and extent > 1 for extent, step in zip(shape, strides, strict=True))
