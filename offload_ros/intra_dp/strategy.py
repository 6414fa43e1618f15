"""Strategy ``intra_dp``: robot, link and server work on one inference at the same time.

Where the robot alone is expected to be faster, or there are no plans yet, all stays on the robot.
"""

from __future__ import annotations

import time

from offload_ros.cuts.client import link_on
from offload_ros.cuts.cut import Cut
from offload_ros.cuts.errors import CutFailed
from offload_ros.cuts.model_graph import ModelGraph
from offload_ros.cuts.ran import Ran
from offload_ros.cuts.strategy import CutStrategy, bandwidth_text
from offload_ros.graph.profile import ProfileError
from offload_ros.intra_dp.candidate import SPLIT
from offload_ros.intra_dp.inference import Chosen, SplitInference
from offload_ros.intra_dp.plans import METHODS
from offload_ros.policy.goal import LEAST_LATENCY
from offload_ros.strategy import Frame, LinkState, Prediction, Result, Unanswered, register


@register('intra_dp', automatic=True)  # layer cuts are among its plans
class IntraDpStrategy(CutStrategy):
    """See ``Strategy``, ``intra_dp.inference``, ``intra_dp.control``."""

    method = 'intra_dp'
    methods = METHODS
    aims = True

    @property
    def completes(self) -> bool:
        """Whether it will itself complete what is late: of a split it does, of a cut not."""
        inference: SplitInference | None = self._table
        return inference is not None and inference.predicted_family == SPLIT

    def predict(self, state: LinkState) -> Prediction:
        """See ``Strategy``; of the plan that would run now."""
        inference: SplitInference | None = self._table
        if inference is None or self._server is None:
            return Prediction()
        return inference.predict(self._server.name, state)

    def run(self, frame: Frame, deadline_s: float) -> Result:
        """See ``Strategy``."""
        inference: SplitInference
        graph, inference = self._ready(frame)
        server, channel = self._server_now()
        state = self._link.client.link_state(server.name)
        link = link_on(channel)
        opening = graph.opened_on(link)
        chosen = inference.choose(server.name, state, None if opening else link)
        if chosen.ready.work is None:
            return self._alone(frame, server.name, chosen, opening)
        path, self._record_to = self._record_to, None
        if path is not None:
            inference.record(path)
        try:
            ran = inference.run(
                chosen, frame.inputs, self._link.lane, deadline_s,
                lambda run: self._began(frame.seq, run),
            )  # fmt: skip
        except CutFailed as error:
            if not self._was_cancelled(frame.seq) and time.monotonic() < deadline_s:
                graph.reopen_on(link)
            raise Unanswered(f'server {server.name}: {error}') from None
        finally:
            with self._lock:
                self._running = None
        inference.learn(server.name, chosen, ran.total_s)
        # A kernel may add up in another order when it computes fewer rows.
        whole = isinstance(chosen.ready.work, Cut)
        return self._result(server, plan_text(chosen, ran), state, ran, whole)

    def _planned_for(self, graph: ModelGraph) -> SplitInference:
        local, profile = self._measured(graph)
        try:
            return SplitInference(
                local, graph.hash, profile, self.methods, goal=self._goal_with(profile)
            )
        except ProfileError as error:
            raise Unanswered(str(error)) from None

    def _aim_anew(self, graph: ModelGraph) -> None:
        inference: SplitInference = self._table
        inference.aim(self._goal_with(inference.plans.profile))
        self._aimed = self._aim

    def _alone(self, frame: Frame, server: str, chosen: Chosen, opening: str) -> Result:
        """The robot computes the whole model, by its usual path."""
        job = self._link.lane.submit(lambda: self._model.run(frame.inputs))
        outputs = job.result()
        self._table.learn(server, chosen, job.duration_s)
        why = opening or bandwidth_text(chosen.state)
        if chosen.goal != LEAST_LATENCY:
            why += f', {chosen.goal}'
        return Result(outputs, plan=f'intra_dp: all on the robot ({why})')


def plan_text(chosen: Chosen, ran: Ran) -> str:
    """What ran, in words."""
    robot, server = chosen.ready.counts
    kind = 'split' if chosen.choice.candidate.family == SPLIT else chosen.choice.candidate.family
    text = (
        f'intra_dp at {bandwidth_text(chosen.state)}: {kind}, {robot} operators on the robot, '
        f'{server} on the server, {ran.bytes_up / 1e3:.0f} kB up, {ran.bytes_down / 1e3:.0f} kB '
        f'down, {1e3 * chosen.choice.predicted_s:.0f} ms predicted'
    )
    if chosen.goal != LEAST_LATENCY:
        text += f' with {chosen.choice.predicted_j:.2f} J ({chosen.goal})'
    if ran.completed_locally:
        text += f'; the robot completed {ran.completed_locally} operators: {ran.why_local}'
    return text
