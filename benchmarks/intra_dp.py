"""Intra-DP against the other ways to run a network, in the testbed: one command, resumable.

    python benchmarks/intra_dp.py            # all, about an hour (40 minutes with --rounds 10)
    python benchmarks/intra_dp.py --quick    # two minutes, to see that all works

Two processes on a real network of namespaces (`benchmarks/testbed`) with real DDS, each on one
core: the robot and the server. Both compute on emulated accelerators (`accelerator.py`), the
server's 1.5 times slower than its core and the robot's five times slower than the server's: what
sending and receiving takes from a core is not taken from the accelerator beside it. Each case is
one network of ``intra_dp_networks.py`` at one bandwidth. All methods plan on the same profile,
measured on both ends just before, for the link as it is, and their plans run in turns; methods that
make the same plan share its runs. Plans that are far from the best run in each fourth round only.
Every result is compared with what the model itself gives. Two cases stand apart: there, lossless
codecs are allowed to all methods. ``intra_dp`` is the plan for the link as it is;
``intra_dp_strategy`` sees only what its link monitor estimates, chooses among plans of several
bandwidths, the robot and the server alone, and learns from what its inferences took.

Then a stretch of a recorded bandwidth is replayed: the methods take turns over its slices, and each
sees only what its link monitor estimates; Intra-DP plans and chooses as its strategy does.

Finished cases are kept in a work file beside the JSON file until all is done, so that a second
start goes on where the first one ended; ``--redo`` begins anew.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
import itertools
import json
import os
from pathlib import Path
import platform
import sys
import tempfile
import time
from typing import Any

# The benchmarks are a folder of the repository, not of the package; behind an installed one.
sys.path.append(str(Path(__file__).resolve().parents[1]))
from benchmarks.ends import EndLost, both_ends, transfer_fit, use_network
from benchmarks.intra_dp_cells import RTT_S, Cell, Network, fallbacks, measure_cell, methods
from benchmarks.intra_dp_trace import WAYS, Stretch, measure_stretch
from benchmarks.testbed import Testbed, unavailable
from offload_ros.graph.profile_file import write_profile

RESULTS = Path(__file__).parent / 'results'
SERVER_SLOWDOWN = 1.5  # of the server's accelerator, against a core of this machine
SLOWDOWN = 5.0 * SERVER_SLOWDOWN  # of the robot's
FAST_MBIT = 400.0  # weights are loaded, and messages' costs measured
MBITS = {'VGG19': (5, 10, 20, 80), 'ConvNeXt': (5, 10, 20, 80), 'SCONet': (20, 40, 80, 160)}
SLOW_SERVER = Cell('ConvNeXt', 40, 0.3)
CODED = (Cell('SCONet', 20, coded=True), Cell('SCONet', 80, coded=True))
# The recording's mean is 81 Mbit/s: about SCONet's crossover; VGG19's is a tenth of it.
STRETCHES = (Stretch('SCONet', 1.0, 40.0), Stretch('VGG19', 0.15, 60.0))
SWEEP = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 400)  # Mbit/s
ATTEMPTS = 2
QUIET = 0.7  # load average
SCHEMA = 3


@dataclass(frozen=True)
class Settings:
    """How much is measured."""

    rounds: int = 20
    share_repeats: int = 5
    echoes: int = 10
    sweep: tuple[float, ...] = SWEEP
    cells: tuple[Cell, ...] = (
        *(Cell(name, mbit) for name, mbits in MBITS.items() for mbit in mbits),
        *CODED,
        SLOW_SERVER,
    )
    stretches: tuple[Stretch, ...] = STRETCHES

    @property
    def document(self) -> dict[str, Any]:
        """What measured cells are only good for."""
        kept = asdict(self)
        del kept['cells'], kept['stretches']
        slowdown = [SLOWDOWN, SERVER_SLOWDOWN]
        return {'schema': SCHEMA, 'slowdown': slowdown, 'methods': methods(), **kept}


QUICK = Settings(
    rounds=5,
    share_repeats=2,
    echoes=4,
    sweep=(4, 16, 64),
    cells=(Cell('VGG19', 10), Cell('SCONet', 40)),
    stretches=(replace(STRETCHES[1], seconds=6.0, slices=1),),
)


class Work:
    """What has been measured so far: ``parts`` by kind and key."""

    def __init__(self, path: Path, settings: Settings, redo: bool) -> None:
        self._path = path
        self._settings = json.loads(json.dumps(settings.document))
        self.parts: dict[str, dict[str, Any]] = {'cells': {}, 'fallbacks': {}, 'traces': {}}
        self.costs: dict[str, Any] = {}
        if redo or not path.exists():
            return
        before = json.loads(path.read_text())
        if before.get('settings') == self._settings:
            self.parts, self.costs = before['parts'], before['costs']
        else:
            print(f'{path} was measured otherwise and is not used', file=sys.stderr)

    def keep(self, kind: str, key: str, found: dict[str, Any]) -> None:
        """A part is finished."""
        self.parts[kind][key] = found
        document = {'settings': self._settings, 'parts': self.parts, 'costs': self.costs}
        part = self._path.with_suffix('.part')
        self._path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps(document) + '\n')
        part.replace(self._path)
        print(f'{time.strftime("%H:%M:%S")} {kind}: {key}', flush=True)

    def done(self) -> None:
        """Nothing is to be resumed."""
        self._path.unlink(missing_ok=True)


class Session:
    """Both ends in one testbed; ``speed`` of the server. What is measured of a network once is
    measured when it is needed first."""

    def __init__(
        self, bed: Testbed, ends: Any, settings: Settings, speed: float, profiles: Path | None
    ) -> None:
        self.bed, self.speed, self._profiles = bed, speed, profiles
        self.robot, self.server = ends
        self._settings = settings
        with ThreadPoolExecutor(2) as both:  # each on its core
            made = both.map(lambda end: end('capture'), ends)
        for name in next(iter(made)):
            self.robot('open', model=name)
        self.cost = transfer_fit(self.robot, settings.echoes, FAST_MBIT, RTT_S)
        self.handling = self.robot('handling')
        self._networks: dict[str, Network] = {}

    def network(self, name: str) -> Network:
        """Measured in parts."""
        if name not in self._networks:
            ends = {'robot': self.robot, 'server': self.server}
            made = Network(ends, name, self.cost, self.handling, self._settings.share_repeats)
            self._networks[name] = made
            if self._profiles is not None:
                self._profiles.mkdir(parents=True, exist_ok=True)
                write_profile(made.measured(), self._profiles / f'{name}-{self.speed:g}.json')
        return self._networks[name]

    def run(self, work: Work, wanted: Sequence[tuple[str, str, Any]]) -> None:
        """Measure parts (kind, key, what) and keep them."""
        work.costs[f'{self.speed:g}'] = {
            'message_fixed_ms': round(1e3 * self.cost[0], 3),
            'message_ns_per_byte': round(1e9 * self.cost[1], 3),
            'handling_us': {side: round(1e6 * each[0], 1) for side, each in self.handling.items()},
            'handling_ns_per_byte': {
                side: round(1e9 * each[1], 2) for side, each in self.handling.items()
            },
        }
        for kind, key, what in wanted:
            work.keep(kind, key, self._measured(kind, what))

    def _measured(self, kind: str, what: Any) -> dict[str, Any]:
        if kind == 'cells':
            self.bed.set_rate(what.mbit)
            return measure_cell(self.network(what.network), what, self._settings.rounds)
        if kind == 'fallbacks':
            return fallbacks(self.network(what).measured(), self._settings.sweep)
        self.bed.set_rate(FAST_MBIT)
        self.network(what.network).measured()
        ways = [each for each in WAYS if each in methods()]
        return measure_stretch(self.bed, self.robot, what, ways)


def wanted_parts(settings: Settings, only: str, parts: Sequence[str]) -> list[Any]:
    """(server speed, kind, key, what) of all that is to be measured."""
    found: list[Any] = []
    for cell in settings.cells:
        found.append((cell.server_speed, 'cells', cell.key, cell))
    for name, speed in dict.fromkeys((cell.network, cell.server_speed) for cell in settings.cells):
        key = name if speed == 1.0 else f'{name}, server speed {speed:g}'
        found.append((speed, 'fallbacks', key, name))
    for stretch in settings.stretches:
        found.append((1.0, 'traces', stretch.key, stretch))
    return [each for each in found if each[1] in parts and only in each[2]]


def measure(
    settings: Settings, work: Work, wanted: Sequence[Any], profiles: Path | None = None
) -> bool:
    """All that is not there yet, in a testbed for each server speed; whether all is there then."""
    for speed, group in itertools.groupby(sorted(wanted, key=lambda e: -e[0]), lambda e: e[0]):
        parts = [tuple(each[1:]) for each in group]
        for _ in range(ATTEMPTS):
            missing = [each for each in parts if each[1] not in work.parts[each[0]]]
            if not missing:
                break
            try:
                one_testbed(settings, work, missing, speed, profiles)
            except EndLost as error:
                print(f'error: {error}', file=sys.stderr)
    return all(key in work.parts[kind] for _, kind, key, _ in wanted)


def one_testbed(
    settings: Settings, work: Work, wanted: Sequence[Any], speed: float, profiles: Path | None
) -> None:
    """Measure ``wanted`` with a server of this speed."""
    with Testbed(
        mbit=FAST_MBIT,
        rtt_s=RTT_S,
        robot_slowdown=SLOWDOWN,
        server_speed=speed / SERVER_SLOWDOWN,
    ) as bed:
        command = [sys.executable, str(Path(__file__).resolve()), '--networks', *MBITS, '--end']
        with both_ends(bed, command) as ends:
            Session(bed, ends, settings, speed, profiles).run(work, wanted)


def content_of(work: Work) -> dict[str, Any]:
    """The JSON file's."""
    from benchmarks import intra_dp_report as report

    content: dict[str, Any] = {
        'schema': SCHEMA,
        'machine': f'{platform.machine()}, {os.cpu_count()} cores',
        'robot_slowdown': SLOWDOWN,
        'server_slowdown': SERVER_SLOWDOWN,
        'added_rtt_ms': 1e3 * RTT_S,
        'power_w': asdict(report.POWER),
        'messages': work.costs,
        'cases': {key: report.case_figures(each) for key, each in work.parts['cells'].items()},
        'fallbacks': work.parts['fallbacks'],
        'traces': {key: report.stretch_figures(e) for key, e in work.parts['traces'].items()},
    }
    content['targets'] = report.targets(content)
    return content


def main() -> None:
    """Run it, or one of its processes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add('--json', type=Path, help='default: benchmarks/results/intra_dp.json')
    add('--quick', action='store_true', help='two minutes; by default into a temporary folder')
    add('--redo', action='store_true', help='measure again what the work file has')
    add('--trace', action='store_true', help='only the replay of recorded bandwidth')
    add('--cells', action='store_true', help='only the cells and fallbacks')
    add('--only', default='', help='cases whose name contains this')
    add('--rounds', type=int, default=0, help='of each cell')
    add('--profiles', type=Path, help='folder for the measured profiles, for the plan command')
    add('--domain', type=int, default=79, help='ROS_DOMAIN_ID')
    add('--networks', nargs='*', help=argparse.SUPPRESS)
    add('--end', choices=('robot', 'server'), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.end:
        from benchmarks.intra_dp_end import PlanEnd

        PlanEnd(arguments.end, arguments.networks).serve()
        return
    if unavailable():
        sys.exit(f'error: {unavailable()}')
    settings = QUICK if arguments.quick else Settings()
    if arguments.rounds:
        settings = Settings(**{**vars(settings), 'rounds': arguments.rounds})
    folder = Path(tempfile.gettempdir()) if arguments.quick else RESULTS
    path = arguments.json or folder / 'intra_dp.json'
    both = arguments.trace == arguments.cells
    kinds = ['cells', 'fallbacks'] if both or arguments.cells else []
    kinds += ['traces'] if both or arguments.trace else []
    wanted = wanted_parts(settings, arguments.only, kinds)
    if not wanted:
        sys.exit(f'error: no case has {arguments.only!r} in its name')
    use_network(arguments.domain)
    finish(settings, path, wanted, arguments)


def finish(settings: Settings, path: Path, wanted: Sequence[Any], arguments: Any) -> None:
    """Measure, write and show; also when it is interrupted."""
    from benchmarks import intra_dp_report as report
    from benchmarks.intra_dp_picture import save_picture

    began_s = time.monotonic()
    if (load := os.getloadavg()[0]) > QUIET:
        print(f'this machine is busy (load {load:.1f}): latencies will be wrong', file=sys.stderr)
    work = Work(path.with_suffix('.work.json'), settings, arguments.redo)
    finished = False
    try:
        finished = measure(settings, work, wanted, arguments.profiles)
    finally:
        content = content_of(work)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content, indent=1) + '\n')
        report.show(content)
        save_picture(content, path.with_suffix('.png'))
    print(f'{path}: {time.monotonic() - began_s:.0f} s')
    if not finished:
        sys.exit('not all is measured: start again to go on')
    if not (arguments.only or arguments.trace or arguments.cells):
        work.done()


if __name__ == '__main__':
    main()
