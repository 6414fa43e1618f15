"""How a process of ``benchmarks/intra_dp.py`` runs a plan, and how it chooses one by itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
import math
from pathlib import Path
import tempfile
import time
from typing import Any, Protocol

LINKS, ROUND_TRIPS_S = 24, (0.0026, 0.004, 0.008)
PLANNING_S = 300.0
Runner = Callable[..., Any]  # deadline (steady clock), and when pieces are late (s), to ``Ran``


def runner(end: Any, model: str, plan: Any, codecs: Mapping[str, str]) -> Runner:
    """Runs ``plan`` on the robot's and the server's graph, as strategies do. ``codecs``: names by
    operator, in effect where its output crosses."""
    from offload_ros.cuts.cut import Cut
    from offload_ros.cuts.plan_table import nodes_on_server
    from offload_ros.cuts.value_codecs import code_named

    codes = {int(key): code_named(name) for key, name in codecs.items()}
    graph = end.graphs[model][0]
    if not plan.is_cut:
        return prepared(end, model, end.locals[model].lower(plan), codes)
    cut = Cut(graph, nodes_on_server(graph, plan))
    return prepared(end, model, cut if cut.server else None, codes)


def prepared(end: Any, model: str, work: Any, codes: Mapping[int, int]) -> Runner:
    """The same of a ``Cut``, a lowered plan, or None: all on the robot."""
    from offload_ros.cuts.client import link_on
    from offload_ros.cuts.cut import Cut

    inputs, local = end.graphs[model][2], end.locals[model]
    link = link_on(end.channel)
    if work is None:
        return lambda deadline_s, late_s=math.inf: on_robot(end, local, inputs)
    if isinstance(work, Cut):
        return lambda deadline_s, late_s=math.inf: link.run(
            local, work, inputs, end.lane, deadline_s, codecs=codes
        )
    from offload_ros.intra_dp.run_late import Patience

    link.open_plan(local, work)
    return lambda deadline_s, late_s=math.inf: link.run_split(
        local, work, inputs, end.lane, deadline_s, Patience(late_s), codecs=codes
    )


def on_robot(end: Any, local: Any, inputs: Any) -> Any:
    """The whole graph in the robot's lane."""
    from offload_ros.cuts.client import Ran

    began_s = time.monotonic()
    job = end.lane.submit(partial(local.executor, inputs))
    outputs = job.result()
    return Ran(outputs, time.monotonic() - began_s, job.duration_s, 0.0, 0, 0)


class Way(Protocol):
    """Chooses and runs."""

    def plan(self, low_mbit: float, high_mbit: float) -> None:
        """Make all plans for such links now."""

    def run(self, state: Any, deadline_s: float) -> tuple[Any, str, float]:
        """One inference on a link that is believed to be ``state``: ``Ran``, the plan's name and
        its predicted latency (s)."""


def way_of(end: Any, model: str, profile: Any, name: str) -> Way:
    """By the name of a planning method."""
    kind = ControlledWay if name == 'intra_dp' else TableWay
    return kind(end, model, profile, name)


def link_states(low_mbit: float, high_mbit: float) -> Iterator[Any]:
    """Links as a monitor may see them."""
    from offload_ros.strategy import LinkState

    for place in range(LINKS + 1):
        rate = 125e3 * low_mbit * (high_mbit / low_mbit) ** (place / LINKS)
        for round_trip_s in ROUND_TRIPS_S:
            yield LinkState(rate, rate, round_trip_s)


class TableWay:
    """A strategy of layer cuts: the plan of its table for the link as it seems."""

    def __init__(self, end: Any, model: str, profile: Any, method: str) -> None:
        from offload_ros.cuts.plan_table import PlanTable
        from offload_ros.cuts.strategy import SpsoGaStrategy
        from offload_ros.graph.of_model import graph_hash

        self._end, self._model, self._method = end, model, method
        graph = end.graphs[model][0]
        goal = ()
        if method == SpsoGaStrategy.method:
            goal = (SpsoGaStrategy.objective, SpsoGaStrategy.deadline_s)
        self._folder = tempfile.TemporaryDirectory()  # each profile is used once
        self._table = PlanTable(
            graph, graph_hash(graph), profile, method, *goal, folder=Path(self._folder.name)
        )
        self._runners: dict[Any, Runner] = {}

    def plan(self, low_mbit: float, high_mbit: float) -> None:
        """See ``Way``."""
        from offload_ros.cuts import plan_table

        end_s = time.monotonic() + PLANNING_S
        for state in link_states(low_mbit, high_mbit):
            while (planned := self._table.choose(state)) is None:
                if time.monotonic() > end_s:
                    raise RuntimeError(self._table.why_none)
                time.sleep(0.01)
            plan_table._planner.submit(int).result()  # what was asked for before is there
            self._runner(planned)

    def _runner(self, planned: Any) -> Runner:
        found = self._runners.get(planned.step)
        if found is None:
            found = self._runners[planned.step] = runner(self._end, self._model, planned.plan, {})
        return found

    def run(self, state: Any, deadline_s: float) -> tuple[Any, str, float]:
        """See ``Way``."""
        planned = self._table.choose(state)
        assert planned is not None
        predicted_s = self._table.predict(planned, state).latency_s
        ran = self._runner(planned)(deadline_s)
        return ran, str(tuple(planned.step)), predicted_s if predicted_s else math.nan


class ControlledWay:
    """Strategy ``intra_dp``: plans for all links, one of which a controller picks that learns."""

    def __init__(self, end: Any, model: str, profile: Any, method: str) -> None:
        from offload_ros.cuts.client import link_on
        from offload_ros.graph.of_model import graph_hash
        from offload_ros.intra_dp.inference import SplitInference

        self._end, self._local, self._inputs = end, end.locals[model], end.graphs[model][2]
        self._link = link_on(end.channel)
        self._folder = tempfile.TemporaryDirectory()  # each profile is used once
        self._inference = SplitInference(
            self._local,
            graph_hash(self._local.graph),
            profile,
            folder=Path(self._folder.name),
        )

    def plan(self, low_mbit: float, high_mbit: float) -> None:
        """See ``Way``."""
        from offload_ros.intra_dp import inference, plans

        end_s = time.monotonic() + PLANNING_S
        for _ in range(3):  # planned, prepared, known to the server
            for state in link_states(low_mbit, high_mbit):
                self._inference.choose('before', state, self._link)
            while self._inference.plans._planning._running and time.monotonic() < end_s:
                time.sleep(0.1)
            for each in (plans._preparer, inference._opener):
                each.submit(int).result()

    def run(self, state: Any, deadline_s: float) -> tuple[Any, str, float]:
        """See ``Way``."""
        chosen = self._inference.choose('server', state, self._link)
        if chosen.ready.work is None:
            ran = on_robot(self._end, self._local, self._inputs)
        else:
            ran = self._inference.run(
                chosen, self._inputs, self._end.lane, deadline_s, lambda run: None
            )
        self._inference.learn('server', chosen, ran.total_s)
        plan = f'{chosen.choice.candidate.family} {chosen.ready.key[:8]}'
        return ran, plan, chosen.choice.predicted_s
