"""What is known of a tensor without its values."""

from __future__ import annotations

from typing import NamedTuple

import torch


class TensorMeta(NamedTuple):
    """Shape, strides and storage offset (all in elements) and dtype of a strided tensor.

    Equal metadata is one object where it comes from :func:`meta_of` or :func:`interned`, so that
    comparing it is mostly comparing identities.
    """

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int
    dtype: torch.dtype


_interned: dict[TensorMeta, TensorMeta] = {}


def interned(meta: TensorMeta) -> TensorMeta:
    """The one object that stands for all metadata equal to ``meta``."""
    return _interned.setdefault(meta, meta)


def meta_of(tensor: torch.Tensor) -> TensorMeta:
    """Metadata of a strided ``tensor`` on any device; ``NotImplementedError`` for another
    layout."""
    if tensor.layout is not torch.strided:
        raise NotImplementedError(
            f'only strided tensors can be offloaded, this one has the layout {tensor.layout}: '
            'convert it with to_dense() first'
        )
    meta = TensorMeta(
        tuple(tensor.shape), tuple(tensor.stride()), int(tensor.storage_offset()), tensor.dtype
    )
    return _interned.setdefault(meta, meta)
