"""Figures, tables and picture of ``benchmarks/rrto.py`` from what its processes have counted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
import math
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from offload_ros.policy.power import PowerModel

WAYS = ('local', 'server', 'rpc', 'pipelined', 'replay')
PICKS = 2000  # of the bootstrap
MANY_OPERATORS = 400
LEAST_PAIRS = 10  # fewer tell nothing about a ratio


POWER = PowerModel()


def energy_j(way: str, latency_s: float, server_s: float) -> float:
    """Of one inference, of the robot; ``server_s``: for how long the server computes."""
    if way == 'local':
        return POWER.energy_j(latency_s)
    waiting_s = min(server_s, latency_s)
    return POWER.energy_j(0.0, latency_s - waiting_s, waiting_s)


def interval(figure: Callable[..., Any], *series: Sequence[float]) -> tuple[float, float, float]:
    """``figure`` of paired series, each (n,), and its bootstrap 95 % interval over the pairs.

    ``figure`` takes arrays (..., n) and reduces their last axis.
    """
    both = np.array(series)
    picks = np.random.default_rng(0).integers(0, both.shape[1], (PICKS, both.shape[1]))
    low, high = np.percentile(figure(*(each[picks] for each in both)), [2.5, 97.5])
    return float(figure(*both)), float(low), float(high)


def _median(values: np.ndarray) -> Any:
    return np.median(values, axis=-1)


def _ratio(above: np.ndarray, below: np.ndarray) -> Any:
    return _median(above) / _median(below)


def _rounded(values: Sequence[float], digits: int) -> list[float]:
    return [round(each, digits) for each in values]


def figures(found: dict[str, Any], link: str, rtt_ms: float) -> dict[str, Any]:
    """A case of the JSON file: latencies are medians, counts the largest of all inferences."""
    counts, operators = found['counts'], found['operators']

    def of(way: str, field: str) -> list[float]:
        return [each[field] for each in counts[way]]

    server_s = float(np.median(of('server', 'server_s')))
    ways = {}
    for way in WAYS:
        latency = interval(_median, of(way, 'latency_s'))
        cpu_s = float(np.median(of(way, 'cpu_s')))
        ways[way] = {
            'latency_ms': round(1e3 * latency[0], 3),
            'latency_ms_95': _rounded([1e3 * each for each in latency[1:]], 3),
            'blocking_rpcs': max(of(way, 'blocking')),
            'messages_up': max(of(way, 'messages_up')),
            'messages_down': max(of(way, 'messages_down')),
            'control_bytes': max(of(way, 'control_bytes')),
            'bytes_up': max(of(way, 'bytes_up')),
            'bytes_down': max(of(way, 'bytes_down')),
            'robot_cpu_ms': round(1e3 * cpu_s, 3),
            'robot_us_per_op': round(1e6 * cpu_s / operators, 2),
            'energy_j': round(energy_j(way, latency[0], server_s), 4),
        }
    replay = of('replay', 'latency_s')
    to_server = interval(_ratio, replay, of('server', 'latency_s'))
    to_replay = interval(_ratio, of('rpc', 'latency_s'), replay)
    to_pipelined = interval(_ratio, replay, of('pipelined', 'latency_s'))
    return {
        'network': found['network'],
        'size': found['size'],
        'link': link,
        'rtt_ms': rtt_ms,
        'pairs': len(replay),
        'operators': operators,
        'ratio_replay_to_server_only': round(to_server[0], 4),
        'ratio_replay_to_server_only_95': _rounded(to_server[1:], 4),
        'ratio_rpc_to_replay': round(to_replay[0], 3),
        'ratio_rpc_to_replay_95': _rounded(to_replay[1:], 3),
        'ratio_replay_to_pipelined': round(to_pipelined[0], 4),
        'ratio_replay_to_pipelined_95': _rounded(to_pipelined[1:], 4),
        'blocking_rpcs': ways['replay']['blocking_rpcs'],
        'messages': ways['replay']['messages_up'],
        'control_bytes': ways['replay']['control_bytes'],
        'replay_from_identical_inference': found['replay_from_identical_inference'],
        'replayed_operators_least': min(of('replay', 'replayed')),
        'aborts': found['aborts'],
        'server_computing_ms': round(1e3 * server_s, 3),
        'ways': ways,
        'calls': found['calls'],
        'commands': found['commands'],
    }


def floor_figures(found: dict[str, Any]) -> dict[str, Any]:
    """A case without network: us per operator, medians."""
    scale = 1e6 / found['operators']
    walk_s = {mode: [each[0] for each in taken] for mode, taken in found['cpu_s'].items()}
    all_s = {mode: [each[1] for each in taken] for mode, taken in found['cpu_s'].items()}

    def above(taken: dict[str, list[float]]) -> list[float]:
        middle = interval(lambda a, b: _median(a - b), taken['replay'], taken['floor'])
        return _rounded([scale * each for each in middle], 3)

    total, walk = above(all_s), above(walk_s)
    return {
        'network': found['network'],
        'size': found['size'],
        'pairs': len(all_s['floor']),
        'operators': found['operators'],
        'us_per_op': {
            mode: round(scale * float(np.median(taken)), 3) for mode, taken in all_s.items()
        },
        'robot_us_per_op_above_floor': total[0],
        'robot_us_per_op_above_floor_95': total[1:],
        'robot_us_per_op_above_floor_until_read': walk[0],
        'robot_us_per_op_above_floor_until_read_95': walk[1:],
    }


def complete(content: dict[str, Any]) -> None:
    """Add what joins cases: CPU time above the floor, and the targets."""
    above = {
        (each['network'], each['size']): each['robot_us_per_op_above_floor']
        for each in content['no_network'].values()
    }
    for case in content['cases'].values():
        case['robot_us_per_op_above_floor'] = above.get((case['network'], case['size']))
    content['targets'] = _targets(content)


def _targets(content: dict[str, Any]) -> dict[str, Any]:
    """By target: which cases miss it, with their values, of how many.

    A limit of a time or a ratio is missed when the whole interval is above it, and not judged with
    fewer than ``LEAST_PAIRS``; ``above_limit``: cases whose median is.
    """
    cases = content['cases']
    judged: dict[str, dict[str, tuple[Any, bool]]] = {}
    above: dict[str, dict[str, float]] = {}

    def judge(target: str, name: str, value: Any, met: bool) -> None:
        judged.setdefault(target, {})[name] = (value, met)

    def limit_to(limit: float, target: str, name: str, case: dict[str, Any], key: str) -> None:
        if case['pairs'] < LEAST_PAIRS:
            return
        judge(target, name, case[key], case[f'{key}_95'][0] <= limit)
        if case[key] > limit:
            above.setdefault(target, {})[name] = case[key]

    for name, case in cases.items():
        limit, how = (1.10, 'with delay') if case['rtt_ms'] else (1.05, 'on one host')
        target = f'replay at most {limit:.2f} x server-only {how}'
        limit_to(limit, target, name, case, 'ratio_replay_to_server_only')
        judge('one blocking RPC', name, case['blocking_rpcs'], case['blocking_rpcs'] == 1)
        judge('at most 2 messages', name, case['messages'], case['messages'] <= 2)
        judge('at most 1 KB of control', name, case['control_bytes'], case['control_bytes'] <= 1000)
        first = case['replay_from_identical_inference']
        judge('replay from the third identical inference', name, first, 1 <= first <= 3)
        replayed = case['replayed_operators_least']
        judge('all operators are replayed', name, replayed, replayed == case['operators'])
        if case['rtt_ms'] and case['operators'] >= MANY_OPERATORS:
            less = 1.0 - 1.0 / case['ratio_rpc_to_replay']
            judge('at least 95 % below rpc', name, round(less, 4), less >= 0.95)
    key = 'robot_us_per_op_above_floor'
    for name, case in content['no_network'].items():
        target = 'at most 1.5 us per operator above the floor'
        limit_to(1.5, target, name, case, key)
        limit_to(1.5, f'{target} until the read', name, case, f'{key}_until_read')
    return {
        target: {
            'cases': len(found),
            'met': all(met for _, met in found.values()),
            'missed_by': {name: value for name, (value, met) in found.items() if not met},
            'above_limit': above.get(target, {}),
        }
        for target, found in judged.items()
    }


def show(content: dict[str, Any]) -> None:
    """All tables."""
    console = Console(width=132)
    console.print(_table_of_ways(content['cases']))
    console.print(_table_of_ratios(content['cases']))
    console.print(_table_of_calls(content['cases']))
    console.print(_table_of_floor(content['no_network']))
    for target, found in content['targets'].items():
        state = 'met' if found['met'] else f'MISSED by {found["missed_by"]}'
        print(f'{target} ({found["cases"]} cases): {state}')
        if found['above_limit']:
            print(f'    medians above it: {found["above_limit"]}')


def _table(title: str, *headings: str) -> Table:
    table = Table(title=title)
    for index, heading in enumerate(headings):
        table.add_column(heading, justify='left' if index == 0 else 'right')
    return table


def _table_of_ways(cases: dict[str, Any]) -> Table:
    table = _table(
        'one inference (latency, CPU: medians; counts: largest)',
        *('case', 'way', 'ms', '95 %', 'blocking', 'messages', 'control B'),
        *('robot CPU ms', 'us/operator', 'energy J'),
    )
    for name, case in cases.items():
        for way, found in case['ways'].items():
            low, high = found['latency_ms_95']
            table.add_row(
                name if way == WAYS[0] else '',
                way,
                f'{found["latency_ms"]:.1f}',
                f'{low:.1f} to {high:.1f}',
                f'{found["blocking_rpcs"]}',
                f'{found["messages_up"]} + {found["messages_down"]}',
                f'{found["control_bytes"]}',
                f'{found["robot_cpu_ms"]:.1f}',
                f'{found["robot_us_per_op"]:.1f}',
                f'{found["energy_j"]:.3f}',
                end_section=way == WAYS[-1],
            )
    return table


def _table_of_ratios(cases: dict[str, Any]) -> Table:
    headings = ('replay / server-only', 'replay / pipelined', 'rpc / replay', 'below rpc')
    table = _table('ratios of latency (95 % interval)', 'case', 'operators', *headings)
    keys = ('ratio_replay_to_server_only', 'ratio_replay_to_pipelined', 'ratio_rpc_to_replay')
    for name, case in cases.items():
        cells = [
            f'{case[key]:.3f} ({case[f"{key}_95"][0]:.3f} to {case[f"{key}_95"][1]:.3f})'
            for key in keys
        ]
        below = f'{1.0 - 1.0 / case["ratio_rpc_to_replay"]:.1%}'
        table.add_row(name, f'{case["operators"]}', *cells, below)
    return table


def _table_of_calls(cases: dict[str, Any]) -> Table:
    """The composition is that of the network: of each, the first case is shown."""
    table = _table(
        'composition of an inference', 'network', 'calls of the program', 'sent in rpc', 'in replay'
    )
    shown = set()
    for case in cases.values():
        network = f'{case["network"]} {case["size"]}'
        if network not in shown:
            shown.add(network)
            sent = [_text(case['commands'][mode]) for mode in ('rpc', 'replay')]
            table.add_row(network, _text(case['calls']), *sent)
    return table


def _text(counts: dict[str, int]) -> str:
    return ', '.join(f'{count} {name}' for name, count in counts.items())


def _table_of_floor(cases: dict[str, Any]) -> Table:
    table = _table(
        'robot CPU, us per operator, no network',
        *('case', 'operators', 'dispatch floor', 'rpc', 'pipelined', 'replay'),
        *('replay - floor (95 %)', 'until the read'),
    )
    for name, case in cases.items():
        taken = case['us_per_op']
        low, high = case['robot_us_per_op_above_floor_95']
        table.add_row(
            name,
            f'{case["operators"]}',
            *(f'{taken[mode]:.1f}' for mode in ('floor', 'rpc', 'pipelined', 'replay')),
            f'{case["robot_us_per_op_above_floor"]:.2f} ({low:.2f} to {high:.2f})',
            f'{case["robot_us_per_op_above_floor_until_read"]:.2f}',
        )
    return table


def save_picture(content: dict[str, Any], path: Path) -> None:
    """Median latencies, a field for each network."""
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot

    cases = list(content['cases'].values())
    networks = list(dict.fromkeys((case['network'], case['size']) for case in cases))
    if not networks:
        return
    rows = math.ceil(len(networks) / 2)
    figure, fields = pyplot.subplots(
        rows, 2, figsize=(12, 2.6 * rows), layout='constrained', squeeze=False, sharey=True
    )
    highest = 1.5 * max(way['latency_ms'] for case in cases for way in case['ways'].values())
    for axes in fields.flat[len(networks) :]:
        axes.set_visible(False)
    for axes, (network, size) in zip(fields.flat, networks, strict=False):
        mine = [case for case in cases if (case['network'], case['size']) == (network, size)]
        for index, way in enumerate(WAYS):
            heights = [case['ways'][way]['latency_ms'] for case in mine]
            places = [place + 0.16 * (index - 2) for place in range(len(mine))]
            axes.bar(places, heights, width=0.15, label=way)
        axes.set_xticks(range(len(mine)), [case['link'] for case in mine], fontsize=7)
        axes.set_yscale('log')
        axes.set_ylim(10.0, highest)
        axes.set_title(f'{network} {size}, {mine[0]["operators"]} operators', fontsize=9)
    for axes in fields[:, 0]:
        axes.set_ylabel('ms')
    handles, labels = fields[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc='outside upper center', fontsize=8, ncols=len(WAYS))
    figure.savefig(path, dpi=90)
    pyplot.close(figure)
