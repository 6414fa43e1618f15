"""The testbed as a command: one program on the robot, one on the server, their output side by side.

Ends when the robot's program ends, with its exit status.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
import dataclasses
from pathlib import Path
import signal
import subprocess
import sys
import threading
from typing import IO, NoReturn

from offload_ros.wire.trace import GENERATORS, Trace

from .bed import Settings, Testbed
from .host import Host, HostProcess, TestbedError

_USAGE = "testbed [options] -- robot 'COMMAND' [-- server 'COMMAND']"
_EPILOG = (
    'The robot is 10.77.0.1, the server 10.77.0.2 (10.77.1.2 with --routed). A COMMAND is one word '
    'for the shell, or several words. What they print comes with the name of the host in front. '
    'The testbed ends when the command of the robot ends, with its exit status.'
)


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, as everything here does."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(message)


def parser() -> argparse.ArgumentParser:
    """The options; defaults are those of Settings."""
    default = Settings()
    made = _Parser(prog='testbed', usage=_USAGE, description=__doc__, epilog=_EPILOG)
    add = made.add_argument
    add('--mbit', type=float, default=default.mbit, help='rate each way, as iperf prints it (93)')
    add('--up-mbit', type=float, help='rate from robot to server, if it differs')
    add('--down-mbit', type=float, help='rate from server to robot, if it differs')
    add('--rtt-ms', type=float, default=0.0, help='round-trip time to add (0)')
    add('--loss', type=float, default=default.loss, help='share of frames lost each way (0)')
    add('--queue-bytes', type=int, default=default.queue_bytes, help='queue each way (312000)')
    add('--trace', metavar='FILE|indoor|outdoor', help='let the rate follow a CSV file (s, Mbit/s)')
    add('--seed', type=int, default=default.seed, help='of losses and generated traces (0)')
    add('--routed', action='store_true', help='two subnets: no multicast')
    add('--robot-slowdown', type=float, default=1.0, help='OFFLOAD_ROBOT_SLOWDOWN of the robot (1)')
    add('--server-speed', type=float, default=1.0, help='OFFLOAD_SERVER_SPEED of the server (1)')
    add('--cpu-quota', type=float, help="share of a core for the robot's processes")
    add('--no-pinning', action='store_true', help='leave the choice of cores to the system')
    return made


def split(words: Sequence[str]) -> tuple[list[str], dict[str, list[str]]]:
    """Options, and the command of each host; ValueError when the words do not say that."""
    groups: list[list[str]] = [[]]
    for word in words:
        if word == '--':
            groups.append([])
        else:
            groups[-1].append(word)
    commands: dict[str, list[str]] = {}
    for host, *command in (group for group in groups[1:] if group):
        if host not in ('robot', 'server') or host in commands or not command:
            raise ValueError(f'after -- comes robot or server, once, and a command, not {host!r}')
        commands[host] = command if len(command) > 1 else ['sh', '-c', command[0]]
    return groups[0], commands


def _settings(options: argparse.Namespace) -> Settings:
    fields = {field.name for field in dataclasses.fields(Settings)}
    given = {name: value for name, value in vars(options).items() if name in fields}
    return Settings(**given, rtt_s=options.rtt_ms / 1000.0, pinned=not options.no_pinning)


def _trace(name: str | None, seed: int) -> Trace | None:
    if name is None:
        return None
    return GENERATORS[name](seed) if name in GENERATORS else Trace.read(Path(name))


def _print(host: str, stream: IO[str]) -> None:
    for line in stream:
        print(f'{host:6} | {line.rstrip()}', flush=True)


def _start(host: Host, command: list[str]) -> tuple[HostProcess, threading.Thread]:
    process = host.popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors='replace',
        start_new_session=True,  # Ctrl-C is for the testbed, which then ends them all
    )
    thread = threading.Thread(target=_print, args=[host.name, process.stdout], daemon=True)
    thread.start()
    return process, thread


def run(settings: Settings, trace: Trace | None, commands: dict[str, list[str]]) -> int:
    """Run the commands; the exit status of the robot's, 128 + n when signal n ended it."""
    with Testbed(**vars(settings)) as bed:
        if trace is not None:
            bed.replay(trace)
        printers = []
        if 'server' in commands:
            printers.append(_start(bed.server, commands['server'])[1])
        robot, printer = _start(bed.robot, commands['robot'])
        printers.append(printer)
        status = robot.wait()
    for printer in printers:
        printer.join(1.0)
    return status if status >= 0 else 128 - status


def main(words: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    options_parser = parser()

    def end(number: int, frame: object) -> None:
        sys.exit(128 + number)

    try:
        option_words, commands = split(sys.argv[1:] if words is None else words)
        options = options_parser.parse_args(option_words)
        settings = _settings(options)
        trace = _trace(options.trace, options.seed)
        if 'robot' not in commands:
            raise ValueError(f'what shall the robot run? {_USAGE}')
    except ValueError as error:
        print(f'testbed: {error}', file=sys.stderr)
        return 2
    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        return run(settings, trace, commands)
    except TestbedError as error:
        print(f'testbed: {error}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
