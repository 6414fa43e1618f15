"""Train the networks of a fleet, on a CPU or a GPU; the same command goes on where it was stopped.

    python -m offload_ros.training.multitask.images DATA --jobs 1
    python -m offload_ros.training.multitask.train WORK --data DATA
    python -m offload_ros.training.multitask.train WORK --data DATA --only multi_large

Writes WORK/<name>.safetensors for each of ``NETWORKS``, batch norms folded in; those that are there
already are not trained again.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
import sys

from safetensors.torch import save_file
import torch
from torch import Tensor, nn

from offload_ros.models.multitask_network import SIZES, TASKS, MultitaskNetwork
from offload_ros.training.loop import Plan, autocast, finished, train
from offload_ros.training.multitask.batches import Batches
from offload_ros.training.multitask.images import load
from offload_ros.training.multitask.loss import class_weights, multitask_loss
from offload_ros.training.worlds import Arrays


@dataclass(frozen=True)
class Named:
    """A network that is trained: its size, its tasks, and for how many epochs."""

    size: str
    tasks: tuple[str, ...]
    epochs: float


NETWORKS = {
    'multi_small': Named('small', TASKS, 9.0),
    'multi_large': Named('large', TASKS, 7.0),
    **{f'single_{task}': Named('small', (task,), 9.0) for task in TASKS},
}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = argparse.ArgumentParser(description=(__doc__ or '').splitlines()[0])
    found.add_argument('folder', type=Path, help='where the networks are written')
    found.add_argument('--data', type=Path, required=True)
    found.add_argument('--only', choices=list(NETWORKS), help='default: all, one after another')
    found.add_argument('--epochs', type=float, help='default: those of each network')
    found.add_argument('--batch', type=int, default=24)
    found.add_argument('--rate', type=float, default=2.5e-3, help='learning rate')
    found.add_argument('--seed', type=int, default=0)
    found.add_argument('--threads', type=int, help='of the CPU')
    found.add_argument('--device', default='cpu')
    return found


def run(arguments: argparse.Namespace) -> None:
    """All trainings that are asked for."""
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    arrays = load(arguments.data, 'train')
    for name in [arguments.only] if arguments.only else NETWORKS:
        if (arguments.folder / f'{name}.safetensors').exists():
            print(f'{name}: there already')
        else:
            _train(name, arrays, arguments)


def _train(name: str, arrays: Arrays, arguments: argparse.Namespace) -> None:
    its, device = NETWORKS[name], arguments.device
    torch.manual_seed(arguments.seed)
    batches = Batches(arrays, arguments.batch, arguments.seed)
    weights = class_weights(arrays).to(device)
    network = MultitaskNetwork(SIZES[its.size], its.tasks).to(device)
    for part in network.modules():
        if isinstance(part, nn.Conv2d):
            part.weight.data = part.weight.data.contiguous(memory_format=torch.channels_last)
    steps = max(1, round((arguments.epochs or its.epochs) * batches.per_epoch))
    plan = Plan(steps, arguments.rate, clip=10.0, seed=arguments.seed)

    def loss_of(step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        images, truth = batches.at(step)
        images = images.to(device, memory_format=torch.channels_last)
        with autocast(device):
            raw = network(images)
        return multitask_loss(network, raw, truth.to(device), weights)

    train(name, plan, {'network': network}, loss_of, arguments.folder)
    path = save(network, arguments.folder / f'{name}.safetensors')
    finished(name, arguments.folder)
    print(f'{path}: {path.stat().st_size / 1e6:.1f} MB')


def save(network: MultitaskNetwork, path: Path) -> Path:
    """Write the network with its batch norms folded in."""
    fused = network.cpu().fuse()
    state = {key: each.contiguous() for key, each in fused.state_dict().items()}
    part = path.with_suffix('.part')
    save_file(state, part, {'trained': 'true', 'data': 'simulated rooms'})
    part.replace(path)
    return path


def main() -> None:
    arguments = parser().parse_args()
    try:
        run(arguments)
    except (ValueError, FloatingPointError) as error:
        sys.exit(f'train: {error}')
    except KeyboardInterrupt:
        sys.exit('train: stopped; the same command goes on from the last minute')


if __name__ == '__main__':
    main()
