"""The demo: a simulated robot's network on a server, on the robot, and through a server's loss.

Starts the launch files that real robots and servers use, plays a script of events, shows what
happens and says at the end whether each phase ran as it should (exit status 1 otherwise).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
import contextlib
import os
from pathlib import Path
import signal
import subprocess
import sys
import threading
import time
from typing import Any, BinaryIO

import numpy as np
from rcl_interfaces.srv import SetParameters
import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from rich.console import Console
from rich.live import Live
from sensor_msgs.msg import Image
from std_msgs.msg import Float32

from offload_ros.models.config_file import load_models_file
from offload_ros.models.errors import ConfigError
from offload_ros.msg import InferenceResult, OffloadStatus
from offload_ros.nodes.demo_report import (
    Phase,
    Record,
    Row,
    live_table,
    mistakes,
    save_picture,
    summary_table,
)
from offload_ros.wire.tensors import decode

START_LIMIT_S = 60.0
STOP_SIGNALS = ((signal.SIGINT, 15.0), (signal.SIGTERM, 5.0), (signal.SIGKILL, 5.0))
LEAST_REAL_TIME_FACTOR = 0.95


def phases_of(duration_s: float) -> list[Phase]:
    """The script: what the robot should do, for how long, and how soon after each event.

    A lost server is known after 0.5 s. One that starts again first loads PyTorch and its model.
    """
    return [
        Phase('server', 'server', 0.25 * duration_s, 0.5),
        Phase('set to device', 'device', 0.15 * duration_s, 0.5),
        Phase('set to server', 'server', 0.2 * duration_s, 0.5),
        Phase('server stopped', 'device', 0.2 * duration_s, 1.0),
        Phase('server starts', 'device', None, 0.0),
        Phase('server back', 'server', 0.2 * duration_s, 0.5),
    ]


class Monitor(Node):
    """Listens to everything that the demo shows."""

    def __init__(self, record: Record, model: str, labels: Sequence[str]) -> None:
        super().__init__('demo')
        self._record = record
        self._model = model
        self._labels = labels
        self.began_s = time.monotonic()
        self.status: Any = None
        self._image: Any = None
        sensor = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
        self.create_subscription(OffloadStatus, 'offload/status', self._on_status, 10)
        self.create_subscription(InferenceResult, f'inference/result/{model}', self._on_result, 50)
        self.create_subscription(Image, 'camera/image_raw', self._on_image, sensor)
        self.create_subscription(Float32, 'real_time_factor', self._on_factor, 10)
        self._setting: Any = self.create_client(SetParameters, 'offload_manager/set_parameters')

    def set_strategy(self, strategy: str) -> None:
        """Ask the manager; what ``ros2 param set`` does."""
        value = Parameter(f'{self._model}.strategy', value=strategy).to_parameter_msg()
        self._setting.call_async(SetParameters.Request(parameters=[value]))

    def begin(self) -> None:
        """What was heard before does not count: the run begins now."""
        self._record.rows.clear()
        self._record.real_time_factors.clear()
        self.began_s = time.monotonic()

    def _on_status(self, message: Any) -> None:
        self.status = message
        for model in message.models:
            if model.model == self._model:
                self._record.accepted, self._record.results = model.accepted, model.results

    def _on_factor(self, message: Any) -> None:
        self._record.real_time_factors.append(message.data)

    def _on_image(self, message: Any) -> None:
        self._image = message

    def _on_result(self, message: Any) -> None:
        label = self._label(message)
        self._record.rows.append(
            Row(
                time.monotonic() - self.began_s,
                message.seq,
                message.strategy_used,
                message.strategy_requested,
                message.fallback,
                message.detail,
                message.total_s,
                label,
                message.bytes_up,
                message.bytes_down,
            )
        )
        image = self._image
        if image is not None and image.encoding == 'rgb8':
            self._record.frame = np.frombuffer(image.data, np.uint8).reshape(
                image.height, image.width, 3
            )
            self._record.frame_label = label

    def _label(self, message: Any) -> str:
        if message.status != InferenceResult.OK or not message.outputs:
            return 'error'
        values = decode(message.outputs[0]).flatten().float()
        index = int(values.argmax())
        name = self._labels[index] if index < len(self._labels) else f'class {index}'
        mark = '' if message.weights_trained else ' (untrained)'
        return f'{name} {100 * float(values[index]):.0f} %{mark}'


class Processes:
    """The launched parts; each logs to a file and ends with the demo, whatever ends the demo."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._running: dict[str, tuple[subprocess.Popen[bytes], BinaryIO]] = {}

    def launch(
        self, name: str, *arguments: str, environment: Mapping[str, str] | None = None
    ) -> None:
        """``ros2 launch offload_ros`` with ``arguments``, output in <name>.log."""
        self.start(name, 'ros2', 'launch', 'offload_ros', *arguments, environment=environment)

    def start(self, name: str, *command: str, environment: Mapping[str, str] | None = None) -> None:
        """Any command; ``environment`` is added to this process's."""
        log = (self._folder / f'{name}.log').open('ab')
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C reaches the caller alone, which ends its parts
            env={**os.environ, **(environment or {})},
        )
        self._running[name] = (process, log)

    def stop(self, name: str) -> None:
        """Ctrl-C, then harder."""
        process, log = self._running.pop(name)
        for number, patience_s in STOP_SIGNALS:
            if process.poll() is not None:
                break
            process.send_signal(number)
            try:
                process.wait(patience_s)
            except subprocess.TimeoutExpired:
                continue
        log.close()

    def stop_all(self) -> None:
        """End everything, server first."""
        for name in reversed(list(self._running)):
            self.stop(name)

    def ended(self) -> str:
        """The name of a part that ended by itself, or nothing."""
        return next(
            (n for n, (process, _) in self._running.items() if process.poll() is not None), ''
        )


class DemoError(RuntimeError):
    """The demo cannot go on; the text says where to look."""


class Demo:
    """One run of the script."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self._arguments = arguments
        self._folder: Path = arguments.output
        self._console = Console()
        self._record = Record()
        self._phases = phases_of(arguments.duration)
        config = load_models_file(arguments.models_file)[0]
        self._model = config.name
        self._monitor = Monitor(self._record, config.name, _labels(config.source.transformers))
        self._processes = Processes(self._folder)
        self._stop = threading.Event()

    def run(self) -> int:
        """Start, play, report; the process's exit status."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: self._stop.set())
        spinning = threading.Thread(target=self._spin, daemon=True)
        spinning.start()
        try:
            self._start()
            self._play()
        except DemoError as error:
            self._console.print(f'[red]{error}')
            return 1
        finally:
            self._processes.stop_all()
            rclpy.try_shutdown()
            spinning.join(5.0)
        return self._report()

    def _spin(self) -> None:
        executor = SingleThreadedExecutor()
        executor.add_node(self._monitor)
        with contextlib.suppress(ExternalShutdownException):
            executor.spin()

    def _start(self) -> None:
        self._console.print(f'starting world, robot and server; their logs are in {self._folder}/')
        self._launch_server()
        self._processes.launch(
            'robot',
            'demo.launch.py',
            'server:=false',
            f'seed:={self._arguments.seed}',
            f'models_file:={self._arguments.models_file}',
        )
        began_s = time.monotonic()
        # The first results may be the robot's own, while it and the server find each other.
        while not any(row.used == 'server' for row in self._record.rows):
            self._check()
            if time.monotonic() - began_s > START_LIMIT_S:
                raise DemoError(
                    f'no result from the server within {START_LIMIT_S:.0f} s: see the logs'
                )
            time.sleep(0.05)
        self._console.print(f'ready after {time.monotonic() - began_s:.1f} s')

    def _launch_server(self) -> None:
        self._processes.launch(
            'server',
            'server.launch.py',
            f'models_file:={self._arguments.models_file}',
            'threads:=1',
        )

    def _play(self) -> None:
        actions: list[Callable[[], None]] = [
            lambda: None,
            lambda: self._monitor.set_strategy('device'),
            lambda: self._monitor.set_strategy('server'),
            lambda: threading.Thread(target=self._processes.stop, args=['server']).start(),
            self._launch_server,
            lambda: None,
        ]
        self._monitor.begin()
        with Live(console=self._console, refresh_per_second=4, transient=True) as live:
            end_s = 0.0
            for phase, action in zip(self._phases, actions, strict=True):
                phase.begin_s = end_s
                self._record.events.append((phase.begin_s, phase.name))
                action()
                while not self._over(phase):
                    self._check()
                    live.update(
                        live_table(self._monitor.status, self._record, self._now_s(), phase.name)
                    )
                    time.sleep(0.05)
                phase.end_s = self._now_s()
                first = self._first_by_server(phase) if phase.length_s is None else None
                if first is not None:
                    phase.end_s = first.at_s  # the server's first answer belongs to the next one
                end_s = phase.end_s

    def _now_s(self) -> float:
        return time.monotonic() - self._monitor.began_s

    def _over(self, phase: Phase) -> bool:
        elapsed_s = self._now_s() - phase.begin_s
        if phase.length_s is not None:
            return elapsed_s >= phase.length_s
        if elapsed_s > START_LIMIT_S:
            raise DemoError(f'the server is not back after {START_LIMIT_S:.0f} s: see its log')
        return self._first_by_server(phase) is not None

    def _first_by_server(self, phase: Phase) -> Row | None:
        rows = (row for row in self._record.rows if row.at_s >= phase.begin_s)
        return next((row for row in rows if row.used == 'server'), None)

    def _check(self) -> None:
        if self._stop.is_set():
            raise DemoError('stopped')
        ended = self._processes.ended()
        if ended:
            raise DemoError(f'{ended} ended by itself: see {self._folder / ended}.log')

    def _report(self) -> int:
        record, console = self._record, self._console
        console.print(summary_table(record, self._phases))
        picture = self._folder / 'demo.png'
        save_picture(record, self._phases, picture)
        factors = record.real_time_factors
        factor = float(np.mean(factors)) if factors else 0.0
        gaps = sum(b.seq - a.seq - 1 for a, b in zip(record.rows, record.rows[1:], strict=False))
        console.print(f'results: {len(record.rows)}, missing between first and last: {gaps}')
        console.print(f'simulation: {factor:.3f} of real time')
        console.print(f'picture: {picture}')
        wrong = [
            f'{phase.name}: {text}' for phase in self._phases for text in mistakes(record, phase)
        ]
        if gaps:
            wrong.append(f'{gaps} results are missing')
        if factor < LEAST_REAL_TIME_FACTOR:
            wrong.append(
                f'the simulation ran at {factor:.2f} of real time: this machine is too busy'
            )
        for text in wrong:
            console.print(f'[red]not as it should be: {text}')
        return 1 if wrong else 0


def _labels(folder: str) -> list[str]:
    """The class names in a local transformers configuration, in order; none for other sources."""
    if not folder or not os.path.isdir(folder):
        return []
    from transformers import AutoConfig

    names: dict[int, str] = AutoConfig.from_pretrained(folder).id2label
    return [names[index] for index in sorted(names)]


def main() -> None:
    """Entry point of ``ros2 run offload_ros demo``."""
    from ament_index_python.packages import get_package_share_directory

    share = get_package_share_directory('offload_ros')
    parser = argparse.ArgumentParser(prog='demo', description=__doc__.splitlines()[0])
    parser.add_argument('--duration', type=float, default=60.0, help='seconds (default 60)')
    parser.add_argument('--seed', type=int, default=0, help='which room is built')
    parser.add_argument('--output', type=Path, default=Path('demo_output'), help='logs and picture')
    parser.add_argument('--models-file', default=os.path.join(share, 'config', 'models.yaml'))
    arguments = parser.parse_args()
    if arguments.duration < 20.0:
        parser.error('--duration must be at least 20: a server takes seconds to start again')
    arguments.output.mkdir(parents=True, exist_ok=True)
    for log in arguments.output.glob('*.log'):
        log.unlink()
    rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
    try:
        status = Demo(arguments).run()
    except ConfigError as error:
        print(f'error: {error}', file=sys.stderr)
        status = 1
    sys.exit(status)
