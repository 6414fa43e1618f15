# SPDX-License-Identifier: Apache-2.0
"""Runs launch descriptions until everything has ended."""

import asyncio
from collections.abc import Iterable
import os
import signal
import traceback

from . import logging
from .events import Event, Shutdown
from .events.process import ShutdownProcess, SignalProcess
from .launch_context import LaunchContext
from .launch_description import LaunchDescription


class LaunchService:
    """One launch."""

    def __init__(
        self,
        *,
        argv: Iterable[str] | None = None,
        noninteractive: bool = False,
        debug: bool = False,
    ) -> None:
        self.context = LaunchContext(argv=argv, noninteractive=noninteractive)
        self._descriptions: list[LaunchDescription] = []
        self._debug = debug
        self._logger = logging.get_logger()
        self._return_code = 0

    @property
    def event_loop(self) -> asyncio.AbstractEventLoop | None:
        """The loop while running."""
        return self.context.asyncio_loop

    def include_launch_description(self, launch_description: LaunchDescription) -> None:
        """Add a description, also while running (from the loop's thread)."""
        self._descriptions.append(launch_description)
        self.context._wake.set()

    def emit_event(self, event: Event) -> None:
        """Emit an event, from any thread."""
        if self.event_loop is None:
            self.context.emit_event_sync(event)
        else:
            self.event_loop.call_soon_threadsafe(self.context.emit_event_sync, event)

    def shutdown(self, force_sync: bool = False) -> None:
        """End the launch, from any thread; nothing if it does not run."""
        if self.event_loop is not None:
            self.emit_event(Shutdown(reason='LaunchService.shutdown() called'))

    def run(self, *, shutdown_when_idle: bool = True) -> int:
        """Launch; return 0, or 1 when launching failed."""
        return asyncio.run(self.run_async(shutdown_when_idle=shutdown_when_idle))

    async def run_async(self, *, shutdown_when_idle: bool = True) -> int:
        """Launch; return 0, or 1 when launching failed."""
        context, loop = self.context, asyncio.get_running_loop()
        context.asyncio_loop, context._wake = loop, asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP):
            loop.add_signal_handler(number, self._on_signal, number)
        logging.start_log_file()
        try:
            while True:
                self._work()
                if not context._activities and not context._queue:
                    if context.is_shutdown:
                        return self._return_code
                    if shutdown_when_idle:
                        context.emit_event_sync(Shutdown(reason='idle'))
                        continue
                await context._wake.wait()
                context._wake.clear()
        finally:
            context.asyncio_loop = None
            for path in context._files:
                os.unlink(path)

    def _work(self) -> None:
        """Visit new descriptions, handle events, report failures, until nothing is left."""
        context = self.context
        while self._descriptions or context._queue or context._failures:
            try:
                if context._failures:
                    raise context._failures.pop()
                if self._descriptions:
                    context._visit(self._descriptions.pop(0))
                else:
                    self._handle(context._queue.popleft())
            except Exception as error:
                self._logger.debug(''.join(traceback.format_exception(error)))
                if self._debug:
                    traceback.print_exception(error)
                reason = f'Caught exception in launch (see debug for traceback): {error}'
                self._logger.error(reason)
                self._return_code = 1
                context.emit_event_sync(Shutdown(reason=reason))

    def _handle(self, event: Event) -> None:
        context = self.context
        if isinstance(event, Shutdown):
            if context.is_shutdown:
                return
            context._begin_shutdown()
        elif isinstance(event, (ShutdownProcess, SignalProcess)):
            for process in filter(event.process_matcher, context._processes):
                if isinstance(event, SignalProcess):
                    process.signal(event.signal)
                else:
                    process.stop(context)
        for handler in tuple(context._handlers):
            if handler.matches(event):
                context.extend_locals({'event': event})
                for entity in handler.handle(event, context):
                    context._visit(entity)

    def _on_signal(self, number: signal.Signals) -> None:
        name = signal.Signals(number).name
        text = (
            'user interrupted with ctrl-c (SIGINT)'
            if number == signal.SIGINT
            else f'user interrupted with {name}'
        )
        if self.context.is_shutdown:
            self._logger.warning(f'{text} again, ignoring...')
            return
        self._logger.warning(text)
        if number != signal.SIGINT:
            self._return_code = 1  # upstream's too: only Ctrl-C is the regular end
        self.context.emit_event_sync(Shutdown(reason=text, due_to_sigint=number == signal.SIGINT))
