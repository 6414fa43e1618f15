# SPDX-License-Identifier: Apache-2.0
"""Events of processes."""

from . import Event


class _ProcessEvent(Event):
    """Has action, process_name, cmd, cwd, env and pid."""

    def __init__(self, *, name, **details):
        vars(self).update(details, process_name=name)

class ProcessStarted(_ProcessEvent):
    pass

class ProcessExited(_ProcessEvent):
    """A negative returncode is the signal that killed it."""

class ProcessIO(_ProcessEvent):
    """Bytes, text, were written to stdout (fd 1) or stderr (fd 2)."""

    def __init__(self, *, fd, **details):
        super().__init__(fd=fd, from_stdout=fd == 1, from_stderr=fd == 2, **details)
