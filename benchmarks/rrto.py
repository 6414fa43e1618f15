"""Transparent offloading against a server-only call and computing locally, on a real network.

The robot's process (``rrto_robot.py``) runs each network of ``rrto_networks.py`` in five ways, in
turn, in one run: locally; as one request to a server that has the model (strategy ``server``); and
as an unmodified program whose ``cuda`` is the server, in the modes rpc, pipelined and replay. The
server is the real node. On this host, and in `benchmarks/testbed` with delay and limited rates.
Robot and server have a core each and compute with one thread. Every inference has a new image
(noise, so that no codec shrinks it) and its result must equal the local one to the bit.

Beside it, without network and server (``rrto_floor.py``): the robot's CPU time per operator above
the dispatch floor.

Energy is a model of the robot, not a measurement: 13.35 W while it computes the network, 4.04 W
while it waits for the server to compute, 4.25 W for the rest of an offloaded inference
(the powers that the paper measured). Computing on the server counts as in the server-only call.
"""

from __future__ import annotations

import argparse
import contextlib
from dataclasses import asdict, dataclass
import json
import os
from pathlib import Path
import platform
import subprocess
import sys
import tempfile
import threading
import time
from typing import Any

from ament_index_python.packages import get_package_share_directory
import torch

# The testbed is a folder of the repository, not of the package; behind an installed offload_ros.
sys.path.append(str(Path(__file__).resolve().parents[1]))
from benchmarks import rrto_report
from benchmarks.testbed import Testbed, unavailable

CHECKOUT = str(Path(__file__).resolve().parents[1])
RESULTS = Path(__file__).parent / 'results'
NETWORKS = (
    ('resnet50', 224),
    ('resnet50', 320),
    ('yolov5s', 320),
    ('yolov5s', 640),
    ('vit_small', 224),
    ('swin_tiny', 224),
)
UNLIMITED_MBIT = 10_000.0  # more than the testbed carries
RTT_MS = 2.6
DOMAIN = 86
ATTEMPTS = 2
FLOOR_PAIRS = 30
START_S, CASE_S = 180.0, 400.0
ONE_THREAD = {'OMP_NUM_THREADS': '1', 'MKL_NUM_THREADS': '1'}


@dataclass(frozen=True)
class Link:
    """``mbit`` each way; ``rtt_ms`` 0: the same host."""

    name: str
    mbit: float = UNLIMITED_MBIT
    rtt_ms: float = RTT_MS


LINKS = (
    Link('loopback', rtt_ms=0.0),
    Link(f'{RTT_MS:g} ms'),
    *(Link(f'{RTT_MS:g} ms, {mbit} Mbit/s', float(mbit)) for mbit in (450, 160, 93)),
)


def case_name(network: str, size: int, link: Link | None = None) -> str:
    """For tables and keys; without a link: of the measurement without network."""
    return f'{network} {size}, {link.name if link else "no network"}'


class Hosts:
    """Robot and server, on one network, each on a core; ``environment``: of all their processes."""

    def __init__(self, link: Link, domain: int, stack: contextlib.ExitStack) -> None:
        profiles = Path(get_package_share_directory('offload_ros')) / 'config' / 'dds'
        profile = 'lan.xml' if link.rtt_ms else 'fastdds.xml'
        self._environment = environment(domain) | {
            'FASTDDS_DEFAULT_PROFILES_FILE': str(profiles / profile)
        }
        self._stack = stack
        self.bed: Testbed | None = None
        if link.rtt_ms:
            # Weights are loaded at full rate.
            self.bed = stack.enter_context(Testbed(mbit=UNLIMITED_MBIT, rtt_s=link.rtt_ms / 1000.0))
        else:
            self._environment['ROS_AUTOMATIC_DISCOVERY_RANGE'] = 'LOCALHOST'

    def start(self, host: str, command: list[str], **pipes: Any) -> subprocess.Popen:
        """A process of ``robot`` or ``server``, ended with the stack."""
        if self.bed is not None:
            where = self.bed.robot if host == 'robot' else self.bed.server
            process: Any = where.popen(command, environment=self._environment, **pipes)
        else:
            process = subprocess.Popen(
                [*pinned(host), *command], env={**os.environ, **self._environment}, **pipes
            )
        self._stack.callback(_end, process)
        return process  # type: ignore[no-any-return]


def environment(domain: int) -> dict[str, str]:
    """Of every process that is measured."""
    paths = [each for each in os.environ.get('PYTHONPATH', '').split(os.pathsep) if each]
    if CHECKOUT not in paths:
        paths.append(CHECKOUT)
    return {'ROS_DOMAIN_ID': str(domain), 'PYTHONPATH': os.pathsep.join(paths), **ONE_THREAD}


def pinned(host: str) -> list[str]:
    """The first core is the robot's, the second one the server's, as in the testbed."""
    cores = sorted(os.sched_getaffinity(0))
    return ['taskset', '--cpu-list', str(cores[0 if host == 'robot' else 1])]


def models_file(folder: Path, names: set[str]) -> Path:
    """What robot and server load."""
    path = folder / 'models.yaml'
    entries = [
        f"  {name}: {{source: {{python: 'benchmarks.rrto_networks:{name}'}}, "
        'inputs: [{name: image, topic: image}], outputs: [values], strategy: server}'
        for name in sorted(names)
    ]
    path.write_text('\n'.join(['models:', *entries]) + '\n')
    return path


def measure(link: Link, cases: list[tuple[str, int]], options: Any, keep: Any) -> None:
    """All ``cases`` on a link; ``keep(link, found)`` as soon as one is there. ``SystemExit`` when a
    process fails."""
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        file = models_file(Path(folder), {name for name, _ in cases})
        log = stack.enter_context((Path(folder) / 'log.txt').open('w+b'))
        hosts = Hosts(link, options.domain, stack)
        parameters = ('-p', f'models_file:={file}', '-p', 'threads:=1')
        server = ['ros2', 'run', 'offload_ros', 'offload_server', '--ros-args', *parameters]
        hosts.start('server', server, stdout=log, stderr=log)
        job = {'models_file': str(file), 'cases': cases, 'pairs': options.pairs}
        words = [sys.executable, __file__, '--process', 'robot', '--job', json.dumps(job)]
        robot = hosts.start(
            'robot', words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
        )
        try:
            _line(robot, START_S)
            if hosts.bed is not None and link.mbit != UNLIMITED_MBIT:
                hosts.bed.set_rate(link.mbit)
            robot.stdin.write('go\n')
            robot.stdin.flush()
            for _ in cases:
                keep(link, _line(robot, CASE_S))
        except EOFError:
            log.seek(0)
            said = log.read().decode(errors='replace').strip().splitlines()[-30:]
            raise SystemExit(
                '\n'.join([f'error: on {link.name} a process failed:', *said])
            ) from None


def measure_floor(cases: list[tuple[str, int]], options: Any, keep: Any) -> None:
    """The same without network."""
    job = {'cases': cases, 'pairs': max(FLOOR_PAIRS, options.pairs)}
    words = [sys.executable, __file__, '--process', 'floor', '--job', json.dumps(job)]
    with contextlib.ExitStack() as stack:
        everything = {**os.environ, **environment(options.domain)}
        process = subprocess.Popen(
            [*pinned('robot'), *words], env=everything, stdout=subprocess.PIPE, text=True
        )
        stack.callback(_end, process)
        for _ in cases:
            try:
                keep(None, _line(process, CASE_S))
            except EOFError:
                raise SystemExit('error: the measurement without network failed') from None


def _line(process: Any, limit_s: float) -> dict[str, Any]:
    """The next line of JSON; ``EOFError`` when the process ends or takes too long."""
    watchdog = threading.Timer(limit_s, process.kill)
    watchdog.start()
    try:
        while line := process.stdout.readline():
            if line.startswith('{'):
                return dict(json.loads(line))
        raise EOFError
    finally:
        watchdog.cancel()


def _end(process: Any) -> None:
    with contextlib.suppress(OSError, ValueError):
        if process.stdin is not None:
            process.stdin.close()
    for end in (process.terminate, process.kill):
        if process.poll() is None:
            end()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(5.0)


def processes(options: Any) -> None:
    """One of the measured processes."""
    job = json.loads(options.job)
    if options.process == 'floor':
        from benchmarks import rrto_floor

        rrto_floor.drive(job['cases'], job['pairs'])
    else:
        from benchmarks import rrto_robot

        rrto_robot.drive(Path(job['models_file']), job['cases'], job['pairs'])


class Book:
    """The JSON file, written anew with each case."""

    def __init__(self, path: Path, pairs: int, resume: bool) -> None:
        self._path = path
        self._pairs = pairs
        self.content: dict[str, Any] = {
            'schema': 1,
            'machine': f'{platform.machine()}, {os.cpu_count()} cores',
            'torch': torch.__version__,
            'threads': 1,
            'power_w': asdict(rrto_report.POWER),
            'no_network': {},
            'cases': {},
        }
        if resume and path.exists():
            before = json.loads(path.read_text())
            for part in ('no_network', 'cases'):
                self.content[part] = before.get(part, {})

    def has(self, network: str, size: int, link: Link | None) -> bool:
        """Whether a case was measured with as many pairs as are wanted now."""
        part = self.content['cases' if link else 'no_network']
        case = part.get(case_name(network, size, link))
        return case is not None and case['pairs'] >= self._pairs

    def keep(self, link: Link | None, found: dict[str, Any]) -> None:
        """A case has been measured."""
        name = case_name(found['network'], found['size'], link)
        if link is None:
            self.content['no_network'][name] = rrto_report.floor_figures(found)
        else:
            self.content['cases'][name] = rrto_report.figures(found, link.name, link.rtt_ms)
        self.write()
        print(name, flush=True)

    def write(self) -> None:
        """Also what follows from all cases together."""
        rrto_report.complete(self.content)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.write_text(json.dumps(self.content, indent=1) + '\n')


def main() -> None:
    """Run all cases, or one of the processes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--json', type=Path, default=RESULTS / 'rrto.json')
    parser.add_argument('--pairs', type=int, default=20, help='inferences in each way')
    parser.add_argument('--only', default='', help='cases whose name contains this')
    parser.add_argument('--resume', action='store_true', help='keep the cases in the JSON file')
    parser.add_argument('--domain', type=int, default=DOMAIN, help='ROS_DOMAIN_ID')
    parser.add_argument('--process', choices=('robot', 'floor'), help=argparse.SUPPRESS)
    parser.add_argument('--job', default='', help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.process:
        processes(options)
        return
    if len(os.sched_getaffinity(0)) < 2:
        sys.exit('error: robot and server need a core each, this machine has one')
    book = Book(options.json, options.pairs, options.resume)
    began_s = time.monotonic()
    chosen = 0
    for link in (None, *LINKS):
        wanted = [each for each in NETWORKS if options.only in case_name(*each, link)]
        chosen += len(wanted)
        if link is not None and link.rtt_ms and wanted and unavailable():
            sys.exit(f'error: {unavailable()}')
        for attempt in range(ATTEMPTS):
            missing = [each for each in wanted if not book.has(*each, link)]
            if not missing:
                break
            try:
                if link is None:
                    measure_floor(missing, options, book.keep)
                else:
                    measure(link, missing, options, book.keep)
            except SystemExit as error:
                if attempt == ATTEMPTS - 1:
                    raise
                print(f'{error}\nagain', file=sys.stderr)
    if not chosen:
        sys.exit(f'error: no case has {options.only!r} in its name')
    book.write()
    rrto_report.show(book.content)
    rrto_report.save_picture(book.content, options.json.with_suffix('.png'))
    print(f'{time.monotonic() - began_s:.0f} s')


if __name__ == '__main__':
    main()
