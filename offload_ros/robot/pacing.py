"""A slower accelerator, for benchmarks: what this machine computes takes k times as long.

A robot's accelerator computes while its CPU sends. A CPU quota would make the two fight, so the
computing itself is paced: compute, then sleep, while everything else runs unthrottled.
"""

from __future__ import annotations

from collections.abc import Callable
import math
import os
import time
from typing import TypeVar

Value = TypeVar('Value')

ROBOT_SLOWDOWN = 'OFFLOAD_ROBOT_SLOWDOWN'  # times the robot's accelerator takes longer, 1 or more
SERVER_SPEED = 'OFFLOAD_SERVER_SPEED'  # share of this machine's speed that the server's has


class Pacer:
    """Calls functions and makes each call take `slowdown` times its own time.

    slowdown: 1 (nothing added) or more. ValueError otherwise.
    """

    def __init__(self, slowdown: float = 1.0) -> None:
        if not (math.isfinite(slowdown) and slowdown >= 1.0):
            raise ValueError(f'a slowdown is a factor of 1 or more, not {slowdown}')
        self.slowdown = slowdown

    def __call__(self, function: Callable[[], Value]) -> Value:
        """The function's value, or its error, after `slowdown` times what it took."""
        began_s = time.perf_counter()
        try:
            return function()
        finally:
            if self.slowdown > 1.0:
                time.sleep((self.slowdown - 1.0) * (time.perf_counter() - began_s))

    @classmethod
    def of_robot(cls) -> Pacer:
        """As the environment asks of the robot (OFFLOAD_ROBOT_SLOWDOWN). ValueError if wrong."""
        return cls(_number(ROBOT_SLOWDOWN))

    @classmethod
    def of_server(cls) -> Pacer:
        """As the environment asks of the server (OFFLOAD_SERVER_SPEED). ValueError if wrong."""
        speed = _number(SERVER_SPEED)
        if not 0.0 < speed <= 1.0:
            raise ValueError(f'{SERVER_SPEED} is a share above 0 and up to 1, not {speed}')
        return cls(1.0 / speed)


def _number(variable: str) -> float:
    text = os.environ.get(variable, '1')
    try:
        return float(text)
    except ValueError:
        raise ValueError(f'the environment variable {variable} is no number: {text!r}') from None
