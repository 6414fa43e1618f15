"""A fleet that loses a server: 3 robots, 2 edge servers and a cloud over DDS, planned live.

    python benchmarks/fleet_live.py            as root; about two minutes

Each machine is a network namespace on a switch, behind a link of its own; the cloud is faster and
behind a thinner one. Robots have cameras and three tasks (detection, segmentation, depth), answered
by the multi-task networks of ``config/models_fleet.yaml``. Everything stands in
``benchmarks/data/fleet_live.yaml``. After a while the edge server that the plan gives the most
frames to is killed. Counted are: results per accepted frame, how long until a plan without it is
out, and which networks answered. Writes ``benchmarks/results/fleet_live.json``.
"""

from __future__ import annotations

import argparse
from collections import Counter
import contextlib
import json
import os
from pathlib import Path
import signal
import subprocess
import sys
import tempfile
import time
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
import yaml

sys.path.append(str(Path(__file__).resolve().parents[1]))
from benchmarks.testbed import HostProcess, Switched, unavailable
from offload_ros.robot.pacing import ROBOT_SLOWDOWN, SERVER_SPEED

HERE = Path(__file__).parent
TASKS = ('detection', 'segmentation', 'depth')
START_LIMIT_S = 180.0
DOMAIN = '77'
LIMIT_S = 2.0


def fleet_file(plan: dict[str, Any], folder: Path) -> Path:
    """The YAML that the planner reads, with the measured models and each robot's demand."""
    measured = json.loads((HERE / 'results' / 'multitask.json').read_text())['models']
    models = {
        name: {
            'size_bytes': float(each['size_bytes']),
            'accuracy': {task: round(value, 4) for task, value in each['accuracy'].items()},
            'alpha_s': round(each['alpha_s'], 5),
            'beta_s': round(each['beta_s'], 5),
        }
        for name, each in measured.items()
        if name in ('multi_small', 'multi_large')
    }
    height, width = plan['image']
    robots = [name for name, node in plan['fleet']['nodes'].items() if node['kind'] == 'robot']
    demand = [
        {
            'robot': robot,
            'task': task,
            'queries_per_s': plan['frames_hz'],
            'query_bytes': float(height * width * 3),
        }
        for robot in robots
        for task in TASKS
    ]
    path = folder / 'fleet.yaml'
    path.write_text(yaml.safe_dump({**plan['fleet'], 'models': models, 'demand': demand}))
    return path


def models_file(folder: Path) -> Path:
    """``config/models_fleet.yaml`` with strategy fleet."""
    given = HERE.parent / 'config' / 'models_fleet.yaml'
    content = yaml.safe_load(given.read_text())
    for entry in content['models'].values():
        entry['strategy'] = 'fleet'
        entry['deadline_ms'] = 1000.0
        entry.get('variants', {}).pop('single', None)
        for each in (entry, *entry.get('variants', {}).values()):
            arguments = each['source']['arguments']
            arguments['weights'] = str((given.parent / arguments['weights']).resolve())
    path = folder / 'models.yaml'
    path.write_text(yaml.safe_dump(content))
    return path


class Machines:
    """The processes on the hosts; each logs to a file."""

    def __init__(self, bed: Switched, folder: Path) -> None:
        self._bed, self._folder = bed, folder
        self.running: dict[str, HostProcess] = {}

    def start(self, name: str, host: str, command: list[str], **environment: str) -> HostProcess:
        log = (self._folder / f'{name}.log').open('wb')
        process = self._bed.hosts[host].popen(
            command,
            environment={'ROS_DOMAIN_ID': DOMAIN, 'OMP_NUM_THREADS': '1', **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE if name.startswith('camera') else log,
            stderr=log,
            text=True,
        )
        self.running[name] = process
        return process


def run(plan: dict[str, Any], folder: Path, console: Console) -> dict[str, Any]:
    """What the cameras of all robots heard, and when the server was killed."""
    models, fleet = models_file(folder), fleet_file(plan, folder)
    nodes = plan['fleet']['nodes']
    with contextlib.ExitStack() as stack:
        bed = stack.enter_context(Switched(plan['mbit']))
        machines = Machines(bed, folder)
        for name, node in nodes.items():
            common = [f'models_file:={models}', 'threads:=1']
            launch = ['ros2', 'launch', 'offload_ros']
            if node['kind'] == 'robot':
                machines.start(
                    name, name,
                    [*launch, 'robot.launch.py', f'namespace:={name}', *common],
                    **{ROBOT_SLOWDOWN: f'{1.0 / node["speed"]:g}'},
                )  # fmt: skip
            else:
                machines.start(
                    name, name,
                    [*launch, 'server.launch.py', f'name:={name}', *common],
                    **{SERVER_SPEED: f'{node["speed"]:g}'},
                )  # fmt: skip
        machines.start(
            'planner', 'cloud',
            ['ros2', 'launch', 'offload_ros', 'fleet_planner.launch.py', f'fleet_file:={fleet}'],
        )  # fmt: skip
        cameras = {}
        for name, node in nodes.items():
            if node['kind'] == 'robot':
                end = str(HERE / 'fleet_live_end.py')
                height, width = plan['image']
                words = [name, str(plan['frames_hz']), str(height), str(width)]
                cameras[name] = machines.start(
                    f'camera {name}', name, [sys.executable, end, *words]
                )
        console.print(f'{len(nodes)} machines start; logs are in {folder}')
        for name, camera in cameras.items():
            _expect(camera, 'ready', name)
        console.print('all robots follow a plan')
        time.sleep(plan['seconds']['before'])
        victim = _busiest(cameras['robot1'])
        console.print(f'{victim} is killed')
        killed_s = time.monotonic()
        _kill(machines.running[victim])
        time.sleep(plan['seconds']['after'])
        heard = {}
        for name, camera in cameras.items():
            assert camera.stdin is not None
            camera.stdin.write('end\n')
            camera.stdin.flush()
            heard[name] = json.loads(_expect(camera, '{', name))
    return {'heard': heard, 'killed_s': killed_s, 'victim': victim}


def _expect(process: HostProcess, beginning: str, name: str) -> str:
    assert process.stdout is not None
    end_s = time.monotonic() + START_LIMIT_S
    while time.monotonic() < end_s:
        line = process.stdout.readline()
        if line.startswith(beginning):
            return str(line)
        if not line:
            break
    sys.exit(f'fleet_live: {name} did not say {beginning!r}: see its log')


def _busiest(camera: HostProcess) -> str:
    """The edge server with the largest share of the plan."""
    assert camera.stdin is not None
    camera.stdin.write('plan\n')
    camera.stdin.flush()
    shares = json.loads(_expect(camera, '{', 'robot1'))['shares']
    edges = {name: share for name, share in shares.items() if name.startswith('/edge')}
    return max(edges, key=lambda name: edges[name], default='/edge1').strip('/')


def _kill(process: HostProcess) -> None:
    """The node itself, without a chance to say good-bye: all of the launch's children."""
    pid = process.command_pid()
    assert pid is not None
    children = Path(f'/proc/{pid}/task/{pid}/children').read_text().split()
    for each in (*children, str(pid)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(each), signal.SIGKILL)


def figures(run_: dict[str, Any]) -> dict[str, Any]:
    """Counts and times before and after the loss."""
    killed_s, victim = run_['killed_s'], '/' + run_['victim']
    found: dict[str, Any] = {'victim': run_['victim'], 'robots': {}}
    plans = run_['heard']['robot1']['plans']
    later = [p for p in plans if p['at_s'] > killed_s and victim not in p['servers']]
    before = [p for p in plans if p['at_s'] <= killed_s]
    found['plan_changed_s'] = later[0]['at_s'] - killed_s if later else None
    found['accuracy_before'] = before[-1]['accuracy'] if before else None
    found['accuracy_after'] = later[-1]['accuracy'] if later else None
    missing = errors = 0
    for name, heard in run_['heard'].items():
        rows = heard['results']
        by_model: dict[str, list[dict[str, Any]]] = {task: [] for task in TASKS}
        for row in rows:
            by_model[row['model']].append(row)
        for results in by_model.values():
            seqs = [row['seq'] for row in results]
            if seqs:
                missing += max(seqs) - min(seqs) + 1 - len(set(seqs))
                missing += len(seqs) - len(set(seqs))  # two for one frame are as wrong as none
        errors += sum(not row['ok'] for row in rows)
        found['robots'][name] = {
            phase: _phase([row for row in rows if low <= row['at_s'] < high])
            for phase, low, high in (
                ('before', killed_s - 15.0, killed_s),
                ('in between', killed_s, killed_s + LIMIT_S),
                ('after', killed_s + LIMIT_S, float('inf')),
            )
        }
    found['missing'], found['errors'] = missing, errors
    return found


def _phase(rows: list[dict[str, Any]]) -> dict[str, Any]:
    times = [row['total_s'] for row in rows]
    return {
        'results': len(rows),
        'fallbacks': sum(row['fallback'] for row in rows),
        'late': sum(row['late'] for row in rows),
        'p50_ms': round(1e3 * float(np.median(times)), 1) if times else None,
        'p95_ms': round(1e3 * float(np.quantile(times, 0.95)), 1) if times else None,
        'where': dict(Counter(row['where'] for row in rows)),
    }


def show(found: dict[str, Any], console: Console) -> None:
    table = Table('robot', 'phase', 'results', 'fallbacks', 'late', 'p50 ms', 'p95 ms', 'where')
    for name, phases in found['robots'].items():
        for phase, each in phases.items():
            where = ', '.join(f'{k} {v}' for k, v in sorted(each['where'].items()))
            row = [each[key] for key in ('results', 'fallbacks', 'late', 'p50_ms', 'p95_ms')]
            table.add_row(name, phase, *(str(v) for v in row), where)
    console.print(table)
    delay = found['plan_changed_s']
    told = 'never' if delay is None else f'{delay:.2f} s'
    console.print(
        f'{found["victim"]} killed; a plan without it after {told} (target {LIMIT_S:g} s)'
    )
    console.print(
        f'accepted frames without exactly one result: {found["missing"]}, errors: '
        f'{found["errors"]}; predicted accuracy {found["accuracy_before"]:.3f} before, '
        f'{found["accuracy_after"] or 0.0:.3f} after'
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or '').splitlines()[0])
    parser.add_argument('--plan', type=Path, default=HERE / 'data' / 'fleet_live.yaml')
    parser.add_argument('--json', type=Path, default=HERE / 'results' / 'fleet_live.json')
    arguments = parser.parse_args()
    lacking = unavailable()
    if lacking:
        sys.exit(f'fleet_live: {lacking}')
    console = Console()
    plan = yaml.safe_load(arguments.plan.read_text())
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    os.environ['FASTDDS_DEFAULT_PROFILES_FILE'] = str(
        (HERE.parent / 'config' / 'dds' / 'lan.xml').resolve()
    )
    found = figures(run(plan, Path(tempfile.mkdtemp(prefix='fleet_live_')), console))
    show(found, console)
    arguments.json.write_text(json.dumps({**found, 'plan': plan}, indent=1) + '\n')


if __name__ == '__main__':
    main()
