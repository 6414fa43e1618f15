"""What ``benchmarks/fleet.py`` measured: figures, table and picture."""

from __future__ import annotations

from pathlib import Path
import statistics
from typing import Any

import matplotlib
import numpy as np
from rich.console import Console
from rich.table import Table

matplotlib.use('Agg')
from matplotlib import pyplot as plt

HARD_S = 1.0  # instances on which the exact program needs more are those whose times count
HIGHER = 1e-4  # relative: less does not count as higher
ROUNDING = 1e-7  # relative: less does not count as lower
SCARCE = ('compute', 'tight')  # instances drawn with little computing
NAMES = {
    'j3o': 'J3O without batches',
    'batched': 'J3O',
    'greedy_accuracy': 'greedy by accuracy',
    'greedy_accuracy_per_byte': 'greedy by accuracy per byte',
    'robot_only': 'robots only',
    'server_only': 'servers and cloud only',
    'random': 'random loading',
}
DRAWN = (
    'by seed and number of the instance; even instances uniform over 3 to 50 robots, 1 to 5 '
    'servers, 2 to 8 tasks and 4 to 20 models, odd ones over 40 to 50, 3 to 5, 6 to 8 and 10 to '
    '20; a cloud in half; limits loose, compute, memory, links, tight (all three) in turn; the '
    'rest is drawn by offload_ros/fleet/instances.py'
)


def reference(run: dict[str, Any]) -> float:
    """The optimum within the gap, or the bound where the exact program did not finish."""
    return float(run['exact'] if run['optimal'] else run['bound'])


def value_of(run: dict[str, Any], method: str) -> float:
    return float(run[method] if method in run else run['others'][method])


def _ratios(runs: list[dict[str, Any]], method: str) -> list[float]:
    return [value_of(run, method) / reference(run) for run in runs]


def _summary(runs: list[dict[str, Any]], method: str) -> dict[str, float]:
    ratios = _ratios(runs, method)
    return {
        'mean_ratio': statistics.fmean(ratios),
        'worst_ratio': min(ratios),
        'mean_accuracy': statistics.fmean(value_of(run, method) / run['asked'] for run in runs),
    }


def batching(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """How often batches raise accuracy, over all instances and where computing is scarce."""
    found: dict[str, Any] = {}
    scarce = [run for run in runs if run['limits'] in SCARCE]
    for name, some in (('all', runs), ('scarce_computing', scarce)):
        if not some:
            continue
        gains = [run['batched'] / run['j3o'] - 1.0 for run in some]
        found[name] = {
            'instances': len(some),
            'higher': sum(gain > HIGHER for gain in gains),
            'lower': sum(gain < -ROUNDING for gain in gains),
            'mean_gain': statistics.fmean(gains),
            'most_gain': max(gains),
            'answered_gain': statistics.fmean(
                run['batched_answered'] - run['answered'] for run in some
            ),
        }
    return found


def content(
    runs: list[dict[str, Any]], largest: dict[str, Any], seed: int, limit_s: float
) -> dict[str, Any]:
    """Of ``fleet.json``."""
    hard = [run for run in runs if run['exact_s'] > HARD_S]
    times = [run['j3o_s'] / run['exact_s'] for run in hard]
    main = _summary(runs, 'j3o')
    return {
        'mean_ratio': main['mean_ratio'],
        'worst_ratio': main['worst_ratio'],
        'time_ratio': statistics.median(times) if times else None,
        'time_ratio_p90': float(np.quantile(times, 0.9)) if times else None,
        'instances': len(runs),
        'instances_of_time_ratio': len(hard),
        'timeouts': sum(not run['optimal'] for run in runs),
        'exact_limit_s': limit_s,
        'seed': seed,
        'drawn': DRAWN,
        'violations': 0,  # one would have ended the run
        'methods': {name: _summary(runs, name) for name in NAMES},
        'by_limits': {
            limits: _summary([run for run in runs if run['limits'] == limits], 'j3o')
            for limits in dict.fromkeys(run['limits'] for run in runs)
        },
        'batching': batching(runs),
        'robots_1000': largest,
        'runs': [
            {
                key: round(value, 5) if isinstance(value, float) else value
                for key, value in run.items()
            }
            for run in runs
        ],
    }


def show(found: dict[str, Any], console: Console) -> None:
    """The table."""
    table = Table(title=f'{found["instances"]} random fleets')
    table.add_column('method')
    for heading in ('of the optimum, mean', 'worst', 'accuracy, mean'):
        table.add_column(heading, justify='right')
    for name, row in found['methods'].items():
        table.add_row(
            NAMES[name],
            *(f'{100 * row[key]:.2f} %' for key in ('mean_ratio', 'worst_ratio', 'mean_accuracy')),
        )
    console.print(table)
    batches, large = found['batching'], found['robots_1000']
    lines = [f'{found["timeouts"]} instances on which the exact program ran out of time']
    if found['time_ratio'] is not None:
        lines.append(
            f'time of J3O / exact: median {found["time_ratio"]:.3f}, 90th percentile '
            f'{found["time_ratio_p90"]:.3f}, over the {found["instances_of_time_ratio"]} instances '
            f'on which the exact program takes more than {HARD_S:g} s'
        )
    for name, text in (('all', 'all'), ('scarce_computing', 'those with little computing')):
        row = batches.get(name)
        if row is None:
            continue
        lines.append(
            f'batches, {text}: of {row["instances"]} higher on {row["higher"]}, lower on '
            f'{row["lower"]}, accuracy {100 * row["mean_gain"]:.2f} % more on average'
        )
    lines.append(
        f'1000 robots: {large["one_by_one"]["processor_s"]:.1f} s, with batches '
        f'{large["batched"]["processor_s"]:.1f} s'
    )
    for line in lines:
        console.print(line, soft_wrap=True, highlight=False)


def draw(runs: list[dict[str, Any]], path: Path) -> None:
    """Ratios of all methods, and times."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(12.0, 4.8), layout='constrained')
    for name, text in NAMES.items():
        ratios = np.sort(_ratios(runs, name))
        left.plot(ratios, np.linspace(0.0, 1.0, len(ratios)), label=text)
    left.set(xlabel='right answers / optimum without batches', ylabel='share of instances')
    left.legend(fontsize=8)
    for optimal, marker in ((True, 'o'), (False, '^')):
        some = [run for run in runs if run['optimal'] == optimal]
        label = 'solved' if optimal else 'out of time'
        exact_s, j3o_s = [run['exact_s'] for run in some], [run['j3o_s'] for run in some]
        right.scatter(exact_s, j3o_s, s=10, marker=marker, label=label)
    ends = np.array([1e-2, 1e2])
    right.plot(ends, 0.05 * ends, color='grey', lw=0.8, label='1 : 20')
    right.set(xscale='log', yscale='log', xlabel='exact program (s)', ylabel='J3O (s)')
    right.legend(fontsize=8)
    figure.savefig(path, dpi=110)
    plt.close(figure)
