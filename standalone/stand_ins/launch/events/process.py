# SPDX-License-Identifier: Apache-2.0
"""Events of processes."""

from collections.abc import Callable
import signal
from typing import Any

from .._unsupported import explain
from . import Event

__getattr__ = explain(__name__)


class ProcessEvent(Event):
    """Something about one process."""

    def __init__(
        self, *, action: Any, name: str, cmd: list[str], cwd: Any, env: Any, pid: int
    ) -> None:
        self.action = action
        self.process_name = name
        self.cmd = cmd
        self.cwd = cwd
        self.env = env
        self.pid = pid


class ProcessStarted(ProcessEvent):
    """The process runs."""


class ProcessExited(ProcessEvent):
    """The process ended; a negative return code is the signal that killed it."""

    def __init__(self, *, returncode: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.returncode = returncode


class ProcessIO(ProcessEvent):
    """The process wrote to stdout (fd 1) or stderr (fd 2)."""

    def __init__(self, *, text: bytes, fd: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.text = text
        self.fd = fd
        self.from_stdin, self.from_stdout, self.from_stderr = False, fd == 1, fd == 2


class ShutdownProcess(Event):
    """The matching processes are to end: SIGINT, then SIGTERM, then SIGKILL."""

    def __init__(self, *, process_matcher: Callable[[Any], bool]) -> None:
        self.process_matcher = process_matcher


class SignalProcess(Event):
    """The matching processes get a signal."""

    def __init__(self, *, signal_number: str | int, process_matcher: Callable[[Any], bool]) -> None:
        self.process_matcher = process_matcher
        self.signal = (
            signal.Signals[signal_number]
            if isinstance(signal_number, str)
            else signal.Signals(signal_number)
        )
        self.signal_name = self.signal.name
