"""Ctrl-C that waits until the session is in order, so that a program which catches it can go on."""

from __future__ import annotations

import _thread
from collections.abc import Callable
import signal
import threading
from typing import Any

LOOK_S = 0.05
AGAIN_S = 0.005
_main = threading.main_thread().ident


class _Deferral:
    """Python's signal handlers run in the main thread, between any two of its instructions."""

    def __init__(self) -> None:
        self.depth = 0  # of the main thread
        self.pending: tuple[int, Any] | None = None
        self.later: threading.Timer | None = None  # it comes again
        self.before: Callable[[int, Any], Any] | None = None  # None: nothing is deferred

    def __enter__(self) -> None:
        if threading.get_ident() == _main:
            self.depth += 1

    def __exit__(self, *error: object) -> None:
        if threading.get_ident() == _main:
            self.depth -= 1
            self._deliver()

    @property
    def look_s(self) -> float | None:
        """How long the calling thread may wait at a time before it asks for ``point``."""
        return LOOK_S if self.before is not None and threading.get_ident() == _main else None

    def point(self) -> None:
        """Inside a deferral: here it may come."""
        if self.pending is not None and threading.get_ident() == _main:
            depth, self.depth = self.depth, 0
            try:
                self._deliver()
            finally:
                self.depth = depth

    def handle(self, number: int, frame: Any) -> None:
        """The handler of the signal."""
        if frame is not None and frame.f_code.co_name == '__del__':
            # A finaliser would swallow it: again, a little later.
            self.later = threading.Timer(AGAIN_S, _thread.interrupt_main)
            self.later.daemon = True
            self.later.start()
            return
        self.later = None
        self.pending = number, frame
        self._deliver()

    def _deliver(self) -> None:
        if self.pending is not None and not self.depth and self.before is not None:
            (number, frame), self.pending = self.pending, None
            self.before(number, frame)


deferred = _Deferral()


def defer_interrupts() -> None:
    """From now on; to be called from the main thread. A program that handles the signal itself, now
    or later, keeps its way."""
    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:
        deferred.before = signal.default_int_handler
        signal.signal(signal.SIGINT, deferred.handle)


def stop_deferring() -> None:
    """As it was before."""
    if signal.getsignal(signal.SIGINT) == deferred.handle and deferred.before is not None:
        signal.signal(signal.SIGINT, deferred.before)
    deferred.before = None
