"""The robot follows a person: offloaded over a link that varies, against computing by itself.

    python benchmarks/tracking.py            about 35 minutes; goes on where it was stopped

Real processes: simulated world, manager, server, follower. Rooms, walks, light and link stand in
``benchmarks/data/tracking.yaml``. The robot's accelerator is paced so that a frame takes it as long
as the YAML says; the link replays a recorded trace inside the channel. Both conditions see the same
rooms; people give way to the robot, so their walks differ in the end. Runs in which the simulation
is slower than 0.95 of real time are refused.

Prints a table and the ratio of both, writes ``benchmarks/results/tracking.json`` and a picture of
the ways.
"""

from __future__ import annotations

import argparse
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
from benchmarks.tracking_score import Moment, score, together
from benchmarks.world_runs import LEAST_REAL_TIME, RunError, check, parameters_file, seconds
from offload_ros.nodes.demo import Processes
from offload_ros.nodes.world_parameters import SETTINGS, world_config
from offload_ros.robot.pacing import ROBOT_SLOWDOWN
from offload_ros.sim import World
from offload_ros.sim.robot import Pose

HERE = Path(__file__).parent
DOMAIN = '78'
START_LIMIT_S = 120.0
MODEL = 'kapao'
TRIAL_S, TRIAL_SEED = 20, 9000
UNITS = (
    ('rms_position_error_m', 'position error RMS (m)', 0.25, 'at most'),
    ('lost_s_max', 'longest loss (s)', 2.0, 'at most'),
    ('kept_share', 'within 0.5 m of 2.5 m', 0.9, 'at least'),
    ('collisions', 'collisions', 0, 'at most'),
    ('result_hz', 'results (Hz)', 5.0, 'at least'),
    ('following_share', 'following', None, ''),
    ('other_person_share', 'took the other person', None, ''),
)


class Recorder:
    """Truth and what the follower says, paired by their stamps."""

    def __init__(self) -> None:
        import rclpy
        from rclpy.executors import SingleThreadedExecutor
        from rclpy.signals import SignalHandlerOptions
        from std_msgs.msg import Float32

        from offload_ros.msg import FollowStatus, GroundTruth, InferenceResult

        if not rclpy.ok():
            rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
        self._node = rclpy.create_node('recorder')
        self._truths: list[Any] = []
        self._statuses: list[Any] = []
        self.factors: list[float] = []
        self.robot_s: list[float] = []  # of each result: computing and handling on the robot
        make = self._node.create_subscription
        make(GroundTruth, 'ground_truth', self._truths.append, 100)
        make(FollowStatus, 'people/status', self._statuses.append, 100)
        make(Float32, 'real_time_factor', lambda m: self.factors.append(m.data), 10)
        make(InferenceResult, 'inference/result/kapao', self._on_result, 10)
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self._node)
        self._thread = threading.Thread(target=self._executor.spin, daemon=True)
        self._thread.start()

    def _on_result(self, message: Any) -> None:
        if message.strategy_used == 'device':
            self.robot_s.append(message.robot_s)

    @property
    def newest(self) -> Any:
        """The newest status; None before the first."""
        return self._statuses[-1] if self._statuses else None

    def first_s(self) -> float | None:
        """When somebody was followed first."""
        return next(
            (seconds(m.header.stamp) for m in list(self._statuses) if m.mode == 'following'), None
        )

    def moments(self, begin_s: float, end_s: float) -> list[Moment]:
        """What was said from begin_s to end_s, with the truth of the same instants."""
        truths, statuses = list(self._truths), list(self._statuses)
        stamps = np.array([seconds(m.header.stamp) for m in truths])
        found = []
        for status in statuses:
            now_s = seconds(status.header.stamp)
            after = int(np.searchsorted(stamps, np.float64(now_s)))
            if not begin_s <= now_s < end_s or not 0 < after < len(stamps):
                continue
            share = (now_s - stamps[after - 1]) / (stamps[after] - stamps[after - 1])
            found.append(_moment(now_s, status, truths[after - 1], truths[after], share, truths[0]))
        return found

    def close(self) -> None:
        """End the node."""
        self._executor.shutdown()
        self._thread.join(5.0)
        self._node.destroy_node()


def _pose(truth: Any) -> Pose:
    at, turn = truth.robot_pose.position, truth.robot_pose.orientation
    return Pose(at.x, at.y, 2 * math.atan2(turn.z, turn.w))


def _moment(now_s: float, status: Any, before: Any, after: Any, share: float, first: Any) -> Moment:
    """The truth between two messages; the frame of the odometry, which does not drift, is where the
    robot was first."""
    one, other = _pose(before), _pose(after)
    turn = (other.yaw - one.yaw + math.pi) % (2 * math.pi) - math.pi
    points = [
        np.array(
            [[(p.pose.position.x, p.pose.position.y, 0.0), *((k.x, k.y, k.z) for k in p.keypoints)]
             for p in each.persons]
        )
        for each in (before, after)
    ]  # fmt: skip
    between = points[0] + share * (points[1] - points[0])
    believed = None
    if math.isfinite(status.target_position.x):
        place = _pose(first).then(Pose(status.target_position.x, status.target_position.y))
        believed = (place.x, place.y)
    return Moment(
        now_s,
        (
            one.x + share * (other.x - one.x),
            one.y + share * (other.y - one.y),
            one.yaw + share * turn,
        ),
        between[:, 0, :2],
        between[:, 1:],
        after.robot_blocked,
        status.mode,
        believed,
        status.unseen_s,
        status.result_hz,
    )


def world_settings(plan: dict[str, Any], run: dict[str, Any]) -> dict[str, Any]:
    """Parameters of the world node."""
    return {'robot_motion': 'cmd_vel', **plan['world'], **run}


def one_run(
    plan: dict[str, Any], run: dict[str, Any], parameters: dict[str, Any], slowdown: float,
    folder: Path, console: Console,
) -> tuple[list[Moment], float]:  # fmt: skip
    """The moments of one run, and how long an inference took on the robot (mean, ms; NaN: none
    did); ``RunError`` when it does not count."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {
        'world': world_settings(plan, run),
        'robot': {**parameters, 'link.emulate.trace': str(HERE / 'data' / plan['link'])},
    }
    for name, values in files.items():
        parameters_file(folder, name, values)
    models = folder / 'models.yaml'
    processes, recorder = Processes(folder), Recorder()
    common = (f'models_file:={models}', 'threads:=1')
    try:
        processes.launch('server', 'server.launch.py', *common)
        processes.start(
            'world', sys.executable, str(HERE.parent / 'scripts' / 'world'), '--ros-args',
            '--params-file', str(folder / 'world.yaml'),
        )  # fmt: skip
        processes.launch(
            'robot', 'robot.launch.py', *common, f'params_file:={folder / "robot.yaml"}',
            'use_sim_time:=true', environment={ROBOT_SLOWDOWN: f'{slowdown:g}'},
        )  # fmt: skip
        processes.launch(
            'tracker',
            'tracker.launch.py',
            'use_sim_time:=true',
            f'tracker_file:={HERE.parent / "config" / "tracker_world.yaml"}',
        )
        begun_s = time.monotonic()
        while recorder.first_s() is None:
            check(processes, folder)
            if time.monotonic() - begun_s > START_LIMIT_S:
                raise RunError(f'nobody was followed within {START_LIMIT_S:.0f} s: see {folder}')
            time.sleep(0.1)
        first_s = recorder.first_s() or 0.0
        recorder.factors.clear()
        recorder.robot_s.clear()
        end_s = first_s + plan['duration_s']
        told_s = 0.0
        while seconds(recorder.newest.header.stamp) < end_s + 0.5:
            check(processes, folder)
            time.sleep(0.2)
            if time.monotonic() - told_s > 30:
                told_s = time.monotonic()
                now = recorder.newest
                at_s = seconds(now.header.stamp) - first_s
                console.print(f'  {at_s:.0f} s, {now.mode}, {now.result_hz:.1f} Hz', style='dim')
    finally:
        processes.stop_all()
        recorder.close()
    factor = statistics.mean(recorder.factors)
    if factor < LEAST_REAL_TIME:
        raise RunError(f'the simulation ran at {factor:.2f} of real time: this machine is too busy')
    robot_ms = 1000 * statistics.mean(recorder.robot_s) if recorder.robot_s else math.nan
    return recorder.moments(first_s, end_s), robot_ms


def own_ms(plan: dict[str, Any], models_file: Path, console: Console) -> float:
    """What an inference takes on the robot before it is paced, while world, manager and tracker run
    as well: paced by what it takes on an idle machine, the robot would be slower than meant."""
    console.print('how long an inference takes here')
    folder = Path(tempfile.mkdtemp(prefix='tracking_'))
    only_model(models_file, folder)
    trial = {**plan, 'duration_s': TRIAL_S}
    run = {'seed': TRIAL_SEED, 'light': 1}
    return one_run(trial, run, {f'{MODEL}.strategy': 'device'}, 1.0, folder, console)[1]


def figures_of(moments: list[Moment], plan: dict[str, Any], run: dict[str, Any]) -> dict[str, Any]:
    """Scores, and the ways for the picture, twice a second."""
    values = {name: each.default for name, each in SETTINGS.items()}
    values |= {**plan['world'], **run}
    with World(run['seed'], world_config(values)) as world:
        found = score(moments, world)
    person = 0
    first = next((m for m in moments if m.believed is not None), None)
    if first is not None and first.believed is not None:
        person = int(np.argmin(np.hypot(*(first.people - np.array(first.believed)).T)))
    found['robot'] = [[round(v, 2) for v in m.robot[:2]] for m in moments[::5]]
    found['person'] = [[round(float(v), 2) for v in m.people[person]] for m in moments[::5]]
    return found


def show(results: dict[str, Any], console: Console) -> None:
    """A row for each figure, a column for each condition, and their ratio."""
    names = list(results)
    table = Table('', *names, 'ratio', 'target')
    for key, text, target, word in UNITS:
        values = [results[name].get(key, math.nan) for name in names]
        ratio = values[0] / values[1] if len(values) > 1 and values[1] else math.nan
        told = '' if target is None else f'{word} {target:g}'
        table.add_row(text, *(f'{v:.3g}' for v in values), f'{ratio:.2f}', told)
    console.print(table)


def picture(runs: dict[str, dict[str, Any]], path: Path) -> None:
    """The ways of robot and person in each run."""
    conditions = sorted({key.split()[0] for key in runs}, reverse=True)
    seeds = sorted({key.split()[1] for key in runs})
    figure, axes = plt.subplots(
        len(conditions), len(seeds), figsize=(4 * len(seeds), 3.4 * len(conditions)), squeeze=False
    )
    for row, condition in enumerate(conditions):
        for column, seed in enumerate(seeds):
            axis, run = axes[row][column], runs.get(f'{condition} {seed}')
            if run is None:
                continue
            for who, colour in (('person', '#d1495b'), ('robot', '#00798c')):
                way = np.array(run[who])
                axis.plot(way[:, 0], way[:, 1], color=colour, lw=0.8, label=who)
            error = run.get('rms_position_error_m', math.nan)
            axis.set_title(f'{condition}, room {seed}: {error:.2f} m RMS', fontsize=9)
            axis.set_aspect('equal')
            axis.tick_params(labelsize=7)
    axes[0][0].legend(fontsize=8)
    figure.supxlabel('x (m)')
    figure.supylabel('y (m)')
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or '').splitlines()[0])
    parser.add_argument('--plan', type=Path, default=HERE / 'data' / 'tracking.yaml')
    parser.add_argument('--models-file', type=Path, default=HERE.parent / 'config' / 'models.yaml')
    parser.add_argument('--json', type=Path, default=HERE / 'results' / 'tracking.json')
    parser.add_argument('--fresh', action='store_true', help='forget what an earlier run measured')
    parser.add_argument('--only', help='one condition')
    arguments = parser.parse_args()
    os.environ['ROS_DOMAIN_ID'] = DOMAIN
    os.environ['ROS_AUTOMATIC_DISCOVERY_RANGE'] = 'LOCALHOST'
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    plan = yaml.safe_load(arguments.plan.read_text())
    console = Console()
    work = arguments.json.with_suffix('.work.json')
    kept: dict[str, Any] = {'runs': {}}
    if work.exists() and not arguments.fresh:
        kept = json.loads(work.read_text())
    runs: dict[str, dict[str, Any]] = kept['runs']
    try:
        if 'own_ms' not in kept:
            kept['own_ms'] = own_ms(plan, arguments.models_file, console)
            work.write_text(json.dumps(kept))
    except RunError as error:
        sys.exit(f'tracking: {error}')
    slowdown = max(1.0, plan['robot_inference_ms'] / kept['own_ms'])
    console.print(
        f'an inference takes {kept["own_ms"]:.1f} ms here: the robot is paced {slowdown:.1f} times'
    )
    for run in plan['runs']:
        for condition, parameters in plan['conditions'].items():
            key = f'{condition} {run["seed"]}'
            if key in runs or arguments.only not in (None, condition):
                continue
            console.print(f'{key}: {plan["duration_s"]} s')
            folder = Path(tempfile.mkdtemp(prefix='tracking_'))  # logs stay there
            only_model(arguments.models_file, folder)
            try:
                moments, robot_ms = one_run(plan, run, parameters, slowdown, folder, console)
            except RunError as error:
                sys.exit(f'tracking: {key}: {error}')
            runs[key] = {**figures_of(moments, plan, run), 'robot_ms': robot_ms}
            work.write_text(json.dumps(kept))
            console.print({k: v for k, v in runs[key].items() if k not in ('robot', 'person')})
    results = {
        name: together([r for key, r in runs.items() if key.split()[0] == name])
        for name in plan['conditions']
        if any(key.split()[0] == name for key in runs)
    }
    show(results, console)
    picture(runs, arguments.json.with_suffix('.png'))
    content = {
        **results.get('offloaded', {}),
        'conditions': results,
        'own_ms': kept['own_ms'],
        'robot_slowdown': slowdown,
        'plan': plan,
        'runs': {
            key: {k: v for k, v in run.items() if k not in ('robot', 'person')}
            for key, run in runs.items()
        },
    }
    arguments.json.write_text(json.dumps(content, indent=1) + '\n')


def only_model(models_file: Path, folder: Path) -> None:
    """A models.yaml with the network alone; its files stay where they are."""
    text = yaml.safe_load(models_file.read_text())
    entry = text['models'][MODEL]
    variants = entry.get('variants', {}).values()
    for source in (entry['source'], *(each.get('source', {}) for each in variants)):
        weights = source.get('arguments', {}).get('weights', '')
        if weights.startswith('.'):
            source['arguments']['weights'] = str((models_file.parent / weights).resolve())
    (folder / 'models.yaml').write_text(yaml.safe_dump({'models': {MODEL: entry}}))


if __name__ == '__main__':
    main()
