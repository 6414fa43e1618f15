"""All ways to run a model, as a robot runs them: manager, server and links as they really are.

    python benchmarks/end_to_end.py            as root; about an hour, resumable
    python benchmarks/end_to_end.py --quick    three minutes, to see that all works

Robot and server are two hosts of ``benchmarks/testbed`` with a core each. The real manager and the
real server run on them; a camera on the robot sends a frame, waits for its result and sends the
next one, and compares each result with what the model gives on one machine. The robot's
accelerator is emulated beside its core (``accelerator.py``), five times slower than the server's
core. The link follows a trace with the statistics of the recordings, indoors and outdoors
(``offload_ros/wire/trace.py``). All ways take turns over the same slices of it, in changing order,
switched by parameter as a user would; each sees only what its own link monitor estimates.

The ways: on the robot, on the server, one operator after the other by RPC (as Cricket), the layer
cuts of MCOP, DSCCS and SPSO-GA, RRTO, Intra-DP, and ``auto``. Deadlines are so long that no way is
helped by the manager's own fallback unless that takes ten seconds.

A finished cell (a model on a trace) is kept in a work file beside the JSON file until all is done,
so that a second start goes on where the first one ended; ``--redo`` begins anew.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
import contextlib
from dataclasses import asdict, dataclass, replace
import json
import os
from pathlib import Path
import platform
import subprocess
import sys
import tempfile
import time
from typing import Any

from ament_index_python.packages import get_package_share_directory
import psutil

# The benchmarks are a folder of the repository, not of the package; behind an installed one.
sys.path.append(str(Path(__file__).resolve().parents[1]))
from benchmarks import end_to_end_report as report
from benchmarks.ends import Asked, EndLost
from benchmarks.testbed import HostProcess, Testbed, Trace, indoors, outdoors, unavailable

HERE = Path(__file__).parent
RESULTS = HERE / 'results'
NETWORKS = 'benchmarks.end_to_end_networks'
SLOWDOWN = 5.0  # of the robot's accelerator, against the server's core
FAST_MBIT = 400.0  # models are loaded and measured
RTT_S = 0.0026
# Of the traces; constants of auto and of the probes were adjusted after looking at KAPAO on them.
SEED = 11
DEADLINE_MS = 10_000.0
MAIN, RPC = 'robot', 'robot_rpc'  # namespaces of the managers
# Way: manager and strategy.
WAYS = {
    'device': (MAIN, 'device'),
    'server': (MAIN, 'server'),
    'rpc': (RPC, 'rrto'),
    'mcop': (MAIN, 'mcop'),
    'dsccs': (MAIN, 'dsccs'),
    'spso_ga': (MAIN, 'spso_ga'),
    'rrto': (MAIN, 'rrto'),
    'intra_dp': (MAIN, 'intra_dp'),
    'auto': (MAIN, 'auto'),
}
PLANNING = ('mcop', 'dsccs', 'spso_ga', 'intra_dp', 'auto')
CAMERA = 'inputs: [{name: image, topic: camera/image, encoding: rgb8}]'
MODELS = {
    'kapao': f"source: {{python: '{NETWORKS}:kapao_s'}}, {CAMERA}, "
    'preprocess: {resize: [256, 320], letterbox: true}, outputs: [poses, boxes]',
    'sconet': "source: {python: 'offload_ros.models.sconet:sconet', "
    'arguments: {grid: [128, 16, 128], attention: false}}, '
    'inputs: [{name: voxels, topic: voxels, encoding: mono8}], outputs: [labels]',
    'mobilenet': f"source: {{python: '{NETWORKS}:mobilenet'}}, {CAMERA}, "
    'preprocess: {resize: [224, 224]}, outputs: [logits]',
}
TRACES = {'indoors': indoors, 'outdoors': outdoors}
ATTEMPTS = 2
START_S, READY_S, PROFILE_S, LEARNING_S = 180.0, 120.0, 400.0, 300.0
LEARNING_SHARE = 0.4  # of a slice's time
PLANNER = 'offload_ros.intra_dp.plan_worker'
QUIET = 0.7  # load average
SCHEMA = 1


@dataclass(frozen=True)
class Settings:
    """How much is measured. ``lead_s``: before each slice, of the trace as well."""

    models: tuple[str, ...] = tuple(MODELS)
    traces: tuple[str, ...] = tuple(TRACES)
    seed: int = SEED
    slices: int = 3
    slice_s: float = 10.0
    lead_s: float = 2.0
    repeats: int = 6  # of the profile
    learning_mbit: tuple[float, ...] = (160.0, 93.0, 60.0, 30.0, 10.0, 93.0)
    learning_s: float = 2.0

    @property
    def document(self) -> dict[str, Any]:
        """What measured cells are only good for."""
        kept = asdict(self)
        del kept['models'], kept['traces']
        return json.loads(json.dumps({'schema': SCHEMA, 'slowdown': SLOWDOWN, **kept}))  # type: ignore[no-any-return]


QUICK = Settings(('mobilenet',), ('outdoors',), 1, 4.0, 1.0, 3, (93.0, 30.0), 1.0)


def cell_key(model: str, trace: str) -> str:
    """Of a cell, in files and tables."""
    return f'{model}, {trace}'


class Work:
    """What has been measured so far, by cell."""

    def __init__(self, path: Path, settings: Settings, redo: bool) -> None:
        self._path, self._settings = path, settings.document
        self.cells: dict[str, Any] = {}
        if redo or not path.exists():
            return
        before = json.loads(path.read_text())
        if before.get('settings') == self._settings:
            self.cells = before['cells']
        else:
            print(f'{path} was measured otherwise and is not used', file=sys.stderr)

    def keep(self, key: str, found: dict[str, Any]) -> None:
        """A cell is finished."""
        self.cells[key] = found
        part = self._path.with_suffix('.part')
        self._path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps({'settings': self._settings, 'cells': self.cells}) + '\n')
        part.replace(self._path)
        print(f'{time.strftime("%H:%M:%S")} {key}', flush=True)

    def done(self) -> None:
        """Nothing is to be resumed."""
        self._path.unlink(missing_ok=True)


def environment(folder: Path, domain: int) -> dict[str, str]:
    """Of all processes."""
    paths = [each for each in os.environ.get('PYTHONPATH', '').split(os.pathsep) if each]
    profile = Path(get_package_share_directory('offload_ros')) / 'config' / 'dds' / 'lan.xml'
    return {
        'ROS_DOMAIN_ID': str(domain),
        'OMP_NUM_THREADS': '1',
        'PYTHONPATH': os.pathsep.join([*paths, str(HERE.parent)]),
        'FASTDDS_DEFAULT_PROFILES_FILE': str(profile),
        # Profiles and plans of these processes, not of the user.
        'XDG_DATA_HOME': str(folder / 'data'),
        'XDG_CACHE_HOME': str(folder / 'cache'),
    }


class System:
    """Manager, manager for RPC, server and camera for one model, in a testbed."""

    def __init__(
        self, bed: Testbed, model: str, folder: Path, domain: int, stack: contextlib.ExitStack
    ) -> None:
        self.bed, self.model, self._folder = bed, model, folder
        self._environment = environment(folder, domain)
        self._stack = stack
        file = folder / 'models.yaml'
        entry = f'{MODELS[model]}, strategy: device, deadline_ms: {DEADLINE_MS}'
        file.write_text(f'models:\n  {model}: {{{entry}}}\n')
        parameters = ['-p', f'models_file:={file}', '-p', 'threads:=1']
        server = ['ros2', 'run', 'offload_ros', 'offload_server', '--ros-args', *parameters]
        self.processes = {'server': self._start('server', bed.server, server)}
        for name, mode in ((MAIN, 'replay'), (RPC, 'rpc')):
            words = [sys.executable, str(HERE / 'end_to_end_manager.py'), mode, '--ros-args']
            words += ['-r', f'__ns:=/{name}', *parameters]
            self.processes[name] = self._start(name, bed.robot, words)
        words = [sys.executable, str(HERE / 'end_to_end_camera.py'), str(file), MAIN, RPC]
        camera = self._start('camera', bed.robot, words, piped=True)
        self.camera = Asked(camera, START_S + READY_S)

    def _start(self, name: str, host: Any, words: list[str], piped: bool = False) -> HostProcess:
        log = self._stack.enter_context((self._folder / f'{name}.log').open('wb'))
        pipes: dict[str, Any] = {'stdout': log, 'stderr': log}
        if piped:
            pipes = {'stdin': subprocess.PIPE, 'stdout': subprocess.PIPE, 'stderr': log}
            pipes['text'] = True
        process: HostProcess = host.popen(words, environment=self._environment, **pipes)
        return process

    def prepare(self, settings: Settings) -> None:
        """Measure the profile, and let every way meet links of several rates."""
        self._ready('device')
        self._ready('server')
        words = ['ros2', 'run', 'offload_ros', 'profile', '--model', self.model]
        words += ['--namespace', MAIN, '--repeats', str(settings.repeats)]
        done = self.bed.robot.run(words, environment=self._environment, timeout_s=PROFILE_S)
        if done.returncode:
            raise EndLost(f'the profile of {self.model} failed: {done.stderr.strip()}')
        for way in WAYS:
            if way not in ('device', 'server', 'auto'):
                self._ready(way)
        # auto after intra_dp, whose plans it then finds on disk.
        self._learn([way for way in PLANNING if way != 'auto'], settings)
        self._ready('auto')
        self._learn(['auto', 'intra_dp'], settings)
        self.bed.set_rate(FAST_MBIT)

    def _learn(self, ways: list[str], settings: Settings) -> None:
        """Meet links of several rates, and wait for the plans that this begins, as on a robot that
        has been on its network for a while."""
        for mbit in settings.learning_mbit:
            self.bed.set_rate(mbit)
            for way in ways:
                self.play(way, 0.0, settings.learning_s)
        for make in TRACES.values():  # not those that are measured on
            self.bed.replay(make(settings.seed + 1))
            for way in ways:
                self.play(way, 0.0, LEARNING_SHARE * settings.slice_s)
            self.bed.stop_replay()
        end_s = time.monotonic() + LEARNING_S
        while self._planning():
            if time.monotonic() > end_s:
                print(f'{self.model}: planning goes on while it is measured', flush=True)
                return
            time.sleep(1.0)

    def _ready(self, way: str) -> None:
        robot, strategy = WAYS[way]
        why = self.camera(
            'ready', robot=robot, model=self.model, strategy=strategy, frames=3, limit_s=READY_S
        )
        if why:
            raise EndLost(f'{way} of {self.model} does not answer: {why}')

    def play(self, way: str, lead_s: float, span_s: float) -> dict[str, Any]:
        """Frames by a way; with the cores' use."""
        robot, strategy = WAYS[way]
        used = self._cpu_s()
        found: dict[str, Any] = self.camera(
            'play', robot=robot, model=self.model, strategy=strategy, lead_s=lead_s, span_s=span_s
        )
        after = self._cpu_s()
        whole_s = found.get('took_s', span_s) + lead_s
        found['cpu'] = {
            'robot': (after[robot] - used[robot]) / whole_s,
            'server': (after['server'] - used['server']) / whole_s,
        }
        return found

    def _family(self, name: str) -> list[psutil.Process]:
        pid = self.processes[name].command_pid()
        if pid is None:
            raise EndLost(f'{name} has ended: see its log in {self._folder}')
        return [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]

    def _planning(self) -> bool:
        """Whether the manager makes plans now, in processes of its own."""
        lines = [each.cmdline() for each in self._family(MAIN)[1:]]
        return any(PLANNER in line for line in lines)

    def _cpu_s(self) -> dict[str, float]:
        found = {}
        for name in self.processes:
            times = [each.cpu_times() for each in self._family(name)]
            ended = times[0].children_user + times[0].children_system
            found[name] = ended + sum(each.user + each.system for each in times)
        return found

    def cell(self, trace_name: str, settings: Settings) -> dict[str, Any]:
        """All ways take turns over the slices of a trace."""
        whole = TRACES[trace_name](settings.seed)
        ways = list(WAYS)
        found: dict[str, list[dict[str, Any]]] = {way: [] for way in ways}
        loads = []
        for place in range(settings.slices):
            start_s = settings.lead_s + place * settings.slice_s
            for way in [*ways[place % len(ways) :], *ways[: place % len(ways)]]:
                slice_ = part_of(whole, start_s - settings.lead_s)
                self.bed.replay(slice_)
                found[way].append(self.play(way, settings.lead_s, settings.slice_s))
                self.bed.stop_replay()
                loads.append(os.getloadavg()[0])
        rates = part_of(whole, settings.lead_s).mbit
        rates = rates[: round(10.0 * settings.slices * settings.slice_s)]
        return {
            'model': self.model,
            'trace': trace_name,
            'rates_mbit': [round(each, 2) for each in rates],
            'slice_s': settings.slice_s,
            'load_average': round(max(loads), 2),
            'ways': found,
        }


def part_of(trace: Trace, start_s: float) -> Trace:
    """From ``start_s`` on."""
    picked = [
        (at_s - start_s, mbit)
        for at_s, mbit in zip(trace.times_s, trace.mbit, strict=True)
        if at_s >= start_s - 1e-6
    ]
    return Trace(tuple(at_s for at_s, _ in picked), tuple(mbit for _, mbit in picked))


@contextlib.contextmanager
def system_of(model: str, folder: Path, domain: int) -> Iterator[System]:
    """All processes for a model, on hosts of their own."""
    with contextlib.ExitStack() as stack:
        bed = stack.enter_context(Testbed(mbit=FAST_MBIT, rtt_s=RTT_S, robot_slowdown=SLOWDOWN))
        yield System(bed, model, folder, domain, stack)


def measure(settings: Settings, work: Work, only: str, logs: Path, domain: int) -> bool:
    """All cells that are not there yet; whether all are there then."""
    wanted = [(m, t) for m in settings.models for t in settings.traces if only in cell_key(m, t)]
    for model in dict.fromkeys(each for each, _ in wanted):
        for attempt in range(ATTEMPTS):
            missing = [
                trace for m, trace in wanted if m == model and cell_key(m, trace) not in work.cells
            ]
            if not missing:
                break
            folder = logs / f'{model}-{attempt}'
            folder.mkdir(parents=True, exist_ok=True)
            try:
                with system_of(model, folder, domain) as system:
                    system.prepare(settings)
                    print(f'{time.strftime("%H:%M:%S")} {model} is ready', flush=True)
                    for trace in missing:
                        work.keep(cell_key(model, trace), system.cell(trace, settings))
            except (EndLost, subprocess.TimeoutExpired) as error:
                print(f'error: {error} (logs are in {folder})', file=sys.stderr)
    return all(cell_key(*each) in work.cells for each in wanted)


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=(__doc__ or '').splitlines()[0])
    add = parser.add_argument
    add('--json', type=Path, help='default: benchmarks/results/end_to_end.json')
    add('--quick', action='store_true', help='three minutes; by default into a temporary folder')
    add('--redo', action='store_true', help='measure again what the work file has')
    add('--only', default='', help='cells whose name contains this, e.g. "kapao, indoors"')
    add('--seed', type=int, default=SEED, help='of the traces')
    add('--domain', type=int, default=78, help='ROS_DOMAIN_ID')
    arguments = parser.parse_args()
    if unavailable():
        sys.exit(f'error: {unavailable()}')
    settings = replace(QUICK if arguments.quick else Settings(), seed=arguments.seed)
    folder = Path(tempfile.gettempdir()) if arguments.quick else RESULTS
    path = arguments.json or folder / 'end_to_end.json'
    if (load := os.getloadavg()[0]) > QUIET:
        print(f'this machine is busy (load {load:.1f}): latencies will be wrong', file=sys.stderr)
    began_s = time.monotonic()
    work = Work(path.with_suffix('.work.json'), settings, arguments.redo)
    logs = Path(tempfile.mkdtemp(prefix='end_to_end_'))
    complete = measure(settings, work, arguments.only, logs, arguments.domain)
    if not work.cells:
        sys.exit(f'error: no cell was measured (is there one with {arguments.only!r} in its name?)')
    content = {
        'schema': SCHEMA,
        'machine': f'{platform.machine()}, {os.cpu_count()} cores',
        'settings': work_settings(settings),
        **report.figures(work.cells),
    }
    path.write_text(json.dumps(content, indent=1) + '\n')
    report.show(content)
    report.save_picture(content, path.with_suffix('.png'))
    print(f'{time.monotonic() - began_s:.0f} s; logs are in {logs}')
    if complete and not arguments.only and not arguments.quick:
        work.done()
    sys.exit(0 if complete else 1)


def work_settings(settings: Settings) -> dict[str, Any]:
    """For the JSON file."""
    return {**settings.document, 'rtt_ms': 1e3 * RTT_S, 'deadline_ms': DEADLINE_MS}


if __name__ == '__main__':
    main()
