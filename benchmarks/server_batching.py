"""What batching requests of several robots brings on a server, and what it costs.

One `offload_server` process, and one process with 3 or 8 robots: each has a node, a session and a
channel of its own over DDS and runs strategy `server` frame after frame, as fast as the server
answers, without a manager. The server's `batch.max` is set while it runs: without batches and with
them by turns, in one run. Frames per second of all robots together and each frame's latency; every
result is compared with the model on one frame.

The server computes on the CPU in one thread and shares the machine with its robots. `scene` is a
ViT on small images, `resnet18` a convolutional network that keeps one core busy by itself, and
`sconet` a voxel network with 3-D convolutions.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
import contextlib
import json
import os
from pathlib import Path
import platform
import signal
import subprocess
import sys
import tempfile
import threading
import time
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).parent / 'results'
CONFIG = Path(__file__).resolve().parents[1] / 'config'
SERVER = '/offload_server'
MODELS = f"""
models:
  scene:
    source: {{transformers: {CONFIG}/networks/scene/classifier}}
    inputs: [{{name: image, topic: camera}}]
    preprocess: {{resize: [128, 128], mean: [0.5, 0.5, 0.5], std: [0.25, 0.25, 0.25]}}
    outputs: [probabilities]
  resnet18:
    source: {{transformers: {CONFIG}/networks/resnet18}}
    inputs: [{{name: image, topic: camera}}]
    preprocess: {{resize: [224, 224], mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225]}}
    outputs: [probabilities]
  sconet:
    source:
      python: offload_ros.models.sconet:sconet
      arguments: {{grid: [64, 8, 64], classes: 4, attention: false}}
    inputs: [{{name: voxels, topic: voxels, encoding: mono8, shape: [64, 64]}}]
    outputs: [labels]
"""
SHAPES = {'scene': (240, 320, 3), 'resnet18': (240, 320, 3), 'sconet': (64, 64)}
ROBOTS = (3, 8)
GATHER_MS = 2.0
SETTLE_S = 1.0  # of a phase, not counted
LIMIT_S = 60.0  # for one frame, and for what is begun


class Robot:
    """One robot of several in this process; its frames are those of ``seed``."""

    def __init__(self, name: str, models: dict[str, Any], seed: int) -> None:
        import rclpy
        from rclpy.context import Context
        from rclpy.signals import SignalHandlerOptions

        from offload_ros.nodes.server_contacts import ServerContacts
        from offload_ros.nodes.wire_node import runtime_of
        from offload_ros.wire.tensors import Limits

        context = Context()
        rclpy.init(context=context, signal_handler_options=SignalHandlerOptions.NO)
        self.node = rclpy.create_node(name, context=context)
        self.contacts = ServerContacts(self.node, runtime_of('cpu'), Limits(), 5.0)
        self.models, self.seed = models, seed
        self.playing = ''  # the model, while it asks
        self.frames: list[tuple[float, float, int]] = []  # answered at s, latency s, batch
        self.wrong: list[str] = []
        self.unanswered = 0
        self.thread = threading.Thread(target=self._play, daemon=True)

    def connected(self) -> bool:
        """Whether the server can be asked."""
        client = self.contacts.client
        return all(client.server_for(model)[0] is not None for model in self.models.values())

    def _play(self) -> None:
        import torch

        from offload_ros.baselines.server import ServerStrategy
        from offload_ros.models.batch import difference
        from offload_ros.strategy import Frame, Link, Unanswered

        strategies, inputs, wanted = {}, {}, {}
        generator = torch.Generator().manual_seed(self.seed)
        for name, model in self.models.items():
            strategies[name] = ServerStrategy()
            strategies[name].prepare(model, Link(None, self.contacts.client))
            data = torch.randint(0, 256, SHAPES[name], dtype=torch.uint8, generator=generator)
            inputs[name] = {model.config.inputs[0].name: data}
            wanted[name] = model.run(inputs[name])
        seq = 0
        while True:
            name = self.playing
            if not name:
                time.sleep(0.01)
                continue
            seq += 1
            began_s = time.monotonic()
            frame = Frame(seq, inputs[name], began_s)
            try:
                result = strategies[name].run(frame, began_s + LIMIT_S)
            except Unanswered:  # a busy machine may lose a server for a moment
                self.unanswered += 1
                time.sleep(0.1)
                continue
            ended_s = time.monotonic()
            batch = int(result.plan.rpartition('batch of ')[2]) if 'batch of' in result.plan else 1
            self.frames.append((ended_s, ended_s - began_s, batch))
            why = difference(wanted[name], result.outputs)
            if why or result.exact != (batch == 1):
                self.wrong.append(why or f'exact is {result.exact} in a batch of {batch}')


def robots(models_file: str, most: int) -> None:
    """The robots' process: commands as lines of JSON on stdin, answers on stdout."""
    import torch

    from offload_ros.models.config_file import load_models_file
    from offload_ros.models.model import load_model
    from offload_ros.nodes.process import SWITCH_INTERVAL_S, keep_freed_memory

    keep_freed_memory()
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    torch.set_num_threads(1)
    models = {config.name: load_model(config) for config in load_models_file(models_file)}
    all_robots = [Robot(f'robot{index}', models, index) for index in range(most)]
    end_s = time.monotonic() + LIMIT_S
    while not all(each.connected() for each in all_robots):
        if time.monotonic() > end_s:
            raise SystemExit('error: the robots do not reach the server')
        time.sleep(0.05)
    for each in all_robots:
        each.thread.start()
    print(json.dumps('ready'), flush=True)
    for line in sys.stdin:
        model, count, batched, seconds = json.loads(line)
        set_batches(all_robots[0].node, count if batched else 1)
        print(json.dumps(phase(all_robots[:count], model, seconds)), flush=True)
    os._exit(0)  # the robots' threads are of no more use


def phase(playing: list[Robot], model: str, seconds: float) -> dict[str, Any]:
    """Let robots ask ``model`` for ``seconds``."""
    for robot in playing:
        robot.frames.clear()
        robot.unanswered = 0
        robot.playing = model
    began_s = time.monotonic() + SETTLE_S
    time.sleep(SETTLE_S + seconds)
    ended_s = began_s + seconds
    for robot in playing:
        robot.playing = ''
    counted = [
        frame for robot in playing for frame in list(robot.frames) if began_s <= frame[0] < ended_s
    ]
    time.sleep(0.3 + 1.5 * max((frame[1] for frame in counted), default=1.0))  # all have ended
    wrong = [text for robot in playing for text in robot.wrong]
    if wrong:
        raise SystemExit(f'error: {model}: {wrong[0]}')
    return {
        'frames_per_s': len(counted) / seconds,
        'latency_s': [frame[1] for frame in counted],
        'batch': float(np.mean([frame[2] for frame in counted])) if counted else 0.0,
        'unanswered': sum(robot.unanswered for robot in playing),
    }


def set_batches(node: Any, most: int) -> None:
    """``ros2 param set`` on the server."""
    from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
    from rcl_interfaces.srv import SetParameters
    import rclpy
    from rclpy.executors import SingleThreadedExecutor

    kinds = ParameterType
    most_value = ParameterValue(type=kinds.PARAMETER_INTEGER, integer_value=most)
    gather = ParameterValue(type=kinds.PARAMETER_DOUBLE, double_value=GATHER_MS)
    request = SetParameters.Request(
        parameters=[
            Parameter(name='batch.max', value=most_value),
            Parameter(name='batch.gather_ms', value=gather),
        ]
    )
    own = rclpy.create_node('setter', context=node.context)
    client = own.create_client(SetParameters, f'{SERVER}/set_parameters')
    executor = SingleThreadedExecutor(context=node.context)
    try:
        if not client.wait_for_service(LIMIT_S):
            raise SystemExit('error: the server has no parameters')
        future = client.call_async(request)
        executor.add_node(own)
        executor.spin_until_future_complete(future, LIMIT_S)
        response = future.result()
        if response is None or not all(each.successful for each in response.results):
            raise SystemExit(f'error: the parameters cannot be set: {response}')
    finally:
        executor.shutdown()
        own.destroy_node()


@contextlib.contextmanager
def processes(folder: Path) -> Iterator[Any]:
    """Server and robots; what asks the robots."""
    models = folder / 'models.yaml'
    models.write_text(MODELS)
    environment = {
        **os.environ,
        'OMP_NUM_THREADS': '1',
        'ROS_AUTOMATIC_DISCOVERY_RANGE': 'LOCALHOST',
        'FASTDDS_DEFAULT_PROFILES_FILE': str(CONFIG / 'dds' / 'fastdds.xml'),
    }
    words = ['ros2', 'run', 'offload_ros', 'offload_server', '--ros-args']
    server = subprocess.Popen(
        [*words, '-p', f'models_file:={models}', '-p', 'threads:=1'],
        env=environment,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    pipes: dict[str, Any] = {'stdin': subprocess.PIPE, 'stdout': subprocess.PIPE, 'text': True}
    asked = subprocess.Popen(
        [sys.executable, str(Path(__file__)), '--end', str(models)], env=environment, **pipes
    )

    def ask(*command: Any) -> Any:
        if command:
            asked.stdin.write(json.dumps(command) + '\n')  # type: ignore[union-attr]
            asked.stdin.flush()  # type: ignore[union-attr]
        line = asked.stdout.readline()  # type: ignore[union-attr]
        if not line:
            raise SystemExit('error: the robots have ended')
        return json.loads(line)

    try:
        ask()
        yield ask
    finally:
        with contextlib.suppress(OSError):
            asked.stdin.close()  # type: ignore[union-attr]
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGINT)
        for each in (asked, server):
            try:
                each.wait(20.0)
            except subprocess.TimeoutExpired:
                each.kill()


def summary(found: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Medians over phases, the ratio of each pair, and its bootstrap 95 % interval."""
    result: dict[str, Any] = {}
    for way, phases in found.items():
        latency_ms = 1000.0 * np.concatenate([each['latency_s'] for each in phases])
        result[way] = {
            'frames_per_s': round(float(np.median([p['frames_per_s'] for p in phases])), 2),
            'latency_ms_p50': round(float(np.percentile(latency_ms, 50)), 1),
            'latency_ms_p95': round(float(np.percentile(latency_ms, 95)), 1),
            'batch_mean': round(float(np.mean([p['batch'] for p in phases])), 2),
            'frames': len(latency_ms),
            'unanswered': sum(each['unanswered'] for each in phases),
        }
    ratios = np.array(
        [
            batched['frames_per_s'] / alone['frames_per_s']
            for batched, alone in zip(found['batched'], found['alone'], strict=True)
        ]
    )
    picks = np.random.default_rng(0).integers(0, len(ratios), (2000, len(ratios)))
    low, high = np.percentile(np.median(ratios[picks], axis=1), [2.5, 97.5])
    result['throughput_ratio'] = round(float(np.median(ratios)), 3)
    result['interval_95'] = [round(float(low), 3), round(float(high), 3)]
    return result


def show(results: dict[str, Any]) -> None:
    """The table."""
    table = Table(title='batches of requests of several robots, one CPU thread')
    for column in ('model, robots', 'one by one', 'p50, p95 ms', 'batched', 'p50, p95 ms'):
        table.add_column(column, justify='left' if column.startswith('model') else 'right')
    for column in ('mean batch', 'ratio', '95 %'):
        table.add_column(column, justify='right')
    for case, found in results.items():
        cells = []
        for way in ('alone', 'batched'):
            each = found[way]
            cells.append(f'{each["frames_per_s"]:.1f}/s')
            cells.append(f'{each["latency_ms_p50"]:.0f}, {each["latency_ms_p95"]:.0f}')
        low, high = found['interval_95']
        mean = f'{found["batched"]["batch_mean"]:.1f}'
        ratio = f'{found["throughput_ratio"]:.2f}'
        table.add_row(case, *cells, mean, ratio, f'{low:.2f} to {high:.2f}')
    Console(width=110).print(table)


def main() -> None:
    """Run all cases, or the robots' process."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--json', type=Path, default=RESULTS / 'server_batching.json')
    parser.add_argument('--pairs', type=int, default=8, help='phases with and without batches')
    parser.add_argument('--seconds', type=float, default=4.0, help='of a phase')
    parser.add_argument('--only', default='', help='models whose name contains this')
    parser.add_argument('--end', default='', help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.end:
        robots(options.end, max(ROBOTS))
        return
    results: dict[str, Any] = {}
    os.environ.setdefault('ROS_DOMAIN_ID', str(150 + os.getpid() % 50))
    with tempfile.TemporaryDirectory() as folder, processes(Path(folder)) as ask:
        for model in SHAPES:
            for count in ROBOTS if options.only in model else ():
                for batched in (False, True):  # the first batch is tried both ways
                    ask(model, count, batched, 1.0)
                found: dict[str, list[dict[str, Any]]] = {'alone': [], 'batched': []}
                for _ in range(options.pairs):
                    for way in found:
                        found[way].append(ask(model, count, way == 'batched', options.seconds))
                results[f'{model}, {count}'] = summary(found)
                print(f'{model}, {count} robots', flush=True)
    show(results)
    about = {
        'machine': platform.machine(),
        'cores': os.cpu_count(),
        'pairs': options.pairs,
        'seconds': options.seconds,
        'gather_ms': GATHER_MS,
    }
    options.json.write_text(json.dumps({'cases': results, 'about': about}, indent=1) + '\n')


if __name__ == '__main__':
    main()
