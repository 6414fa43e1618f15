"""Train a small KAPAO, on a CPU or a GPU; the same command goes on where it was stopped.

    python -m offload_ros.training.kapao.people_images DATA --jobs 2
    python -m offload_ros.training.kapao.train WORK --data DATA

Writes WORK/kapao_t.safetensors, batch norms folded in, and prints what it finds in the split
``calibration``.
"""

from __future__ import annotations

import argparse
from pathlib import Path
import sys

from safetensors.torch import save_file
import torch
from torch import nn

from offload_ros.models.errors import ModelError
from offload_ros.models.kapao_network import SIZES, KapaoNetwork
from offload_ros.models.kapao_weights import load_network
from offload_ros.training.kapao.batches import Batches
from offload_ros.training.kapao.loss import Gains, kapao_loss
from offload_ros.training.kapao.people import load
from offload_ros.training.loop import Plan, autocast, finished, train

# Published gains find people first. A training as short as this one then tells left from right only
# if it is worth more: from this share of the steps on, keypoints count four times as much.
PLACES_FROM, PLACES = 0.45, Gains(keypoints=0.1)
PLACES_AGAIN = Gains(keypoints=0.3)  # in a second training


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = argparse.ArgumentParser(description=(__doc__ or '').splitlines()[0])
    found.add_argument('folder', type=Path, help='where the network is written')
    found.add_argument('--data', type=Path, required=True)
    found.add_argument('--size', default='t', choices=sorted(SIZES))
    found.add_argument('--epochs', type=float, default=15.0)
    found.add_argument('--batch', type=int, default=32)
    found.add_argument('--rate', type=float, default=2e-3, help='learning rate')
    found.add_argument('--start', type=Path, help='weights to go on from, in a second training')
    found.add_argument('--name', help='of the file (default: kapao_<size>)')
    found.add_argument('--seed', type=int, default=0)
    found.add_argument('--threads', type=int, help='of the CPU')
    found.add_argument('--device', default='cpu')
    return found


def run(arguments: argparse.Namespace) -> None:
    """One training."""
    torch.manual_seed(arguments.seed)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    device: str = arguments.device
    batches = Batches(load(arguments.data, 'train'), arguments.batch, arguments.seed)
    network = _begun(arguments).to(device)
    for part in network.modules():
        if isinstance(part, nn.Conv2d):
            part.weight.data = part.weight.data.contiguous(memory_format=torch.channels_last)
    steps = max(1, round(arguments.epochs * batches.per_epoch))
    plan = Plan(steps, arguments.rate, clip=10.0, seed=arguments.seed)

    def loss_of(step: int, generator: torch.Generator) -> tuple[torch.Tensor, dict[str, float]]:
        images, objects = batches.at(step)
        images = images.to(device, memory_format=torch.channels_last)
        with autocast(device):
            maps = network(images)
        gains = Gains() if step < PLACES_FROM * steps else PLACES
        if arguments.start is not None:
            gains = PLACES_AGAIN
        return kapao_loss(network, maps, objects.to(device), gains)

    name = arguments.name or f'kapao_{arguments.size}'
    train(name, plan, {'network': network}, loss_of, arguments.folder)
    path = save(network, arguments.folder / f'{name}.safetensors')
    finished(name, arguments.folder)
    print(f'{path}: {path.stat().st_size / 1e6:.1f} MB')


def _begun(arguments: argparse.Namespace) -> KapaoNetwork:
    """A fresh network, or one whose batch norms are folded in already."""
    if arguments.start is None:
        return KapaoNetwork(SIZES[arguments.size])
    network, _ = load_network(arguments.start)
    if network.size.name != arguments.size:
        raise ValueError(f'{arguments.start} is of size {network.size.name}: --size says another')
    return network.fuse().requires_grad_(True)


def save(network: KapaoNetwork, path: Path) -> Path:
    """Write the network with its batch norms folded in."""
    fused = network.cpu().fuse()
    state = {key: each.contiguous() for key, each in fused.state_dict().items()}
    part = path.with_suffix('.part')
    save_file(state, part, {'trained': 'true', 'data': 'people in simulated rooms'})
    part.replace(path)
    return path


def main() -> None:
    arguments = parser().parse_args()
    try:
        run(arguments)
    except (ModelError, ValueError, FloatingPointError) as error:
        sys.exit(f'train: {error}')
    except KeyboardInterrupt:
        sys.exit('train: stopped; the same command goes on from the last minute')


if __name__ == '__main__':
    main()
