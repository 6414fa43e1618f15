"""The demo: a robot follows a person and completes its map, its networks where they run best.

Starts the launch files that real robots and servers use. Strategy auto chooses for both models
while the link fades, dies and comes back, and the server stops and starts again. Shows what happens
and says at the end whether each phase ran as it should (exit status 1 otherwise).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
import contextlib
import os
from pathlib import Path
import signal
import subprocess
import sys
import threading
import time
from typing import BinaryIO

import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.signals import SignalHandlerOptions
from rich.console import Console, RenderableType
from rich.live import Live

from offload_ros.models.config_file import load_models_file
from offload_ros.models.errors import ConfigError
from offload_ros.network.half_made_ports import remove_half_made_ports
from offload_ros.nodes.demo_monitor import Monitor
from offload_ros.nodes.demo_picture import save_picture
from offload_ros.nodes.demo_report import live_table, summary_table, totals_of
from offload_ros.nodes.demo_room import floor_plan
from offload_ros.nodes.demo_script import (
    DEADLINE_MS,
    FRAMES,
    GOOD_MBPS,
    MODELS,
    OFFLOADED,
    Phase,
    Record,
    Row,
    judgement,
    link_trace,
    phases_of,
    rate_mbps,
)
from offload_ros.nodes.process import leave
from offload_ros.robot.pacing import ROBOT_SLOWDOWN

START_LIMIT_S = 90.0
STOP_SIGNALS = ((signal.SIGINT, 15.0), (signal.SIGTERM, 5.0), (signal.SIGKILL, 5.0))


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
        self._trace = link_trace(arguments.duration, arguments.seed)
        load_models_file(arguments.models_file, ','.join(MODELS))  # both must be there
        self._monitor = Monitor(self._record)
        self._executor = SingleThreadedExecutor()
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
            self._executor.shutdown(1.0)
            spinning.join(5.0)
        return self._report()

    def _spin(self) -> None:
        self._executor.add_node(self._monitor)
        with contextlib.suppress(ExternalShutdownException):
            self._executor.spin()

    # ---- until all is there

    def _start(self) -> None:
        console, slowdown = self._console, self._arguments.slowdown
        console.print(f'starting world, robot and server; their logs are in {self._folder}/')
        console.print(
            f"emulated: the robot's accelerator is {slowdown:g} times slower than this machine, "
            f"and the robot's link is {self._write_trace()}"
        )
        self._launch_server()
        self._processes.launch(
            'robot',
            'demo.launch.py',
            'app:=both',
            'server:=false',
            f'seed:={self._arguments.seed}',
            f'models_file:={self._arguments.models_file}',
            environment={ROBOT_SLOWDOWN: f'{slowdown:g}'},
        )
        began_s = time.monotonic()
        monitor = self._monitor
        self._await(
            lambda: monitor.status is not None and len(monitor.status.models) == len(MODELS),
            'the manager runs no models',
        )
        self._choose()
        self._await(
            lambda: all(map(self._offloads, MODELS)), 'no results of both models by the server'
        )
        self._await(
            lambda: monitor.following is not None and monitor.following.mode == 'following',
            'nobody is followed',
        )
        console.print(f'ready after {time.monotonic() - began_s:.1f} s')

    def _write_trace(self) -> Path:
        path = self._folder.resolve() / 'link.csv'
        self._trace.write(path)
        return path

    def _launch_server(self) -> None:
        self._processes.launch(
            'server',
            'server.launch.py',
            f'models_file:={self._arguments.models_file}',
            f'models:={",".join(MODELS)}',
            'threads:=1',
        )

    def _choose(self) -> None:
        """From now on the manager chooses by itself: the least energy in time."""
        values: dict[str, object] = {'link__emulate__bandwidth_mbps': GOOD_MBPS}
        for model in MODELS:
            values |= {
                f'{model}__strategy': 'auto',
                f'{model}__objective': 'energy',
                f'{model}__deadline_ms': DEADLINE_MS[model],
            }
        self._set('offload_manager', **values)
        # Its network takes a robot this slow most of a second: more would leave none for people.
        self._set('agrnav_navigator', ask_hz=FRAMES['agrnav'])

    def _set(self, node: str, **values: object) -> None:
        refusal = self._monitor.ask(node, **values)
        if refusal:
            raise DemoError(f'parameters are refused: {refusal}; see the logs')

    def _await(self, done: Callable[[], bool], what: str) -> None:
        end_s = time.monotonic() + START_LIMIT_S
        while not done():
            self._check()
            if time.monotonic() > end_s:
                raise DemoError(f'after {START_LIMIT_S:.0f} s {what}: see the logs')
            time.sleep(0.05)

    def _offloads(self, model: str) -> bool:
        """For two seconds: the first frames on both sides are slow."""
        count = max(2, round(2.0 * FRAMES[model]))
        last = self._record.rows[model][-count:]
        return len(last) == count and all(row.used in OFFLOADED for row in last)

    # ---- the script

    def _play(self) -> None:
        stop = threading.Thread(target=self._processes.stop, args=['server'])
        # Where nothing is done, the link's trace goes on by itself.
        actions = {'server stopped': stop.start, 'server starts': self._launch_server}
        # Also begins the trace: the demo's time is the trace's.
        self._set('offload_manager', link__emulate__trace=str(self._folder.resolve() / 'link.csv'))
        self._monitor.begin()
        with Live(console=self._console, refresh_per_second=4, transient=True) as live:
            end_s = 0.0
            for phase in self._phases:
                phase.begin_s = end_s
                self._record.events.append((phase.begin_s, phase.name))
                actions.get(phase.name, lambda: None)()
                while not self._over(phase):
                    self._check()
                    live.update(self._live(phase.name))
                    time.sleep(0.05)
                end_s = phase.end_s = self._end_s(phase)

    def _live(self, phase: str) -> RenderableType:
        monitor, now_s = self._monitor, self._monitor.now_s()
        return live_table(
            monitor.status,
            monitor.following,
            self._record,
            rate_mbps(self._trace, now_s),
            now_s,
            phase,
        )

    def _over(self, phase: Phase) -> bool:
        elapsed_s = self._monitor.now_s() - phase.begin_s
        if phase.length_s is not None:
            return elapsed_s >= phase.length_s
        if elapsed_s > START_LIMIT_S:
            raise DemoError(f'the server is not back after {START_LIMIT_S:.0f} s: see its log')
        return self._first_by_server(phase) is not None

    def _end_s(self, phase: Phase) -> float:
        """As the trace has it, not as late as it was noticed."""
        if phase.length_s is not None:
            return phase.begin_s + phase.length_s
        first = self._first_by_server(phase)
        assert first is not None  # it is over
        return first.at_s  # the server's first answer belongs to the next one

    def _first_by_server(self, phase: Phase) -> Row | None:
        rows = (
            row
            for model in MODELS
            for row in list(self._record.rows[model])
            if row.at_s >= phase.begin_s and row.used in OFFLOADED
        )
        return min(rows, key=lambda row: row.at_s, default=None)

    def _check(self) -> None:
        if self._stop.is_set():
            raise DemoError('stopped')
        ended = self._processes.ended()
        if ended:
            raise DemoError(f'{ended} ended by itself: see {self._folder / ended}.log')

    # ---- at the end

    def _report(self) -> int:
        record, console = self._record, self._console
        console.print(summary_table(record, self._phases))
        for line in totals_of(record):
            console.print(line)
        console.print(f'simulation: {record.factor():.3f} of real time')
        picture, seen = self._folder / 'demo.png', (self._monitor.view, self._monitor.poses)
        room = floor_plan(self._arguments.world_file, seed=self._arguments.seed)
        save_picture(record, self._phases, self._trace, room, seen, picture)
        console.print(f'picture: {picture}')
        wrong = judgement(record, self._phases)
        for text in wrong:
            console.print(f'[red]not as it should be: {text}')
        return 1 if wrong else 0


def main() -> None:
    """Entry point of ``ros2 run offload_ros demo``."""
    from ament_index_python.packages import get_package_share_directory

    share = get_package_share_directory('offload_ros')
    parser = argparse.ArgumentParser(prog='demo', description=__doc__.splitlines()[0])
    parser.add_argument('--duration', type=float, default=80.0, help='seconds (default 80)')
    parser.add_argument('--seed', type=int, default=3, help='which room is built (default 3)')
    parser.add_argument(
        '--slowdown',
        type=float,
        default=3.0,
        help="how much slower than this machine the robot's accelerator is (default 3)",
    )
    parser.add_argument('--output', type=Path, default=Path('demo_output'), help='logs and picture')
    parser.add_argument('--models-file', default=os.path.join(share, 'config', 'models.yaml'))
    arguments = parser.parse_args()
    arguments.world_file = Path(share) / 'config' / 'world.yaml'
    if arguments.duration < 20.0:
        parser.error('--duration must be at least 20: a server takes seconds to start again')
    if not 1.0 <= arguments.slowdown <= 100.0:
        parser.error('--slowdown is a factor of 1 to 100')
    arguments.output.mkdir(parents=True, exist_ok=True)
    for log in arguments.output.glob('*.log'):
        log.unlink()
    remove_half_made_ports()
    rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
    try:
        status = Demo(arguments).run()
    except ConfigError as error:
        print(f'error: {error}', file=sys.stderr)
        status = 1
    leave(status)
