# SPDX-License-Identifier: Apache-2.0
"""What the processes under test did, for the threads of launch and tests; PYTEST_DONT_REWRITE."""

from collections.abc import Callable, Iterator
import threading
from typing import Any

from launch.events.process import ProcessExited

from .asserts import assertInStream
from .util import NoMatchingProcessException, resolveProcesses


class _Records:
    """Events by process, and a condition that is notified of each."""

    def __init__(self) -> None:
        self.changed = threading.Condition()  # its lock may be taken again by the same thread
        self._events: list[Any] = []

    def append(self, event: Any) -> None:
        """Keep an event."""
        with self.changed:
            self._events.append(event)
            self.changed.notify_all()

    def processes(self) -> list[Any]:
        """Return the actions of the processes that have events."""
        with self.changed:
            return list({event.action: None for event in self._events})

    def process_names(self) -> list[str]:
        """Return their names."""
        return [action.process_details['name'] for action in self.processes()]

    def wait(self, condition: Callable[[], bool], timeout: float) -> bool:
        """Wait for a condition; no matching process yet, or a failed assertion, is a no."""
        def holds() -> bool:
            try:
                return condition()
            except (AssertionError, NoMatchingProcessException):
                return False

        with self.changed:
            return self.changed.wait_for(holds, timeout)


class ProcInfo(_Records):
    """`proc_info`: the last start or exit of each process."""

    def __iter__(self) -> Iterator[Any]:
        return iter([self[action] for action in self.processes()])

    def __getitem__(self, key: Any) -> Any:
        with self.changed:
            for event in reversed(self._events):
                if event.action is key or isinstance(key, str) and key in event.process_name:
                    return event
        raise KeyError(key)

    def assertWaitForStartup(self, process: Any, cmd_args: Any = None, *, timeout: float = 10):
        """Demand that a process starts in time."""
        def started() -> bool:
            return bool(resolveProcesses(self, process=process, cmd_args=cmd_args))

        assert self.wait(started, timeout), f"Timed out waiting for process '{process}' to start"

    def assertWaitForShutdown(self, process: Any, cmd_args: Any = None, *, timeout: float = 10):
        """Demand that a process ends in time."""
        def ended() -> bool:
            found = resolveProcesses(self, process=process, cmd_args=cmd_args)
            return isinstance(self[found[0]], ProcessExited)

        assert self.wait(ended, timeout), f"Timed out waiting for process '{process}' to finish"


class ProcOutput(_Records):
    """`proc_output`: what the processes wrote, piece by piece."""

    def __iter__(self) -> Iterator[Any]:
        with self.changed:
            return iter(list(self._events))

    def __getitem__(self, key: Any) -> list[Any]:
        if key not in (self.process_names() if isinstance(key, str) else self.processes()):
            raise KeyError(key)
        return [event for event in self if key in (event.action, event.process_name)]

    def waitFor(
        self, expected_output: Any, process: Any = None, cmd_args: Any = None, *,
        timeout: float = 10, **kwargs: Any,
    ) -> bool:
        """Return whether a text comes in time; see assertInStream."""
        def written() -> bool:
            assertInStream(self, expected_output, process, cmd_args, **kwargs)
            return True

        return self.wait(written, timeout)

    def assertWaitFor(self, *args: Any, **kwargs: Any) -> None:
        """Demand that a text comes in time; see assertInStream."""
        assert self.waitFor(*args, **kwargs), 'Waiting for output timed out'
