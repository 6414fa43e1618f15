"""Figures, tables and picture of ``benchmarks/intra_dp.py`` from what its processes measured.

Energy is a model of the robot, not a measurement: 13.35 W while it computes, 4.25 W while it only
sends or receives, 4.04 W while it waits (the powers that the paper measured). Computing is the time
of its accelerator; for the link's time a transfer counts as its bytes over the rate.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
import math
import statistics
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.intra_dp_cells import BASELINES, OURS, STRATEGY
from benchmarks.intra_dp_trace import frames_of, mean_rate_mbit
from benchmarks.rrto_report import interval
from offload_ros.policy.power import PowerModel

POWER = PowerModel()
RATIO = 'ratio_to_best_baseline'
MBIT = 125_000.0  # bytes/s
CROSSOVER = 2.0  # device and server are within this factor
NEVER_WORSE, GAIN, GAIN_NETWORKS = 1.02, 0.85, 2
PREDICTION = (0.85, 1.15)
ENERGY = 1.2
P99_FRAMES = 300  # fewer tell nothing of it


def energy_j(run: Mapping[str, Any], mbit: float) -> float:
    """Of the robot, for one inference on a link of ``mbit``."""
    computing_s = min(run['robot_s'], run['total_s'])
    link_s = (run['up'] + run['down']) / (mbit * MBIT)
    rest_s = run['total_s'] - computing_s
    communicating_s = min(link_s, rest_s)
    return POWER.energy_j(computing_s, communicating_s, rest_s - communicating_s)


def good(runs: Sequence[Mapping[str, Any] | None]) -> list[Mapping[str, Any]]:
    """Those that ran and gave a result."""
    return [each for each in runs if each is not None and 'failed' not in each]


def _ms(seconds: float) -> float:
    return round(1e3 * seconds, 2)


def method_figures(found: Mapping[str, Any], method: str) -> dict[str, Any]:
    """Of one method of one cell."""
    name = found['chosen'][method]
    plan, runs = found['plans'][name], good(found['runs'][name])
    failures = [each['failed'] for each in found['runs'][name] if each and 'failed' in each]
    figures = {
        'plan': plan['kind'],
        'same_plan_as': [each for each in found['chosen'] if found['chosen'][each] == name],
        'steps': plan['steps'],
        'messages': plan['messages'],
        'predicted_ms': _ms(plan['predicted_s']),
        'predicted_busy_ms': {side: _ms(each) for side, each in plan['busy_s'].items()},
        'runs': len(runs),
        'failures': failures,
    }
    if not runs:
        return figures
    total_s = [each['total_s'] for each in runs]
    return figures | {
        'mean_ms': _ms(statistics.mean(total_s)),
        'p50_ms': _ms(float(np.percentile(total_s, 50))),
        'p95_ms': _ms(float(np.percentile(total_s, 95))),
        'robot_ms': _ms(statistics.median(each['robot_s'] for each in runs)),
        'server_ms': _ms(statistics.median(each['server_s'] for each in runs)),
        'bytes_up': round(statistics.median(each['up'] for each in runs)),
        'bytes_down': round(statistics.median(each['down'] for each in runs)),
        'energy_j': round(statistics.mean(energy_j(each, found['mbit']) for each in runs), 4),
        'completed_locally': sum(bool(each['completed_locally']) for each in runs),
        'agreement': sorted({each['agreement'] for each in runs}),
        'predicted_over_measured': round(plan['predicted_s'] / statistics.median(total_s), 4),
    }


def case_figures(found: Mapping[str, Any]) -> dict[str, Any]:
    """A case of the JSON file. Latencies are those of whole inferences, input to result."""
    methods = {method: method_figures(found, method) for method in found['chosen']}
    figures: dict[str, Any] = {
        'network': found['network'],
        'mbit': found['mbit'],
        'server_speed': found['server_speed'],
        'lossless_codecs': found['coded'],
        'without_plan': found['without_plan'],
        'robot_whole_ms': _ms(found['robot_whole_s']),
        'server_whole_ms': _ms(found['server_whole_s']),
        'load_average': found['load_average'],
    }
    measured = [each for each in BASELINES if methods.get(each, {}).get('runs')]
    if measured:
        best = min(measured, key=lambda each: methods[each]['p50_ms'])
        figures['best_baseline'] = best
        ends = [methods.get(each, {}).get('p50_ms', math.inf) for each in ('device', 'server')]
        figures['in_crossover_region'] = max(ends) <= CROSSOVER * min(ends)
    if methods.get(OURS, {}).get('runs') and measured:
        figures |= ratio_figures(found, best)
        if methods.get(STRATEGY, {}).get('runs'):
            of_strategy = ratio_figures(found, best, STRATEGY)
            figures |= {f'strategy_{key}': value for key, value in of_strategy.items()}
        figures['predicted_over_measured'] = methods[OURS]['predicted_over_measured']
        name = found['chosen'][OURS]
        later_s = found['plans'][name]['predicted_with_later_passes_s']
        figures['predicted_with_later_passes_over_measured'] = round(
            1e3 * later_s / methods[OURS]['p50_ms'], 4
        )
        if methods.get('server', {}).get('energy_j'):
            figures['energy_over_server_only'] = round(
                methods[OURS]['energy_j'] / methods['server']['energy_j'], 4
            )
    return figures | {'methods': methods}


def ratio_figures(found: Mapping[str, Any], best: str, mine: str = OURS) -> dict[str, Any]:
    """Of ours to the best baseline: the median of the ratios of runs in the same round."""
    ours, theirs = (found['runs'][found['chosen'][each]] for each in (mine, best))
    pairs = [
        (own['total_s'], other['total_s'])
        for own, other in zip(ours, theirs, strict=True)
        if good([own]) and good([other])
    ]
    if not pairs:
        return {}
    middle = interval(
        lambda own, other: np.median(own / other, axis=-1), *map(list, zip(*pairs, strict=True))
    )
    return {
        'ratio_to_best_baseline': round(middle[0], 4),
        'ratio_to_best_baseline_95': [round(each, 4) for each in middle[1:]],
        'pairs': len(pairs),
    }


def stretch_figures(found: Mapping[str, Any]) -> dict[str, Any]:
    """A replayed stretch of the JSON file. ``p99_ms`` only of so many frames that it tells
    something."""
    mbit = mean_rate_mbit(found)
    kept = ('network', 'scale', 'seconds', 'start_s', 'slices', 'mean_mbit', 'lowest_mbit')
    figures: dict[str, Any] = {key: found[key] for key in kept}
    figures |= {key: found[key] for key in ('highest_mbit', 'planning_s', 'load_average')}
    figures['order'] = 'methods take turns over the same slices of the stretch'
    ways = {}
    for way, slices in found['ways'].items():
        frames = frames_of(slices)
        wrong, failed = (sum(each[key] for each in slices) for key in ('wrong', 'failed'))
        ways[way] = {'frames': len(frames), 'wrong': wrong, 'failed': failed}
        if not frames:
            continue
        total_s = [each['total_s'] for each in frames]
        errors = [
            abs(each['predicted_s'] / each['total_s'] - 1.0)
            for each in frames
            if each['predicted_s'] is not None
        ]
        ways[way] |= {
            'mean_ms': _ms(statistics.mean(total_s)),
            'p50_ms': _ms(float(np.percentile(total_s, 50))),
            'p95_ms': _ms(float(np.percentile(total_s, 95))),
            'p99_ms': _ms(float(np.percentile(total_s, 99))),
            'p99_counts': len(frames) >= P99_FRAMES,
            'energy_j': round(statistics.mean(energy_j(each, mbit) for each in frames), 4),
            'median_error_of_prediction': round(statistics.median(errors), 4) if errors else None,
            'plans': len({each['plan'] for each in frames}),
            'completed_locally': sum(bool(each['completed_locally']) for each in frames),
        }
    return figures | {'ways': ways}


# ---- targets


def targets(content: Mapping[str, Any]) -> dict[str, Any]:
    """Which are met, and what misses them; ``met`` is None where nothing was measured."""
    cases = {name: each for name, each in content['cases'].items() if 'pairs' in each}
    judged: dict[str, tuple[dict[str, Any], dict[str, bool]]] = {}

    def judge(target: str, name: str, value: Any, met: bool) -> None:
        values, results = judged.setdefault(target, ({}, {}))
        values[name], results[name] = value, met

    for name, case in cases.items():
        low = case['ratio_to_best_baseline_95'][0]
        target = f'ratio to the best baseline: lower end at most {NEVER_WORSE}'
        judge(target, name, case['ratio_to_best_baseline'], low <= NEVER_WORSE)
        if 'strategy_pairs' in case:
            low, value = case['strategy_ratio_to_best_baseline_95'][0], case[f'strategy_{RATIO}']
            judge(f'{target}, of the strategy that learns', name, value, low <= NEVER_WORSE)
        value = case['predicted_over_measured']
        target = f'predicted over measured from {PREDICTION[0]} to {PREDICTION[1]}'
        judge(target, name, value, PREDICTION[0] <= value <= PREDICTION[1])
        value = case.get('energy_over_server_only', math.nan)
        judge(f'energy at most {ENERGY} times that of server-only', name, value, value <= ENERGY)
    for name, case in content['cases'].items():
        for method, why in case['without_plan'].items():
            judge('every inference gives a result', f'{name}, {method}', why, False)
        for method, each in case['methods'].items():
            kinds = each.get('agreement', [])
            equal = not set(kinds) - {'bits', 'close'}
            judge("every result equals the model's", f'{name}, {method}', kinds, equal)
            failures = each['failures']
            answered = not failures
            judge('every inference gives a result', f'{name}, {method}', failures, answered)
    for name, value, met in _on_traces(content['traces']):
        judge('with recorded bandwidth mean and p99 are the lowest or equal', name, value, met)
    gains = {
        case['network']
        for case in cases.values()
        if case['in_crossover_region'] and case['ratio_to_best_baseline'] <= GAIN
    }
    gain = f'ratio at most {GAIN} in the crossover region for {GAIN_NETWORKS} networks or more'
    return {
        **{target: _verdict(*found) for target, found in judged.items()},
        gain: {'met': len(gains) >= GAIN_NETWORKS if cases else None, 'networks': sorted(gains)},
    }


def _verdict(values: dict[str, Any], results: dict[str, bool]) -> dict[str, Any]:
    missed = {name: values[name] for name, met in results.items() if not met}
    return {'cases': len(results), 'met': not missed, 'missed_by': missed}


def _on_traces(traces: Mapping[str, Any]) -> Iterator[tuple[str, list[float], bool]]:
    """(name, [ours, the least of the others], whether ours is at most 1.02 times that)."""
    for name, stretch in traces.items():
        ways = {way: each for way, each in stretch['ways'].items() if each['frames']}
        if OURS not in ways or len(ways) < 2:
            continue
        # A slow method has few frames; the 99th of a hundred is what it is, for all alike.
        for key in ('mean_ms', 'p99_ms'):
            ours = ways[OURS][key]
            least = min(each[key] for way, each in ways.items() if way != OURS)
            yield f'{name}, {key}', [ours, least], ours <= NEVER_WORSE * least


# ---- what is shown


def show(content: Mapping[str, Any]) -> None:
    """All tables."""
    console = Console(width=150)
    if content['cases']:
        console.print(_table_of_cases(content['cases']))
        console.print(_table_of_ratios(content['cases']))
    if content['fallbacks']:
        console.print(_table_of_fallbacks(content['fallbacks']))
    if content['traces']:
        console.print(_table_of_traces(content['traces']))
    for name, found in content['targets'].items():
        said = found.get('networks') or found.get('missed_by') or ''
        state = {None: 'not measured', True: 'met', False: 'MISSED'}[found['met']]
        print(f'{name}{_count(found)}: {state} {said}')


def _count(found: Mapping[str, Any]) -> str:
    return f' ({found["cases"]} cases)' if 'cases' in found else ''


def _table(title: str, left: int, *headings: str) -> Table:
    table = Table(title=title)
    for index, heading in enumerate(headings):
        table.add_column(heading, justify='left' if index < left else 'right')
    return table


def _table_of_cases(cases: Mapping[str, Any]) -> Table:
    table = _table(
        'latency of one inference, ms',
        3,
        *('case', 'method', 'plan', 'predicted', 'p50', 'mean', 'p95', 'robot', 'server'),
        *('kB up', 'kB down', 'J', 'runs'),
    )
    for name, case in cases.items():
        last = list(case['methods'])[-1]
        for place, (method, each) in enumerate(case['methods'].items()):
            same = each['same_plan_as'][0]
            plan = each['plan'] if same == method else f'as {same}'
            cells = ['-'] * 9
            if each['runs']:
                keys = ('p50_ms', 'mean_ms', 'p95_ms', 'robot_ms', 'server_ms')
                cells = [f'{each[key]:.1f}' for key in keys]
                cells += [f'{each[key] / 1e3:.1f}' for key in ('bytes_up', 'bytes_down')]
                cells += [f'{each["energy_j"]:.2f}', str(each['runs'])]
            table.add_row(
                '' if place else name,
                method,
                plan,
                f'{each["predicted_ms"]:.1f}',
                *cells,
                end_section=method == last,
            )
    return table


def _table_of_ratios(cases: Mapping[str, Any]) -> Table:
    table = _table(
        'intra_dp against the best baseline (95 % interval)',
        2,
        *('case', 'best baseline', 'crossover', 'ratio', 'of the strategy'),
        *('predicted / measured', 'energy / server-only', 'load'),
    )
    for name, case in cases.items():
        if 'pairs' not in case:
            continue
        low, high = case['ratio_to_best_baseline_95']
        table.add_row(
            name,
            case['best_baseline'],
            'yes' if case['in_crossover_region'] else '',
            f'{case["ratio_to_best_baseline"]:.3f} ({low:.3f} to {high:.3f})',
            f'{case.get(f"strategy_{RATIO}", math.nan):.3f}',
            f'{case["predicted_over_measured"]:.3f}',
            f'{case.get("energy_over_server_only", math.nan):.2f}',
            f'{case["load_average"]:.1f}',
        )
    return table


def _table_of_fallbacks(found: Mapping[str, Any]) -> Table:
    table = _table(
        'where methods leave all to one side, Mbit/s (by planning)',
        2,
        *('network', 'method', 'device-only up to', 'server-only from'),
    )
    for name, each in found.items():
        last = list(each['methods'])[-1]
        for place, (method, ends) in enumerate(each['methods'].items()):
            cells = [
                'never' if ends[key] is None else f'{ends[key]:g}'
                for key in ('device_only_up_to_mbit', 'server_only_from_mbit')
            ]
            table.add_row('' if place else name, method, *cells, end_section=method == last)
    return table


def _table_of_traces(found: Mapping[str, Any]) -> Table:
    table = _table(
        'recorded bandwidth, own estimates; ms',
        2,
        *('stretch', 'method', 'frames', 'mean', 'p50', 'p95', 'p99', 'J', 'plans', 'failed'),
    )
    for name, stretch in found.items():
        last = list(stretch['ways'])[-1]
        for place, (way, each) in enumerate(stretch['ways'].items()):
            cells = ['-'] * 6
            if each['frames']:
                cells = [f'{each[key]:.1f}' for key in ('mean_ms', 'p50_ms', 'p95_ms', 'p99_ms')]
                cells[3] += '' if each['p99_counts'] else ' ?'
                cells += [f'{each["energy_j"]:.2f}', str(each['plans'])]
            table.add_row(
                '' if place else f'{name} (mean {stretch["mean_mbit"]:g} Mbit/s)',
                way,
                str(each['frames']),
                *cells,
                str(each['failed'] + each['wrong']),
                end_section=way == last,
            )
    return table
