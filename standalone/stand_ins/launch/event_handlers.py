# SPDX-License-Identifier: Apache-2.0
"""What is done when an event comes."""

from collections.abc import Callable, Iterable
from typing import Any

from ._unsupported import explain
from .events import Event, Shutdown
from .events.process import ProcessExited, ProcessIO, ProcessStarted

__getattr__ = explain(__name__)


class EventHandler:
    """Entities, or a function (event, context) that returns entities, for matching events."""

    def __init__(
        self, *, matcher: Callable[[Event], bool], entities: Any = None, handle_once: bool = False
    ) -> None:
        self._matcher = matcher
        self._entities = entities
        self._handle_once = handle_once

    def matches(self, event: Event) -> bool:
        """Return whether the event is for this handler."""
        return self._matcher(event)

    def handle(self, event: Event, context: Any) -> Iterable[Any]:
        """Return the entities to visit."""
        if self._handle_once:
            context.unregister_event_handler(self)
        found = self._entities
        if callable(found):
            found = found(event, context)
        if found is None:
            return ()
        return found if isinstance(found, (list, tuple)) else (found,)


def _about(kind: type, target: Any) -> Callable[[Event], bool]:
    def matches(event: Any) -> bool:
        if not isinstance(event, kind):
            return False
        if target is None or event.action is target:  # type: ignore[attr-defined]
            return True
        return callable(target) and target(event.action)  # type: ignore[attr-defined]

    return matches


class OnProcessStart(EventHandler):
    """For the start of a process, or of any."""

    def __init__(self, *, target_action: Any = None, on_start: Any, **kwargs: Any) -> None:
        super().__init__(matcher=_about(ProcessStarted, target_action), entities=on_start, **kwargs)


class OnProcessExit(EventHandler):
    """For the end of a process, or of any."""

    def __init__(self, *, target_action: Any = None, on_exit: Any, **kwargs: Any) -> None:
        super().__init__(matcher=_about(ProcessExited, target_action), entities=on_exit, **kwargs)


class OnProcessIO(EventHandler):
    """For output of a process: functions of the event."""

    def __init__(
        self,
        *,
        target_action: Any = None,
        on_stdout: Callable[[Any], Any] | None = None,
        on_stderr: Callable[[Any], Any] | None = None,
        **kwargs: Any,
    ) -> None:
        def call(event: Any, context: Any) -> Any:
            function = on_stdout if event.from_stdout else on_stderr
            return function(event) if function else None

        super().__init__(matcher=_about(ProcessIO, target_action), entities=call, **kwargs)


class OnShutdown(EventHandler):
    """For the end of the launch."""

    def __init__(self, *, on_shutdown: Any, **kwargs: Any) -> None:
        super().__init__(
            matcher=lambda event: isinstance(event, Shutdown), entities=on_shutdown, **kwargs
        )
