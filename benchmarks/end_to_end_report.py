"""Figures, table and picture of ``benchmarks/end_to_end.py`` from what its camera saw.

Latency is that of the camera: a frame published to its result heard. Energy is the manager's own
estimate by its power model, not a measurement. A ratio of two ways is that of their mean latencies;
its 95 % interval is a bootstrap over the trace's seconds, in which both ran.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

OURS = 'auto'
LIMIT = 1.03  # "never worse": the lower end of the interval is at most this
P99_FRAMES = 300  # fewer tell nothing of it
PICKS = 2000
HIGHEST = 4.5  # times ours: what is shown of ways that are far slower


def rows_of(slices: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Of all slices."""
    return [row for each in slices for row in each['rows']]


def way_figures(slices: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Of one way in one cell."""
    rows = rows_of(slices)
    refused = sorted({each['refused'] for each in slices if 'refused' in each})
    found: dict[str, Any] = {'frames': len(rows), 'missing': sum(e['missing'] for e in slices)}
    if refused:
        found['refused'] = refused
    if not rows:
        return found
    latency_ms = 1e3 * np.array([row['latency_s'] for row in rows])
    busy = [each['server_busy'] for each in slices if each['server_busy'] is not None]
    kinds = Counter(row['agreement'] for row in rows)
    return found | {
        'mean_ms': round(float(latency_ms.mean()), 2),
        'p50_ms': round(float(np.percentile(latency_ms, 50)), 2),
        'p95_ms': round(float(np.percentile(latency_ms, 95)), 2),
        'p99_ms': round(float(np.percentile(latency_ms, 99)), 2)
        if len(rows) >= P99_FRAMES
        else None,
        'longest_ms': round(float(latency_ms.max()), 2),
        'results_per_s': round(len(rows) / sum(each['took_s'] for each in slices), 3),
        'energy_j': round(float(np.mean([row['energy_j'] for row in rows])), 4),
        'bytes_up': round(float(np.mean([row['up'] for row in rows]))),
        'bytes_down': round(float(np.mean([row['down'] for row in rows]))),
        'server_busy': round(float(np.mean(busy)), 3) if busy else None,
        'cpu_robot': round(float(np.mean([each['cpu']['robot'] for each in slices])), 3),
        'cpu_server': round(float(np.mean([each['cpu']['server'] for each in slices])), 3),
        'fallbacks': sum(row['fallback'] for row in rows),
        'errors': sum(bool(row['error']) for row in rows),
        'agreement': dict(kinds.most_common()),
        'wrong': sum(count for kind, count in kinds.items() if kind not in ('bits', 'close')),
        'ran': dict(Counter(row['used'] or 'error' for row in rows).most_common()),
    }


def seconds_of(slices: Sequence[Mapping[str, Any]]) -> dict[tuple[int, int], list[float]]:
    """Latencies (s) of frames by slice and second in which they were sent."""
    found: dict[tuple[int, int], list[float]] = {}
    for place, each in enumerate(slices):
        for row in each['rows']:
            found.setdefault((place, int(row['sent_s'])), []).append(row['latency_s'])
    return found


def ratio(
    ours: Sequence[Mapping[str, Any]], theirs: Sequence[Mapping[str, Any]]
) -> tuple[float, float, float]:
    """Of mean latencies, with its interval: seconds of the trace are drawn for both alike."""
    tables = []
    by_second = [seconds_of(ours), seconds_of(theirs)]
    keys = sorted(set(by_second[0]) | set(by_second[1]))
    for each in by_second:
        lists = [each.get(key, []) for key in keys]
        tables.append(np.array([[sum(one), len(one)] for one in lists], dtype=float))
    whole = [each.sum(0) for each in tables]
    middle = (whole[0][0] / whole[0][1]) / (whole[1][0] / whole[1][1])
    picks = np.random.default_rng(0).integers(0, len(keys), (PICKS, len(keys)))
    own, other = (each[picks].sum(1) for each in tables)
    counted = (own[:, 1] > 0) & (other[:, 1] > 0)
    ratios = (own[:, 0] / own[:, 1])[counted] / (other[:, 0] / other[:, 1])[counted]
    low, high = np.percentile(ratios, [2.5, 97.5])
    return float(middle), float(low), float(high)


def cell_figures(cell: Mapping[str, Any]) -> dict[str, Any]:
    """A cell of the JSON file."""
    ways = {name: way_figures(slices) for name, slices in cell['ways'].items()}
    singles = {name: each for name, each in ways.items() if name != OURS and each['frames']}
    best = min(singles, key=lambda name: singles[name]['mean_ms'])
    found: dict[str, Any] = {
        'mean_mbit': round(float(np.mean(cell['rates_mbit'])), 2),
        'lowest_mbit': min(cell['rates_mbit']),
        'load_average': cell['load_average'],
        'best_single': best,
    }
    if ways[OURS]['frames']:
        middle, low, high = ratio(cell['ways'][OURS], cell['ways'][best])
        found['auto_over_best_single'] = round(middle, 4)
        found['auto_over_best_single_95'] = [round(low, 4), round(high, 4)]
        found['never_worse'] = low <= LIMIT
        tails = {name: each['p99_ms'] for name, each in singles.items() if each['p99_ms']}
        if tails and ways[OURS]['p99_ms']:
            best_tail = min(tails, key=lambda name: tails[name])
            found['best_p99'] = best_tail
            found['auto_over_best_p99'] = round(ways[OURS]['p99_ms'] / tails[best_tail], 4)
    return {**found, 'ways': ways}


def figures(cells: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """All of the JSON file that follows from measured cells."""
    made = {key: cell_figures(each) for key, each in cells.items()}
    ratios = {
        key: each['auto_over_best_single']
        for key, each in made.items()
        if 'auto_over_best_single' in each
    }
    ways = [way for each in made.values() for way in each['ways'].values()]
    return {
        'auto_over_best_single': max(ratios.values(), default=None),
        'limit': LIMIT,
        'never_worse_in': sum(bool(each.get('never_worse')) for each in made.values()),
        'cells_measured': len(made),
        'frames': sum(each['frames'] for each in ways),
        'missing': sum(each['missing'] for each in ways),
        'wrong': sum(each.get('wrong', 0) for each in ways),
        'worst_over_best_single': worst_over_best(made),
        'cells': made,
    }


def worst_over_best(made: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Of each way that ran in all cells, in its worst cell: its mean latency over that of the best
    single way there. What it costs to stay with one way."""
    found: dict[str, list[float]] = {}
    for cell in made.values():
        best_ms = cell['ways'][cell['best_single']]['mean_ms']
        for name, each in cell['ways'].items():
            if each['frames']:
                found.setdefault(name, []).append(each['mean_ms'] / best_ms)
    everywhere = {name: max(each) for name, each in found.items() if len(each) == len(made)}
    return {name: round(each, 4) for name, each in everywhere.items()}


def show(content: Mapping[str, Any]) -> None:
    """The tables."""
    console = Console(width=None if Console().is_terminal else 130)
    for key, cell in content['cells'].items():
        title = (
            f'{key}: {cell["mean_mbit"]:.0f} Mbit/s on average, {cell["lowest_mbit"]:.1f} at least'
        )
        table = Table(title=title)
        table.add_column('way')
        for heading in (
            'mean ms', 'p50', 'p95', 'p99', 'Hz', 'J', 'kB up', 'kB down',
            'CPU server', 'CPU robot', 'frames', 'wrong',
        ):  # fmt: skip
            table.add_column(heading, justify='right')
        for name, each in cell['ways'].items():
            if not each['frames']:
                table.add_row(name, *['-'] * 12)
                continue
            p99 = '-' if each['p99_ms'] is None else f'{each["p99_ms"]:.0f}'
            table.add_row(
                name,
                *(f'{each[field]:.0f}' for field in ('mean_ms', 'p50_ms', 'p95_ms')),
                p99,
                f'{each["results_per_s"]:.2f}',
                f'{each["energy_j"]:.2f}',
                f'{each["bytes_up"] / 1e3:.0f}',
                f'{each["bytes_down"] / 1e3:.0f}',
                f'{100 * each["cpu_server"]:.0f} %',
                f'{100 * each["cpu_robot"]:.0f} %',
                str(each['frames']),
                str(each['wrong']),
                style='bold' if name in (OURS, cell['best_single']) else None,
            )
        console.print(table)
        if 'auto_over_best_single' in cell:
            low, high = cell['auto_over_best_single_95']
            told = (
                f'auto over {cell["best_single"]}, the best single one: '
                f'{cell["auto_over_best_single"]:.3f} ({low:.3f} to {high:.3f})'
            )
            if 'best_p99' in cell:
                told += f'; p99 over that of {cell["best_p99"]}: {cell["auto_over_best_p99"]:.3f}'
            console.print(told + f'; auto ran {_shares(cell["ways"][OURS]["ran"])}')
    if content['auto_over_best_single'] is not None:
        console.print(
            f'auto_over_best_single, worst cell: {content["auto_over_best_single"]:.3f} (limit '
            f'{LIMIT}), never worse in {content["never_worse_in"]} of {content["cells_measured"]} '
            f'cells; {content["frames"]} frames, {content["missing"]} without a result, '
            f'{content["wrong"]} wrong'
        )
        worst = content['worst_over_best_single']
        told = ', '.join(
            f'{name} {worst[name]:.2f}' for name in sorted(worst, key=worst.__getitem__)
        )
        console.print(f'each way in its worst cell, over the best single one there: {told}')


def _shares(ran: Mapping[str, int]) -> str:
    whole = sum(ran.values())
    return ', '.join(f'{name} {100 * count / whole:.0f} %' for name, count in ran.items())


def save_picture(content: Mapping[str, Any], path: Path) -> None:
    """A field for each cell: mean latency of each way as a bar, p95 as a line on it; what leaves
    the field has its mean written on it."""
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot

    made = content['cells']
    columns = min(2, len(made))
    rows = -(-len(made) // columns)
    figure, fields = pyplot.subplots(
        rows, columns, figsize=(6.0 * columns, 2.7 * rows), layout='constrained', squeeze=False
    )
    for axes in fields.flat:
        axes.set_visible(False)
    for axes, (key, cell) in zip(fields.flat, made.items(), strict=False):
        axes.set_visible(True)
        names = [name for name, each in cell['ways'].items() if each['frames']]
        means = [cell['ways'][name]['mean_ms'] for name in names]
        tails = [cell['ways'][name]['p95_ms'] for name in names]
        colours = ['tab:green' if name == OURS else 'tab:blue' for name in names]
        places = np.arange(len(names))
        axes.bar(places, means, color=colours, width=0.7)
        axes.vlines(places, means, tails, color='0.3', linewidth=1.2)
        axes.plot(places, tails, '_', color='0.3', markersize=9)
        axes.axhline(cell['ways'][OURS]['mean_ms'], color='tab:green', linewidth=0.8, zorder=0)
        top = min(HIGHEST * cell['ways'][OURS]['mean_ms'], 1.05 * max(tails))
        axes.set_ylim(0.0, top)
        for place, mean in zip(places, means, strict=True):
            if mean > top:
                axes.annotate(
                    f'{mean:.0f}', (place, top), xytext=(0, -9), textcoords='offset points',
                    ha='center', fontsize=8, color='white',
                )  # fmt: skip
        axes.set_xticks(places, names, rotation=30, ha='right', fontsize=8)
        axes.set_ylabel('ms')
        axes.set_title(f'{key} ({cell["mean_mbit"]:.0f} Mbit/s)', fontsize=10)
    figure.suptitle('Latency, camera to result: mean (bar) and 95th percentile (line)', fontsize=11)
    figure.savefig(path, dpi=90)
    pyplot.close(figure)
