"""Recorded units that are cut between robot and server: what that wants, step by step.

A unit becomes a graph, which the server gets beside the program's inferences. Both sides measure
its operators: the robot when it is idle, the server in inferences that it computes whole. A method
of ``graph.methods`` then plans the cut for the link as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import contextlib
from dataclasses import dataclass, field
from functools import partial
import logging
import math
import queue
import threading
import time
from typing import Any

from torch import Tensor

from offload_ros.baselines.problem import Problem, Subject
from offload_ros.cuts.client import GraphLink, LocalGraph, link_on
from offload_ros.cuts.cut import Cut
from offload_ros.cuts.errors import CutFailed
from offload_ros.cuts.plan_table import Planned, Step, link_of, stay_or_move
from offload_ros.graph.classify import classify
from offload_ros.graph.graph import GraphError
from offload_ros.graph.measure import NodeTimes, OperatorTimer, profile_of
from offload_ros.graph.methods import find_method
from offload_ros.robot.lane import DeviceLane
from offload_ros.rrto.cut_run import CutRun
from offload_ros.rrto.server_unit import ServerUnit
from offload_ros.rrto.unit_effects import NotedUnit
from offload_ros.rrto.unit_graph import UnitGraph, graph_of_unit
from offload_ros.strategy import LinkState
from offload_ros.wire.channel import Channel

log = logging.getLogger(__name__)
PASSES = 3  # of either side, after one that warms up
STEP_S = 0.2  # between two steps on the robot, which has its own inferences
PLAN_S = 0.5  # after which a plan is looked at again
AGAIN_S = 5.0  # after a failure
FAILURES = 3  # in a row: then it is given up
REMADE = 3  # times that weights may change
LEAST_WAIT_S, MOST_TIMES = 2.0, 10.0  # for a run: so long, or so many times the prediction
Values = list[tuple[int, Any]]  # by step


@dataclass(eq=False)
class CutUnit:
    """``why_not``: there will be no cut, and why. ``current``: the plan for the link as it is."""

    why_not: str = ''
    made: UnitGraph | None = None
    local: LocalGraph | None = None
    timer: OperatorTimer | None = None
    stepped_s: float = -math.inf
    preparing: bool = False
    opened: bool = False
    opening: bool = False
    failed_s: float = -math.inf
    failures: int = 0
    trouble: str = ''  # the last one
    remade: int = 0
    needed_elsewhere: int = 0
    robot: list[tuple[Mapping[int, float], float]] = field(default_factory=list)
    server: list[tuple[Mapping[int, float], float]] = field(default_factory=list)
    subject: Subject | None = None
    plans: dict[Step, Planned] = field(default_factory=dict)
    step: Step | None = None
    current: tuple[Planned, float] | None = None
    planned_s: float = -math.inf
    planning: bool = False

    @property
    def measured(self) -> bool:
        """On both sides."""
        return len(self.robot) >= PASSES and len(self.server) > PASSES

    @property
    def why_not_yet(self) -> str:
        """For a terminal."""
        if self.why_not:
            return self.why_not
        if self.made is None:
            return 'not tried yet'
        if not self.opened:
            return self.trouble or 'on its way to the server'
        return 'being planned' if self.measured else 'being measured'


def graphs_on(channel: Channel | None) -> GraphLink:
    """The way to a server's graphs; ``CutFailed`` when there is no channel to it."""
    if channel is None:
        raise CutFailed('the server is not there')
    return link_on(channel)


class UnitCuts:
    """``graphs`` gives the way to the server, ``link`` tells how it is now, ``method`` plans
    (``UnknownMethod``). One thread of the robot calls ``prepare`` and ``run``, the program's
    threads the rest, one at a time."""

    def __init__(
        self, method: str, graphs: Callable[[], GraphLink], link: Callable[[], LinkState]
    ) -> None:
        self._name, self._method = find_method(method)
        self._graphs, self._link = graphs, link
        self._units: dict[int, CutUnit] = {}
        self._lane: DeviceLane | None = None
        # A pool's threads would be waited for at the program's end, uploads and all.
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._worker = threading.Thread(target=self._serve, name='rrto cuts', daemon=True)
        self._refused = ''
        self._closed = False
        self._lock = threading.Lock()

    def of(self, unit: int) -> CutUnit:
        """What is known of a unit."""
        with self._lock:
            return self._units.setdefault(unit, CutUnit(self._refused))

    def refuse(self, why: str) -> None:
        """No unit of this program can be cut (any more)."""
        self._refused = why
        for unit in list(self._units.values()):
            unit.why_not = why

    def forget(self, unit: int) -> None:
        """It will not be run any more."""
        with self._lock:
            found = self._units.pop(unit, None)
        if found is not None:
            self._later(self._released, found)

    def close(self, wait_s: float = 0.0) -> None:
        """Waits at most so long for a plan. An upload or a run under way ends by itself, or with
        the channel."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        for found in list(self._units.values()):
            self._released(found)
        self._work.put(None)
        if self._lane is not None:
            self._lane.close()
        if self._worker.is_alive():
            self._worker.join(wait_s)

    # --- preparing

    def wants(self, unit: int) -> bool:
        """Whether the robot has something to prepare, now; ``prepare`` has to follow."""
        found = self.of(unit)
        if found.why_not or found.preparing or len(found.robot) >= PASSES:
            return False
        found.preparing = time.monotonic() - found.stepped_s >= STEP_S
        return found.preparing

    def prepare(
        self,
        number: int,
        noted: NotedUnit,
        unit: ServerUnit,
        tensors: Mapping[int, Tensor],
        payloads: Sequence[Tensor],
    ) -> None:
        """One step, which takes about as long as two inferences on the robot."""
        found = self.of(number)
        try:
            if found.made is None:
                found.made = graph_of_unit(noted, unit, tensors, payloads)
                if not found.made.graph.nodes:
                    raise GraphError('what the program reads of it is not computed by it')
                found.local = LocalGraph(found.made.graph, found.made.parameters)
                named = found.made.named(payloads)
                found.timer = OperatorTimer(found.local.executor, named)
                self._open(found)
            elif found.timer is not None:
                node_s = found.timer.timed_pass()  # the first one warms up
                found.robot.append((node_s, found.timer.whole_s()))
                if len(found.robot) >= PASSES:
                    found.timer = None
        except GraphError as error:
            found.why_not = str(error)
        except Exception as error:  # whatever an operator may raise: the program goes on without
            found.why_not = f'{type(error).__name__}: {error}'
        finally:
            found.stepped_s = time.monotonic()
            found.preparing = False

    def usable(self, unit: int, tensors: Mapping[int, Tensor], payloads: int) -> bool:
        """Whether the server has its graph, with the weights that the program has."""
        found = self.of(unit)
        if found.why_not or found.made is None:
            return False
        if not found.made.holds(tensors):
            self._remake(unit, found)
            return False
        if not found.opened:
            self._open(found)
        return found.opened and len(found.made.inputs) == payloads

    def times_server(self, unit: int) -> bool:
        """Whether the server has to be measured yet."""
        return len(self.of(unit).server) <= PASSES

    def predicted_s(self, unit: int) -> float:
        """Of the cut for the link as it is; infinite while there is none, or it is no cut."""
        found = self.of(unit)
        due = time.monotonic() - found.planned_s >= PLAN_S
        if found.measured and due and not found.planning and not found.why_not:
            found.planning = True
            self._later(self._plan, found)
        if found.current is None or found.why_not:
            return math.inf
        planned, latency_s = found.current
        return latency_s if all(planned.cut.counts) else math.inf

    # --- running

    def run(self, run: CutRun, payloads: Sequence[Tensor]) -> Values:
        """What the program reads; ``CutFailed``."""
        found = self.of(run.unit)
        try:
            if run.cancelled or found.made is None or found.local is None:
                raise CutFailed('it is not needed any more')
            return self._run(found, run, payloads)
        except Exception as error:  # whatever an operator may raise
            if not run.cancelled:
                self._failed(found, str(error))
            raise CutFailed(str(error)) from None

    def needed_elsewhere(self, unit: int) -> None:
        """Results that a cut does not give were needed: the unit was computed once more."""
        found = self.of(unit)
        found.needed_elsewhere += 1
        if found.needed_elsewhere >= FAILURES:
            found.why_not = 'the program does more on the device while it holds its results'

    def text(self, unit: int) -> str:
        """For a terminal: how many operators run where, or why all are on one side."""
        found = self.of(unit)
        if found.current is None or found.why_not:
            return f'no cut: {found.why_not_yet}'
        robot, server = found.current[0].cut.counts
        if not (robot and server):
            return f'no cut: {self._name} leaves all on the {"robot" if robot else "server"}'
        return f'cut by {self._name}: {robot} on the robot and {server} on the server'

    def _run(self, found: CutUnit, run: CutRun, payloads: Sequence[Tensor]) -> Values:
        assert found.made is not None and found.local is not None
        if self._lane is None:
            self._lane = DeviceLane()
        wait_s = LEAST_WAIT_S
        if run.timed:
            cut = Cut(found.made.graph, range(len(found.made.graph.nodes)))
        elif found.current is not None:
            cut = found.current[0].cut
            wait_s = max(wait_s, MOST_TIMES * found.current[1])
        else:
            raise CutFailed('there is no plan')
        if run.timed and found.robot:  # a slower server would not help anyway
            wait_s = max(wait_s, MOST_TIMES * found.robot[0][1])
        ran = self._graphs().run(
            found.local,
            cut,
            found.made.named(payloads),
            self._lane,
            time.monotonic() + wait_s,
            run.began,
            timed=run.timed,
        )
        found.failures = 0
        if run.timed:
            found.server.append((ran.node_s, ran.server_s))
        return [(read.step, read.value(ran.outputs)) for read in found.made.reads]

    def _failed(self, found: CutUnit, why: str) -> None:
        log.info('a cut of a unit failed: %s', why)
        found.opened, found.failed_s = False, time.monotonic()  # the server may have lost it
        found.trouble = why
        found.failures += 1
        if found.failures >= FAILURES:
            found.why_not = why

    def _remake(self, number: int, found: CutUnit) -> None:
        made = CutUnit(remade=found.remade + 1)
        if made.remade > REMADE:
            made.why_not = 'its weights change'
        with self._lock:
            self._units[number] = made
        self._later(self._released, found)

    # --- in the worker

    def _later(self, work: Callable[[CutUnit], None], found: CutUnit) -> None:
        with self._lock:
            if not self._closed and self._worker.ident is None:
                self._worker.start()
            self._work.put(partial(work, found))

    def _serve(self) -> None:
        for work in iter(self._work.get, None):
            if not self._closed:
                work()

    def _open(self, found: CutUnit) -> None:
        if found.opening or time.monotonic() - found.failed_s < AGAIN_S:
            return
        found.opening = True
        self._later(self._opened, found)

    def _opened(self, found: CutUnit) -> None:
        try:
            if found.local is not None and not self._closed:
                self._graphs().open(found.local)
                found.opened = True
        except CutFailed as error:
            self._failed(found, str(error))
        except Exception as error:  # of this package or torch: the program goes on without
            log.exception('a unit is not sent')
            found.why_not = f'{type(error).__name__}: {error}'
        finally:
            found.opening = False

    def _released(self, found: CutUnit) -> None:
        if found.opened and found.local is not None:
            found.opened = False
            with contextlib.suppress(CutFailed):
                self._graphs().release(found.local.key)

    def _plan(self, found: CutUnit) -> None:
        try:
            self._planned(found, self._link())
        except Exception as error:  # of a method: the program goes on without
            log.info('a unit is not cut: %s', error)
            found.why_not = f'{self._name} finds no plan: {error}'
        finally:
            found.planned_s = time.monotonic()
            found.planning = False

    def _planned(self, found: CutUnit, state: LinkState) -> None:
        assert found.made is not None
        graph = found.made.graph
        if found.subject is None:
            robot, server = (
                NodeTimes.of_passes([node_s for node_s, _ in passes], [s for _, s in passes], {})
                for passes in (found.robot, found.server[1:])  # the server's first one warms up
            )
            found.subject = Subject(profile_of(graph, classify(graph), robot, server))
        found.step = stay_or_move(found.step, state)
        planned = found.plans.get(found.step)
        if planned is None:
            plan = self._method(Problem(found.subject, found.step.link))
            planned = found.plans[found.step] = Planned(found.step, plan, graph)
        latency_s = found.subject.evaluator.schedule(planned.plan, link_of(state)).latency_s
        found.current = planned, latency_s
