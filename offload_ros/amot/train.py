"""Train the networks of A-MOT, on a CPU or a GPU; each command goes on where it was stopped.

    python -m offload_ros.amot.train classifier FOLDER --data DATA --keep 0.4 0.6
    python -m offload_ros.amot.train mae FOLDER --data DATA
    python -m offload_ros.amot.train classifier FOLDER --data DATA --start classifier --rebuilt 0.4
    python -m offload_ros.amot.train decoder FOLDER --data DATA
    python -m offload_ros.amot.train ship FOLDER --to config/networks/scene

doc/amot.md tells how the shipped networks were made.
DATA comes from ``offload_ros.amot.images``, or is any folder of pictures by class (``dataset``).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
import json
from pathlib import Path
import shutil
import sys
from typing import Any

import torch
from transformers import ViTForImageClassification, ViTMAEForPreTraining
from transformers.utils.logging import disable_progress_bar

from offload_ros.amot.batches import Batches
from offload_ros.amot.bundle import (
    BundleError,
    load,
    load_second_pass,
    normalise_of,
    pretrained,
    save_second_pass,
    settings_of,
)
from offload_ros.amot.dataset import load_split
from offload_ros.amot.evaluate_whole import accuracy
from offload_ros.amot.losses import (
    PartsHead,
    classifier_loss,
    mae_loss,
    second_loss,
    spoiled,
)
from offload_ros.amot.networks import SecondPass, VitSize, vit_classifier, vit_mae
from offload_ros.training.loop import Plan, autocast, finished, quick_attention, train

IMAGE_PX, PATCH_PX = 128, 16
CLASSIFIER = VitSize(192, 6, 3)
MAE = VitSize(192, 6, 3)
MAE_DECODER = VitSize(128, 4, 4)
MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
SHIPPED = ('classifier', 'classifier_dropped')  # others are steps on the way
EPOCHS = {'mae': 16.0, 'classifier': 12.0, 'decoder': 4.0}
RATES = {'mae': 1.0e-3, 'classifier': 1.0e-3, 'decoder': 5.0e-4}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    lines = (__doc__ or '').split('\n\n')
    main = argparse.ArgumentParser(
        description=lines[0], epilog=lines[1], formatter_class=argparse.RawTextHelpFormatter
    )
    which = main.add_subparsers(dest='which', required=True)
    for name in ('mae', 'classifier', 'decoder'):
        one = which.add_parser(name)
        one.add_argument('folder', type=Path, help='where networks are written')
        one.add_argument('--data', type=Path, required=True)
        one.add_argument('--epochs', type=float, default=EPOCHS[name])
        one.add_argument('--batch', type=int, default=256)
        one.add_argument('--rate', type=float, default=RATES[name], help='learning rate')
        one.add_argument('--seed', type=int, default=0)
        one.add_argument('--threads', type=int, help='of the CPU')
        one.add_argument('--device', default='cpu')
        one.add_argument('--name', help='folder of the network within FOLDER')
        share: dict[str, Any] = {'type': float, 'nargs': 2, 'metavar': ('LEAST', 'MOST')}
        if name == 'classifier':
            one.add_argument('--start', help='network of FOLDER to begin with')
            one.add_argument('--keep', default=(1.0, 1.0), help='share of patches given', **share)
            one.add_argument(
                '--rebuilt', type=float, default=0.0, help='share of images rebuilt by mae/'
            )
        else:
            one.add_argument('--shares', default=(0.15, 0.6), help='of patches seen first', **share)
        if name == 'mae':
            one.add_argument('--start', help='network of FOLDER to begin with')
        if name == 'decoder':
            one.add_argument('--more', default=(0.03, 0.3), help='of patches seen later', **share)
            one.add_argument('--layers', type=int, default=3)
            one.add_argument('--no-linear', action='store_true')
            one.add_argument('--only-new', action='store_true')
    ship = which.add_parser('ship', help='copy networks with 16-bit weights')
    ship.add_argument('folder', type=Path)
    ship.add_argument('--to', type=Path, required=True)
    return main


def run(arguments: argparse.Namespace) -> None:
    """One training."""
    torch.manual_seed(arguments.seed)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    folder: Path = arguments.folder
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / 'amot.json').exists():
        (folder / 'amot.json').write_text(json.dumps({'mean': MEAN, 'std': STD}) + '\n')
    split, labels = load_split(arguments.data, 'train', IMAGE_PX)
    batches = Batches(split, arguments.batch, PATCH_PX, arguments.seed)
    steps = max(1, round(arguments.epochs * batches.per_epoch))
    plan = Plan(steps, arguments.rate, seed=arguments.seed)
    name = arguments.name or {'decoder': 'second_pass'}.get(arguments.which, arguments.which)
    normalise = normalise_of(settings_of(folder), PATCH_PX)
    normalise.to(arguments.device)
    make = {'mae': _mae, 'classifier': _classifier, 'decoder': _decoder}[arguments.which]
    modules, loss_of, save = make(arguments, folder, labels)
    for module in modules.values():
        module.to(arguments.device)
        if arguments.device == 'cpu':
            quick_attention(module)

    def step_loss(step: int, generator: torch.Generator) -> Any:
        batch = batches.at(step).to(arguments.device)
        with autocast(arguments.device):
            return loss_of(normalise(batch.patches), batch, generator)

    train(name, plan, modules, step_loss, folder)
    save(folder / name)
    finished(name, folder)
    if arguments.which == 'classifier':
        held, _ = load_split(arguments.data, 'calibration', IMAGE_PX)
        print(f'{name}: whole images of the calibration split: {accuracy(folder, name, held)}')


Made = tuple[dict[str, torch.nn.Module], Callable[..., Any], Callable[[Path], None]]


def _mae(arguments: argparse.Namespace, folder: Path, labels: tuple[str, ...]) -> Made:
    mae = (
        pretrained(ViTMAEForPreTraining, folder, {}, arguments.start)
        if arguments.start
        else vit_mae(MAE, MAE_DECODER, IMAGE_PX, PATCH_PX)
    )

    def loss_of(images: torch.Tensor, batch: Any, generator: torch.Generator) -> Any:
        return mae_loss(mae, images, generator, arguments.shares)

    return {'mae': mae}, loss_of, mae.save_pretrained


def _classifier(arguments: argparse.Namespace, folder: Path, labels: tuple[str, ...]) -> Made:
    classifier = (
        pretrained(ViTForImageClassification, folder, {}, arguments.start)
        if arguments.start
        else vit_classifier(CLASSIFIER, IMAGE_PX, PATCH_PX, labels)
    )
    head = PartsHead(classifier.config.hidden_size, len(labels))
    mae = None
    if arguments.rebuilt:
        mae = pretrained(ViTMAEForPreTraining, folder, {}, 'mae').to(arguments.device)
        mae.eval().requires_grad_(False)
        if arguments.device == 'cpu':
            quick_attention(mae)

    def loss_of(images: torch.Tensor, batch: Any, generator: torch.Generator) -> Any:
        images = spoiled(images, mae, arguments.rebuilt, (0.15, 0.5), generator)
        return classifier_loss(classifier, head, images, batch, generator, arguments.keep)

    return {'classifier': classifier, 'parts': head}, loss_of, classifier.save_pretrained


def _decoder(arguments: argparse.Namespace, folder: Path, labels: tuple[str, ...]) -> Made:
    bundle = load(folder, second_pass='').to(arguments.device)
    if bundle.labels != labels:
        raise BundleError(f'{folder}/classifier names other classes than {arguments.data}')
    second = SecondPass(
        bundle.classifier.config, arguments.layers, not arguments.no_linear, arguments.only_new
    )
    second.begin_from(bundle.classifier)
    bundle.second = second
    if arguments.device == 'cpu':
        quick_attention(bundle.mae, bundle.classifier)

    def loss_of(images: torch.Tensor, batch: Any, generator: torch.Generator) -> Any:
        return second_loss(
            bundle, images, batch.labels, generator, arguments.shares, arguments.more
        )

    return {'second': second}, loss_of, lambda path: save_second_pass(second, path)


def ship(folder: Path, target: Path) -> None:
    """Copy networks with 16-bit weights, and what belongs to them; trainings stay behind."""
    bundle = load(folder, second_pass='')
    bundle.mae.half().save_pretrained(target / 'mae')
    for path in sorted(folder.glob('second_pass*/')):
        save_second_pass(load_second_pass(path, bundle.classifier), target / path.name, half=True)
    for name in SHIPPED:
        if (folder / name).exists():
            network = pretrained(ViTForImageClassification, folder, {}, name)
            network.half().save_pretrained(target / name)
    for name in ('amot.json', 'distributions.json'):
        if (folder / name).exists():
            shutil.copy(folder / name, target / name)
    size = sum(path.stat().st_size for path in target.rglob('*') if path.is_file())
    print(f'{target}: {size / 1e6:.1f} MB')


def main() -> None:
    arguments = parser().parse_args()
    disable_progress_bar()  # of loading files
    try:
        if arguments.which == 'ship':
            ship(arguments.folder, arguments.to)
        else:
            run(arguments)
    except (ValueError, FloatingPointError) as error:  # a BundleError is a ValueError
        sys.exit(f'train: {error}')
    except KeyboardInterrupt:
        sys.exit('train: stopped; the same command goes on from the last minute')


if __name__ == '__main__':
    main()
