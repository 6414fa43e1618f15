"""Strategies that cut a model between two layers: ``dsccs``, ``mcop``, ``spso_ga``, ``layer_cut``.

Each plans by the method of its name, on measured times, for the bandwidth that the link has now;
robot and server then compute their parts at the same time.
"""

from __future__ import annotations

import math
from pathlib import Path
import threading
import time
from typing import Any

from offload_ros.baselines.problem import Objective
from offload_ros.baselines.server import TOLERANCE, uplink_share
from offload_ros.cuts.client import link_on
from offload_ros.cuts.errors import CutFailed
from offload_ros.cuts.local_graph import LocalGraph
from offload_ros.cuts.model_graph import ModelGraph, graph_of
from offload_ros.cuts.plan_table import Planned, PlanTable
from offload_ros.cuts.ran import Ran
from offload_ros.cuts.robot_side import RobotSide
from offload_ros.cuts.whole_record import WholeRecorder, profiles_of
from offload_ros.graph.of_model import example_inputs
from offload_ros.graph.profile import Profile, ProfileError
from offload_ros.graph.profile_store import changed_s, find_profile
from offload_ros.intra_dp.record import Recorded
from offload_ros.models.model import Model, runtime_description
from offload_ros.policy.goal import LEAST_LATENCY, Goal
from offload_ros.strategy import (
    Frame,
    Link,
    LinkState,
    Prediction,
    Result,
    StrategyRefused,
    Unanswered,
    register,
)
from offload_ros.wire.channel import Channel
from offload_ros.wire.directory import ServerState

LOOK_AGAIN_S = 2.0  # for a profile


class CutStrategy:
    """One way to plan; see ``Strategy``."""

    method = ''
    objective = Objective.LATENCY
    deadline_s = math.inf  # of plans for least energy
    aims = False  # whether plans are for the goal that is asked for, not for the two above

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: tuple[int, RobotSide] | None = None
        self._cancelled_seq = 0
        self._closed = False
        self._graph: ModelGraph | None = None
        self._table: Any = None  # what ``_planned_for`` made
        self._table_of: ModelGraph | None = None
        self._looked_s = -math.inf
        self._profile_s = 0.0  # when the profile's file was written
        self._server: ServerState | None = None
        self._record_to: Path | None = None
        self._aim: tuple[Goal, float] = (LEAST_LATENCY, math.inf)  # the goal that is asked for
        self._aimed = self._aim  # that of ``_table``
        self._coming: tuple[tuple[Goal, float], PlanTable] | None = None

    def aim(self, goal: Goal, answer_s: float) -> None:
        """What plans are for, from the next frame on; not called of strategies with one goal of
        their own (``aims``). ``answer_s``: in which time the robot answers by itself."""
        self._aim = (goal, math.inf if goal == LEAST_LATENCY else answer_s)

    def prepare(self, model: Model, link: Link) -> None:
        """See ``Strategy``. Refused until the model was measured; what is captured there can be
        captured here, which takes seconds and is done beside the first frames."""
        self._model, self._recorder = model, WholeRecorder(model)
        self._link = link
        self._runtime = runtime_description(str(model.device))
        if not any(True for _ in profiles_of(model)):
            raise StrategyRefused(
                f"strategy '{self.method}' plans on measured times, and model '{model.name}' was "
                f'not measured: run "ros2 run offload_ros profile --model {model.name}"'
            )
        example = example_inputs(model)
        # Where only the camera tells its size, the first frame begins this.
        if example is not None and all(spec.shape for spec in model.config.inputs):
            self._take(graph_of(model, example))

    def predict(self, state: LinkState) -> Prediction:
        """See ``Strategy``; from the cost model."""
        table = self._table
        planned = table.choose(state) if table is not None else None
        if table is None or planned is None:
            return Prediction()
        expected: Prediction = table.predict(planned, state)
        return expected

    def usable(self, goal: Goal) -> bool:
        """See ``Strategy``; while any server is there: it gets the graph from the robot."""
        return bool(self._link.client.directory.alive())

    def run(self, frame: Frame, deadline_s: float) -> Result:
        """See ``Strategy``."""
        graph, table = self._ready(frame)
        server, channel = self._server_now()
        state = self._link.client.link_state(server.name)
        planned = table.choose(state)
        if planned is None:
            raise Unanswered(table.why_none)
        if not planned.cut.server:
            return self._on_robot(frame, planned, state)
        path = self._record_to
        link = link_on(channel)
        why = graph.opened_on(link)
        if why:
            raise Unanswered(f'server {server.name}: {why}')
        assert graph.local is not None
        try:
            ran = link.run(
                graph.local,
                planned.cut,
                frame.inputs,
                self._link.lane,
                deadline_s,
                lambda run: self._began(frame.seq, run),
                planned.codecs,
                timeline=path is not None,
            )
        except CutFailed as error:
            if not self._was_cancelled(frame.seq) and time.monotonic() < deadline_s:
                graph.reopen_on(link)
            raise Unanswered(f'server {server.name}: {error}') from None
        finally:
            with self._lock:
                self._running = None
        if path is not None:
            self._record_to = None
            predicted_s = table.predict(planned, state).latency_s
            Recorded.of_cut(planned.plan, state, predicted_s, planned.cut, ran).write(path)
        return self._result(server, self._text(planned, state, ran), state, ran)

    def record(self, path: Path) -> None:
        """Write what happens when in the next inference to ``path`` (``intra_dp.record``)."""
        self._record_to = path

    def cancel(self, seq: int) -> None:
        """See ``Strategy``."""
        with self._lock:
            self._cancelled_seq = max(self._cancelled_seq, seq)
            running = self._running
        if running is not None and running[0] <= seq:
            running[1].end('cancelled')

    def close(self) -> None:
        """See ``Strategy``."""
        with self._lock:
            self._closed = True
            running = self._running
        if running is not None:
            running[1].end('the strategy was closed')
        for table in (self._table, self._coming and self._coming[1]):
            if table is not None:
                table.close()
        if self._graph is not None:
            self._graph.leave(self)
        self._graph = self._table_of = None

    def _ready(self, frame: Frame) -> tuple[ModelGraph, Any]:
        """The graph of such frames and its plans; ``Unanswered`` while they are being made."""
        with self._lock:
            if self._closed or frame.seq <= self._cancelled_seq:
                raise Unanswered('cancelled')
        graph = self._take(graph_of(self._model, frame.inputs))
        if graph.why_not:
            raise Unanswered(graph.why_not)
        if self._table is None or self._table_of is not graph or self._measured_again(graph):
            old, self._table = self._table, self._planned_for(graph)
            self._table_of, self._aimed = graph, self._aim
            coming, self._coming = self._coming, None
            for each in (old, coming and coming[1]):
                if each is not None:
                    each.close()
        elif self._aimed != self._aim:
            self._aim_anew(graph)
        return graph, self._table

    def _aim_anew(self, graph: ModelGraph) -> None:
        """Plans for another goal; the present ones serve until the first of them can run."""
        if self._coming is None or self._coming[0] != self._aim:
            self._coming = self._aim, self._planned_for(graph)
        client, server = self._link.client, self._server
        state = LinkState() if server is None else client.link_state(server.name)
        channel = None if server is None else client.channel_to(server.name)
        planned = self._coming[1].choose(state)
        if planned is None:
            return
        # Where all was the robot's so far, the server gets the graph before it is needed.
        if not planned.cut.server or channel is None or not graph.opened_on(link_on(channel)):
            self._table.close()
            self._aimed, self._table = self._coming
            self._coming = None

    def _goal_with(self, profile: Profile) -> Goal:
        """That of the next plans, for a model that takes such times."""
        if not self.aims:
            return Goal(self.objective, self.deadline_s)
        goal, answer_s = self._aim
        return goal.before(answer_s, sum(each.robot_s for each in profile.operators))

    def _take(self, graph: ModelGraph) -> ModelGraph:
        if graph is not self._graph:
            if self._graph is not None:
                self._graph.leave(self)
            graph.take(self)
            self._graph = graph
        return graph

    def _measured_again(self, graph: ModelGraph) -> bool:
        """Whether there is a newer profile than that of the table; looks from time to time."""
        if time.monotonic() - self._looked_s < LOOK_AGAIN_S:
            return False
        self._looked_s = time.monotonic()
        return changed_s(graph.hash) != self._profile_s

    def _planned_for(self, graph: ModelGraph) -> Any:
        """The plans of a graph; has ``close``. ``Unanswered``."""
        local, profile = self._measured(graph)
        goal = self._goal_with(profile)
        try:
            return PlanTable(
                local.graph, graph.hash, profile, self.method,
                goal.objective, goal.deadline_s, goal.weight,
            )  # fmt: skip
        except ProfileError as error:
            raise Unanswered(str(error)) from None

    def _measured(self, graph: ModelGraph) -> tuple[LocalGraph, Profile]:
        """``Unanswered`` where the graph has no profile."""
        now = time.monotonic()
        profile = None
        if self._table_of is graph or now - self._looked_s > LOOK_AGAIN_S:
            self._looked_s, self._profile_s = now, changed_s(graph.hash)
            profile = find_profile(graph.hash)
        if profile is None or graph.local is None:
            raise Unanswered(
                f"model '{self._model.name}' was not measured for inputs of this size: run "
                f'"ros2 run offload_ros profile --model {self._model.name}"'
            )
        return graph.local, profile

    def _server_now(self) -> tuple[ServerState, Channel]:
        """The preferred server, else the last one as long as it is there, else the least loaded."""
        client = self._link.client
        servers = client.directory.alive()
        wanted = client.preferred_server
        if wanted:
            servers = [each for each in servers if each.name.strip('/') == wanted.strip('/')]
        last = self._server.name if self._server is not None else ''
        for state in sorted(servers, key=lambda each: (each.name != last, each.queue_length)):
            channel = client.channel_to(state.name)
            if channel is not None:
                self._server = state
                return state, channel
        raise Unanswered(f'server {wanted} is not there' if wanted else 'no server is there')

    def _on_robot(self, frame: Frame, planned: Planned, state: LinkState) -> Result:
        """The plan leaves all to the robot."""
        began_s = time.monotonic()
        job = self._link.lane.submit(lambda: self._model.run(frame.inputs))
        outputs = job.result()
        if self._record_to is not None:
            path, self._record_to = self._record_to, None
            self._recorder.ask(path)
            self._recorder.on_robot(frame.inputs, began_s, job)
        return Result(outputs, plan=self._text(planned, state))

    def _began(self, seq: int, run: RobotSide) -> None:
        with self._lock:
            self._running = (seq, run)
            over = self._closed or seq <= self._cancelled_seq
        if over:
            run.end('cancelled')

    def _was_cancelled(self, seq: int) -> bool:
        return self._closed or seq <= self._cancelled_seq

    def _result(
        self, server: ServerState, text: str, state: LinkState, ran: Ran, whole: bool = True
    ) -> Result:
        """``whole``: each operator ran as it does in the whole model, by one machine."""
        exact = server.runtime == self._runtime and (self._graph is None or self._graph.is_exact)
        exact = exact and whole
        # Both machines and the link work at the same time: what neither computed was the link's.
        elsewhere_s = max(0.0, ran.total_s - ran.robot_s)
        server_s = min(ran.server_s, elsewhere_s)
        share = uplink_share(state, ran.bytes_up, ran.bytes_down)
        return Result(
            {name: each.to('cpu').contiguous() for name, each in ran.outputs.items()},
            plan=text,
            exact=exact,
            tolerance=0.0 if exact else TOLERANCE,
            uplink_s=(elsewhere_s - server_s) * share,
            server_s=server_s,
            downlink_s=(elsewhere_s - server_s) * (1.0 - share),
            bytes_up=ran.bytes_up,
            bytes_down=ran.bytes_down,
        )

    def _text(self, planned: Planned, state: LinkState, ran: Ran | None = None) -> str:
        at = bandwidth_text(state)
        robot, server = planned.cut.counts
        if ran is None:
            return f'{self.method} at {at}: all {robot} operators on the robot'
        return (
            f'{self.method} at {at}: {robot} operators on the robot, {server} on the server, '
            f'cut of {len(planned.cut.up)} tensors, {ran.bytes_up / 1e3:.0f} kB up, '
            f'{len(planned.cut.down)} tensors, {ran.bytes_down / 1e3:.0f} kB down'
        )


def bandwidth_text(state: LinkState) -> str:
    """Of the way up."""
    if math.isfinite(state.up_bytes_per_s):
        return f'{state.up_bytes_per_s * 8e-6:.0f} Mbit/s'
    return 'unmeasured bandwidth'


@register('dsccs')
class DsccsStrategy(CutStrategy):
    """The least serial delay, by a minimum cut (``baselines.dsccs``)."""

    method = 'dsccs'


@register('mcop')
class McopStrategy(CutStrategy):
    """The least serial delay that merging in phases finds, or another goal
    (``baselines.mcop``)."""

    method = 'mcop'
    aims = True


@register('spso_ga')
class SpsoGaStrategy(CutStrategy):
    """The robot's least energy under a deadline of 1 s (``baselines.spso_ga``)."""

    method = 'spso_ga'
    objective = Objective.ENERGY
    deadline_s = 1.0


@register('layer_cut')
class LayerCutStrategy(CutStrategy):
    """The best cut that the cost model knows of (``baselines.layer_cut``), for any goal."""

    method = 'layer_cut'
    aims = True
