# SPDX-License-Identifier: Apache-2.0
"""The state of one launch: configurations, environment, events, what is still going on."""

import asyncio
import collections
from collections.abc import Callable, Coroutine, Iterable, MutableMapping
import os
from types import SimpleNamespace
from typing import Any

from .substitution import Substitution


class LaunchContext:
    """What actions see of the launch."""

    def __init__(self, *, argv: Iterable[str] | None = None, noninteractive: bool = False) -> None:
        self.argv = list(argv or ())
        self.noninteractive = noninteractive
        self.launch_configurations: dict[str, Any] = {}
        self.locals = SimpleNamespace()
        self.is_shutdown = False
        self.asyncio_loop: asyncio.AbstractEventLoop | None = None
        self._scopes: list[tuple[dict[str, Any], dict[str, str]]] = []
        self._handlers: list[Any] = []
        self._queue: collections.deque[Any] = collections.deque()
        self._activities: set[asyncio.Task[Any]] = set()
        self._processes: list[Any] = []
        self._files: list[str] = []  # removed when the launch ends
        self._on_shutdown: list[Callable[[], Any]] = []
        self._failures: list[BaseException] = []
        self._wake = asyncio.Event()

    @property
    def environment(self) -> MutableMapping[str, str]:
        """The environment that processes inherit: as upstream's, that of this process."""
        return os.environ

    def get_locals_as_dict(self) -> dict[str, Any]:
        """Return the locals."""
        return dict(vars(self.locals))

    def extend_locals(self, extensions: dict[str, Any]) -> None:
        """Set locals."""
        vars(self.locals).update(extensions)

    def perform_substitution(self, substitution: Substitution) -> str:
        """Return the text of a substitution."""
        return substitution.perform(self)

    def register_event_handler(self, event_handler: Any) -> None:
        """Let a handler see events, the newest handler first."""
        self._handlers.insert(0, event_handler)

    def unregister_event_handler(self, event_handler: Any) -> None:
        """Forget a handler."""
        self._handlers.remove(event_handler)

    def emit_event_sync(self, event: Any) -> None:
        """Queue an event."""
        self._queue.append(event)
        self._wake.set()

    async def emit_event(self, event: Any) -> None:
        """Queue an event."""
        self.emit_event_sync(event)

    def _push_scope(self) -> None:
        self._scopes.append((dict(self.launch_configurations), dict(os.environ)))

    def _pop_scope(self) -> None:
        configurations, environment = self._scopes.pop()
        self.launch_configurations.clear()
        self.launch_configurations.update(configurations)
        for name in set(os.environ) - set(environment):
            del os.environ[name]
        os.environ.update(environment)

    def _begin_shutdown(self) -> None:
        self.is_shutdown = True
        for function in self._on_shutdown:
            function()
        for process in self._processes:
            process.stop(self)

    async def _sleep_unless_shutdown(self, seconds: float) -> None:
        sleep = asyncio.ensure_future(asyncio.sleep(seconds))
        self._on_shutdown.append(sleep.cancel)
        await asyncio.wait([sleep])
        self._on_shutdown.remove(sleep.cancel)

    def _visit(self, entity: Any) -> None:
        """Visit an entity and, depth first, what it leads to."""
        for child in entity.visit(self) or ():
            self._visit(child)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> 'asyncio.Task[Any]':
        """Start something that the launch waits for."""
        task = asyncio.ensure_future(work)
        self._activities.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: 'asyncio.Task[Any]') -> None:
        self._activities.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._failures.append(error)
        self._wake.set()
