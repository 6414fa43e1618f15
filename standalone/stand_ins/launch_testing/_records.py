# SPDX-License-Identifier: Apache-2.0
"""What the processes under test did, between the threads of launch and tests."""

import threading

from launch.events.process import ProcessExited

from .asserts import assertInStream
from .util import NoMatchingProcessException, resolveProcesses


class _Records:
    """Events of processes, and a wait for a condition on them."""

    def __init__(self):
        self._changed = threading.Condition()
        self._events = []

    def __iter__(self):
        return iter(tuple(self._events))

    def append(self, event):
        with self._changed:
            self._events.append(event)
            self._changed.notify_all()

    def processes(self):
        """Return the actions of the processes that have events."""
        return list({event.action: None for event in self})

    def process_names(self):
        return [action.process_details['name'] for action in self.processes()]

    def _comes(self, condition, timeout):
        def holds():
            try:
                return condition() is not False
            except (AssertionError, NoMatchingProcessException):
                return False

        with self._changed:
            return self._changed.wait_for(holds, timeout)

class ProcInfo(_Records):
    """`proc_info`: the last start or exit of each process."""

    def __iter__(self):
        return iter({event.action: event for event in tuple(self._events)}.values())

    def __getitem__(self, key):
        for event in self:
            if event.action is key or (isinstance(key, str) and key in event.process_name):
                return event
        raise KeyError(key)

    def assertWaitForStartup(self, process, *, timeout=10):
        came = self._comes(lambda: resolveProcesses(self, process=process), timeout)
        assert came, f"Timed out waiting for process '{process}' to start"

    def assertWaitForShutdown(self, process, *, timeout=10):
        came = self._comes(lambda: isinstance(
            self[resolveProcesses(self, process=process)[0]], ProcessExited), timeout)
        assert came, f"Timed out waiting for process '{process}' to finish"

class ProcOutput(_Records):
    """`proc_output`: what the processes wrote, piece by piece."""

    def __getitem__(self, key):
        if key not in (self.process_names() if isinstance(key, str) else self.processes()):
            raise KeyError(key)
        return [event for event in self if key in (event.action, event.process_name)]

    def waitFor(self, expected_output, process=None, *, timeout=10, **kwargs):
        """Return whether a text comes in time; see assertInStream."""
        return self._comes(
            lambda: assertInStream(self, expected_output, process, **kwargs), timeout)

    def assertWaitFor(self, *args, **kwargs):
        assert self.waitFor(*args, **kwargs), 'Waiting for output timed out'
