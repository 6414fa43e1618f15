"""Local and global operators of published networks, beside Table 1 of the Intra-DP paper.

Each network is captured and classified along the width of its image. The paper traces Python
functions; ours are ATen operators after capture, which leaves out what does nothing (a dropout that
is off) or makes no tensor (a size that is asked for). ``single`` counts those local operators that
have one index along the split axis (behind a global pool): they run as a whole all the same.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
import json
from pathlib import Path
import platform
import time
from typing import Any

from rich.console import Console
from rich.table import Table
import torch
from torch import nn

from benchmarks import published_networks as published
from offload_ros.graph.capture import capture
from offload_ros.graph.classify import SplitGraph, classify
from offload_ros.graph.local import Kind

RESULTS = Path(__file__).parent / 'results'

# Name, network, (local, global) of the paper, and where the difference comes from.
NETWORKS: tuple[tuple[str, Callable[[], nn.Module], tuple[int, int], str], ...] = (
    ('DenseNet121', published.DenseNet121, (428, 3), 'the same'),
    (
        'ResNet101',
        published.resnet101,
        (341, 3),
        'The paper does not name the depth: 104 convolutions, 104 norms, 100 ReLUs, 33 sums and a '
        'pool make 342; its ResNeXt has the same structure and 342.',
    ),
    ('ResNeXt101', published.resnext101_32x8d, (342, 3), 'the same'),
    ('RegNetX-16GF', published.regnet_x_16gf, (231, 3), 'the same; the paper names no size'),
    (
        'VGG19_BN',
        published.Vgg19BatchNorm,
        (73, 5),
        "Of the paper's local ones 16 are the norms' questions for the number of axes (see the "
        'names in the released logs; DenseNet121 was counted without them) and 2 dropouts that '
        'are off. The pool from 7x7 to 7x7 is local: its windows are known.',
    ),
    (
        'ConvNeXt-L',
        published.ConvNextLarge,
        (340, 6),
        'All 6 behind the last block are global in the paper; of them the norm over the channels '
        'and its two permutations are local along the width, which has one index there.',
    ),
)


def row(name: str, split: SplitGraph, paper: tuple[int, int], why: str) -> dict[str, Any]:
    """Counts of one network."""
    counts = {kind.value: split.counts.get(kind, 0) for kind in Kind}
    local = sum(count for kind, count in split.counts.items() if kind.is_local)
    return {
        'network': name,
        'operators': len(split.graph.nodes),
        'local': local,
        'global': counts[Kind.BARRIER.value],
        'single': sum(each.extent == 1 for each in split.operators.values()),
        'kinds': counts,
        'globals': [
            node.operator for node in split.graph.nodes if split.kinds[node.id] is Kind.BARRIER
        ],
        'paper_local': paper[0],
        'paper_global': paper[1],
        'difference': why,
    }


def measure(name: str, factory: Callable[[], nn.Module], size: int) -> tuple[SplitGraph, float]:
    """The classified network, and how long classifying took (s)."""
    torch.manual_seed(0)
    with torch.no_grad():
        network = factory().eval()
        graph, _ = capture(network, {'image': torch.randn(1, 3, size, size)}, name)
    start = time.perf_counter()
    split = classify(graph, {'image': 3})
    return split, time.perf_counter() - start


def table(rows: list[dict[str, Any]]) -> Table:
    """As text."""
    shown = Table(title='Local / global operators')
    for title in ('network', 'paper', 'ours', 'of these single', 'classified in', 'why'):
        shown.add_column(title)
    for each in rows:
        shown.add_row(
            each['network'],
            f'{each["paper_local"]} / {each["paper_global"]}',
            f'{each["local"]} / {each["global"]}',
            str(each['single']),
            f'{1e3 * each["classify_s"]:.0f} ms',
            each['difference'],
        )
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else '')
    parser.add_argument('--json', type=Path, default=RESULTS / 'operator_counts.json')
    parser.add_argument('--size', type=int, default=224, help='height and width of the image')
    arguments = parser.parse_args()
    rows = []
    for name, factory, paper, why in NETWORKS:
        split, seconds = measure(name, factory, arguments.size)
        rows.append({**row(name, split, paper, why), 'classify_s': round(seconds, 4)})
    Console(width=140).print(table(rows))
    result = {
        'schema': 1,
        'torch': torch.__version__,
        'machine': platform.processor() or platform.machine(),
        'image': [1, 3, arguments.size, arguments.size],
        'networks': rows,
    }
    arguments.json.write_text(json.dumps(result, indent=1) + '\n')


if __name__ == '__main__':
    main()
