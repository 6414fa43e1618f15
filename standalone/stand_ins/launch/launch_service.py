# SPDX-License-Identifier: Apache-2.0
"""Runs launch descriptions until everything has ended."""

import asyncio
import os
import signal
import traceback

from . import logging
from .events import Shutdown
from .events.process import ShutdownProcess
from .launch_context import LaunchContext

class LaunchService:
    """One launch."""

    def __init__(self, *, argv=None, noninteractive=False, debug=False):
        self.context = LaunchContext()
        self._descriptions, self._debug, self._return_code = [], debug, 0
        self._logger = logging.get_logger('launch')

    def include_launch_description(self, launch_description):
        """Add a description before the launch runs."""
        self._descriptions.append(launch_description)

    def emit_event(self, event):
        """Emit an event, from any thread."""
        if (loop := self.context.asyncio_loop) is not None:
            loop.call_soon_threadsafe(self.context.emit_event_sync, event)

    def shutdown(self):
        """End the launch, from any thread; nothing if it does not run."""
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
            while context.activities or not context.is_shutdown:
                self._work()
                if not context.activities and shutdown_when_idle:
                    self._handle(Shutdown(reason='idle'))
                elif context.activities or not context.is_shutdown:
                    await context.wake.wait()
                    context.wake.clear()
            return self._return_code
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
                self._logger.error(reason)
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
        elif isinstance(event, ShutdownProcess):
            for process in filter(event.process_matcher, context.processes):
                process.stop(context)
        for handler in tuple(context.handlers):
            if handler.matches(event):
                for entity in handler.handle(event, context):
                    context.visit(entity)

    def _on_signal(self, number):
        name = 'ctrl-c (SIGINT)' if number == signal.SIGINT else signal.Signals(number).name
        if self.context.is_shutdown:
            self._logger.warning(f'user interrupted with {name} again, ignoring...')
            return
        self._logger.warning(f'user interrupted with {name}')
        if number != signal.SIGINT:
            self._return_code = 1  # upstream's too: only Ctrl-C is the regular end
        self.emit_event(Shutdown(reason=name, due_to_sigint=number == signal.SIGINT))
