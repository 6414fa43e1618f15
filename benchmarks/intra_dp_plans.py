"""Plans of Intra-DP in the evaluator: measured profiles, 50 bandwidths, with and without halos.

For each profile and halo: the latency at 0 to 50 MB/s beside device-only, server-only and the best
layer cut, and the seconds of planning (of the plan command's sweep, whole; on a machine that others
use as well the CPU seconds tell more). At five bandwidths, the
share of the gap between a simple search and a bound that no schedule can beat which is closed;
differential evolution, as in the paper, at some of them; tensor parallelism (paper, Fig. 6).

Then a recorded trace of bandwidth is replayed. Frames follow each other without a pause. A method
plans for its own estimate: the mean of its last observations, weighted towards the newest. A frame
runs at the true bandwidth of the moment when it begins, and observes it if it moved 20 kB or more;
otherwise a probe does, once a second. ``intra_dp`` chooses, among its plans for bandwidths around
the estimate, the one with the least mean latency over the last observations (its guard against
wrong estimates); ``intra_dp_nearest`` takes the plan of the estimate, as the other methods do.
"""

from __future__ import annotations

import argparse
from collections import deque
from collections.abc import Callable, Sequence
import json
import os
from pathlib import Path
import platform
import time
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from offload_ros.baselines.problem import Method, Problem, Subject
from offload_ros.graph.crossings import Halo
from offload_ros.graph.methods import find_method
from offload_ros.graph.plan_rows import planned_rows
from offload_ros.graph.profile import Profile
from offload_ros.graph.profile_file import read_profile
from offload_ros.graph.schedule import Link
from offload_ros.graph.split_plan import Plan
from offload_ros.intra_dp.tensor_parallel import tensor_parallel

HERE = Path(__file__).parent
DATA = HERE / 'data' / 'intra_dp'
NAMES = ('VGG19_BN', 'DenseNet121', 'kapao')
BANDWIDTHS = tuple(range(51))  # MB/s
SHOWN = (2, 4, 8, 12, 16)
BASELINES = ('device', 'server', 'layer_cut')
# ms at SHOWN: what a simple search reached, and bounds (no halo, everything overlaps).
SIMPLE_MS = {
    'VGG19_BN': (88, 88, 83, 63, 50),
    'DenseNet121': (76, 76, 67, 57, 51),
    'kapao': (394, 394, 280, 195, 152),
}
SIMPLE_NONE_MS = {
    'VGG19_BN': (78, 72, 55, 40, 36),
    'DenseNet121': (67, 57, 43, 37, 33),
    'kapao': (289, 237, 169, 132, 112),
}
BOUND_MS = {
    'VGG19_BN': (70, 58, 43, 34, 28),
    'DenseNet121': (52, 40, 27, 22, 19),
    'kapao': (283, 221, 155, 119, 96),
}
EVOLUTION = {'VGG19_BN': (4, 8, 16), 'DenseNet121': (8,), 'kapao': (8,)}
LEAST_BYTES = 20_000  # that a frame must move to tell the bandwidth
PROBE_S = 1.0
MEMORY, NEWEST = 8, 0.4  # observations kept, and the weight of the newest in the estimate
AROUND = (0.6, 1.5)  # bandwidths, relative to the estimate, whose plans are candidates
REPLAYED = ('device', 'server', 'dsccs', 'spso_ga', 'layer_cut', 'intra_dp_nearest', 'intra_dp')
FEW = (1, 2, 3, 4, 6, 8, 10, 12, 15, 20, 29)  # planned by SPSO-GA, which takes seconds for each
FRAMES = 1 << 20


def sweep(profile: Profile, halo: Halo) -> dict[str, Any]:
    """All bandwidths."""
    began_s, began_cpu_s = time.perf_counter(), _cpu_s()
    rows = list(planned_rows(profile, BANDWIDTHS, ['intra_dp'], halo))
    planning_s, planning_cpu_s = time.perf_counter() - began_s, _cpu_s() - began_cpu_s
    subject = Subject(profile, halo)
    latency_ms = {'intra_dp': [_ms(row.schedule.latency_s) for row in rows]}
    for name in BASELINES:
        _, method = find_method(name)
        latency_ms[name] = [_ms(_latency_s(subject, method, bandwidth)) for bandwidth in BANDWIDTHS]
    latency_ms['tensor_parallel'] = [
        _ms(tensor_parallel(subject, _link(bandwidth)).schedule.latency_s)
        for bandwidth in BANDWIDTHS
    ]
    best = np.min([[each or np.inf for each in latency_ms[name]] for name in BASELINES], axis=0)
    ratio = np.array(latency_ms['intra_dp'], dtype=float) / best
    simple = SIMPLE_MS if halo is Halo.EXACT else SIMPLE_NONE_MS
    closed = {}
    for bandwidth, before, bound in zip(
        SHOWN, simple[profile.model], BOUND_MS[profile.model], strict=True
    ):
        found = latency_ms['intra_dp'][bandwidth]
        closed[bandwidth] = round((before - found) / (before - bound), 3)
    return {
        'halo': halo.value,
        'planning_s': round(planning_s, 2),
        'planning_cpu_s': round(planning_cpu_s, 2),  # of all cores: what a busy machine leaves
        'latency_ms': latency_ms,
        'energy_J': [round(row.energy_j, 6) for row in rows],
        'most_steps': max(_steps(row.schedule.plan) for row in rows),
        'worst_ratio_to_best_baseline': round(float(ratio.max()), 6),
        'best_ratio_to_best_baseline': round(float(ratio.min()), 4),
        'gap_closed': closed,
        'plans': [row.schedule.plan for row in rows],
    }


def evolution(profile: Profile, halo: Halo, found_ms: Sequence[float]) -> list[dict[str, Any]]:
    """Differential evolution beside it."""
    subject, (_, method) = Subject(profile, halo), find_method('intra_dp_de')
    found = []
    for bandwidth in EVOLUTION[profile.model]:
        began_s = time.perf_counter()
        latency_s = _latency_s(subject, method, bandwidth)
        took_s = time.perf_counter() - began_s
        found.append(
            {
                'bandwidth_MBps': bandwidth,
                'latency_ms': _ms(latency_s),
                'intra_dp_ms': found_ms[bandwidth],
                'planning_s': round(took_s, 2),
            }
        )
    return found


class Replay:
    """One model over the trace; plans by method and bandwidth in whole MB/s."""

    def __init__(self, profile: Profile, trace: dict[str, Any], plans: Sequence[Plan]) -> None:
        self._subject = Subject(profile)
        self._true = [max(1, int(each)) for each in trace['bw_MBps']]
        self._dt_s = float(trace['dt_s'])
        self._plans: dict[tuple[str, int], Plan] = {
            ('intra_dp', bandwidth): plan for bandwidth, plan in enumerate(plans)
        }
        self._costs: dict[tuple[str, int, int], tuple[float, float, float]] = {}

    def _plan(self, method: str, bandwidth: int) -> Plan:
        if method == 'spso_ga':
            bandwidth = min(FEW, key=lambda each: abs(each - bandwidth))
        key = method, bandwidth
        if key not in self._plans:
            _, function = find_method(method)
            self._plans[key] = function(Problem(self._subject, _link(bandwidth)))
        return self._plans[key]

    def cost(self, method: str, planned: int, true: int) -> tuple[float, float, float]:
        """Seconds, joules and bytes of the plan for ``planned`` at ``true`` MB/s."""
        key = method, planned, true
        if key not in self._costs:
            problem = Problem(self._subject, _link(true))
            schedule = self._subject.evaluator.schedule(self._plan(method, planned), problem.link)
            moved = schedule.uplink_bytes + schedule.downlink_bytes
            self._costs[key] = schedule.latency_s, schedule.energy_j(problem.power), moved
        return self._costs[key]

    def run(self, method: str) -> dict[str, float]:
        """Figures of all frames."""
        base = method.removesuffix('_nearest')
        seen: deque[int] = deque([self._true[0]], MEMORY)
        latencies, energies = [], []
        now_s = probed_s = 0.0
        end_s = self._dt_s * len(self._true)
        while now_s < end_s and len(latencies) < FRAMES:
            true = self._true[int(now_s / self._dt_s)]
            planned = self._choice(method, base, seen)
            latency_s, energy_j, moved = self.cost(base, planned, true)
            latencies.append(latency_s)
            energies.append(energy_j)
            now_s += latency_s
            if moved >= LEAST_BYTES or now_s - probed_s >= PROBE_S:
                seen.append(true)
                probed_s = now_s
        taken = np.array(latencies)
        return {
            'frames': len(taken),
            'mean_ms': _ms(float(taken.mean())),
            'p95_ms': _ms(float(np.percentile(taken, 95))),
            'p99_ms': _ms(float(np.percentile(taken, 99))),
            'energy_J': round(float(np.mean(energies)), 5),
        }

    def _choice(self, method: str, base: str, seen: Sequence[int]) -> int:
        weights = [(1.0 - NEWEST) ** age for age in range(len(seen))][::-1]
        estimate = float(np.average(seen, weights=weights))
        nearest = min(max(round(estimate), 1), BANDWIDTHS[-1])
        if method != 'intra_dp':
            return nearest
        low, high = (round(estimate * each) for each in AROUND)
        candidates = {0, nearest, *range(max(1, low), min(high, BANDWIDTHS[-1]) + 1)}

        def mean_s(planned: int) -> float:
            costs = [self.cost(base, planned, true)[0] for true in seen]
            return float(np.average(costs, weights=weights))

        return min(sorted(candidates), key=mean_s)


def _latency_s(subject: Subject, method: Method, bandwidth: float) -> float:
    problem = Problem(subject, _link(bandwidth))
    return subject.evaluator.schedule(method(problem), problem.link).latency_s


def _link(bandwidth: float) -> Link:
    return Link.of_megabytes_per_s(float(bandwidth))


def _ms(seconds: float) -> float | None:
    return round(1e3 * seconds, 4) if np.isfinite(seconds) else None


def _cpu_s() -> float:
    """Of this process and those that it has ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _steps(plan: Plan) -> int:
    return 0 if plan.steps is None else max(len(plan.steps.robot), len(plan.steps.server))


def measure(
    names: Sequence[str], say: Callable[[str], None], keep: Callable[[dict[str, Any]], None]
) -> dict[str, Any]:
    """Everything of these models; ``keep`` gets what there is after each."""
    trace = json.loads((DATA / 'trace_indoors.json').read_text(encoding='utf-8'))
    models: dict[str, Any] = {}
    for name in names:
        profile = read_profile(DATA / f'{name}.json')
        cases = {}
        for halo in Halo:
            case = sweep(profile, halo)
            plans = case.pop('plans')
            if halo is Halo.EXACT:
                replay = Replay(profile, trace, plans)
            case['evolution'] = evolution(profile, halo, case['latency_ms']['intra_dp'])
            cases[halo.value] = case
            say(f'{name} {halo.value}: {case["planning_s"]} s, gap closed {case["gap_closed"]}')
        figures = {method: replay.run(method) for method in REPLAYED}
        models[name] = {
            'cores': len(os.sched_getaffinity(0)),
            'load_average': [round(each, 2) for each in os.getloadavg()],
            'halo': cases,
            'trace_indoors': figures,
        }
        keep(models)
        say(f'{name} trace: ' + str({key: each['mean_ms'] for key, each in figures.items()}))
    return models


def show(result: dict[str, Any], console: Console) -> None:
    """What the README quotes."""
    table = Table(title='Latency in ms by bandwidth in MB/s')
    for heading in ('model', 'halo', *map(str, SHOWN), 'sweep s', 'CPU s', 'worst / best baseline'):
        table.add_column(heading)
    for name, model in result['models'].items():
        for halo, case in model['halo'].items():
            found = case['latency_ms']['intra_dp']
            table.add_row(
                name,
                halo,
                *(f'{found[each]:.1f}' for each in SHOWN),
                f'{case["planning_s"]:.0f}',
                f'{case["planning_cpu_s"]:.0f}',
                f'{case["worst_ratio_to_best_baseline"]:.4f}',
            )
    console.print(table)
    table = Table(title='Trace replayed in the evaluator')
    for heading in ('model', 'method', 'mean ms', 'p95', 'p99', 'J'):
        table.add_column(heading)
    for name, model in result['models'].items():
        for method, case in model['trace_indoors'].items():
            keys = ('mean_ms', 'p95_ms', 'p99_ms')
            row = [f'{case[key]:.1f}' for key in keys]
            table.add_row(name, method, *row, f'{case["energy_J"]:.3f}')
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--json', type=Path, default=HERE / 'results' / 'intra_dp_plans.json')
    parser.add_argument('--models', default=','.join(NAMES), help='only these; others are kept')
    arguments = parser.parse_args()
    console = Console(width=None if os.isatty(1) else 120)
    path: Path = arguments.json
    result: dict[str, Any] = {'models': {}}
    if path.exists():
        result = json.loads(path.read_text(encoding='utf-8'))
    result |= {'bandwidths_MBps': list(BANDWIDTHS), 'python': platform.python_version()}

    def keep(models: dict[str, Any]) -> None:
        result['models'] |= models
        path.write_text(json.dumps(result) + '\n', encoding='utf-8')

    measure(arguments.models.split(','), console.print, keep)
    show(result, console)


if __name__ == '__main__':  # planning processes import this file
    main()
