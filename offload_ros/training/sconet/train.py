"""Train a small SCONet, on a CPU or a GPU; the same command goes on where it was stopped.

    python -m offload_ros.training.sconet.scenes DATA --jobs 2
    python -m offload_ros.training.sconet.train WORK --data DATA

It learns on parts of the grids, which is several times faster: the network without attentions is
convolutional, and runs on grids of any size. Writes WORK/sconet_small.safetensors.
"""

from __future__ import annotations

import argparse
from pathlib import Path
import sys

import numpy as np
import numpy.typing as npt
from safetensors.torch import save_file
import torch
from torch import Tensor, nn
from torch.nn import functional

from offload_ros.models.sconet_network import Grid, ScoNetwork
from offload_ros.navigation.voxels import unpacked
from offload_ros.training.loop import Plan, autocast, finished, train
from offload_ros.training.sconet.scenes import CLASSES, GRID, PLANES, UNKNOWN, labels_of, load
from offload_ros.training.worlds import Arrays

PART = 64  # voxels along both sides of a part of the floor
NAME = 'sconet_small'


def class_weights(planes: Arrays, scenes: int = 100) -> Tensor:
    """(CLASSES,) 1 / log(1.001 + share), by the share of each class in some scenes.

    The published weighting is 1 / log(share + 0.001), with the logarithm's sign turned.
    """
    counts = np.zeros(256, np.int64)
    for at in np.linspace(0, len(planes['seen']) - 1, scenes).astype(int):
        counts += np.bincount(
            labels_of({name: planes[name][at] for name in PLANES}).reshape(-1), minlength=256
        )
    share = counts[:CLASSES] / counts[:CLASSES].sum()
    weights = 1.0 / np.log(share + 1.001)
    return torch.tensor(np.minimum(weights, 20.0 * weights.min()), dtype=torch.float32)


class Parts:
    """Random parts of random scenes, turned and mirrored; the same ones for the same generator."""

    def __init__(self, planes: Arrays, size: int = PART) -> None:
        self.planes, self.size = planes, size

    def draw(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Seen (count, size, H, size) float32 and labels of the same shape, int64."""
        rng = np.random.default_rng(int(torch.randint(2**62, (1,), generator=generator)))
        seen, labels = [], []
        for _ in range(count):
            one, other = self._part(rng)
            seen.append(one)
            labels.append(other)
        return (
            torch.from_numpy(np.stack(seen).astype(np.float32)),
            torch.from_numpy(np.stack(labels).astype(np.int64)),
        )

    def _part(
        self, rng: np.random.Generator
    ) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
        at = int(rng.integers(len(self.planes['seen'])))
        planes = {name: self.planes[name][at] for name in PLANES}
        seen, labels = unpacked(planes['seen'], GRID.shape), labels_of(planes)
        # The robot is in the middle of the grid: parts near it have most to tell.
        spare = GRID.width - self.size
        x, y = (int(v) for v in np.clip(rng.normal(spare / 2, spare / 5, 2), 0, spare))
        cut = (slice(x, x + self.size), slice(None), slice(y, y + self.size))
        one, other = seen[cut], labels[cut]
        turns = int(rng.integers(4))
        one, other = np.rot90(one, turns, (0, 2)), np.rot90(other, turns, (0, 2))
        if rng.random() < 0.5:
            one, other = one[::-1], other[::-1]
        return np.ascontiguousarray(one), np.ascontiguousarray(other)


def network_of(size: int = PART) -> ScoNetwork:
    """The small network for a grid of this width and depth."""
    return ScoNetwork(Grid(size, GRID.height, size), attention=False, classes=CLASSES)


def run(arguments: argparse.Namespace) -> None:
    """One training."""
    torch.manual_seed(arguments.seed)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    device: str = arguments.device
    planes = load(arguments.data, 'train')
    parts, weights = Parts(planes), class_weights(planes).to(device)
    network = network_of().to(device)
    for part in network.modules():
        if isinstance(part, nn.Conv3d):
            part.weight.data = part.weight.data.contiguous(memory_format=torch.channels_last_3d)

    def loss_of(step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        seen, labels = (each.to(device) for each in parts.draw(arguments.batch, generator))
        with autocast(device):
            logits = network(seen)
        loss = functional.cross_entropy(logits.float(), labels, weights, ignore_index=UNKNOWN)
        with torch.no_grad():
            counted = (labels != UNKNOWN) & (seen == 0)
            found, there = logits.argmax(1)[counted] > 1, labels[counted] > 1
            both = (found & there).sum().item()
        return loss, {'iou_unseen': both / max(1, (found | there).sum().item())}

    plan = Plan(arguments.steps, arguments.rate, seed=arguments.seed)
    train(NAME, plan, {'network': network}, loss_of, arguments.folder)
    path = arguments.folder / f'{NAME}.safetensors'
    state = {key: each.contiguous() for key, each in network.cpu().state_dict().items()}
    save_file(state, path, {'trained': 'true', 'data': 'simulated rooms'})
    finished(NAME, arguments.folder)
    print(f'{path}: {path.stat().st_size / 1e6:.1f} MB')


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or '').splitlines()[0])
    parser.add_argument('folder', type=Path, help='where the network is written')
    parser.add_argument('--data', type=Path, required=True)
    parser.add_argument('--steps', type=int, default=4000)
    parser.add_argument('--batch', type=int, default=4)
    parser.add_argument('--rate', type=float, default=2e-3, help='learning rate')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--threads', type=int, help='of the CPU')
    parser.add_argument('--device', default='cpu')
    try:
        run(parser.parse_args())
    except (FileNotFoundError, ValueError, FloatingPointError) as error:
        sys.exit(f'train: {error}')
    except KeyboardInterrupt:
        sys.exit('train: stopped; the same command goes on from the last minute')


if __name__ == '__main__':
    main()
