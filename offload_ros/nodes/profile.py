"""Profile: measures what each operator of a model costs on the robot and on its server.

Both go on serving; the times are those of the running nodes. The profile is written to where the
strategies find it. Exit status 0, 1 when it could not be measured, 2 for wrong usage.
"""

from __future__ import annotations

import argparse
from array import array
from collections.abc import Iterator, Sequence
from datetime import datetime, timezone
import json
import os
import re
import signal
import sys
import time
from typing import Any

import rclpy
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.signals import SignalHandlerOptions
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from offload_ros.graph.profile import Profile, ProfileError
from offload_ros.graph.profile_store import MeasuredProfile, save_profile
from offload_ros.graph.profiling import (
    MAX_REPEATS,
    OPEN,
    ProfilingError,
    Reply,
    Request,
    Survey,
)
from offload_ros.msg import OffloadStatus
from offload_ros.network.half_made_ports import remove_half_made_ports
from offload_ros.nodes.process import keep, leave
from offload_ros.nodes.topics import STATUS
from offload_ros.srv import ProfileModel

NODE_NAME = re.compile(r'/?[A-Za-z_][A-Za-z0-9_]*(/[A-Za-z_][A-Za-z0-9_]*)*\Z')
FIND_S = 5.0  # for the manager, and its status
GONE_S = 3.0  # a node whose service is away for this long has ended
SPIN_S = 0.1


def arguments_of(words: Sequence[str]) -> argparse.Namespace:
    """The command line; ends the process with status 2 when it is wrong."""
    parser = argparse.ArgumentParser(prog='profile', description=(__doc__ or '').splitlines()[0])
    parser.add_argument('--model', required=True, metavar='NAME', help='as in models.yaml')
    parser.add_argument(
        '--output', metavar='FILE', help='where to write it (default: where strategies find it)'
    )
    parser.add_argument('--repeats', type=int, default=10, help='passes, medians of (default 10)')
    parser.add_argument(
        '--server', default='', metavar='NAME', help='node name (default: the one in use)'
    )
    parser.add_argument('--namespace', default='', help='of the robot, e.g. robot1')
    parser.add_argument('--manager', default='offload_manager', help="the manager's node name")
    parser.add_argument(
        '--timeout', type=float, default=300.0, help='for one answer of a node (s, default 300)'
    )
    arguments = parser.parse_args(words)
    if not 1 <= arguments.repeats <= MAX_REPEATS:
        parser.error(f'--repeats must be 1 to {MAX_REPEATS}')
    for option in ('server', 'namespace', 'manager'):
        name = getattr(arguments, option)
        if not NODE_NAME.match(name) and (name or option == 'manager'):
            parser.error(f"--{option} '{name}' is no ROS name")
    if not 1.0 <= arguments.timeout <= 86400.0:
        parser.error('--timeout must be 1 to 86400 seconds')
    return arguments


class Callers:
    """A node of its own that asks manager and server."""

    def __init__(self, namespace: str, manager: str, server: str, timeout_s: float) -> None:
        self._timeout_s, self._server = timeout_s, f'/{server.strip("/")}' if server else ''
        self._context = Context()
        remove_half_made_ports()
        rclpy.init(context=self._context, args=[], signal_handler_options=SignalHandlerOptions.NO)
        self._node = keep(
            rclpy.create_node(
                f'offload_profile_{os.getpid()}',
                context=self._context,
                namespace=namespace.strip('/'),
                use_global_arguments=False,
                enable_rosout=False,
                start_parameter_services=False,
            )
        )
        self._manager = f'{self._node.get_namespace().rstrip("/")}/{manager}'
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        self._clients: dict[str, Any] = {}
        self._status: Any = None
        self._node.create_subscription(OffloadStatus, 'offload/status', self._on_status, STATUS)

    def ask_robot(self, request: Request) -> Reply:
        """One stage on the manager; ``ProfilingError``."""
        missing = (
            f'there is no manager {self._manager}: start one with "ros2 launch offload_ros '
            'robot.launch.py" in this ROS domain, or give --namespace and --manager'
        )
        return self._ask(self._manager, request, missing)

    def ask_server(self, request: Request) -> Reply:
        """One stage on the server; ``ProfilingError``."""
        if not self._server:
            self._server = self._server_in_use(request.model)
        missing = (
            f'there is no server {self._server}: start one with "ros2 launch offload_ros '
            'server.launch.py" in this ROS domain, or give --server'
        )
        return self._ask(self._server, request, missing)

    def close(self) -> None:
        """Ask no more; the process ends by ``leave``."""
        self._executor.shutdown()

    def _on_status(self, message: Any) -> None:
        self._status = message

    def _server_in_use(self, model: str) -> str:
        """Of those that the manager says are alive, the one that it uses for this model."""
        end_s = time.monotonic() + FIND_S
        while time.monotonic() < end_s:
            self._executor.spin_once(timeout_sec=SPIN_S)
            if self._status is None:
                continue
            used = [each.server for each in self._status.models if each.model == model]
            alive = [each.server for each in self._status.servers]
            if any(used) or alive:
                return str(next(filter(None, used), None) or alive[0])
        raise ProfilingError(
            f'{self._manager} knows no server: start one with "ros2 launch offload_ros '
            'server.launch.py" in this ROS domain, or give --server'
        )

    def _ask(self, node: str, request: Request, missing: str) -> Reply:
        client = self._clients.get(node)
        if client is None:
            client = self._node.create_client(ProfileModel, f'{node}/profile_model')
            self._clients[node] = client
        if not client.wait_for_service(FIND_S):
            raise ProfilingError(missing)
        future = client.call_async(_message(request))
        answer = self._waited(client, future, node, request.stage)
        if not answer.success:
            raise ProfilingError(answer.message or f'{node} gives no reason')
        return _reply(answer, node)

    def _waited(self, client: Any, future: Any, node: str, stage: str) -> Any:
        end_s = time.monotonic() + self._timeout_s
        seen_s = time.monotonic()
        while not future.done():
            self._executor.spin_once(timeout_sec=SPIN_S)
            now_s = time.monotonic()
            if client.service_is_ready():
                seen_s = now_s
            elif now_s - seen_s > GONE_S:
                raise ProfilingError(f'{node} has ended in the middle of the measurement')
            if now_s > end_s:
                client.remove_pending_request(future)
                raise ProfilingError(
                    f"{node} did not answer '{stage}' within {self._timeout_s:g} s: is it busy? "
                    'Wait longer with --timeout'
                )
        return future.result()


def _message(request: Request) -> ProfileModel.Request:
    return ProfileModel.Request(
        model=request.model,
        stage=request.stage,
        part=request.part,
        repeats=request.repeats,
        graph=request.graph,
        model_hash=request.model_hash,
        example=array('B', request.example),
        server=request.server,
    )


def _reply(answer: ProfileModel.Response, node: str) -> Reply:
    try:
        report = json.loads(answer.report)
    except ValueError as error:
        raise ProfilingError(f'{node} sent a report that is no JSON: {error}') from None
    return Reply(report, answer.graph, answer.example.tobytes())


def measure(arguments: argparse.Namespace, console: Console) -> MeasuredProfile:
    """Ask both, with a progress bar; ``ProfilingError``, ``ProfileError``."""
    callers = Callers(arguments.namespace, arguments.manager, arguments.server, arguments.timeout)
    columns = (
        TextColumn('{task.description:<18}'),
        BarColumn(),
        TextColumn('{task.completed}/{task.total}'),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    try:
        with Progress(*columns, console=console, transient=True) as bar:
            task = bar.add_task(f'{OPEN}', total=None)

            def progress(what: str, done: int, total: int) -> None:
                bar.update(task, description=what, completed=done, total=total)

            survey = Survey(
                arguments.model,
                callers.ask_robot,
                callers.ask_server,
                arguments.repeats,
                f'/{arguments.server.strip("/")}' if arguments.server else '',
            )
            now = datetime.now(timezone.utc).isoformat(timespec='seconds')
            return survey.run(progress, now)
    finally:
        callers.close()


def print_summary(measured: MeasuredProfile, path: str, console: Console) -> None:
    """What was measured, and how well parts of operators are described."""
    profile = measured.profile
    console.print(f'{profile.model}: {len(profile)} operators, {path}', soft_wrap=True)
    table = Table()
    for heading in ('', 'whole', 'launch floor', 'share', 'parts took', 'fit', 'proportional'):
        table.add_column(heading, justify='right' if heading else 'left')
    for side, machine in (('robot', profile.robot), ('server', profile.server)):
        whole_ms = 1e3 * profile.column(f'{side}_s').sum()
        first = [side, f'{whole_ms:.2f} ms', f'{1e6 * machine.floor_s:.0f} us']
        rows = measured.share_errors.get(side, [])
        for row in rows or [None]:
            cells = [] if row is None else _share_cells(row)
            table.add_row(*first, *cells, end_section=row is None or row is rows[-1])
            first = ['', '', '']
    console.print(table)
    for line in (*message_lines(profile), *codec_lines(profile)):
        console.print(line, soft_wrap=True, highlight=False)
    console.print(
        f'next: ros2 run offload_ros plan --profile {path} --bandwidth-MBps 2,4,8,12,16',
        soft_wrap=True,
        highlight=False,
    )


def message_lines(profile: Profile) -> Iterator[str]:
    """What messages and waits cost each side."""
    for side, machine in (('robot', profile.robot), ('server', profile.server)):
        fixed_ms, handling_us = 1e3 * machine.encode.fixed_s, 1e6 * machine.handling.fixed_s
        yield (
            f'{side}: a message takes {fixed_ms:.2f} ms beside its bytes, and {handling_us:.0f} us '
            f'of the computing meanwhile; after a wait computing takes '
            f'{1e3 * machine.resume_s:.2f} ms longer'
        )


def codec_lines(profile: Profile) -> Iterator[str]:
    """What the smallest codings make of the model's inputs and outputs."""
    for operator in profile.operators:
        if operator.codings and (operator.is_input or operator.is_output):
            least = min(operator.codings, key=lambda each: each.wire_bytes)
            kind = 'input' if operator.is_input else 'output'
            sizes = f'{operator.output_bytes / 1e3:.1f} kB to {least.wire_bytes / 1e3:.1f} kB'
            yield f'{kind} {operator.name}: {sizes} ({least.codec}), where that pays'


def _share_cells(row: dict[str, Any]) -> list[str]:
    share = 'one index' if row['share'] == 0.0 else f'{row["share"]:g}'
    times = (row['measured_s'], row['fitted_s'], row['proportional_s'])
    return [share, *(f'{1e3 * each:.2f} ms' for each in times)]


def main() -> None:
    """Entry point of ``ros2 run offload_ros profile``."""
    # A measurement that is broken off is told to the nodes.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    words = sys.argv[1:]
    if '--ros-args' in words:  # of no meaning here, but some tools add them
        words = words[: words.index('--ros-args')]
    arguments = arguments_of(words)
    try:
        measured = measure(arguments, Console(stderr=True))
        path = save_profile(measured, arguments.output)
        print_summary(measured, str(path), Console(width=None if sys.stdout.isatty() else 110))
    except (ProfilingError, ProfileError) as error:
        leave(f'profile: {error}')
    except SystemExit as error:
        leave(error.code)
    leave(0)
