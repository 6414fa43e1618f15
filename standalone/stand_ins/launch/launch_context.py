# SPDX-License-Identifier: Apache-2.0
"""The state of one launch: configurations, environment, events, what is still going on."""

import asyncio
import collections
import os

class LaunchContext:
    """What actions see of the launch."""

    def __init__(self):
        self.launch_configurations = {}
        self.environment = os.environ  # as upstream's: that of this process
        self.is_shutdown = False
        self.asyncio_loop = None
        self.ros_node = None
        self.files = []  # removed when the launch ends
        self.processes = []  # those that run
        self.on_shutdown = []  # functions
        self.handlers, self.events, self.failures = [], collections.deque(), []
        self.activities, self.wake = set(), asyncio.Event()
        self._scopes = []

    def register_event_handler(self, event_handler):
        """Let a handler see events, the newest handler first."""
        self.handlers.insert(0, event_handler)

    def unregister_event_handler(self, event_handler):
        """Forget a handler."""
        self.handlers.remove(event_handler)

    def emit_event_sync(self, event):
        """Queue an event."""
        self.events.append(event)
        self.wake.set()

    def push_scope(self):
        """Remember configurations and environment."""
        self._scopes.append((dict(self.launch_configurations), dict(os.environ)))

    def pop_scope(self):
        """Restore them."""
        live = (self.launch_configurations, os.environ)
        for values, saved in zip(live, self._scopes.pop(), strict=True):
            for name in set(values) - set(saved):
                del values[name]
            values.update(saved)

    def visit(self, entity):
        """Visit an entity and, depth first, what it leads to."""
        for child in entity.visit(self) or ():
            self.visit(child)

    def spawn(self, work):
        """Start a coroutine that the launch waits for."""
        def ended(task):
            self.activities.discard(task)
            if not task.cancelled() and task.exception() is not None:
                self.failures.append(task.exception())
            self.wake.set()

        task = asyncio.ensure_future(work)
        self.activities.add(task)
        task.add_done_callback(ended)
        return task
