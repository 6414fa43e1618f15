"""What computing takes longer after a wait: caches that others filled, a core that slept.

A side of a plan with steps waits for the other one again and again; its operators were measured
warm, one after another.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
import time

from torch import Tensor

from offload_ros.graph.execute import Executor
from offload_ros.graph.stopwatch import Lend, Walk, at_once, finish

PIECES = 8
WAIT_S = 0.01  # about what a side waits for some rows


def resume_s(
    executor: Executor,
    inputs: Mapping[str, Tensor],
    lend: Lend = at_once,
    wait: Callable[[float], None] = time.sleep,
) -> float:
    """Seconds that a piece of the graph takes longer after a wait of about 10 ms; below 0 where
    chance was greater. One pass with waits and one without."""
    warm_s = _pass(executor, inputs, lend, lambda seconds: None)
    return (_pass(executor, inputs, lend, wait) - warm_s) / PIECES


def _pass(
    executor: Executor, inputs: Mapping[str, Tensor], lend: Lend, wait: Callable[[float], None]
) -> float:
    walk = Walk(executor, inputs)
    count = len(executor.graph.nodes)
    total_s = 0.0
    for piece in range(PIECES):
        nodes = range(piece * count // PIECES, (piece + 1) * count // PIECES)
        wait(WAIT_S)
        total_s += lend(partial(_timed, walk, nodes))
    return total_s


def _timed(walk: Walk, nodes: range) -> float:
    began_s = time.perf_counter()
    walk.run(nodes)
    finish(walk.executor.device)
    return time.perf_counter() - began_s
