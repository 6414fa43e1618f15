"""How far layer partitions are from the best cut: on random graphs by brute force, on measured
profiles by the best cut known.

Random graphs: 6 to 12 operators, each reading up to three earlier ones; robot times around the
server's tenfold; tensors that take about as long on the link as operators on the robot. Two gaps,
both (found - best) / best: ``serial``, by the sum of operator times and transfers that DSCCS and
MCOP minimise; ``latency`` or, for SPSO-GA, ``energy``, by the evaluator, where everything overlaps.
DSCCS must be without a serial gap. The plan command's methods are run as they are.
"""

from __future__ import annotations

import argparse
from itertools import product
import json
import os
from pathlib import Path
import platform
import time
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from offload_ros.baselines.dsccs import dsccs
from offload_ros.baselines.layer_cut import layer_cut
from offload_ros.baselines.mcop import mcop
from offload_ros.baselines.problem import Objective, Problem, Subject
from offload_ros.baselines.serial_cost import SerialCosts
from offload_ros.baselines.spso_ga import SwarmOptions, spso_ga
from offload_ros.graph.methods import device, server
from offload_ros.graph.profile import Profile, ProfiledOperator
from offload_ros.graph.profile_file import read_profile
from offload_ros.graph.schedule import Link

HERE = Path(__file__).parent
# (profile, launch floors of robot and server in ms)
PROFILES = (
    ('kapao', None),
    ('VGG19_BN', None),
    ('DenseNet121', None),
    ('DenseNet121', (0.2, 0.04)),
)
SWEEP = tuple(float(each) for each in range(1, 51))
BANDWIDTHS = (2.0, 4.0, 8.0, 12.0, 16.0)
DEADLINE_S = 1.0
OPTIMAL = 1e-9


def random_profile(rng: np.random.Generator) -> Profile:
    """See the module."""
    count = int(rng.integers(6, 13))
    operators = []
    for place in range(count):
        readable = min(place, int(rng.integers(1, 4)))
        # Near operators are read more often than far ones, as in networks.
        near = np.unique(np.maximum(place - 1 - rng.geometric(0.5, readable) + 1, 0))
        robot_s = float(rng.lognormal(np.log(0.01), 0.8)) if place else 0.0
        operators.append(
            {
                'id': place,
                'name': f'op{place}',
                'inputs': tuple(int(each) for each in near) if place else (),
                'width': 1,
                'output_bytes': int(rng.lognormal(np.log(60_000), 1.2)),
                'robot_s': robot_s,
                'server_s': robot_s / float(rng.uniform(2, 30)),
                'is_input': place == 0,
            }
        )
    read = {producer for each in operators for producer in each['inputs']}
    return Profile(
        'random',
        tuple(
            ProfiledOperator(**each, is_output=each['id'] not in read and each['id'] > 0)
            for each in operators
        ),
    )


def all_cuts(profile: Profile) -> np.ndarray:
    """(n, 2^movable)."""
    choices = [(False,) if each.is_input else (False, True) for each in profile.operators]
    return np.array(list(product(*choices)), dtype=bool).T


def gaps_of(profile: Profile, bandwidth: float) -> dict[str, float]:
    """Every method's gap on one small graph."""
    subject, link = Subject(profile), Link.of_megabytes_per_s(bandwidth)
    fast = Problem(subject, link)
    frugal = Problem(subject, link, Objective.ENERGY, DEADLINE_S)
    cuts, costs = all_cuts(profile), SerialCosts.of_time(profile, link)
    least = {
        'serial': costs.total(cuts).min(),
        'latency': subject.evaluator.cut_costs(cuts, link).latency_s.min(),
        'energy': frugal.rank(subject.evaluator.cut_costs(cuts, link, frugal.power)).min(),
    }

    def gaps(name: str, on_server: np.ndarray, *kinds: str) -> dict[str, float]:
        cut = on_server[:, None]
        found = {
            'serial': costs.total(cut)[0],
            'latency': subject.evaluator.cut_costs(cut, link).latency_s[0],
            'energy': frugal.rank(subject.evaluator.cut_costs(cut, link, frugal.power))[0],
        }
        return {f'{name}, {kind}': found[kind] / least[kind] - 1.0 for kind in kinds}

    return {
        **gaps('dsccs', dsccs(fast).on_server, 'serial', 'latency'),
        **gaps('mcop', mcop(fast).on_server, 'serial', 'latency'),
        **gaps('mcop for energy', mcop(frugal).on_server, 'energy'),
        **gaps('layer_cut', layer_cut(fast).on_server, 'latency'),
        **gaps('spso_ga', spso_ga(frugal).on_server, 'energy'),
        **gaps(
            'spso_ga, random start',
            spso_ga(frugal, SwarmOptions(seeded=False)).on_server,
            'energy',
        ),
    }


def distribution(gaps: list[float]) -> dict[str, float]:
    """Of gaps >= 0."""
    values = np.maximum(np.array(gaps), 0.0)
    return {
        'optimal_share': round(float(np.mean(values <= OPTIMAL)), 4),
        'mean': round(float(values.mean()), 5),
        'p95': round(float(np.percentile(values, 95)), 5),
        'max': round(float(values.max()), 5),
    }


def measured(name: str, floors_ms: tuple[float, float] | None) -> list[dict[str, Any]]:
    """Latency (ms) and energy (J) of every method on a measured profile, and its planning time."""
    profile = read_profile(HERE / 'data' / 'intra_dp' / f'{name}.json')
    if floors_ms is not None:
        profile = profile.with_floors(*(each / 1e3 for each in floors_ms))
    subject = Subject(profile)
    _ = subject.layers, subject.layer_evaluator, subject.evaluator
    found = []
    for bandwidth in BANDWIDTHS:
        row: dict[str, Any] = {
            'profile': name,
            'floors_ms': floors_ms,
            'bandwidth_MBps': bandwidth,
        }
        link = Link.of_megabytes_per_s(bandwidth)
        for key, method, objective in (
            ('device', device, Objective.LATENCY),
            ('server', server, Objective.LATENCY),
            ('dsccs', dsccs, Objective.LATENCY),
            ('mcop', mcop, Objective.LATENCY),
            ('layer_cut', layer_cut, Objective.LATENCY),
            ('spso_ga', spso_ga, Objective.ENERGY),
            ('layer_cut for energy', layer_cut, Objective.ENERGY),
        ):
            problem = Problem(subject, link, objective, DEADLINE_S)
            began_s = time.perf_counter()
            plan = method(problem)
            took_s = time.perf_counter() - began_s
            schedule = subject.evaluator.schedule(plan, link)
            row[key] = {
                'latency_ms': round(1e3 * schedule.latency_s, 3),
                'energy_J': round(schedule.energy_j(problem.power), 4),
                'planning_ms': round(1e3 * took_s, 1),
            }
        found.append(row)
    return found


def sweep_s(name: str) -> dict[str, float]:
    """Seconds to plan for 50 bandwidths, reading the profile included."""
    found = {}
    for key, method in (('dsccs', dsccs), ('layer_cut', layer_cut)):
        began_s = time.perf_counter()
        subject = Subject(read_profile(HERE / 'data' / 'intra_dp' / f'{name}.json'))
        for bandwidth in SWEEP:
            problem = Problem(subject, Link.of_megabytes_per_s(bandwidth))
            subject.evaluator.schedule(method(problem), problem.link)
        found[key] = round(time.perf_counter() - began_s, 2)
    return found


def show(content: dict[str, Any]) -> None:
    """Both tables."""
    console = Console(width=130)
    table = Table(title=f'{content["graphs"]} random graphs: gap to the best of all cuts')
    for heading in ('method, by', 'optimal', 'mean', '95 %', 'largest'):
        table.add_column(heading, justify='left' if heading == 'method, by' else 'right')
    for key, each in content['random'].items():
        cells = [f'{100 * each[name]:.2f} %' for name in ('optimal_share', 'mean', 'p95', 'max')]
        table.add_row(key, *cells)
    console.print(table)
    table = Table(title='measured profiles: latency ms / energy J')
    rows = content['measured']
    methods = [key for key in rows[0] if key not in ('profile', 'floors_ms', 'bandwidth_MBps')]
    for heading in ('profile', 'MB/s', *methods):
        table.add_column(heading, justify='right')
    for row in rows:
        cells = [f'{row[key]["latency_ms"]:.1f} / {row[key]["energy_J"]:.3f}' for key in methods]
        name = row['profile'] + ('' if row['floors_ms'] is None else ', floors')
        table.add_row(name, f'{row["bandwidth_MBps"]:g}', *cells)
    console.print(table)
    console.print('50 bandwidths, s:', content['sweep_of_50_bandwidths_s'])


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--json', type=Path, default=HERE / 'results' / 'partition_gap.json')
    parser.add_argument('--graphs', type=int, default=300)
    arguments = parser.parse_args()
    rng = np.random.default_rng(6)
    collected: dict[str, list[float]] = {}
    for _ in track(range(arguments.graphs), 'random graphs', transient=True):
        bandwidth = float(rng.choice([1.0, 3.0, 10.0]))
        for key, gap in gaps_of(random_profile(rng), bandwidth).items():
            collected.setdefault(key, []).append(float(gap))
    content = {
        'schema': 1,
        'machine': f'{platform.machine()}, {os.cpu_count()} cores',
        'graphs': arguments.graphs,
        'random': {key: distribution(gaps) for key, gaps in collected.items()},
        'measured': [row for name, floors in PROFILES for row in measured(name, floors)],
        'sweep_of_50_bandwidths_s': {name: sweep_s(name) for name in ('kapao', 'DenseNet121')},
    }
    show(content)
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(content, indent=1) + '\n')


if __name__ == '__main__':
    main()
