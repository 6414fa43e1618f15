# SPDX-License-Identifier: Apache-2.0
"""Events of processes."""

from . import Event
from .._unsupported import explain

__getattr__ = explain(__name__)

class ProcessEvent(Event):
    """Something about one process: action, process_name, cmd, cwd, env, pid."""

    def __init__(self, *, name, **details):
        vars(self).update(details, process_name=name)

class ProcessStarted(ProcessEvent):
    """The process runs."""

class ProcessExited(ProcessEvent):
    """The process ended; a negative returncode is the signal that killed it."""

class ProcessIO(ProcessEvent):
    """The process wrote bytes, text, to stdout (fd 1) or stderr (fd 2)."""

    def __init__(self, *, fd, **details):
        super().__init__(fd=fd, from_stdout=fd == 1, from_stderr=fd == 2, **details)

class ShutdownProcess(Event):
    """The matching processes are to end: SIGINT, then SIGTERM, then SIGKILL."""

    def __init__(self, *, process_matcher):
        self.process_matcher = process_matcher
