# SPDX-License-Identifier: Apache-2.0
"""One launch: its state, its events, and what it waits for."""

import asyncio
import collections
import os
import signal
import traceback

from ._entities import log
from .events import Shutdown


class LaunchContext:
    def __init__(self):
        self.launch_configurations = {}
        self.environment = os.environ  # as upstream's: that of this process
        self.is_shutdown = False
        self.asyncio_loop = self.ros_node = None
        self.processes = []  # those that run
        self.files = []  # removed when the launch ends
        self.on_shutdown = []  # functions
        self.handlers, self.events, self.failures = [], collections.deque(), []
        self.activities, self.wake, self._scopes = set(), asyncio.Event(), []

    def register_event_handler(self, event_handler):
        self.handlers.insert(0, event_handler)

    def unregister_event_handler(self, event_handler):
        self.handlers.remove(event_handler)

    def emit_event_sync(self, event):
        self.events.append(event)
        self.wake.set()

    def push_scope(self):
        """Remember configurations and environment."""
        self._scopes.append((dict(self.launch_configurations), dict(os.environ)))

    def pop_scope(self):
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

class LaunchService:
    def __init__(self, *, argv=None, noninteractive=False, debug=False):
        self.context, self._debug, self._return_code = LaunchContext(), debug, 0
        self._descriptions = []

    def include_launch_description(self, launch_description):
        self._descriptions.append(launch_description)

    def emit_event(self, event):
        """Emit an event, from any thread; nothing if the launch does not run."""
        if (loop := self.context.asyncio_loop) is not None:
            loop.call_soon_threadsafe(self.context.emit_event_sync, event)

    def shutdown(self):
        self.emit_event(Shutdown(reason='LaunchService.shutdown() called'))

    def run(self, *, shutdown_when_idle=True):
        """Launch, in the main thread; return 0, or 1 when launching failed."""
        return asyncio.run(self._run(shutdown_when_idle))

    async def _run(self, shutdown_when_idle):
        context, loop = self.context, asyncio.get_running_loop()
        context.asyncio_loop, context.wake = loop, asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP):
            loop.add_signal_handler(number, self._on_signal, number)
        try:
            while True:
                self._work()
                if not context.activities and context.is_shutdown:
                    return self._return_code
                if not context.activities and shutdown_when_idle:
                    context.emit_event_sync(Shutdown(reason='idle'))
                    continue
                await context.wake.wait()
                context.wake.clear()
        finally:
            context.asyncio_loop = None
            for path in context.files:
                os.unlink(path)

    def _work(self):
        """Visit new descriptions, handle events, report failures, until nothing is left."""
        context = self.context
        while self._descriptions or context.events or context.failures:
            try:
                if context.failures:
                    raise context.failures.pop()
                if self._descriptions:
                    context.visit(self._descriptions.pop(0))
                else:
                    self._handle(context.events.popleft())
            except Exception as error:
                if self._debug:
                    traceback.print_exception(error)
                reason = f'Caught exception in launch (see debug for traceback): {error}'
                log('ERROR', 'launch', reason)
                self._return_code = 1
                context.emit_event_sync(Shutdown(reason=reason))

    def _handle(self, event):
        context = self.context
        if isinstance(event, Shutdown):
            if context.is_shutdown:
                return
            context.is_shutdown = True
            for process in context.processes:
                process.stop(context)
            for function in context.on_shutdown:
                function()
        for handler in tuple(context.handlers):
            if handler.matches(event):
                for entity in handler.handle(event, context):
                    context.visit(entity)

    def _on_signal(self, number):
        name = 'ctrl-c (SIGINT)' if number == signal.SIGINT else signal.Signals(number).name
        again = ' again, ignoring...' if self.context.is_shutdown else ''
        log('WARNING', 'launch', f'user interrupted with {name}{again}')
        if number != signal.SIGINT and not again:
            self._return_code = 1  # upstream's too: only Ctrl-C is the regular end
        self.emit_event(Shutdown(reason=name, due_to_sigint=number == signal.SIGINT))
