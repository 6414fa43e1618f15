"""Command ``plan``: how a profiled model is best shared between robot and server, by bandwidth.

    python -m offload_ros.graph.plan --profile kapao.json --bandwidth-MBps 2,4,8 --method all

Prints a table, or with ``--json`` one object per line.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
import json
import math
import os
from pathlib import Path
import sys

from rich.console import Console
from rich.progress import track
from rich.table import Table

from offload_ros.baselines.problem import Objective
from offload_ros.graph.codings import uncoded
from offload_ros.graph.crossings import Halo
from offload_ros.graph.methods import find_method, method_names, quick_method_names
from offload_ros.graph.plan_rows import Row, planned_rows
from offload_ros.graph.profile import Profile
from offload_ros.graph.profile_file import read_profile
from offload_ros.graph.timeline import Schedule

ENERGY_DEADLINE_S = 1.0
MAX_BANDWIDTHS = 10_000


def summary(schedule: Schedule) -> str:
    """A plan in a few words."""
    plan = schedule.plan
    computed = [not operator.is_input for operator in plan.profile.operators]
    robot, server = plan.on_robot & computed, plan.on_server & computed
    if not server.any():
        return 'all on the robot'
    if not robot.any():
        return 'all on the server'
    both = int((robot & server).sum())
    parts = [f'{int(robot.sum()) - both} robot', f'{int(server.sum()) - both} server']
    if both:
        parts.append(f'{both} on both')
    messages = len(schedule.uplink), len(schedule.downlink)
    return f'operators: {", ".join(parts)}; messages: {messages[0]} up, {messages[1]} down'


def print_table(profile: Profile, found: Sequence[Row], console: Console) -> None:
    """The fastest of each bandwidth stands in bold."""
    table = Table(title=f'{profile.model}: {len(profile)} operators')
    table.add_column('MB/s', justify='right')
    table.add_column('method')
    for heading in ('latency ms', 'energy J', 'up kB', 'down kB'):
        table.add_column(heading, justify='right')
    table.add_column('plan')
    least = {
        bandwidth: min(row.schedule.latency_s for row in found if row.bandwidth == bandwidth)
        for bandwidth in {row.bandwidth for row in found}
    }
    for index, row in enumerate(found):
        schedule = row.schedule
        table.add_row(
            f'{row.bandwidth:g}',
            row.method,
            f'{1e3 * schedule.latency_s:.1f}' if math.isfinite(schedule.latency_s) else 'never',
            f'{row.energy_j:.3f}' if math.isfinite(row.energy_j) else '-',
            f'{schedule.uplink_bytes / 1e3:.1f}',
            f'{schedule.downlink_bytes / 1e3:.1f}',
            summary(schedule),
            style='bold' if schedule.latency_s <= least[row.bandwidth] else None,
            end_section=index + 1 == len(found) or found[index + 1].bandwidth != row.bandwidth,
        )
    console.print(table)


def plot(profile: Profile, found: Sequence[Row], path: Path) -> None:
    """Latency and energy over bandwidth, a line per method; ``ValueError`` for a path that cannot
    be written."""
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(11, 4.5), layout='constrained')
    for name in dict.fromkeys(row.method for row in found):
        own = sorted((row for row in found if row.method == name), key=lambda row: row.bandwidth)
        bandwidths = [row.bandwidth for row in own]
        axes[0].plot(bandwidths, [1e3 * row.schedule.latency_s for row in own], '.-', label=name)
        axes[1].plot(bandwidths, [row.energy_j for row in own], '.-', label=name)
    for axis, label in zip(axes, ('latency (ms)', 'energy of the robot (J)'), strict=True):
        axis.set(xlabel='bandwidth (MB/s)', ylabel=label, ylim=(0, None))
        axis.grid(alpha=0.3)
    axes[0].legend()
    figure.suptitle(profile.model)
    try:
        figure.savefig(path, dpi=120)
    except (OSError, ValueError) as error:
        raise ValueError(f'--plot {path}: {error}') from None
    finally:
        pyplot.close(figure)


def _numbers(name: str, text: str, unit: str) -> list[float]:
    """Comma-separated numbers, 0 or more."""
    try:
        found = [float(each) for each in text.split(',')]
    except ValueError:
        raise ValueError(f'{name} takes {unit}, separated by commas, not {text!r}') from None
    wrong = [each for each in found if not (math.isfinite(each) and each >= 0.0)]
    if wrong:
        raise ValueError(f'{name} takes finite numbers, 0 or more, not {wrong[0]}')
    return found


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='plan',
        description='Share a profiled model between robot and server, by bandwidth.',
        epilog='methods: ' + ', '.join(method_names()),
    )
    parser.add_argument('--profile', metavar='F', help='JSON file of a profile')
    parser.add_argument(
        '--bandwidth-MBps',
        metavar='B,B,...',
        help='of the link, both ways, in MB/s (1e6 bytes/s)',
    )
    parser.add_argument('--method', default='all', help="one, or 'all' (default)")
    parser.add_argument(
        '--halo',
        default='exact',
        choices=[halo.value for halo in Halo],
        help='input rows of a partial operator: all of its window (exact, default), or its '
        'proportional share (none: as the Intra-DP authors count; changes values)',
    )
    parser.add_argument(
        '--floor-ms',
        metavar='R,S',
        help="least cost of a launched operator on robot and server (default: the profile's)",
    )
    parser.add_argument(
        '--objective',
        default='latency',
        choices=[objective.value for objective in Objective],
        help='what the methods minimise; spso_ga always minimises energy',
    )
    parser.add_argument(
        '--deadline',
        type=float,
        metavar='S',
        help='for energy, in seconds (default 1)',
    )
    parser.add_argument(
        '--weight',
        type=float,
        default=0.5,
        metavar='W',
        help='for weighted: W * latency + (1 - W) * energy, each as a share of device-only '
        '(default 0.5)',
    )
    parser.add_argument(
        '--no-codecs',
        action='store_true',
        help='tensors cross as they are, also where the profile knows a codec that pays',
    )
    parser.add_argument('--json', action='store_true', help='one JSON object per line')
    parser.add_argument('--plot', type=Path, metavar='FILE', help='draw latency and energy')
    parser.add_argument(
        '--gantt',
        type=Path,
        metavar='FILE',
        help='draw what happens when: of one method at one bandwidth, or of --measured',
    )
    parser.add_argument(
        '--measured',
        type=Path,
        metavar='FILE',
        help='a recorded inference (parameter <model>.record, IntraDP.record), drawn below what is '
        'predicted of its plan; needs no --profile',
    )
    return parser


def _profile(arguments: argparse.Namespace) -> Profile:
    profile = read_profile(arguments.profile)
    if arguments.no_codecs:
        profile = uncoded(profile)
    if arguments.floor_ms is None:
        return profile
    floors = _numbers('--floor-ms', arguments.floor_ms, 'two times in ms (robot, server)')
    if len(floors) != 2:
        raise ValueError(f'--floor-ms takes two times, R,S, not {arguments.floor_ms!r}')
    return profile.with_floors(*(each / 1e3 for each in floors))


def run(arguments: argparse.Namespace) -> None:
    """Plan and print; ``ValueError`` for wrong arguments and profiles."""
    if arguments.measured is not None:
        _draw_measured(arguments)
        return
    for name in ('profile', 'bandwidth_MBps'):
        if getattr(arguments, name) is None:
            raise ValueError(f'--{name.replace("_", "-")} is needed')
    bandwidths = _numbers('--bandwidth-MBps', arguments.bandwidth_MBps, 'bandwidths in MB/s')
    if len(bandwidths) > MAX_BANDWIDTHS:
        raise ValueError(f'--bandwidth-MBps takes at most {MAX_BANDWIDTHS} bandwidths')
    every = arguments.method == 'all'
    methods = quick_method_names() if every else [find_method(arguments.method)[0]]
    objective = Objective(arguments.objective)
    deadline_s = arguments.deadline
    if deadline_s is None:
        deadline_s = ENERGY_DEADLINE_S if objective is Objective.ENERGY else math.inf
    elif not deadline_s > 0.0:
        raise ValueError(f'--deadline takes seconds above 0, not {deadline_s}')
    profile = _profile(arguments)
    if not 0.0 <= arguments.weight <= 1.0:
        raise ValueError(f'--weight takes a number from 0 to 1, not {arguments.weight}')
    planned = planned_rows(
        profile,
        bandwidths,
        methods,
        Halo(arguments.halo),
        objective,
        deadline_s,
        arguments.weight,
    )
    found = []
    progress = track(
        planned,
        'planning',
        total=len(bandwidths) * len(methods),
        console=Console(stderr=True),
        transient=True,
        disable=arguments.json or not sys.stderr.isatty(),
    )
    for row in progress:
        found.append(row)
        if arguments.json:
            print(json.dumps(row.document()), flush=True)
    if not arguments.json:
        wide = None if sys.stdout.isatty() else 160
        print_table(profile, found, Console(width=wide))
    if arguments.plot is not None:
        plot(profile, found, arguments.plot)
    if arguments.gantt is not None:
        _draw_planned(arguments.gantt, found)


def _draw_planned(path: Path, found: Sequence[Row]) -> None:
    from offload_ros.intra_dp.gantt import draw, predicted_chart

    if len({row.bandwidth for row in found}) != 1:
        raise ValueError('--gantt draws one bandwidth')
    charts = [predicted_chart(row.schedule, f'{row.method}, predicted') for row in found]
    model = found[0].schedule.plan.profile.model
    draw(charts, path, f'{model} at {found[0].bandwidth:g} MB/s')


def _draw_measured(arguments: argparse.Namespace) -> None:
    from offload_ros.intra_dp.gantt import charts_of_record, draw, read_record

    if arguments.gantt is None:
        raise ValueError('--measured is for --gantt FILE')
    record = read_record(arguments.measured)
    up = record.link.uplink_bytes_per_s * 1e-6
    draw(charts_of_record(record), arguments.gantt, f'{record.plan.profile.model} at {up:.1f} MB/s')


def main(argv: Sequence[str] | None = None) -> int:
    """The command; 0, or 2 with one line on stderr."""
    arguments = _parser().parse_args(argv)
    try:
        run(arguments)
    except ValueError as error:
        print(f'plan: {error}', file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == '__main__':
    sys.exit(main())
