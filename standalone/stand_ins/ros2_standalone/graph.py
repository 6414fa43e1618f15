# SPDX-License-Identifier: Apache-2.0
"""A node for one command, and what it waits for: there is no daemon that knows the graph."""

import argparse
from collections.abc import Callable
import os
import time
from typing import Any

from rclpy import Parameter
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node

# Fast DDS mostly discovers within 0.3 s; in about one start of four it was measured to take up
# to 3.2 s (the cause was not found).
FOUND_WITHIN_S = 3.6


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that all commands on the graph have."""
    parser.add_argument(
        '--spin-time',
        type=float,
        default=None,
        metavar='SPIN_TIME',
        help='Seconds to wait for discovery',
    )
    parser.add_argument('-s', '--use-sim-time', action='store_true', help='Use simulation time')
    parser.add_argument('--no-daemon', action='store_true', help='Accepted; there is no daemon')


def absolute(name: str) -> str:
    """Return a node's name with its leading slash."""
    return name if name.startswith('/') else f'/{name}'


class Graph:
    """A hidden node, as a context manager."""

    def __init__(self, args: argparse.Namespace) -> None:
        self._args = args
        self._context = Context()
        # rclpy's signal handlers stay away: Python's raise where the command is, every 0.1 s
        self._context.init(args=[])
        self.node = Node(
            f'_ros2cli_{os.getpid()}',
            context=self._context,
            start_parameter_services=False,
            enable_rosout=False,
            parameter_overrides=[Parameter('use_sim_time', value=args.use_sim_time)],
        )
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)

    def __enter__(self) -> 'Graph':
        return self

    def __exit__(self, *exception: Any) -> None:
        self._executor.shutdown()
        self.node.destroy_node()
        self._context.try_shutdown()
        self._context.destroy()

    def spin_until(self, condition: Callable[[], Any], timeout_s: float | None = None) -> Any:
        """Handle messages until a condition has a true value; return its last value."""
        end = time.monotonic() + (float('inf') if timeout_s is None else timeout_s)
        while not (value := condition()) and (left := end - time.monotonic()) > 0:
            self._executor.spin_once(timeout_sec=min(0.1, left))
        return value

    def wait_for(self, condition: Callable[[], Any], timeout_s: float = 0.0) -> Any:
        """Wait for a condition on the graph, which sends no messages."""
        end = time.monotonic() + max(FOUND_WITHIN_S, timeout_s, self._args.spin_time or 0.0)
        while not (value := condition()) and time.monotonic() < end:
            time.sleep(0.02)
        return value

    def settle(self) -> None:
        """Wait until the graph is complete; nothing tells that earlier than the longest delay."""
        time.sleep(FOUND_WITHIN_S if self._args.spin_time is None else self._args.spin_time)

    def full_names(self, hidden: bool = False) -> list[str]:
        """Return the full names of the nodes."""
        return sorted(
            f'{namespace.rstrip("/")}/{name}'
            for name, namespace in self.node.get_node_names_and_namespaces()
            if hidden or not name.startswith('_')
        )

    def find_node(self, name: str, timeout_s: float = 0.0) -> bool:
        """Wait for a node; return whether it is there."""
        return bool(self.wait_for(lambda: absolute(name) in self.full_names(True), timeout_s))

    def call(self, kind: Any, service: str, request: Any) -> Any:
        """Call a service and return its response."""
        client = self.node.create_client(kind, service)
        if not self.wait_for(client.service_is_ready):
            raise RuntimeError(f'Wait for service timed out waiting for {service}')
        future = client.call_async(request)
        self.spin_until(future.done)
        return future.result()
