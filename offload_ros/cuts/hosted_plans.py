"""The plans of steps that one robot has opened on a server."""

from __future__ import annotations

from collections import OrderedDict
import threading

from offload_ros.intra_dp.lower import Work

# A step of a plan takes about 2 kB when it is ready to run.
MAX_PLANS, MAX_KEPT_STEPS = 64, 60_000


class HostedPlans:
    """The last ones that were used; safe between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._works: OrderedDict[tuple[str, str], Work] = OrderedDict()

    def __len__(self) -> int:
        return len(self._works)

    def get(self, graph: str, key: str) -> Work | None:
        """The plan ``key`` of the graph with this content hash."""
        with self._lock:
            found = self._works.get((graph, key))
            if found is not None:
                self._works.move_to_end((graph, key))
            return found

    def add(self, graph: str, work: Work) -> None:
        """Keep it, and forget the oldest ones where there are too many."""
        with self._lock:
            self._works[graph, work.key] = work
            self._works.move_to_end((graph, work.key))
            while len(self._works) > 1 and (
                len(self._works) > MAX_PLANS
                or sum(map(_steps, self._works.values())) > MAX_KEPT_STEPS
            ):
                self._works.popitem(last=False)

    def forget(self, graph: str = '') -> None:
        """Those of a graph that the robot needs no more, or all."""
        with self._lock:
            for each in [each for each in self._works if graph in ('', each[0])]:
                del self._works[each]


def _steps(work: Work) -> int:
    return len(work.steps.robot) + len(work.steps.server)
