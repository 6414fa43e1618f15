"""``ros2 run offload_ros import-kapao``: published weights of KAPAO become a safetensors file."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
import os
from pathlib import Path
import sys
from typing import Any

from safetensors.torch import save_file
import torch
from torch import Tensor

from offload_ros.models.checkpoint import (
    Checkpoint,
    CheckpointError,
    StoredTensor,
    is_module,
    open_checkpoint,
    state_of,
)
from offload_ros.models.errors import ModelError
from offload_ros.models.kapao_network import ANCHORS, CLASSES, COORDINATES, STRIDES, Size
from offload_ros.models.kapao_weights import (
    HEAD,
    check_values,
    imported_path,
    layout,
    parameter_count,
    recognised,
)


@dataclass(frozen=True)
class Imported:
    """What a checkpoint had. ``own_anchors``: it was trained with others than the published ones;
    they are kept."""

    size: Size
    fused: bool
    parameters: int
    dtype: torch.dtype
    own_anchors: bool


def read_weights(path: str | Path) -> tuple[dict[str, Tensor], Imported]:
    """The weights in a published checkpoint, with their names; nothing in it is executed.

    The averaged model (``ema``) is taken where there is one, as the published programs do.
    ``ModelError`` (``CheckpointError`` for the file itself) names the file and what is wrong: not a
    checkpoint, not KAPAO, other classes or coordinates than COCO's, not one of its sizes.
    """
    try:
        with open_checkpoint(path) as checkpoint:
            return _weights(checkpoint)
    except CheckpointError:
        raise
    except ModelError as error:
        raise ModelError(f'{path}: {error}') from None


def _weights(checkpoint: Checkpoint) -> tuple[dict[str, Tensor], Imported]:
    model = found_model(checkpoint.root)
    state = state_of(model)
    _check_classes(model)
    shapes = {name: each.shape for name, each in state.items()}
    size, fused = recognised(shapes)
    tensors = {name: _stored(checkpoint, name, each) for name, each in state.items()}
    check_values(tensors)
    published = size.anchors_px() / torch.tensor(STRIDES).reshape(-1, 1, 1)
    anchors = tensors[f'{HEAD}anchors'].float()
    own = not torch.allclose(anchors, published, rtol=2e-3)
    if f'{HEAD}anchor_grid' not in tensors:
        pixels = anchors * torch.tensor(STRIDES).reshape(-1, 1, 1)
        shape = layout(size.name, fused)[f'{HEAD}anchor_grid']
        tensors[f'{HEAD}anchor_grid'] = pixels.reshape(shape)
    dtype = tensors[f'{HEAD}m.0.weight'].dtype
    return tensors, Imported(size, fused, parameter_count(shapes), dtype, own)


def _stored(checkpoint: Checkpoint, name: str, stored: StoredTensor) -> Tensor:
    counter = name.endswith('num_batches_tracked')
    if stored.dtype.is_floating_point == counter:
        raise ModelError(f'{name} has values of type {stored.dtype}')
    tensor = checkpoint.tensor(stored)
    return tensor.float() if tensor.dtype is torch.float64 else tensor


def found_model(root: Any) -> Any:
    """Of what a training or ``torch.save`` left, the model or its state dict."""
    if is_module(root):
        return root
    if isinstance(root, dict):
        for key in ('ema', 'model', 'state_dict'):
            value = root.get(key)
            if is_module(value) or (isinstance(value, dict) and value):
                return value
        if any(isinstance(each, StoredTensor) for each in root.values()):
            return root
    raise ModelError("no model in it: neither 'ema' nor 'model' nor tensors by name")


def _check_classes(model: Any) -> None:
    """What the last layer says of itself, where it does: clearer than a count of its values."""
    if not is_module(model):
        return
    layers = model.state['_modules'].get('model')
    last = layers.state['_modules'].get(HEAD.split('.')[1]) if is_module(layers) else None
    if not is_module(last):
        return
    classes, coordinates = last.state.get('nc'), last.state.get('num_coords')
    for given, wanted, what in (
        (classes, CLASSES, 'classes'),
        (coordinates, COORDINATES, 'coordinates'),
        (last.state.get('na'), ANCHORS, 'anchors to a cell'),
        (last.state.get('nl'), len(STRIDES), 'levels'),
    ):
        if isinstance(given, int) and given != wanted:
            raise ModelError(f'it has {given} {what}, KAPAO for the keypoints of COCO has {wanted}')


def import_checkpoint(path: str | Path, output: str | Path | None = None) -> tuple[Imported, Path]:
    """Write the weights of a published checkpoint as safetensors; what it was, and where they are.

    ``output``: by default where the model looks for it, ``kapao_weights.imported_path``. A file
    there is replaced when all is written. ``ModelError`` as ``read_weights``, or when it cannot be
    written.
    """
    tensors, imported = read_weights(path)
    target = imported_path(imported.size.name) if output is None else Path(output)
    part = target.with_name(f'.{target.name}.{os.getpid()}')
    said = {'model': 'kapao', 'size': imported.size.name, 'trained': 'true'}
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            save_file(tensors, str(part), said)
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)
    except Exception as error:  # safetensors raises a kind of its own when the disk is full
        raise ModelError(f'{target} cannot be written: {error}') from None
    return imported, target


def main(argv: Sequence[str] | None = None) -> int:
    """The command ``import-kapao``; its exit status."""
    parser = argparse.ArgumentParser(
        prog='import-kapao',
        description='Reads published weights of KAPAO (kapao_s_coco.pt, m, l) without executing '
        'anything in the file, and writes them as safetensors.',
    )
    parser.add_argument('checkpoint', help='the published file')
    parser.add_argument('--output', help='default: where model kapao looks for its weights')
    options = parser.parse_args(argv)
    try:
        imported, target = import_checkpoint(options.checkpoint, options.output)
    except ModelError as error:
        print(f'import-kapao: {error}', file=sys.stderr)
        return 1
    kind = str(imported.dtype).removeprefix('torch.')
    norms = 'batch norms folded' if imported.fused else 'with batch norms'
    print(
        f'{target}: KAPAO-{imported.size.name.upper()}, {imported.parameters:,} parameters, '
        f'{kind}, {norms}'
    )
    if imported.own_anchors:
        print('its anchors are not the published ones: they are kept and used')
    return 0
