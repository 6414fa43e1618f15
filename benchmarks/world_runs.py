"""What benchmarks share that run the simulated world with real processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from offload_ros.nodes.demo import Processes

LEAST_REAL_TIME = 0.95


class RunError(RuntimeError):
    """A run that does not count; the text says why."""


def seconds(stamp: Any) -> float:
    """Of a ROS stamp."""
    return float(stamp.sec) + 1e-9 * float(stamp.nanosec)


def check(processes: Processes, folder: Path) -> None:
    """``RunError`` if one of them has ended by itself."""
    ended = processes.ended()
    if ended:
        raise RunError(f'{ended} ended by itself: see {folder / ended}.log')


def parameters_file(folder: Path, name: str, values: dict[str, Any]) -> Path:
    """Write NAME.yaml with parameters of whatever node reads it."""
    path = folder / f'{name}.yaml'
    path.write_text(yaml.safe_dump({'/**': {'ros__parameters': values}}))
    return path
