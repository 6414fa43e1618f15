"""What A-MOT costs: on the robot for each image, on the server in multiplications and in time.

    python benchmarks/amot_cost.py

Server: the configuration of the paper, ViT-L masked autoencoder and DeiT-S at 224x224, random
weights (time and shapes do not depend on them). Multiplications (GMAC) are counted from shapes and
compared with known ones. Writes ``benchmarks/results/amot_cost.json`` and puts
``second_pass_flops_ratio`` and ``robot_us_per_image`` into ``amot.json``, where that exists.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
import json
import os
from pathlib import Path
import statistics
import sys
import time
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
import torch
from torch.utils.flop_counter import FlopCounterMode

# Behind an installed offload_ros.
sys.path.append(str(Path(__file__).resolve().parents[1]))
from offload_ros.amot import inference, networks
from offload_ros.amot.bundle import Bundle, random_bundle
from offload_ros.amot.networks import embed, encode, layers_of, rebuilt, through
from offload_ros.amot.patches import count_of, cut, sample

RESULTS = Path(__file__).parent / 'results'
IMAGE_PX, PATCH_PX, LABELS = 224, 16, 1000
PATCHES = (IMAGE_PX // PATCH_PX) ** 2
PATCH_BYTES = 3 * PATCH_PX**2
FIRST, SECOND = 0.3, 0.1  # of 40 % of traffic, as in the paper
KNOWN_GMAC = {
    'encoder, all patches': 61.6,
    'encoder, 30 %': 18.0,
    'encoder, 10 %': 6.1,
    'decoder': 5.3,
    'DeiT-S': 4.60,
    'three layers of the second pass': 1.14,
}
MOST_OFF = 0.02  # of a known number
TARGET_US = 200.0


def real_bundle() -> Bundle:
    """The configuration of the paper with random weights."""
    labels = [str(index) for index in range(LABELS)]
    return random_bundle(
        networks.vit_classifier(networks.DEIT_S, IMAGE_PX, PATCH_PX, labels),
        networks.vit_mae(networks.MAE_L, networks.MAE_DECODER, IMAGE_PX, PATCH_PX),
    )


# ---- multiplications


def gmac(work: Callable[[], Any]) -> float:
    """Of what it computes: a multiplication and an addition count once."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        work()
    return float(counter.get_total_flops()) / 2e9


def counted() -> dict[str, float]:
    """GMAC of one image by part, from shapes alone."""
    with torch.device('meta'):
        bundle = shapes_only()
        patches = torch.empty(1, PATCHES, PATCH_BYTES)
        mae, vit = bundle.mae, bundle.classifier.vit

        def at(ratio: float) -> tuple[torch.Tensor, torch.Tensor]:
            count = count_of(ratio, PATCHES)
            positions = torch.empty(1, count, dtype=torch.int64)
            return torch.empty(1, count, PATCH_BYTES), positions

        def encoded(ratio: float) -> torch.Tensor:
            tokens = embed(mae.vit, *at(ratio))
            for layer in layers_of(mae.vit):
                tokens = through(layer, tokens)
            return tokens

        encoders = {
            'encoder, all patches': gmac(lambda: encoded(1.0)),
            'encoder, 30 %': gmac(lambda: encoded(0.3)),
            'encoder, 10 %': gmac(lambda: encoded(0.1)),
        }
        whole = gmac(
            lambda: bundle.classifier.classifier(encode(vit, embed(vit, patches))[0][:, 0])
        )
        new, positions = at(SECOND)
        tokens = torch.empty(1, 1 + PATCHES, vit.config.hidden_size)
        few = torch.empty(1, 1 + new.shape[1], vit.config.hidden_size)
        second = bundle.second
        assert second is not None
        return {
            **encoders,
            'decoder': gmac(lambda: rebuilt(mae, *at(FIRST))) - encoders['encoder, 30 %'],
            'DeiT-S': whole,
            'encoder of new patches': gmac(lambda: encode(vit, embed(vit, new, positions))),
            'fusion': gmac(lambda: second(tokens, few, positions)),
            'three layers of the second pass': gmac(lambda: _through(second.layers, tokens)),
        }


def shapes_only() -> Bundle:
    """The same networks without memory for their weights."""
    labels = [str(index) for index in range(LABELS)]
    classifier = networks.vit_classifier(networks.DEIT_S, IMAGE_PX, PATCH_PX, labels)
    mae = networks.vit_mae(networks.MAE_L, networks.MAE_DECODER, IMAGE_PX, PATCH_PX)
    second = networks.SecondPass(classifier.config)
    normalise = networks.Normalise(*networks.IMAGENET, PATCH_PX)
    return Bundle(mae, classifier, second, normalise)


def _through(layers: Any, tokens: torch.Tensor) -> torch.Tensor:
    for layer in layers:
        tokens = through(layer, tokens)
    return tokens


def ratio(parts: dict[str, float]) -> float:
    """Of the whole second pass to one of the classifier on a whole image (without rebuilding it,
    which would make the ratio less)."""
    return (parts['encoder of new patches'] + parts['fusion']) / parts['DeiT-S']


def check(parts: dict[str, float]) -> None:
    """``ValueError`` where a part is not what is known of it."""
    for name, wanted in KNOWN_GMAC.items():
        if abs(parts[name] / wanted - 1.0) > MOST_OFF:
            raise ValueError(f'{name}: {parts[name]:.2f} GMAC, known are {wanted}')


# ---- time


def server_ms(repeats: int) -> dict[str, float]:
    """Median times of the passes of one image, ms; ``ValueError`` where a shape is wrong."""
    torch.manual_seed(0)
    bundle = real_bundle()
    image = np.random.default_rng(0).integers(0, 256, (IMAGE_PX, IMAGE_PX, 3)).astype(np.uint8)
    at = sample(1, count_of(FIRST, PATCHES), PATCHES)
    patches = torch.from_numpy(cut(image, PATCH_PX, at))[None]
    positions = torch.from_numpy(at)[None]
    first = inference.first_pass(bundle, patches, positions)
    more = count_of(SECOND, PATCHES)
    wanted = inference.missing_by_attention(first.attention, positions, more)
    new = torch.from_numpy(cut(image, PATCH_PX, wanted[0].numpy()))[None]
    everything = torch.from_numpy(cut(image, PATCH_PX, np.arange(PATCHES)))[None]
    found = inference.second_pass(bundle, first.embeddings, new, wanted)
    shapes = {
        'embeddings': (first.embeddings, (1, 1 + PATCHES, networks.DEIT_S.width)),
        'attention': (first.attention, (1, PATCHES)),
        'first probabilities': (first.probabilities, (1, LABELS)),
        'second probabilities': (found, (1, LABELS)),
    }
    for name, (tensor, shape) in shapes.items():
        if tuple(tensor.shape) != shape or not torch.isfinite(tensor).all():
            raise ValueError(f'{name}: {tuple(tensor.shape)}, wanted are finite {shape}')
    if set(wanted[0].tolist()) & set(at.tolist()):
        raise ValueError('patches are asked for that have come')
    return {
        'first pass': timed(lambda: inference.first_pass(bundle, patches, positions), repeats),
        'DeiT-S on a whole image': timed(lambda: inference.whole(bundle, everything), repeats),
        'second pass': timed(
            lambda: inference.second_pass(bundle, first.embeddings, new, wanted), repeats
        ),
    }


def timed(work: Callable[[], Any], repeats: int) -> float:
    """Median, ms."""
    work()
    found = []
    for _ in range(repeats):
        began_s = time.perf_counter()
        work()
        found.append(time.perf_counter() - began_s)
    return round(1e3 * statistics.median(found), 3)


def robot_us(images: int = 2000) -> dict[str, float]:
    """What the robot computes for an image of 224x224: quantiles of the first round, median of the
    second, microseconds; each image another one, another seed."""
    rng = np.random.default_rng(0)
    stock = rng.integers(0, 256, (64, IMAGE_PX, IMAGE_PX, 3)).astype(np.uint8)
    count, more = count_of(FIRST, PATCHES), count_of(SECOND, PATCHES)
    asked = rng.permutation(PATCHES)[:more].astype(np.int64)
    first, second = [], []
    for index in range(images):
        image = stock[index % len(stock)]
        began = time.perf_counter_ns()
        cut(image, PATCH_PX, sample(index, count, PATCHES))
        between = time.perf_counter_ns()
        cut(image, PATCH_PX, asked)
        second.append((time.perf_counter_ns() - between) / 1e3)
        first.append((between - began) / 1e3)
    low, middle, high = np.quantile(first, (0.05, 0.5, 0.95))
    return {
        'p05': round(float(low), 1),
        'median': round(float(middle), 1),
        'p95': round(float(high), 1),
        'second_round': round(statistics.median(second), 1),
    }


# ---- results


def show(found: dict[str, Any]) -> None:
    """All that was measured."""
    console = Console()
    table = Table(title='GMAC of one image')
    for heading in ('part', 'counted', 'known'):
        table.add_column(heading, justify='left' if heading == 'part' else 'right')
    for name, value in found['gmac'].items():
        known = KNOWN_GMAC.get(name)
        table.add_row(name, f'{value:.2f}', '' if known is None else f'{known:g}')
    console.print(table)
    console.print(f'second pass / whole image: {found["second_pass_flops_ratio"]:.3f} (below 0.5)')
    for name, value in found['server_ms'].items():
        console.print(f'{name}: {value:.1f} ms on {found["threads"]} threads')
    robot = found['robot_us']
    console.print(
        f'robot: {robot["median"]:.0f} us an image (5 to 95 %: {robot["p05"]:.0f} to '
        f'{robot["p95"]:.0f}), {robot["second_round"]:.0f} for the second round; target '
        f'{TARGET_US:.0f}'
    )


def merge(found: dict[str, Any], path: Path) -> None:
    """Put the costs into ``amot.json``."""
    if path.exists():
        content = json.loads(path.read_text())
        content['second_pass_flops_ratio'] = found['second_pass_flops_ratio']
        content['robot_us_per_image'] = found['robot_us']['median']
        content['costs'] = found
        path.write_text(json.dumps(content, indent=1) + '\n')


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or '').splitlines()[0])
    parser.add_argument('--json', type=Path, default=RESULTS / 'amot_cost.json')
    parser.add_argument('--into', type=Path, default=RESULTS / 'amot.json')
    parser.add_argument('--repeats', type=int, default=10, help='of each pass on the server')
    parser.add_argument('--no-times', action='store_true', help='count and measure the robot only')
    arguments = parser.parse_args()
    parts = {name: round(value, 3) for name, value in counted().items()}
    check(parts)
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})  # one core, as a robot that has little else to do
    robot = robot_us()
    os.sched_setaffinity(0, cores)
    found = {
        'gmac': parts,
        'second_pass_flops_ratio': round(ratio(parts), 4),
        'robot_us': robot,
        'threads': torch.get_num_threads(),
        'server_ms': {} if arguments.no_times else server_ms(max(1, arguments.repeats)),
    }
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(found, indent=1) + '\n')
    merge(found, arguments.into)
    show(found)


if __name__ == '__main__':
    main()
