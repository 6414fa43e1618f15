"""A-MOT over DDS on thin links: latency and images per second against JPEG, WebP and raw images.

    python benchmarks/amot_link.py --bundle config/networks/scene --data DATA

Robot and server are processes in the testbed, a core each, with 1, 5 and 20 Mbit/s between them and
2.6 ms of round trip. Each image of the test split goes four ways, in turns: strategy ``amot`` (its
own messages and knobs), and whole, as JPEG and WebP of quality 80 and raw, to the same classifier.
Latency counts from the image in the robot's memory to the answer, coding included; images per
second are what one robot gets that sends one after the other. Intervals (95 %) are of the median,
by bootstrap. Writes ``benchmarks/results/amot_link.json`` and a picture.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
import json
import os
from pathlib import Path
import platform
import random
import sys
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

# The testbed is a folder of the repository, not of the package; behind an installed offload_ros.
sys.path.append(str(Path(__file__).resolve().parents[1]))
from benchmarks.amot_link_end import QUALITY, WAYS
from benchmarks.ends import both_ends, use_network
from benchmarks.testbed import Testbed, unavailable

RESULTS = Path(__file__).parent / 'results'
MBITS = (1.0, 5.0, 20.0)
RTT_S = 0.0026
ROUNDS, WARM_UP = 60, 8
DRAWS = 2000


def measure(arguments: argparse.Namespace) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Runs by bandwidth (Mbit/s) and way."""
    command = [
        sys.executable, str(Path(__file__).resolve()), '--bundle', str(arguments.bundle.resolve()),
        '--data', str(arguments.data.resolve()), '--options', json.dumps(arguments.options),
        '--end',
    ]  # fmt: skip
    found: dict[str, dict[str, list[dict[str, Any]]]] = {}
    order = random.Random(8)
    for mbit in arguments.mbit:
        runs: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
        with (
            Testbed(mbit=mbit, rtt_s=RTT_S) as bed,
            both_ends(bed, command) as (robot, _),
        ):
            rounds = range(-WARM_UP, arguments.rounds)
            for turn in track(rounds, f'{mbit:g} Mbit/s'):
                for way in order.sample(WAYS, len(WAYS)):
                    # The same image for all ways; far apart, so that they are of many worlds.
                    ran = robot('infer', way=way, image=(turn + WARM_UP) * 37)
                    if turn >= 0:
                        runs[way].append(ran)
        found[f'{mbit:g}'] = runs
    return found


def figures(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Of one way at one bandwidth."""
    good = [each for each in runs if 'failed' not in each]
    if not good:
        return {'runs': 0, 'failed': len(runs)}
    times = np.array([each['total_s'] for each in good])
    rng = np.random.default_rng(0)
    medians = np.median(times[rng.integers(0, len(times), (DRAWS, len(times)))], axis=1)
    return {
        'runs': len(good),
        'failed': len(runs) - len(good),
        'p50_ms': round(1e3 * float(np.median(times)), 2),
        'p50_ms_95': [round(1e3 * float(each), 2) for each in np.quantile(medians, (0.025, 0.975))],
        'p95_ms': round(1e3 * float(np.quantile(times, 0.95)), 2),
        'images_per_s': round(len(times) / float(times.sum()), 2),
        'kB_up': round(float(np.mean([each['up'] for each in good])) / 1e3, 2),
        'kB_down': round(float(np.mean([each['down'] for each in good])) / 1e3, 3),
        'server_ms': round(1e3 * float(np.median([each['server_s'] for each in good])), 2),
        'rounds': round(float(np.mean([each['rounds'] for each in good])), 3),
        'right': round(float(np.mean([each['right'] for each in good])), 3),
    }


def show(content: Mapping[str, Any]) -> None:
    """The table."""
    table = Table(title='an image over DDS (latency in ms)')
    headings = ('Mbit/s', 'way', 'p50', '95 % of it', 'p95', 'images/s', 'kB up', 'rounds', 'right')
    for heading in headings:
        table.add_column(heading, justify='left' if heading == 'way' else 'right')
    for mbit, ways in content['links'].items():
        for place, (way, each) in enumerate(ways.items()):
            cells = ['-'] * 7
            if each['runs']:
                low, high = each['p50_ms_95']
                cells = [f'{each["p50_ms"]:.1f}', f'{low:.1f} to {high:.1f}']
                cells += [f'{each["p95_ms"]:.1f}', f'{each["images_per_s"]:.1f}']
                cells += [f'{each["kB_up"]:.1f}', f'{each["rounds"]:.2f}']
                cells += [f'{100 * each["right"]:.0f} %']
            table.add_row('' if place else mbit, way, *cells, end_section=way == WAYS[-1])
    Console(width=110).print(table)


def save_picture(content: Mapping[str, Any], path: Path) -> None:
    """Median latency and images per second over the bandwidth."""
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot

    figure, fields = pyplot.subplots(1, 2, figsize=(9, 3.6), layout='constrained')
    for axes, key, text in zip(
        fields, ('p50_ms', 'images_per_s'), ('ms (median)', 'images/s'), strict=True
    ):
        for way in WAYS:
            points = [
                (float(mbit), ways[way][key])
                for mbit, ways in content['links'].items()
                if ways[way]['runs']
            ]
            if points:
                axes.plot(*zip(*points, strict=True), 'o-', label=way, markersize=4)
        axes.set(xscale='log', yscale='log', xlabel='Mbit/s', ylabel=text)
        axes.grid(alpha=0.3, which='both')
    fields[0].legend(fontsize=8)
    figure.savefig(path, dpi=90)
    pyplot.close(figure)


def main() -> None:
    """Run it, or one of its processes."""
    parser = argparse.ArgumentParser(description=(__doc__ or '').splitlines()[0])
    parser.add_argument('--bundle', type=Path, default=Path('config/networks/scene'))
    parser.add_argument('--data', type=Path, required=True, help='images: test')
    parser.add_argument('--json', type=Path, default=RESULTS / 'amot_link.json')
    parser.add_argument('--mbit', type=float, nargs='+', default=MBITS)
    parser.add_argument('--rounds', type=int, default=ROUNDS, help='images, each by all ways')
    parser.add_argument('--options', type=json.loads, default={}, help='knobs of amot, as JSON')
    parser.add_argument('--domain', type=int, default=81, help='ROS_DOMAIN_ID')
    parser.add_argument('--end', choices=('robot', 'server'), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.end:
        from benchmarks.amot_link_end import LinkEnd

        LinkEnd(arguments.end, arguments.bundle, arguments.data, arguments.options).serve()
        return
    if unavailable():
        sys.exit(f'error: {unavailable()}')
    use_network(arguments.domain)
    load = os.getloadavg()[0]
    if load > 1.0:
        print(f'this machine is busy (load {load:.1f}): latencies will be wrong', file=sys.stderr)
    found = measure(arguments)
    content = {
        'machine': f'{platform.machine()}, {os.cpu_count()} cores',
        'load_average': round(load, 2),
        'added_rtt_ms': 1e3 * RTT_S,
        'quality': QUALITY,
        'options': arguments.options,
        'links': {
            mbit: {way: figures(each) for way, each in runs.items()} for mbit, runs in found.items()
        },
    }
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(content, indent=1) + '\n')
    save_picture(content, arguments.json.with_suffix('.png'))
    show(content)


if __name__ == '__main__':
    main()
