"""Predicted against measured latency of layer cuts that really run, robot to server and back.

Two processes on a real network of namespaces (`benchmarks/testbed`), each on one core: the robot,
paced to a slower accelerator, and the server. Both measure each model's operators; what a message
costs on top of its bytes is fitted to messages of several sizes on a fast link. From that the
evaluator predicts each plan at each bandwidth: everything on the server, the cuts that DSCCS, MCOP
and SPSO-GA plan, the best cut, and cuts after a third and two thirds of the robot's time. All plans
run in turns, with a pass that measures operators in each turn, so that whatever else the machine
does meets both alike; `error_before` is with the passes before the first run alone. Error:
|predicted - measured| / measured, of medians.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
import itertools
import json
import os
from pathlib import Path
import platform
import statistics
import sys
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

# Folders of the repository, not of the package; behind an installed offload_ros.
sys.path += [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parent)]
from benchmarks.ends import MBIT, Asked, End, Passes, both_ends, transfer_fit, use_network
from benchmarks.testbed import Testbed

RESULTS = Path(__file__).parent / 'results'
MBITS = (16, 40, 93, 200)
RTT_S = 0.0026
FAST_MBIT = 400.0
SLOWDOWN = 4.0
PLANNED = ('server', 'dsccs', 'mcop', 'spso_ga', 'layer_cut')
PREFIXES = (1 / 3, 2 / 3)
TARGETS = {'median': 0.10, 'worst': 0.25}


# ---- models


def models() -> dict[str, tuple[Any, Any]]:
    """Name to (model, inputs): DenseNet-121, a ResNet-50, the convolutions of VGG-19, from a
    camera's bytes (H, W, 3) on."""
    from published_networks import DenseNet121, Residual, Vgg19BatchNorm, conv_norm
    import torch
    from torch import nn

    class FromCamera(nn.Module):
        def __init__(self, network: nn.Module) -> None:
            super().__init__()
            self.network = network

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            planes = image.permute(2, 0, 1).unsqueeze(0).to(torch.float32) / 255.0
            result: torch.Tensor = self.network(planes)
            return result

    torch.manual_seed(0)
    stem = nn.Sequential(conv_norm(3, 64, 7, 2), nn.MaxPool2d(3, 2, 1))
    stages = [(64, 256, 3), (128, 512, 4), (256, 1024, 6), (512, 2048, 3)]
    vgg = Vgg19BatchNorm()
    vgg.pool, vgg.classifier = nn.AdaptiveAvgPool2d(1), nn.Linear(512, 1000)  # type: ignore
    networks = {
        'DenseNet121': (DenseNet121(), (160, 224)),
        'ResNet50': (Residual(stem, 64, stages), (160, 224)),
        'VGG19': (vgg, (72, 128)),
    }
    return {
        name: (
            FromCamera(network).eval(),
            {'image': torch.randint(0, 256, (*size, 3), dtype=torch.uint8)},
        )
        for name, (network, size) in networks.items()
    }


# ---- prediction


def plans_for(profile: Any, link: Any) -> dict[tuple[int, ...], list[str]]:
    """Nodes on the server, by name of whoever wants them there; nothing on the server is no cut."""
    from offload_ros.baselines.problem import Problem, Subject
    from offload_ros.graph.methods import find_method

    found: dict[tuple[int, ...], list[str]] = {}
    problem = Problem(Subject(profile), link)
    for name in PLANNED:
        plan = find_method(name)[1](problem)
        found.setdefault(_ids(profile, plan.on_server), []).append(name)
    done = np.cumsum(profile.column('robot_s'))
    for share in PREFIXES:
        later = done > share * done[-1]
        later &= ~np.array([each.is_input for each in profile.operators])
        found.setdefault(_ids(profile, later), []).append(f'after {share:.0%}')
    found.pop((), None)
    return found


def _ids(profile: Any, on_server: Any) -> tuple[int, ...]:
    return tuple(each.id for each, there in zip(profile.operators, on_server, strict=True) if there)


def predicted(profile: Any, on_server: tuple[int, ...], link: Any) -> Any:
    """The evaluator's schedule."""
    from offload_ros.graph.schedule import Evaluator
    from offload_ros.graph.split_plan import Plan

    chosen = set(on_server)
    plan = Plan.cut(profile, [each.id in chosen for each in profile.operators])
    return Evaluator(profile).schedule(plan, link)


# ---- all of it


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Run all cases."""
    from offload_ros.graph.schedule import Link

    with Testbed(mbit=FAST_MBIT, rtt_s=RTT_S, robot_slowdown=SLOWDOWN) as bed:
        command = [sys.executable, __file__, '--end']
        with both_ends(bed, command, arguments.limit_s) as (robot, server):
            server('capture')
            operators = robot('capture')
            for name in operators:
                robot('open', model=name)
            names = [each for each in operators if not each.startswith('echo')]
            cost = transfer_fit(robot, arguments.runs, FAST_MBIT, RTT_S)
            rows = []
            ends = {'robot': robot, 'server': server}
            for name, mbit in itertools.product(names, MBITS):
                bed.set_rate(mbit)
                passes = Passes(ends, name, cost)
                for _ in range(arguments.repeats):
                    passes.add()
                link = Link(mbit * MBIT, mbit * MBIT, RTT_S / 2.0, 1.0)
                rows += list(one_case(robot, name, mbit, passes, link, arguments.runs))
                print(json.dumps(rows[-1]), file=sys.stderr)
    return {
        'message_fixed_ms': round(1e3 * cost[0], 3),
        'message_ns_per_byte': round(1e9 * cost[1], 3),
        'operators': {name: operators[name] for name in names},
        'rows': rows,
    }


def one_case(
    robot: Asked, name: str, mbit: float, passes: Passes, link: Any, runs: int
) -> Iterator[dict[str, Any]]:
    """All plans of one model at one bandwidth, in turns, with passes between them."""
    before = passes.profile()
    plans = plans_for(before, link)
    took: dict[tuple[int, ...], list[Mapping[str, Any]]] = {plan: [] for plan in plans}
    estimates = []
    for turn in range(runs + 1):
        passes.add()
        for plan in plans:
            ran = robot('run', model=name, on_server=list(plan))
            if turn:  # the first one warms the link up
                took[plan].append(ran)
        estimates.append(robot('link'))
    profile = passes.profile()
    for plan, wanted_by in plans.items():
        schedule = predicted(profile, plan, link)
        measured_s = statistics.median(each['total_s'] for each in took[plan])
        early_s = predicted(before, plan, link).latency_s
        yield {
            'model': name,
            'mbit': mbit,
            'plan': ', '.join(wanted_by),
            'on_server': len(plan),
            'predicted_ms': round(1e3 * schedule.latency_s, 2),
            'measured_ms': round(1e3 * measured_s, 2),
            'error': round(abs(schedule.latency_s - measured_s) / measured_s, 4),
            'predicted_before_ms': round(1e3 * early_s, 2),
            'error_before': round(abs(early_s - measured_s) / measured_s, 4),
            'robot_ms': [
                round(1e3 * sum(each.end_s - each.start_s for each in schedule.robot), 2),
                round(1e3 * statistics.median(each['robot_s'] for each in took[plan]), 2),
            ],
            'server_ms': [
                round(1e3 * sum(each.end_s - each.start_s for each in schedule.server), 2),
                round(1e3 * statistics.median(each['server_s'] for each in took[plan]), 2),
            ],
            'bytes': [round(schedule.uplink_bytes), round(schedule.downlink_bytes)],
            'bytes_measured': [took[plan][0]['up'], took[plan][0]['down']],
            'monitor_mbit': round(statistics.median(each['up'] for each in estimates) / MBIT, 1),
            'runs': len(took[plan]),
            'exact': all(each['exact'] for each in took[plan]),
        }


def report(found: dict[str, Any], path: Path) -> bool:
    """Print the table, write the JSON; whether the targets are met."""
    rows = found['rows']
    errors = [row['error'] for row in rows]
    found['median_error'] = round(statistics.median(errors), 4)
    found['worst_error'] = max(errors)
    early = [row['error_before'] for row in rows]
    found['median_error_before'] = round(statistics.median(early), 4)
    table = Table(title='latency of layer cuts, ms (robot, server: predicted / measured)')
    for heading in ('model', 'Mbit/s', 'plan', 'predicted', 'measured', 'error', 'robot', 'server'):
        table.add_column(heading, justify='left' if heading in ('model', 'plan') else 'right')
    for row in rows:
        table.add_row(
            row['model'],
            str(row['mbit']),
            row['plan'],
            f'{row["predicted_ms"]:.1f}',
            f'{row["measured_ms"]:.1f}',
            f'{row["error"]:.1%}',
            '{:.0f} / {:.0f}'.format(*row['robot_ms']),
            '{:.0f} / {:.0f}'.format(*row['server_ms']),
        )
    console = Console(width=120)
    console.print(table)
    console.print(
        f'{len(rows)} cuts: median error {found["median_error"]:.1%}, worst '
        f'{found["worst_error"]:.1%}; with times taken before only: median '
        f'{found["median_error_before"]:.1%}; a message costs {found["message_fixed_ms"]:.2f} ms '
        f'and {found["message_ns_per_byte"]:.1f} ns per byte beside the link'
    )
    content = {
        'schema': 1,
        'machine': f'{platform.machine()}, {os.cpu_count()} cores',
        'load_average': round(os.getloadavg()[0], 1),  # a busy machine spoils it
        'robot_slowdown': SLOWDOWN,
        'added_rtt_ms': 1e3 * RTT_S,
        **found,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + '\n')
    return found['median_error'] <= TARGETS['median'] and found['worst_error'] <= TARGETS['worst']


def main() -> None:
    """Run it; status 1 when the targets are missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--json', type=Path, default=RESULTS / 'cuts.json')
    parser.add_argument('--runs', type=int, default=10, help='of each plan')
    parser.add_argument('--repeats', type=int, default=5, help='passes that measure the operators')
    parser.add_argument('--limit-s', type=float, default=300.0, help='for one answer of an end')
    parser.add_argument('--domain', type=int, default=78, help='ROS_DOMAIN_ID')
    parser.add_argument('--end', choices=('robot', 'server'), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.end:
        End(arguments.end, models).serve()
        return
    use_network(arguments.domain)
    sys.exit(not report(measure(arguments), arguments.json))


if __name__ == '__main__':
    main()
