# SPDX-License-Identifier: Apache-2.0
"""A node for one command, and what it waits for: there is no daemon that knows the graph."""

import os
from pathlib import Path
import time

from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node

# Fast DDS mostly discovers within 0.3 s; in about one start of four it was measured to take up
# to 3.2 s (the cause was not found).
FOUND_WITHIN_S = 3.6
PROFILES = 'FASTDDS_DEFAULT_PROFILES_FILE', 'FASTRTPS_DEFAULT_PROFILES_FILE'
ARGUMENTS = '--spin-time=0.0 --no-daemon '
HIDDEN = ARGUMENTS + '--include-hidden-nodes '

def on_graph(function):
    """Return the main(args) that calls function(graph, args)."""
    def main(args):
        graph = Graph(args.spin_time or FOUND_WITHIN_S)
        try:
            return function(graph, args)
        finally:
            graph.close()
    return main

class Graph:
    def __init__(self, found_within_s):
        self._found_within_s, self._context = found_within_s, Context()
        # rclpy's signal handlers stay away: Python's raise where the command is, every 0.1 s
        if not any(os.environ.get(name) for name in PROFILES):
            os.environ[PROFILES[0]] = str(Path(__file__).with_name('fastdds.xml'))
        self._context.init(args=[])
        self.node = Node(f'_ros2cli_{os.getpid()}', context=self._context,
                         start_parameter_services=False, enable_rosout=False)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)

    def close(self):
        self._executor.shutdown()
        self.node.destroy_node()
        self._context.try_shutdown()
        self._context.destroy()

    def spin_until(self, condition, timeout_s=float('inf')):
        """Handle messages until a condition has a true value."""
        end = time.monotonic() + timeout_s
        while not condition() and (left := end - time.monotonic()) > 0:
            self._executor.spin_once(timeout_sec=min(0.1, left))

    def wait_for(self, condition, timeout_s=0.0):
        """Wait for a condition on the graph, which sends no messages; return its value."""
        end = time.monotonic() + max(self._found_within_s, timeout_s)
        while not (value := condition()) and time.monotonic() < end:
            time.sleep(0.02)
        return value

    def settle(self):
        """Wait until the graph is complete; nothing tells that earlier than the longest delay."""
        time.sleep(self._found_within_s)

    def print_types(self, names_and_types, show):
        """Print names, those that are not hidden, and on demand their types."""
        for name, types in sorted(names_and_types):
            if '/_' not in name:
                print(f'{name} [{", ".join(types)}]' if show else name)

    def names(self, hidden=False):
        """Return the full names of the nodes."""
        return sorted(f'{namespace.rstrip("/")}/{name}'
                      for name, namespace in self.node.get_node_names_and_namespaces()
                      if hidden or not name.startswith('_'))

    def find(self, name, names):
        """Wait until a node is among the names() of those meant; return its full name."""
        full = f'/{name.lstrip("/")}'
        if not self.wait_for(lambda: full in names()):
            raise RuntimeError('Node not found')
        return full

    def call(self, kind, service, **fields):
        """Call a service and return its response."""
        client = self.node.create_client(kind, service)
        if not self.wait_for(client.service_is_ready):
            raise RuntimeError(f'Wait for service timed out waiting for {service}')
        return self.response(client, kind.Request(**fields))

    def response(self, client, request):
        future = client.call_async(request)
        self.spin_until(future.done)
        return future.result()
