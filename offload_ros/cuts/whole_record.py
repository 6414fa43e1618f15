"""What happened when in one inference of a whole model, by the robot or by a server, as a file.

Nothing of it is cut, so that there is a bar for all that each machine and each way did.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
import logging
from pathlib import Path

import torch

from offload_ros.graph.profile import Profile, ProfileError
from offload_ros.graph.profile_store import MeasuredProfile, load_profile, profiles_folder
from offload_ros.graph.split_plan import Plan
from offload_ros.intra_dp.record import Recorded
from offload_ros.models.model import Model
from offload_ros.robot.lane import Job
from offload_ros.strategy import LinkState, Result, StrategyRefused

log = logging.getLogger(__name__)


def profiles_of(model: Model) -> Iterable[MeasuredProfile]:
    """Measured profiles of this model, of inputs of any size."""
    for path in profiles_folder().glob(f'{model.name}-*.json'):
        try:
            measured = load_profile(path)
        except ProfileError:  # whoever looks for its graph is told
            continue
        if measured.profile.model == model.name and measured.model_hash in ('', model.hash):
            yield measured


class WholeRecorder:
    """Of one model. What was predicted, which is drawn beside it, follows from its profile."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._path: Path | None = None

    def ask(self, path: Path) -> None:
        """Record the next inference to ``path``; ``StrategyRefused`` where there is no profile."""
        if not any(True for _ in profiles_of(self._model)):
            raise StrategyRefused(
                f"a timeline is drawn beside what is predicted, and model '{self._model.name}' was "
                f'not measured: run "ros2 run offload_ros profile --model {self._model.name}"'
            )
        self._path = path

    def on_robot(self, inputs: Mapping[str, torch.Tensor], began_s: float, job: Job) -> None:
        """It was computed by ``job`` of the lane; ``began_s`` (steady clock): the inference."""
        if self._path is not None and job.started_s is not None:
            start_s = job.started_s - began_s
            spans = {'robot': (start_s, start_s + job.duration_s)}
            self._write(inputs, False, LinkState(), start_s + job.duration_s, spans)

    def on_server(
        self, inputs: Mapping[str, torch.Tensor], state: LinkState, total_s: float, result: Result
    ) -> None:
        """Clocks are not compared: how long each way took is what the server did not, in the
        shares of the link as it was measured."""
        if self._path is not None:
            arrived_s = result.uplink_s
            left_s = min(arrived_s + result.server_s, total_s)
            spans = {
                'uplink': (0.0, arrived_s), 'server': (arrived_s, left_s),
                'downlink': (left_s, total_s),
            }  # fmt: skip
            self._write(inputs, True, state, total_s, spans)

    def _write(
        self,
        inputs: Mapping[str, torch.Tensor],
        on_server: bool,
        state: LinkState,
        total_s: float,
        spans: Mapping[str, tuple[float, float]],
    ) -> None:
        path, self._path = self._path, None
        assert path is not None
        profile = self._profile_for(inputs)
        if profile is None:
            log.warning(
                "%s is not written: model '%s' was not measured for inputs of this size",
                path, self._model.name,
            )  # fmt: skip
            return
        plan = Plan.cut(profile, [on_server and not each.is_input for each in profile.operators])
        labels = {'uplink': 'inputs', 'downlink': 'outputs'}
        bars = {
            lane: [[labels.get(lane, 'whole model'), *(_ms(each) for each in spans[lane]), 0.5]]
            if lane in spans
            else []
            for lane in ('robot', 'uplink', 'server', 'downlink')
        }
        Recorded(plan, state, float('nan'), total_s, bars).write(path)

    def _profile_for(self, inputs: Mapping[str, torch.Tensor]) -> Profile | None:
        """The newest one whose inputs are as large."""
        nbytes = sorted(each.nbytes for each in inputs.values())
        fitting = [
            each
            for each in profiles_of(self._model)
            if sorted(o.output_bytes for o in each.profile.operators if o.is_input) == nbytes
        ]
        return max(fitting, key=lambda each: each.measured_at).profile if fitting else None


def _ms(seconds: float) -> float:
    return round(1e3 * seconds, 3)
