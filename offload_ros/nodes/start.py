"""First in every executable: signals end it quietly also while its libraries load (seconds)."""

from __future__ import annotations

import importlib
import signal
import sys


def start(module: str) -> None:
    """Import ``module`` of this package and call its ``main``."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: sys.exit(0))
    importlib.import_module(f'offload_ros.nodes.{module}').main()
