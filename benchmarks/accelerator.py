"""An accelerator of its own, emulated on a core that also sends and receives."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
import time
from typing import Any

from offload_ros.cuts.cut import Segment as CutSegment
from offload_ros.graph.execute import Executor
from offload_ros.intra_dp.segments import Segment
from offload_ros.robot.pacing import Pacer

KEPT = 8  # times of the same work


class AcceleratorPacer(Pacer):
    """Makes each call take ``slowdown`` times what the same work takes this machine undisturbed.

    Messages do not slow the kernels of an accelerator down. Here they share a core with what stands
    for it: they interrupt it, and leave it with cold caches. So work is paced by the
    least time of the core that the same segment of a plan, or the same whole forward, took of late,
    and ends no earlier than ``slowdown`` times that after it began, whatever came in between.
    """

    def __init__(self, slowdown: float) -> None:
        super().__init__(slowdown)
        # With the work itself: its id is not given to another one.
        self._known: dict[Any, tuple[Any, deque[float]]] = {}

    def __call__(self, function: Callable[[], Any]) -> Any:
        """The function's value, or its error."""
        began_s, own_s = time.monotonic(), time.thread_time()
        try:
            return function()
        finally:
            least_s = self._least_s(function, time.thread_time() - own_s)
            time.sleep(max(0.0, began_s + self.slowdown * least_s - time.monotonic()))

    def _least_s(self, function: Callable[[], Any], own_s: float) -> float:
        work = work_of(function)
        if work is None:
            return own_s
        # Cuts of several plans that compute the same are the same work.
        key = work if isinstance(work, CutSegment) else id(work)
        _, times = self._known.setdefault(key, (work, deque(maxlen=KEPT)))
        times.append(own_s)
        return min(times)


def work_of(function: Any) -> Any:
    """What ``function`` computes, the same object each time; None where that is not known."""
    if isinstance(function, partial):
        if isinstance(function.func, Executor):
            return function.func
        segments = (each for each in function.args if isinstance(each, (CutSegment, Segment)))
        return next(segments, None)
    return getattr(function, '__self__', None)
