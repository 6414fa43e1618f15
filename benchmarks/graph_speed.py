"""How long planning takes before anything runs: a network of 600 operators and more is captured,
classified, given a profile and cut for 50 bandwidths, from 1 to 50 MB/s.

The target is 10 s for all of it, with DSCCS; the other methods are timed beside it. Operator times
are of one pass on this machine, ten times those for the robot: they do not matter to the speed.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
import json
import os
from pathlib import Path
import platform
import sys
import time
from typing import Any, TypeVar

from rich.console import Console
from rich.table import Table
import torch
from torch import nn

# Beside this file, wherever Python was started.
sys.path.insert(0, str(Path(__file__).resolve().parent))
from published_networks import Residual, conv_norm

from offload_ros.baselines.problem import Problem, Subject
from offload_ros.graph.capture import capture
from offload_ros.graph.classify import classify
from offload_ros.graph.execute import Executor
from offload_ros.graph.measure import measure_nodes, profile_of
from offload_ros.graph.methods import find_method
from offload_ros.graph.schedule import Link

RESULTS = Path(__file__).parent / 'results'
BANDWIDTHS = tuple(float(each) for each in range(1, 51))
LEAST_OPERATORS, TARGET_S = 600, 10.0
METHODS = ('dsccs', 'mcop', 'layer_cut')
COUNTED = ('capture', 'classify', 'profile', 'dsccs')
Value = TypeVar('Value')


class Timer:
    """Runs functions and keeps what each took, by name: of the clock, and of a core."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.cpu_s: dict[str, float] = {}

    def __call__(self, name: str, function: Callable[[], Value]) -> Value:
        began_s, cpu_began_s = time.perf_counter(), time.process_time()
        value = function()
        self.seconds[name] = time.perf_counter() - began_s
        self.cpu_s[name] = time.process_time() - cpu_began_s
        return value


def network() -> nn.Module:
    """A narrow ResNet of 63 bottlenecks of 10 operators: convolutions, norms, ReLUs, a sum."""
    stem = nn.Sequential(conv_norm(3, 16, 7, 2), nn.MaxPool2d(3, 2, 1))
    stages = [(16, 64, 3), (32, 128, 8), (64, 256, 49), (128, 512, 3)]
    return Residual(stem, 16, stages)


def measure(method: str) -> dict[str, Any]:
    """Everything once; seconds by step."""
    model, image = network().eval(), torch.rand(1, 3, 224, 224)
    timer = Timer()
    graph, parameters = timer('capture', lambda: capture(model, image, 'deep', method=method))
    split = timer('classify', lambda: classify(graph))
    times = timer(
        'measure', lambda: measure_nodes(Executor(graph, parameters), {'image': image}, 1)
    )
    profile = timer('profile', lambda: profile_of(graph, split, times.slower(10.0), times))
    subject = Subject(profile)
    for name in METHODS:
        _, plan = find_method(name)
        links = [Link.of_megabytes_per_s(each) for each in BANDWIDTHS]
        timer(name, lambda: [plan(Problem(subject, link)) for link in links])  # noqa: B023
    steps = timer.seconds
    return {
        'capture_by': method,
        'operators': len(graph.nodes),
        'profiled_operators': len(profile),
        'seconds': {name: round(each, 3) for name, each in steps.items()},
        'cpu_s': {name: round(each, 3) for name, each in timer.cpu_s.items()},
        'total_cpu_s': round(sum(timer.cpu_s[name] for name in COUNTED), 3),
        'total_s': round(
            sum(steps[name] for name in ('capture', 'classify', 'profile', 'dsccs')), 3
        ),
    }


def report(found: list[dict[str, Any]], path: Path) -> None:
    """Print the table and write the JSON."""
    table = Table(title=f'seconds; cuts for {len(BANDWIDTHS)} bandwidths')
    steps = list(found[0]['seconds'])
    for heading in ('captured by', 'operators', *steps, 'total with dsccs', 'of a core'):
        table.add_column(heading, justify='right')
    for row in found:
        cells = (f'{row["seconds"][step]:.2f}' for step in steps)
        table.add_row(
            row['capture_by'],
            str(row['operators']),
            *cells,
            f'{row["total_s"]:.2f}',
            f'{row["total_cpu_s"]:.2f}',
        )
    Console(width=110).print(table)
    content = {
        'schema': 1,
        'machine': f'{platform.machine()}, {os.cpu_count()} cores',
        'load_average': round(os.getloadavg()[0], 1),  # a busy machine spoils it
        'torch': torch.__version__,
        'target_s': TARGET_S,
        'runs': found,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + '\n')


def main() -> None:
    """Run it; status 1 when the target is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--json', type=Path, default=RESULTS / 'graph_speed.json')
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found = [measure(method) for method in ('trace', 'export')]
    report(found, arguments.json)
    assert all(row['operators'] >= LEAST_OPERATORS for row in found)
    sys.exit(any(row['total_s'] > TARGET_S for row in found))


if __name__ == '__main__':
    main()
