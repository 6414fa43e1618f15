"""Figures, tables and picture of ``benchmarks/amot.py`` from what it measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table

DRAWS = 2000
COSTS = ('second_pass_flops_ratio', 'robot_us_per_image', 'costs')  # of amot_cost.py
TEXTS = {
    'amot': 'A-MOT (adaptive)',
    'amot_printed': 'A-MOT, objective as printed',
    'amot_net': 'A-MOT, net gains',
    'amot_o': 'A-MOT-O (one round)',
    'mot': 'MOT (fixed r2)',
    'mot_even': 'MOT, bytes shared evenly',
    'amot_only_new': 'only the new patches',
    'amot_no_linear': 'without linear layers',
    'amot_one_layer': 'one attention layer',
    'non_r': 'Non-R (holes)',
    'non_r_dropped': 'Non-R (trained with dropping)',
    'sdt': 'SDT (low, then regions)',
    'isr': 'ISR (upsampled)',
    'df': 'DF (contrast)',
    'df_oracle': 'DF (perfect detector)',
    'po': 'PO (first layer)',
    'mbc': 'MBC (compressed split)',
    'jpeg': 'JPEG',
    'webp': 'WebP',
    'sdt_webp': 'SDT in WebP',
    'amot_webp': 'A-MOT in WebP',
    'amot_jpeg': 'A-MOT in JPEG',
    'raw': 'raw image',
}
ROBOT_COMPUTES = ('po', 'mbc')
CODED = ('jpeg', 'webp', 'sdt_webp', 'amot_webp', 'amot_jpeg')
Bits = npt.NDArray[np.bool_]


def rights(run: Mapping[str, Any], images: int) -> Bits:
    """(M,): which images were answered right."""
    packed = np.frombuffer(bytes.fromhex(run['right']), np.uint8)
    return np.unpackbits(packed)[:images].astype(bool)


class Intervals:
    """Bootstrap draws of images, the same for all methods, so that differences are paired."""

    def __init__(self, images: int) -> None:
        rng = np.random.default_rng(8)
        shares = np.full(images, 1.0 / images)
        self._weights = rng.multinomial(images, shares, DRAWS).astype(np.float32) / images
        self._rng = rng

    def draws(self, right: Bits) -> npt.NDArray[np.float64]:
        """Accuracies (DRAWS,) of right (seeds, M): images and seeds drawn anew."""
        each = self._weights @ right.T.astype(np.float32)
        seeds = self._rng.integers(0, len(right), (DRAWS, len(right)))
        return np.asarray(np.take_along_axis(each, seeds, 1).mean(1), np.float64)

    @staticmethod
    def of(draws: npt.NDArray[np.float64]) -> list[float]:
        return [round(float(each), 4) for each in np.quantile(draws, (0.025, 0.975))]


def content(
    runs: Mapping[str, Any],
    hard: Bits,
    raw_bytes: int,
    notes: Sequence[str],
    settings: Mapping[str, Any],
) -> dict[str, Any]:
    """All of ``amot.json`` but the costs."""
    images = len(hard)
    found: dict[str, dict[str, list[Mapping[str, Any]]]] = {}
    for key, run in runs.items():
        if isinstance(run, dict) and 'right' in run:
            method, traffic, _ = key.split()
            found.setdefault(method, {}).setdefault(traffic, []).append(run)
    intervals = Intervals(images)
    accuracy: dict[str, dict[str, float]] = {}
    details: dict[str, dict[str, Any]] = {}
    draws: dict[tuple[str, str], npt.NDArray[np.float64]] = {}
    for method in sorted(found, key=list(TEXTS).index):
        for traffic in sorted(found[method], key=float):
            many = found[method][traffic]
            right = np.stack([rights(run, images) for run in many])
            drawn = draws[method, traffic] = intervals.draws(right)
            accuracy.setdefault(method, {})[traffic] = round(float(right.mean()), 4)
            details.setdefault(method, {})[traffic] = {
                'interval_95': Intervals.of(drawn),
                'easy': _share(right[:, ~hard]),
                'hard': _share(right[:, hard]),
                'seeds': len(many),
                'sent_share': round(float(np.mean([run['sent'] for run in many])) / raw_bytes, 4),
                'choice': many[0]['choice'],
            }
    whole = rights(runs['raw 100 0'], images)
    full = {
        'accuracy': round(float(whole.mean()), 4),
        'easy': _share(whole[~hard]),
        'hard': _share(whole[hard]),
        'on_calibration': runs.get('full on calibration'),
    }
    return {
        'settings': dict(settings),
        'notes': list(notes),
        'raw_bytes': raw_bytes,
        'full_image': full,
        'accuracy': accuracy,
        'details': details,
        'differences': differences(draws, accuracy),
        'targets': targets(accuracy, full),
        'grid': {key.split()[1]: run for key, run in runs.items() if key.startswith('grid ')},
    }


def _share(right: Bits) -> float | None:
    return round(float(right.mean()), 4) if right.size else None


def differences(
    draws: Mapping[tuple[str, str], npt.NDArray[np.float64]],
    accuracy: Mapping[str, Mapping[str, float]],
) -> dict[str, Any]:
    """A-MOT less each other method at equal traffic, with paired intervals."""
    found: dict[str, Any] = {}
    for method, traffics in accuracy.items():
        for traffic, value in traffics.items():
            if method != 'amot' and ('amot', traffic) in draws:
                paired = draws['amot', traffic] - draws[method, traffic]
                found.setdefault(method, {})[traffic] = {
                    'mean': round(accuracy['amot'][traffic] - value, 4),
                    'interval_95': Intervals.of(paired),
                }
    return found


def targets(
    accuracy: Mapping[str, Mapping[str, float]], full: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    """What is to be shown: a value, the least that it should be, whether it is."""

    def at(method: str, traffic: str = '40') -> float | None:
        return accuracy.get(method, {}).get(traffic)

    ours, whole = at('amot'), full['accuracy']
    found = {'full image': _target(whole, 0.90)}
    for name, other, least in (
        ('A-MOT less Non-R at 40 %', 'non_r', 0.10),
        ('A-MOT less SDT at 40 %', 'sdt', 0.0),
        ('A-MOT less ISR at 40 %', 'isr', 0.0),
        ('A-MOT less MOT at 40 %', 'mot', 0.02),
    ):
        its = at(other)
        found[name] = _target(None if ours is None or its is None else ours - its, least)
    found['A-MOT less full image at 40 %'] = _target(None if ours is None else ours - whole, -0.03)
    return found


def _target(value: float | None, least: float) -> dict[str, Any]:
    known = None if value is None else round(value, 4)
    return {'value': known, 'least': least, 'met': None if known is None else known >= least}


def write(content: Mapping[str, Any], path: Path) -> None:
    """``amot.json``, with the costs that are in it already, and the picture."""
    kept = json.loads(path.read_text()) if path.exists() else {}
    costs = {key: kept[key] for key in COSTS if key in kept}
    path.write_text(json.dumps({**content, **costs}, indent=1) + '\n')
    save_picture(content, path.with_suffix('.png'))


# ---- what is shown


def show(content: Mapping[str, Any]) -> None:
    """All tables."""
    console = Console(width=170)
    full = content['full_image']
    console.print(
        f'full image: {_percent(full["accuracy"])} %, easy {_percent(full["easy"])}, '
        f'hard {_percent(full["hard"])}'
    )
    console.print(table_of(content))
    if content['grid']:
        console.print(table_of_grid(content['grid']))
    for name, each in content['targets'].items():
        state = {None: 'not measured', True: 'met', False: 'MISSED'}[each['met']]
        console.print(
            f'{name}: {_percent(each["value"])} (at least {_percent(each["least"])}) {state}'
        )
    for traffic in ('10', '20', '40'):
        console.print(verdict(content['accuracy'], traffic))
    for note in content['notes']:
        console.print(f'note: {note}')


def verdict(accuracy: Mapping[str, Mapping[str, float]], traffic: str) -> str:
    """Which is the best at a traffic, plainly."""
    known = {name: values[traffic] for name, values in accuracy.items() if traffic in values}
    if not known:
        return f'at {traffic} %: nothing measured'
    best = max(known, key=lambda name: known[name])
    parts = [f'at {traffic} %: best is {TEXTS[best]}, {_percent(known[best])} %']
    for name in ('amot', 'amot_webp', 'jpeg', 'webp'):
        if name in known and name != best:
            parts.append(f'{TEXTS[name]} {_percent(known[name])}')
    return '; '.join(parts)


def _percent(value: float | None) -> str:
    return '-' if value is None else f'{100 * value:.1f}'


def table_of(content: Mapping[str, Any]) -> Table:
    """Accuracy by method and traffic, half the width of the interval beside it."""
    accuracy, details = content['accuracy'], content['details']
    columns = sorted({float(each) for values in accuracy.values() for each in values})
    table = Table(title='accuracy, % ± half of the 95 % interval, over traffic, % of raw bytes')
    table.add_column('method', no_wrap=True)
    for column in columns:
        table.add_column(f'{column:g}', justify='right')
    for method, values in accuracy.items():
        cells = []
        for column in columns:
            value = values.get(f'{column:g}')
            if value is None:
                cells.append('')
                continue
            low, high = details[method][f'{column:g}']['interval_95']
            cells.append(f'{100 * value:.1f} ±{50 * (high - low):.1f}')
        mark = ' *' if method in ROBOT_COMPUTES else ''
        table.add_row(TEXTS[method] + mark, *cells)
    table.caption = '* the robot computes a layer of the network'
    return table


def table_of_grid(grid: Mapping[str, Any]) -> Table:
    """Over both ratios: accuracy and traffic; shares answered in one round over the threshold."""
    firsts = sorted(grid, key=float)
    seconds = sorted({each for first in firsts for each in grid[first]['second']}, key=float)
    thresholds = list(grid[firsts[0]]['one_round'])
    table = Table(title='r1, r2: accuracy, % (traffic, %); answered in one round at a threshold, %')
    table.add_column('r1 \\ r2')
    for each in seconds:
        table.add_column(f'{100 * float(each):g}', justify='right')
    for each in thresholds:
        table.add_column(f'>= {each}', justify='right')
    for first in firsts:
        cells = [
            f'{_percent(found["accuracy"])} ({_percent(found["traffic"])})'
            for found in (grid[first]['second'][each] for each in seconds)
        ]
        cells += [_percent(grid[first]['one_round'][each]) for each in thresholds]
        table.add_row(f'{100 * float(first):g}', *cells)
    return table


def save_picture(content: Mapping[str, Any], path: Path) -> None:
    """Four fields: raw patches and pixels, codecs, parts of A-MOT left out, both ratios."""
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot

    figure, fields = pyplot.subplots(2, 2, figsize=(12, 8.5), layout='constrained')
    ablated = ('amot', 'amot_o', 'mot', 'mot_even', 'amot_only_new', 'amot_no_linear',
               'amot_one_layer', 'amot_printed', 'amot_net')  # fmt: skip
    without = [name for name in TEXTS if name not in CODED and name not in ablated[1:]]
    _lines(fields[0, 0], content, [name for name in without if name != 'raw'], 'no codec')
    _lines(fields[0, 1], content, ('amot', *CODED, 'po', 'mbc'), 'with codecs')
    fields[0, 1].set_xscale('log')
    ticks = [1, 2, 5, 10, 20, 40, 100]
    fields[0, 1].set_xticks(ticks, [str(each) for each in ticks])
    _lines(fields[1, 0], content, ablated, 'parts of A-MOT left out')
    _grid(fields[1, 1], content['grid'])
    figure.savefig(path, dpi=90)
    pyplot.close(figure)


def _lines(axes: Any, content: Mapping[str, Any], methods: Sequence[str], title: str) -> None:
    for place, method in enumerate(methods):
        values = content['accuracy'].get(method)
        if not values:
            continue
        traffics = sorted(values, key=float)
        at = [100 * content['details'][method][each]['sent_share'] for each in traffics]
        ours = method.startswith('amot') and method in ('amot', 'amot_webp')
        line = axes.plot(
            at,
            [100 * values[each] for each in traffics],
            marker='o',
            label=TEXTS[method],
            color=f'C{place % 10}',
            linestyle='-' if place < 10 else ':',
            linewidth=2.4 if ours else 1.1,
            markersize=3,
        )
        edges = [content['details'][method][each]['interval_95'] for each in traffics]
        low, high = np.array(edges).T * 100
        axes.fill_between(at, low, high, color=line[0].get_color(), alpha=0.15, linewidth=0)
    full = 100 * content['full_image']['accuracy']
    axes.axhline(full, color='k', linewidth=0.7, linestyle='--')
    axes.set(title=title, xlabel='traffic, % of raw bytes', ylabel='accuracy, %')
    axes.legend(fontsize=7)
    axes.grid(alpha=0.3)


def _grid(axes: Any, grid: Mapping[str, Any]) -> None:
    if not grid:
        axes.set_visible(False)
        return
    for first in sorted(grid, key=float):
        second = grid[first]['second']
        ratios = sorted(second, key=float)
        axes.plot(
            [100 * float(each) for each in ratios],
            [100 * second[each]['accuracy'] for each in ratios],
            'o-',
            markersize=3,
            label=f'r1 {100 * float(first):g} %',
        )
    axes.set(title='fixed ratios, threshold 0.8', xlabel='r2, % of patches', ylabel='accuracy, %')
    axes.legend(fontsize=7)
    axes.grid(alpha=0.3)
