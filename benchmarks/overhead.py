"""What the nodes add to an inference: the whole way through manager and server against one process.

The same small model on the same images, four ways, interleaved in one run on one host:

  call        the model called in this process: no ROS at all
  plain node  one ROS node: image topic in, model called in its callback, result topic out
  device      image topic, offload manager computing by itself, result topic
  server      image topic, offload manager, offload server, back, result topic

`added`: from the image's receipt by the manager to the result's publication for `server`, less the
`call`; the target of 3 ms at 640x480 is for this figure. The other columns are end to end:
publish() of the image to arrival of the result in another process, which contains the two topics
that every ROS node pays.
"""

from __future__ import annotations

import argparse
from array import array
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
import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from rich.console import Console
from rich.table import Table
from sensor_msgs.msg import Image
import torch

from offload_ros.msg import InferenceResult, Tensor
from offload_ros.nodes.process import keep_freed_memory, run_node
from offload_ros.wire.tensors import encode

RESULTS = Path(__file__).parent / 'results'
SIZES = ((64, 52), (160, 120), (320, 240), (640, 480), (960, 694))  # (width, height): 10 kB to 2 MB
MODES = ('node', 'device', 'server')
TARGET_MS = 3.0


class SubsampledMean(torch.nn.Module):
    """(H, W, 3) uint8 to the mean (1,) of every 16th row and column: next to no computing."""

    weights_trained = True

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """See the class."""
        return image[::16, ::16].float().mean().reshape(1)


def plain_node() -> Any:
    """The peer: what a user writes without this package."""
    from rclpy.node import Node

    class Plain(Node):
        def __init__(self) -> None:
            super().__init__('plain')
            self._model = SubsampledMean()
            self._results = self.create_publisher(InferenceResult, 'plain/result', 10)
            sensor = QoSProfile(depth=2, reliability=ReliabilityPolicy.BEST_EFFORT)
            self.create_subscription(Image, 'plain/image', self._on_image, sensor)

        def _on_image(self, message: Any) -> None:
            with torch.inference_mode():
                pixels = torch.frombuffer(message.data, dtype=torch.uint8)
                output = self._model(pixels.reshape(message.height, message.width, 3))
            result = InferenceResult(header=message.header)
            result.outputs = [encode(Tensor(), 'mean', output)]
            self._results.publish(result)

    return Plain()


class Bench:
    """Publishes images and times the results of one mode after the other."""

    def __init__(self) -> None:
        rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
        self._node = rclpy.create_node('bench')
        sensor = QoSProfile(depth=2, reliability=ReliabilityPolicy.BEST_EFFORT)
        self._topics = {
            mode: self._node.create_publisher(Image, f'{mode}/image', sensor)
            for mode in ('plain', 'device', 'server')
        }
        self._arrived = threading.Event()
        self._wanted = (0, 0)
        self._last: tuple[float, Any] | None = None
        for topic in ('plain/result', 'inference/result/on_device', 'inference/result/on_server'):
            self._node.create_subscription(InferenceResult, topic, self._on_result, 10)
        executor = SingleThreadedExecutor()
        executor.add_node(self._node)
        self._thread = threading.Thread(target=self._spin, args=[executor], daemon=True)
        self._thread.start()

    @staticmethod
    def _spin(executor: SingleThreadedExecutor) -> None:
        with contextlib.suppress(ExternalShutdownException):
            executor.spin()

    def _on_result(self, message: Any) -> None:
        now_s = time.monotonic()
        if (message.header.stamp.sec, message.header.stamp.nanosec) == self._wanted:
            self._last = (now_s, message)
            self._arrived.set()

    def ready(self) -> bool:
        """Whether every process listens."""
        return all(topic.get_subscription_count() > 0 for topic in self._topics.values())

    def once(self, mode: str, pixels: array, size: tuple[int, int], number: int) -> Any:
        """One frame; (end to end in s, result) or None when nothing came within a second."""
        message = Image(
            width=size[0], height=size[1], step=3 * size[0], encoding='rgb8', data=pixels
        )
        self._wanted = (number, MODES.index(mode))
        message.header.stamp.sec, message.header.stamp.nanosec = self._wanted
        self._arrived.clear()
        began_s = time.monotonic()
        self._topics['plain' if mode == 'node' else mode].publish(message)
        if not self._arrived.wait(1.0) or self._last is None:
            return None
        return self._last[0] - began_s, self._last[1]

    def close(self) -> None:
        """End the node."""
        rclpy.try_shutdown()
        self._thread.join(5.0)


def models_file(folder: Path) -> Path:
    """Two names for one model: one always on the robot, one always on the server."""
    source = "source: {python: 'overhead:SubsampledMean'}"
    file = folder / 'models.yaml'
    file.write_text(
        'models:\n'
        + ''.join(
            f'  on_{mode}: {{{source}, inputs: [{{name: image, topic: {mode}/image}}], '
            f'outputs: [mean], strategy: {mode}}}\n'
            for mode in ('device', 'server')
        )
    )
    return file


def percentiles(values_s: list[float]) -> dict[str, float]:
    """p50 and p99 in ms."""
    return {
        'p50_ms': round(1000 * float(np.percentile(values_s, 50)), 3),
        'p99_ms': round(1000 * float(np.percentile(values_s, 99)), 3),
    }


def measure(bench: Bench, size: tuple[int, int], count: int, first: int) -> dict[str, Any]:
    """All ways for one image size, interleaved; the first tenth is not counted."""
    width, height = size
    data = np.random.default_rng(0).integers(0, 256, width * height * 3, dtype=np.uint8)
    pixels = array('B', data.tobytes())
    model, image = SubsampledMean(), torch.from_numpy(data.reshape(height, width, 3))
    ends: dict[str, list[float]] = {mode: [] for mode in MODES}
    totals: dict[str, list[float]] = {'device': [], 'server': []}
    calls: list[float] = []
    missing = fallbacks = 0
    for index in range(count + count // 10):
        began_s = time.monotonic()
        with torch.inference_mode():
            model(image)
        call_s = time.monotonic() - began_s
        for mode in MODES:
            answer = bench.once(mode, pixels, size, first + index)
            if index < count // 10:
                continue
            if answer is None:
                missing += 1
                continue
            if mode != 'node':
                if answer[1].strategy_used != mode:
                    fallbacks += 1  # another way than the one that is measured
                    continue
                totals[mode].append(answer[1].total_s)
            ends[mode].append(answer[0])
        if index >= count // 10:
            calls.append(call_s)
    call_s = float(np.median(calls))
    if missing + fallbacks > 0.1 * 3 * count:
        raise SystemExit(
            f'error: of {3 * count} frames {missing} had no result, {fallbacks} another strategy'
        )
    return {
        'size': f'{width}x{height}',
        'input_bytes': width * height * 3,
        'frames_per_mode': count,
        'missing': missing,
        'fallbacks': fallbacks,
        'call': percentiles(calls),
        'added': {mode: percentiles([t - call_s for t in totals[mode]]) for mode in totals},
        'end_to_end': {mode: percentiles(ends[mode]) for mode in MODES},
        'server_to_plain_node_ratio': round(
            float(np.median(ends['server']) / np.median(ends['node'])), 2
        ),
    }


def start(folder: Path) -> list[subprocess.Popen]:
    """Manager, server and plain node, each with one thread per operator."""
    file = models_file(folder)
    launch = ['ros2', 'launch', 'offload_ros']
    commands = [
        [*launch, 'server.launch.py', f'models_file:={file}', 'threads:=1'],
        [*launch, 'robot.launch.py', f'models_file:={file}', 'threads:=1'],
        [sys.executable, __file__, '--plain-node'],
    ]
    log = (folder / 'log.txt').open('wb')
    return [
        subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        for command in commands
    ]


def report(rows: list[dict[str, Any]], path: Path) -> None:
    """Print the table and write the JSON."""
    table = Table(title='what the nodes add (ms, p50 / p99)')
    for heading in ('image', 'call', 'added', 'plain node', 'device', 'server', 'ratio'):
        table.add_column(heading, justify='right')

    def cell(figures: dict[str, float]) -> str:
        return f'{figures["p50_ms"]:.2f} / {figures["p99_ms"]:.2f}'

    for row in rows:
        table.add_row(
            row['size'],
            f'{row["call"]["p50_ms"]:.2f}',
            cell(row['added']['server']),
            *(cell(row['end_to_end'][mode]) for mode in MODES),
            f'{row["server_to_plain_node_ratio"]:.2f}',
        )
    Console(width=110).print(table)
    added = next(row['added']['server']['p50_ms'] for row in rows if row['size'] == '640x480')
    print(f'added at 640x480: {added:.2f} ms, target {TARGET_MS:.0f} ms')
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        json.dumps(
            {
                'schema': 1,
                'machine': f'{platform.machine()}, {os.cpu_count()} cores',
                'torch': torch.__version__,
                'added_640x480_p50_ms': added,
                'target_ms': TARGET_MS,
                'rows': rows,
            },
            indent=1,
        )
        + '\n'
    )


def save_picture(rows: list[dict[str, Any]], path: Path) -> None:
    """End-to-end medians over the input's size."""
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4), constrained_layout=True)
    sizes = [row['input_bytes'] / 1000 for row in rows]
    for mode, label in (
        ('server', 'robot and server'),
        ('device', 'robot'),
        ('node', 'plain node'),
    ):
        medians = [row['end_to_end'][mode]['p50_ms'] for row in rows]
        axes.plot(sizes, medians, 'o-', label=f'{label}, end to end')
    added = [row['added']['server']['p50_ms'] for row in rows]
    axes.plot(sizes, added, 'o--', color='0.4', label='added by manager and server')
    axes.set_xscale('log')
    axes.set_xlabel('image (kB)')
    axes.set_ylabel('median (ms)')
    axes.set_ylim(bottom=0)
    axes.legend()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--json', type=Path, default=RESULTS / 'overhead.json')
    parser.add_argument('--frames', type=int, default=300, help='per mode and size')
    parser.add_argument('--plain-node', action='store_true', help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.plain_node:
        torch.set_num_threads(1)
        run_node(plain_node, ())
    torch.set_num_threads(1)
    keep_freed_memory()
    sys.setswitchinterval(1e-4)
    os.environ['PYTHONPATH'] = f'{Path(__file__).parent}:{os.environ.get("PYTHONPATH", "")}'
    from ament_index_python.packages import get_package_share_directory

    profile = Path(get_package_share_directory('offload_ros')) / 'config' / 'dds' / 'fastdds.xml'
    os.environ.setdefault('FASTDDS_DEFAULT_PROFILES_FILE', str(profile))
    with tempfile.TemporaryDirectory() as folder:
        processes = start(Path(folder))
        bench = Bench()
        try:
            end_s = time.monotonic() + 60.0
            while not bench.ready():
                if time.monotonic() > end_s or any(p.poll() is not None for p in processes):
                    sys.exit(f'the nodes did not start:\n{(Path(folder) / "log.txt").read_text()}')
                time.sleep(0.1)
            time.sleep(2.0)  # robot and server find each other
            rows = [
                measure(bench, size, arguments.frames, 1 + 100_000 * index)
                for index, size in enumerate(SIZES)
            ]
        finally:
            for process in processes:
                process.send_signal(signal.SIGINT)
            for process in processes:
                process.wait(20.0)
            bench.close()
    report(rows, arguments.json)
    save_picture(rows, arguments.json.with_suffix('.png'))


if __name__ == '__main__':
    main()
