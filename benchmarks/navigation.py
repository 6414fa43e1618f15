"""To a goal through rooms seen in part: without completion, with it on the robot, and offloaded.

    python benchmarks/navigation.py            about 45 minutes; goes on where it was stopped

Real processes: simulated world with a robot that drives and flies, navigator, manager, server.
Rooms, goals and link stand in ``benchmarks/data/navigation.yaml``. The robot's accelerator is
paced; the link replays a recorded trace inside the channel. All conditions see the same rooms from
the same place, and get the same goal once each has what it completes by. Runs in which the
simulation is slower than 0.95 of real time are tried again. A fourth condition completes with the
truth, at once: what the best network could be worth.

Prints a table and the ratio of energies, writes ``benchmarks/results/navigation.json`` and a
picture of the ways.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
import json
import math
import os
from pathlib import Path
import signal
import statistics
import sys
import tempfile
import threading
import time
from typing import Any

import matplotlib
import numpy as np
from rich.console import Console
from rich.table import Table
import yaml

matplotlib.use('Agg')
from matplotlib import pyplot as plt

sys.path.append(str(Path(__file__).resolve().parents[1]))
from benchmarks.navigation_oracle import Oracle
from benchmarks.navigation_score import Moment, ratio_of, score, together
from benchmarks.world_runs import LEAST_REAL_TIME, RunError, check, parameters_file, seconds
from offload_ros.nodes.demo import Processes
from offload_ros.nodes.world_parameters import SETTINGS, world_config
from offload_ros.robot.pacing import ROBOT_SLOWDOWN
from offload_ros.sim import World
from offload_ros.sim.robot import Pose

HERE = Path(__file__).parent
MODEL = 'agrnav'
DOMAIN = '79'
START_LIMIT_S = 120.0
LOOK_S = 3.0  # simulated, that it stands and looks before it gets its goal
TRIES = 3
COLOURS = {
    'observed_only': '#8d99ae',
    'on_robot': '#edae49',
    'offloaded': '#00798c',
    'perfect': '#d1495b',
}
ROWS = (
    ('success_rate', 'success', 0.95, 'at least'),
    ('collisions', 'collisions', 0, 'at most'),
    ('path_m', 'path (m)', None, ''),
    ('time_s', 'time (s)', None, ''),
    ('energy_j', 'energy (J)', None, ''),
    ('air_share', 'share of time in the air', None, ''),
    ('planning_p95_s', 'longest step of a second, p95 (s)', None, ''),
    ('result_s', 'completion: latency (s)', None, ''),
    ('completion_age_s', 'completion: age in the map (s)', None, ''),
)


class Recorder:
    """Truth, what the navigator says, results; and the goal's publisher."""

    def __init__(self) -> None:
        from geometry_msgs.msg import PoseStamped
        import rclpy
        from rclpy.executors import SingleThreadedExecutor
        from rclpy.signals import SignalHandlerOptions
        from std_msgs.msg import Float32

        from offload_ros.msg import GroundTruth, InferenceResult, NavigationStatus

        if not rclpy.ok():
            rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
        self.node = rclpy.create_node('recorder')
        self.truths: list[Any] = []
        self.statuses: list[Any] = []
        self.results: list[Any] = []
        self.factors: list[float] = []
        make = self.node.create_subscription
        make(GroundTruth, 'ground_truth', self.truths.append, 100)
        make(NavigationStatus, 'agrnav/status', self.statuses.append, 100)
        make(InferenceResult, f'inference/result/{MODEL}', self._on_result, 10)
        make(Float32, 'real_time_factor', lambda m: self.factors.append(m.data), 10)
        self._goal = self.node.create_publisher(PoseStamped, 'goal_pose', 10)
        self._message = PoseStamped
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self.node)
        self._thread = threading.Thread(target=self._executor.spin, daemon=True)
        self._thread.start()

    def _on_result(self, message: Any) -> None:
        message.outputs = []  # a quarter of a megabyte each
        self.results.append(message)

    def go(self, x: float, y: float) -> None:
        """Publish the goal, in the frame of the odometry."""
        message = self._message()
        message.header.frame_id = 'odom'
        message.pose.position.x, message.pose.position.y = x, y
        message.pose.orientation.w = 1.0
        self._goal.publish(message)

    def close(self) -> None:
        """End the node."""
        self._executor.shutdown()
        self._thread.join(5.0)
        self.node.destroy_node()


def world_settings(plan: dict[str, Any], seed: int) -> dict[str, Any]:
    """Parameters of the world node."""
    return {**plan['world'], 'seed': seed, 'ground_truth_hz': 20.0}


def built(plan: dict[str, Any], seed: int) -> World:
    """The world of a run."""
    values = {name: each.default for name, each in SETTINGS.items()} | world_settings(plan, seed)
    return World(seed, world_config(values))


def goal_of(plan: dict[str, Any], seed: int) -> tuple[Pose, tuple[float, float]]:
    """Where the robot begins, and its goal, in the map frame."""
    with built(plan, seed) as world:
        rng = np.random.default_rng([seed, 13])
        return world.robot.pose, world.destination(plan['goal_apart_m'], rng)


def one_run(
    plan: dict[str, Any], seed: int, parameters: dict[str, Any], models_file: Path, folder: Path
) -> dict[str, Any]:
    """Figures and the way of one run; ``RunError`` when it does not count."""
    folder.mkdir(parents=True, exist_ok=True)
    parameters = dict(parameters)
    completes, perfect = parameters.get('ask_hz') != 0.0, parameters.pop('perfect', False)
    world = parameters_file(folder, 'world', world_settings(plan, seed))
    navigator = yaml.safe_load((HERE.parent / 'config' / 'navigator.yaml').read_text())
    own = navigator['/**']['ros__parameters']
    mine = {key: value for key, value in parameters.items() if key in own}
    files = {
        'navigator': parameters_file(folder, 'navigator', {**own, **mine}),
        'robot': parameters_file(
            folder,
            'robot',
            {
                **{key: value for key, value in parameters.items() if key not in own},
                'link.emulate.trace': str(HERE / 'data' / plan['link']),
            },
        ),
    }
    start, goal = goal_of(plan, seed)
    processes, recorder = Processes(folder), Recorder()
    if perfect:
        with built(plan, seed) as truth:
            Oracle(recorder.node, truth, recorder.truths)
    common = (f'models_file:={models_file}', f'models:={MODEL}', 'threads:=1')
    try:
        if completes and not perfect:
            processes.launch('server', 'server.launch.py', *common)
            slower = {ROBOT_SLOWDOWN: f'{plan["robot_slowdown"]:g}'}
            processes.launch(
                'robot', 'robot.launch.py', *common, f'params_file:={files["robot"]}',
                'use_sim_time:=true', environment=slower,
            )  # fmt: skip
        processes.start(
            'world', sys.executable, str(HERE.parent / 'scripts' / 'world'), '--ros-args',
            '--params-file', str(world),
        )  # fmt: skip
        processes.launch(
            'navigator', 'navigator.launch.py', 'use_sim_time:=true',
            f'navigator_file:={files["navigator"]}',
        )  # fmt: skip
        _wait(processes, folder, lambda: _ready(recorder, completes), START_LIMIT_S)
        begun_s = seconds(recorder.truths[-1].header.stamp)
        _wait(processes, folder, lambda: _now_s(recorder) > begun_s + LOOK_S, START_LIMIT_S)
        recorder.factors.clear()
        recorder.results.clear()
        turn, place = start.inverse(), Pose(*goal)
        there = turn.then(place)
        first = len(recorder.truths)
        statuses = len(recorder.statuses)
        recorder.go(there.x, there.y)
        begun_s = _now_s(recorder)

        def over() -> bool:
            last = recorder.statuses[-1]
            told = len(recorder.statuses) > statuses + 3 and last.goal not in ('', 'open')
            return told or _now_s(recorder) > begun_s + plan['limit_s']

        _wait(processes, folder, over, 3.0 * plan['limit_s'])
        time.sleep(0.3)
    finally:
        processes.stop_all()
        recorder.close()
    factor = statistics.mean(recorder.factors) if recorder.factors else 1.0
    if factor < LEAST_REAL_TIME:
        raise RunError(f'the simulation ran at {factor:.2f} of real time: this machine is too busy')
    told = recorder.statuses[statuses:]
    moments = [_moment(each) for each in recorder.truths[first:]]
    answered = [each for each in recorder.results if each.status == each.OK]
    return {
        **score(moments, goal, told[-1].goal == 'arrived'),
        'outcome': told[-1].goal,
        'planning_s': [round(each.planning_s, 4) for each in told],
        'ages_s': [round(each.completion_age_s, 2) for each in told],
        'result_s': [round(each.total_s, 4) for each in answered],
        'fallbacks': sum(each.fallback for each in answered),
        'bytes_up': [each.bytes_up for each in answered],
        'bytes_down': [each.bytes_down for each in answered],
        'real_time_factor': round(factor, 3),
        'way': [[round(v, 2) for v in each.place] for each in moments[::4]],
        'goal': [round(v, 3) for v in goal],
    }


def _now_s(recorder: Recorder) -> float:
    return seconds(recorder.truths[-1].header.stamp)


def _ready(recorder: Recorder, completes: bool) -> bool:
    if not recorder.truths or not recorder.statuses:
        return False
    last = recorder.statuses[-1]
    completed = not completes or math.isfinite(last.completion_age_s)
    return bool(last.state == 'waiting' and last.observed > 500 and completed)


def _wait(
    processes: Processes, folder: Path, condition: Callable[[], bool], limit_s: float
) -> None:
    end_s = time.monotonic() + limit_s
    while not condition():
        check(processes, folder)
        if time.monotonic() > end_s:
            raise RunError(f'it hangs: see the logs in {folder}')
        time.sleep(0.05)


def _moment(truth: Any) -> Moment:
    at = truth.robot_pose.position
    return Moment(
        seconds(truth.header.stamp), (at.x, at.y, at.z), truth.robot_energy_j, truth.robot_blocked
    )


def summary(plan: dict[str, Any], runs: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Figures of each condition, and ratios of energy and time over the worlds that all reached."""
    by: dict[str, dict[int, dict[str, Any]]] = {
        name: {seed: runs[f'{name} {seed}'] for seed in plan['seeds'] if f'{name} {seed}' in runs}
        for name in plan['conditions']
    }
    by = {name: each for name, each in by.items() if each}
    common = [
        seed
        for seed in plan['seeds']
        if all(seed in each and each[seed]['success'] for each in by.values())
    ]
    found: dict[str, Any] = {'conditions': {n: together(each, common) for n, each in by.items()}}
    found['compared_worlds'] = len(common)
    for name in list(by)[1:]:
        if name in by and 'observed_only' in by:
            for key in ('energy_j', 'time_s'):
                ratio, low, high = ratio_of(
                    [by[name][seed][key] for seed in common],
                    [by['observed_only'][seed][key] for seed in common],
                )
                found[f'{key[:-2]}_ratio_{name}'] = ratio
                found[f'{key[:-2]}_ratio_{name}_interval'] = [low, high]
    return found


def show(found: dict[str, Any], console: Console) -> None:
    """A row for each figure, a column for each condition."""
    table = Table('', *found['conditions'], 'target')
    for key, text, target, word in ROWS:
        values = [f'{each[key]:.3g}' for each in found['conditions'].values()]
        table.add_row(text, *values, '' if target is None else f'{word} {target:g}')
    console.print(table)
    for name in list(found['conditions'])[1:]:
        for key in ('energy', 'time'):
            if f'{key}_ratio_{name}' in found:
                low, high = found[f'{key}_ratio_{name}_interval']
                console.print(
                    f'{key} of {name} over observed_only, {found["compared_worlds"]} worlds: '
                    f'{found[f"{key}_ratio_{name}"]:.3f} ({low:.3f} to {high:.3f})'
                )


def picture(plan: dict[str, Any], runs: dict[str, dict[str, Any]], path: Path) -> None:
    """The ways in each world; in the air dotted."""
    seeds = [seed for seed in plan['seeds'] if any(key.endswith(f' {seed}') for key in runs)]
    columns = 5
    rows = max(1, math.ceil(len(seeds) / columns))
    figure, axes = plt.subplots(rows, columns, figsize=(15, 2.6 * rows), squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for seed, axis in zip(seeds, axes.flat, strict=False):
        with built(plan, seed) as world:
            footprints = [*world.room.footprints, *(p for o in world.objects for p in o.footprints)]
        for polygon in footprints:
            axis.fill(polygon[:, 0], polygon[:, 1], color='#dddddd')
        for name, colour in COLOURS.items():
            run = runs.get(f'{name} {seed}')
            if run is None:
                continue
            way = np.array(run['way'])
            air = way[:, 2] > 0.05
            axis.plot(way[:, 0], way[:, 1], color=colour, lw=1.2, label=name)
            axis.plot(way[air, 0], way[air, 1], '.', color=colour, ms=4)
            axis.plot(*run['goal'], 'x', color='black', ms=5)
        axis.set_title(f'{seed}', fontsize=8)
        axis.set_aspect('equal')
    axes[0][0].legend(fontsize=6)
    figure.tight_layout()
    figure.savefig(path, dpi=90)
    plt.close(figure)


def attempt(
    plan: dict[str, Any], seed: int, condition: str, models_file: Path, console: Console
) -> dict[str, Any]:
    """One run, tried again where it does not count."""
    for tried in range(TRIES):
        folder = Path(tempfile.mkdtemp(prefix='navigation_'))  # logs stay there
        try:
            return one_run(plan, seed, plan['conditions'][condition], models_file, folder)
        except RunError as error:
            console.print(f'  {condition} {seed}: {error}', style='yellow')
            if tried == TRIES - 1:
                raise
    raise AssertionError


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or '').splitlines()[0])
    parser.add_argument('--plan', type=Path, default=HERE / 'data' / 'navigation.yaml')
    parser.add_argument('--models-file', type=Path, default=HERE.parent / 'config' / 'models.yaml')
    parser.add_argument('--json', type=Path, default=HERE / 'results' / 'navigation.json')
    parser.add_argument('--fresh', action='store_true', help='forget what an earlier run measured')
    parser.add_argument('--only', help='one condition')
    parser.add_argument('--seeds', type=int, nargs='+', help='other rooms than those of the plan')
    arguments = parser.parse_args()
    os.environ['ROS_DOMAIN_ID'] = DOMAIN
    os.environ['ROS_AUTOMATIC_DISCOVERY_RANGE'] = 'LOCALHOST'
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    plan = yaml.safe_load(arguments.plan.read_text())
    if arguments.seeds:
        plan['seeds'] = arguments.seeds
    console = Console()
    work = arguments.json.with_suffix('.work.json')
    runs: dict[str, dict[str, Any]] = {}
    if work.exists() and not arguments.fresh:
        runs = json.loads(work.read_text())
    for seed in plan['seeds']:
        for condition in plan['conditions']:
            key = f'{condition} {seed}'
            if key in runs or arguments.only not in (None, condition):
                continue
            try:
                run = attempt(plan, seed, condition, arguments.models_file, console)
            except RunError as error:
                sys.exit(f'navigation: {key}: {error}')
            runs[key] = run
            work.write_text(json.dumps(runs))
            console.print(
                f'{key}: {run["outcome"]}, {run["time_s"]:.1f} s, {run["path_m"]:.1f} m, '
                f'{run["energy_j"]:.0f} J, air {run["air_share"]:.2f}, '
                f'collisions {run["collisions"]}'
            )
    found = summary(plan, runs)
    show(found, console)
    picture(plan, runs, arguments.json.with_suffix('.png'))
    kept = ('planning_s', 'ages_s', 'result_s', 'bytes_up', 'bytes_down', 'way')
    content = {
        'success_rate': found['conditions'].get('offloaded', {}).get('success_rate'),
        **found,
        'plan': plan,
        'runs': {key: {k: v for k, v in run.items() if k not in kept} for key, run in runs.items()},
    }
    arguments.json.write_text(json.dumps(content, indent=1) + '\n')


if __name__ == '__main__':
    main()
