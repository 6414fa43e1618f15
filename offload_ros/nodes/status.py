"""``ros2 run offload_ros status``: what the offload manager does now, once a second."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import time
from typing import Any

import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.signals import SignalHandlerOptions
from rich.console import Console
from rich.live import Live

from offload_ros.msg import OffloadStatus
from offload_ros.network.half_made_ports import remove_half_made_ports
from offload_ros.nodes.process import keep, leave
from offload_ros.nodes.status_report import report
from offload_ros.nodes.topics import STATUS

SILENT_S = 3.0  # a manager speaks once a second


def arguments_of(words: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog='status', description=(__doc__ or '').splitlines()[0])
    parser.add_argument('--namespace', default='', help='of the robot, e.g. robot1')
    parser.add_argument('--once', action='store_true', help='print it once and end')
    parser.add_argument(
        '--timeout', type=float, default=10.0, help='seconds to wait for a manager (default 10)'
    )
    arguments = parser.parse_args(words)
    if not arguments.timeout > 0.0:
        parser.error('--timeout must be above 0')
    return arguments


def show(arguments: argparse.Namespace, console: Console) -> int:
    """Print until Ctrl-C; the exit status."""
    heard: list[tuple[float, Any]] = []
    topic = '/'.join(['', *filter(None, [arguments.namespace.strip('/')]), 'offload/status'])
    node = keep(rclpy.create_node('offload_status'))
    node.create_subscription(
        OffloadStatus, topic, lambda m: heard.append((time.monotonic(), m)), STATUS
    )
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    end_s = time.monotonic() + arguments.timeout
    while not heard:
        executor.spin_once(timeout_sec=0.2)
        if time.monotonic() > end_s:
            console.print(
                f'nothing on {topic} within {arguments.timeout:g} s: is the manager running and '
                'active, and in this namespace? (ros2 run offload_ros doctor)'
            )
            return 1
    if arguments.once:
        console.print(report(heard[-1][1]))
        return 0
    with Live(console=console, refresh_per_second=4, screen=False) as live:
        while True:
            executor.spin_once(timeout_sec=0.25)
            at_s, message = heard[-1]
            del heard[:-1]
            silent_s = time.monotonic() - at_s
            if silent_s > SILENT_S:
                live.update(f'the manager is silent for {silent_s:.0f} s')
            else:
                live.update(report(message))


def main() -> None:
    """Entry point of ``ros2 run offload_ros status``."""
    words = sys.argv[1:]
    if '--ros-args' in words:  # of no meaning here, but some tools add them
        words = words[: words.index('--ros-args')]
    arguments = arguments_of(words)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: sys.exit(0))
    remove_half_made_ports()
    rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
    status = 0
    try:
        with contextlib.suppress(ExternalShutdownException):
            status = show(arguments, Console())
        sys.stdout.flush()
    except BrokenPipeError:  # status --once | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except SystemExit as error:
        leave(error.code)
    leave(status)
