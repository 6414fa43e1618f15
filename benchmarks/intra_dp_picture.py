"""Picture of ``benchmarks/intra_dp.py``: latency over bandwidth, and beside recorded bandwidth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import math
from pathlib import Path
from typing import Any

from benchmarks.intra_dp_cells import METHODS, STRATEGY

OURS = METHODS[-1]
COLORS = {name: f'C{place}' for place, name in enumerate((*METHODS, STRATEGY))}


def save_picture(content: Mapping[str, Any], path: Path) -> None:
    """Fields in two rows: networks on the usual server; all else."""
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot

    networks: dict[str, list[Mapping[str, Any]]] = {}
    others: dict[str, Mapping[str, Any]] = {}
    for name, case in content['cases'].items():
        if case['server_speed'] == 1.0 and not case['lossless_codecs']:
            networks.setdefault(case['network'], []).append(case)
        else:
            others[name] = case
    bars = [*others.items(), *content['traces'].items()]
    columns = max(len(networks), len(bars))
    if not columns:
        return
    rows = bool(networks) + bool(bars)
    figure, fields = pyplot.subplots(
        rows, columns, figsize=(3.6 * columns, 3.2 * rows), layout='constrained', squeeze=False
    )
    for axes in fields.flat:
        axes.set_visible(False)
    for axes, (name, cases) in zip(fields[0], networks.items(), strict=False):
        _lines(axes, name, sorted(cases, key=lambda each: float(each['mbit'])))
    for axes, (name, each) in zip(fields[-1], bars, strict=False):
        _bars(axes, name, each)
    if networks:
        handles, labels = fields[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc='outside upper center', fontsize=8, ncols=len(labels))
    figure.savefig(path, dpi=90)
    pyplot.close(figure)


def _lines(axes: Any, title: str, cases: Sequence[Mapping[str, Any]]) -> None:
    """Median latency of each method over the bandwidth."""
    axes.set_visible(True)
    for method in METHODS:
        points = [
            (case['mbit'], case['methods'][method]['p50_ms'])
            for case in cases
            if case['methods'].get(method, {}).get('runs')
        ]
        if points:
            wide = 2.6 if method == OURS else 1.1
            axes.plot(
                *zip(*points, strict=True),
                'o-',
                label=method,
                color=COLORS[method],
                linewidth=wide,
                markersize=3,
            )
    axes.set_xscale('log')
    mbits = [case['mbit'] for case in cases]
    axes.set_xticks(mbits, [f'{each:g}' for each in mbits])
    axes.set_xticks([], minor=True)
    axes.set_ylim(0.0, 2.2 * _device_ms(cases))
    axes.set_xlabel('Mbit/s')
    axes.set_ylabel('ms (median)')
    axes.set_title(title, fontsize=10)
    axes.grid(alpha=0.3)


def _device_ms(cases: Sequence[Mapping[str, Any]]) -> float:
    """What is far above it is not of interest."""
    found = [case['methods'].get('device', {}).get('p50_ms', math.nan) for case in cases]
    known = [each for each in found if not math.isnan(each)]
    return max(known) if known else 1000.0


def _bars(axes: Any, title: str, found: Mapping[str, Any]) -> None:
    """Median and 95th percentile of a case; mean, 95th and 99th percentile of a stretch."""
    axes.set_visible(True)
    ways = found['methods'] if 'methods' in found else found['ways']
    keys = ('p50_ms', 'p95_ms') if 'methods' in found else ('mean_ms', 'p95_ms', 'p99_ms')
    names = [name for name, each in ways.items() if keys[0] in each]
    for place, name in enumerate(names):
        for shade, key in enumerate(keys):
            axes.bar(
                place + 0.27 * (shade - (len(keys) - 1) / 2),
                ways[name][key],
                width=0.25,
                color=COLORS[name],
                alpha=1.0 - 0.3 * shade,
            )
    axes.set_xticks(range(len(names)), names, rotation=30, fontsize=7)
    axes.set_ylabel('ms (' + ', '.join(key.removesuffix('_ms') for key in keys) + ')')
    axes.set_title(title, fontsize=8)
