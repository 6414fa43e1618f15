"""SCONet as a model of ``models.yaml``: the voxels that a lidar has seen to the completed scene.

source:
  python: offload_ros.models.sconet:sconet
  arguments: {grid: [128, 16, 128], classes: 4, attention: false, weights: ./sconet.safetensors}
inputs: [{name: voxels, topic: agrnav/voxels, type: sensor_msgs/msg/Image, encoding: mono8}]
outputs: [labels]

The input is an image of bits, one for each voxel: a row for each step along the width, in it height
and depth in C order, eight voxels a byte, the first in the highest bit (``navigation.packed``).
"""

from __future__ import annotations

from collections.abc import Sequence
import math

from safetensors import SafetensorError
from safetensors.torch import load_file
import torch
from torch import Tensor, nn

from offload_ros.models.errors import InputError, ModelError
from offload_ros.models.sconet_network import CLASSES, Grid, ScoNetwork

NONE = 'none'
UNUSED = 'Attention_block'  # made for one size of map, and not used without attention
NOT_OBSTACLES = 2  # empty and floor, where a threshold is given


class Sconet(nn.Module):
    """(W, H * D / 8) uint8 bits to ``labels`` (W, H, D) uint8, 0 for empty.

    Labels are the most probable classes; with ``threshold``, whether a voxel is an obstacle (any
    class but the first two) is decided by the probability of these together.
    """

    shifts: Tensor

    def __init__(
        self, network: ScoNetwork, trained: bool, threshold: float | None = None, remark: str = ''
    ) -> None:
        super().__init__()
        self.network = network
        self.weights_trained, self.remark = trained, remark
        self.threshold = threshold
        grid = network.grid
        self.model_identity = {
            'grid': [grid.width, grid.height, grid.depth],
            'attention': network.attention,
            'threshold': threshold,
        }
        self.register_buffer('shifts', torch.arange(7, -1, -1, dtype=torch.uint8), persistent=False)
        self.eval()

    def forward(self, voxels: Tensor) -> dict[str, Tensor]:
        grid = self.network.grid
        shape = (grid.width, grid.height * grid.depth // 8)
        if tuple(voxels.shape) != shape or voxels.dtype != torch.uint8:
            raise InputError(
                f'sconet takes {shape} bytes, a bit for each of {grid.width} x {grid.height} x '
                f'{grid.depth} voxels, not {voxels.dtype} {tuple(voxels.shape)}'
            )
        bits = (voxels[:, :, None] >> self.shifts) & 1
        seen = bits.reshape(1, grid.width, grid.height, grid.depth).to(torch.float32)
        return {'labels': self._labels(self.network(seen))}

    def _labels(self, logits: Tensor) -> Tensor:
        if self.threshold is None:
            return logits.argmax(1)[0].to(torch.uint8)
        free, solid = logits[:, :NOT_OBSTACLES], logits[:, NOT_OBSTACLES:]
        probability = logits.softmax(1)[:, NOT_OBSTACLES:].sum(1)
        labels = torch.where(
            probability > self.threshold, solid.argmax(1) + NOT_OBSTACLES, free.argmax(1)
        )
        return labels[0].to(torch.uint8)


def sconet(
    grid: Sequence[int] = (256, 32, 256),
    attention: bool = True,
    classes: int = CLASSES,
    weights: str = NONE,
    threshold: float | None = None,
) -> Sconet:
    """The factory for ``source.python`` in ``models.yaml``.

    ``grid``: voxels along width, height and depth, multiples of 8. ``attention``: as AGRNav runs
    it; otherwise as Intra-DP does. ``weights``: a safetensors file, names as published; 'none':
    random, and results say that they are not trained. ``ModelError`` for what does not fit.
    """
    if not isinstance(grid, (list, tuple)) or len(grid) != 3:
        raise ModelError(f'sconet: grid is [width, height, depth] in voxels, not {grid!r}')
    if not all(isinstance(each, int) and not isinstance(each, bool) for each in grid):
        raise ModelError(f'sconet: grid has whole numbers of voxels, not {grid!r}')
    if isinstance(classes, bool) or not isinstance(classes, int) or not 2 <= classes <= 255:
        raise ModelError(f'sconet: classes is from 2 to 255, not {classes!r}')
    if threshold is not None:
        number = isinstance(threshold, (int, float)) and not isinstance(threshold, bool)
        if not number or not math.isfinite(threshold) or not 0 < threshold < 1:
            raise ModelError(f'sconet: threshold is a number between 0 and 1, not {threshold!r}')
        if classes <= NOT_OBSTACLES:
            raise ModelError('sconet: with a threshold there are at least 3 classes')
    try:
        network = ScoNetwork(Grid(*grid), bool(attention), classes)
    except ValueError as error:
        raise ModelError(f'sconet: {error}') from None
    if weights == NONE:
        remark = 'SCONet has no weights here: random ones, results mean nothing'
        return Sconet(network, False, threshold, remark)
    load_weights(network, weights)
    return Sconet(network, True, threshold)


def load_weights(network: ScoNetwork, path: str) -> None:
    """Fill a network from a safetensors file; ``ModelError`` where the weights are another's.

    Without attention its weights are not needed: the file may be of another size of grid.
    """
    try:
        found = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ModelError(f'{path}: cannot be read as safetensors: {error}') from None

    def needed(name: str) -> bool:
        return network.attention or not name.startswith(UNUSED)

    found = {name: each for name, each in found.items() if needed(name)}
    wanted = {name: each for name, each in network.state_dict().items() if needed(name)}
    for name, each in wanted.items():
        if name not in found:
            raise ModelError(f'{path}: not the weights of this SCONet: {name} is missing')
        if found[name].shape != each.shape:
            raise ModelError(
                f'{path}: {name} is {tuple(found[name].shape)}, this SCONet has '
                f'{tuple(each.shape)}: mend grid, classes or attention in models.yaml'
            )
        if not bool(torch.isfinite(found[name].float()).all()):
            raise ModelError(f'{path}: {name} has values that are not finite')
    more = sorted(set(found) - set(wanted))
    if more:
        raise ModelError(f'{path}: not the weights of this SCONet: {more[0]} is not in it')
    network.load_state_dict(found, strict=False)
