"""Weights of KAPAO's networks, with the names of the published ones: which size they are, their
files."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
import math
import os
from pathlib import Path

from safetensors import SafetensorError, safe_open
import torch
from torch import Tensor

from offload_ros.models.errors import ModelError
from offload_ros.models.kapao_network import (
    ANCHORS,
    CLASSES,
    COORDINATES,
    SIZES,
    STRIDES,
    VALUES,
    KapaoNetwork,
    Size,
)

Shapes = Mapping[str, tuple[int, ...]]
HEAD = 'model.33.'
# What follows from the rest, and not every version of the published code stores.
_FOLLOWS = ('num_batches_tracked', 'anchor_grid')
_STATE = ('running_mean', 'running_var', 'anchors', *_FOLLOWS)


@lru_cache(maxsize=2 * len(SIZES))
def layout(name: str, fused: bool) -> Shapes:
    """Names and shapes of all that a size ``name`` stores, with or without batch norms."""
    with torch.device('meta'):
        network = KapaoNetwork(SIZES[name], fused)
    return {key: tuple(each.shape) for key, each in network.state_dict().items()}


def parameter_count(shapes: Shapes) -> int:
    """Trained values; not the statistics of batch norms, and not the anchors."""
    return sum(
        math.prod(shape) for name, shape in shapes.items() if name.rpartition('.')[2] not in _STATE
    )


def recognised(shapes: Shapes) -> tuple[Size, bool]:
    """The size that has these weights, and whether its batch norms are folded in.

    ``ModelError`` says what does not fit: other classes or coordinates, no count of a known size,
    or the first name or shape of that size which is not there.
    """
    _check_head(shapes)
    count = parameter_count(shapes)
    found = [
        (size, fused)
        for size in SIZES.values()
        for fused in (False, True)
        if parameter_count(layout(size.name, fused)) == count
    ]
    if not found:
        known = ', '.join(
            f'{name.upper()} {parameter_count(layout(name, False)):,} (fused '
            f'{parameter_count(layout(name, True)):,})'
            for name in SIZES
        )
        raise ModelError(f'{count:,} parameters are none of a KAPAO network: {known}')
    size, fused = found[0]
    wanted = layout(size.name, fused)
    for name, shape in wanted.items():
        if name not in shapes and not name.endswith(_FOLLOWS):
            raise ModelError(f'as many parameters as KAPAO-{size.name.upper()}, but no {name}')
        if name in shapes and tuple(shapes[name]) != shape:
            raise ModelError(
                f'{name} has shape {tuple(shapes[name])}, of KAPAO-{size.name.upper()} {shape}'
            )
    extra = [name for name in shapes if name not in wanted]
    if extra:
        raise ModelError(f'KAPAO-{size.name.upper()} has no {extra[0]}')
    return size, fused


def _check_head(shapes: Shapes) -> None:
    for level in range(len(STRIDES)):
        name = f'{HEAD}m.{level}.weight'
        shape = shapes.get(name)
        if shape is None or len(shape) != 4:
            raise ModelError(f'no KAPAO network: {name}, of its last layer, is not there')
        if shape[0] != ANCHORS * VALUES:
            raise ModelError(
                f'{name} gives {shape[0]} values to a cell: KAPAO with {CLASSES} classes (a '
                f'person, 17 keypoints) and {COORDINATES} coordinates gives {ANCHORS * VALUES}'
            )


def loaded(tensors: Mapping[str, Tensor]) -> KapaoNetwork:
    """The network of these weights, float32, in evaluation mode. ``ModelError`` as
    ``recognised``, and for values that are not finite."""
    size, fused = recognised({name: tuple(each.shape) for name, each in tensors.items()})
    check_values(tensors)
    network = KapaoNetwork(size, fused)
    state = network.state_dict()
    strides = torch.tensor(STRIDES, dtype=torch.float32).reshape(-1, 1, 1)
    grid = tensors[f'{HEAD}anchors'].float() * strides
    state[f'{HEAD}anchor_grid'] = grid.reshape(state[f'{HEAD}anchor_grid'].shape)
    state.update({name: each.to(state[name].dtype) for name, each in tensors.items()})
    network.load_state_dict(state)
    return network.eval()


def check_values(tensors: Mapping[str, Tensor]) -> None:
    """``ModelError`` unless all values are finite, variances not negative, and anchors given twice
    the same."""
    for name, each in tensors.items():
        if not bool(each.isfinite().all()):
            raise ModelError(f'{name} has values that are not finite')
        if name.endswith('running_var') and bool((each < 0).any()):
            raise ModelError(f'{name} has negative variances')
    anchors, grid = tensors[f'{HEAD}anchors'].float(), tensors.get(f'{HEAD}anchor_grid')
    strides = torch.tensor(STRIDES, dtype=torch.float32).reshape(-1, 1, 1)
    if bool((anchors <= 0).any()):
        raise ModelError(f'{HEAD}anchors has sides that are not above 0')
    # Half precision keeps three digits.
    if grid is not None and not torch.allclose(
        grid.float().reshape(anchors.shape), anchors * strides, rtol=2e-3
    ):
        raise ModelError(f'{HEAD}anchors (in cells) and {HEAD}anchor_grid (in pixels) differ')


def load_network(path: str | Path) -> tuple[KapaoNetwork, dict[str, str]]:
    """The network in a safetensors file, and the file's metadata. Shapes are checked before memory
    is taken. ``ModelError`` names the file and what is wrong with it."""
    try:
        with safe_open(str(path), framework='pt') as file:
            shapes = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
            recognised(shapes)
            return loaded({key: file.get_tensor(key) for key in shapes}), file.metadata() or {}
    except ModelError as error:
        raise ModelError(f'{path}: {error}') from None
    except (OSError, SafetensorError) as error:
        first = (str(error).splitlines() or [''])[0]
        raise ModelError(f'{path}: not a safetensors file that can be read: {first}') from None


def imported_path(size: str) -> Path:
    """Where ``import-kapao`` puts a size: ``$XDG_DATA_HOME/offload_ros/networks/kapao_<size>.\
safetensors``, by default below ``~/.local/share``."""
    base = os.environ.get('XDG_DATA_HOME') or '~/.local/share'
    return Path(base).expanduser() / 'offload_ros' / 'networks' / f'kapao_{size}.safetensors'
