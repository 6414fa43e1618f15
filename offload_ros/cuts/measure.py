"""The robot's side of measuring a graph on itself and on a server (``hosted_measure``).

For models that no models.yaml names; those that one names are measured by
``ros2 run offload_ros profile``. Both make the same profile, by the same survey.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import json
import time
from typing import TYPE_CHECKING, Any

from torch import Tensor

from offload_ros.cuts.errors import CutFailed
from offload_ros.cuts.hosted_measure import BEGIN, END, INPUTS, inputs_to_bytes
from offload_ros.cuts.messages import PART_BYTES, Answer, Ask, Asked
from offload_ros.graph.graph import GraphError
from offload_ros.graph.measuring import Measuring, ProfilingError
from offload_ros.graph.of_model import graph_hash
from offload_ros.graph.profile import ProfileError
from offload_ros.graph.profile_store import MeasuredProfile
from offload_ros.graph.profiling import CLOSE, MESSAGES, OPEN, Progress, Reply, Request, Survey
from offload_ros.graph.wire_form import graph_to_json
from offload_ros.robot.lane import DeviceLane

if TYPE_CHECKING:
    from offload_ros.cuts.client import GraphLink, LocalGraph

ANSWER_S = 90.0  # for one stage: a server gives up by itself before
MessageCosts = Callable[[int], Mapping[str, Sequence[float]]]


def measure_graph(
    link: GraphLink,
    local: LocalGraph,
    inputs: Mapping[str, Tensor],
    lane: DeviceLane,
    repeats: int = 5,
    progress: Progress = lambda *_: None,
    message_costs: MessageCosts = lambda count: {},
    measured_at: str = '',
) -> MeasuredProfile:
    """What each operator of ``local`` takes on this robot and on the server of ``link``, whole and
    in parts, and what codecs do to its tensors.

    ``inputs``: an example, as the sensors give it. ``lane``: this robot's device, lent for about
    20 ms at a time, as the server's is. ``progress``: called with what is done, steps done, of how
    many; what it raises ends the measurement. ``message_costs``: what messages to the server cost
    (``intra_dp.message_costs``), measured so many times. The graph is opened where it is not yet.
    ``ProfilingError`` or ``ProfileError`` with the reason, also for a server that is lost.
    """
    try:
        survey = Survey(
            local.graph.name,
            _RobotAsk(local, inputs, lane, message_costs),
            _ServerAsk(link, local, inputs_to_bytes(local.graph, inputs)),
            repeats,
        )
        return survey.run(progress, measured_at)
    except ProfileError:
        raise
    except (GraphError, CutFailed) as error:
        raise ProfilingError(str(error)) from None
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise ProfilingError(f'a report of the server is none: {error!r:.100}') from error


class _RobotAsk:
    """Answers for this machine."""

    def __init__(
        self,
        local: LocalGraph,
        inputs: Mapping[str, Tensor],
        lane: DeviceLane,
        message_costs: MessageCosts,
    ) -> None:
        self._local, self._inputs, self._lane = local, inputs, lane
        self._message_costs = message_costs
        self._measuring: Measuring | None = None

    def __call__(self, request: Request) -> Reply:
        local = self._local
        if request.stage == OPEN:
            made = Measuring(local.executor, self._inputs, self._lend, self._lane.slowdown)
            self._measuring = made
            report = {
                'graph_hash': graph_hash(local.graph),
                'model_hash': local.model_hash,
                'machine': made.machine,
            }
            return Reply(report, graph_to_json(local.graph).decode())
        if request.stage == MESSAGES:
            return Reply({'messages': dict(self._message_costs(request.repeats))})
        if request.stage == CLOSE:
            self._measuring = None
            return Reply()
        if self._measuring is None:
            raise ProfilingError('the measurement was not opened')
        return Reply(self._measuring.report(request.stage, request.part, request.repeats))

    def _lend(self, compute: Callable[[], Any]) -> Any:
        try:
            return self._lane.submit(compute).result()
        except Exception as error:  # of the lane when it closes, or a kernel's
            raise ProfilingError(f'on the robot: {type(error).__name__}: {error}') from error


class _ServerAsk:
    """Asks the server of a link."""

    def __init__(self, link: GraphLink, local: LocalGraph, inputs: bytes) -> None:
        self._link, self._local, self._inputs = link, local, inputs

    def __call__(self, request: Request) -> Reply:
        try:
            if request.stage == OPEN:
                self._begin()
            stage = END if request.stage == CLOSE else request.stage
            return Reply(self._asked(stage, part=request.part, repeats=request.repeats))
        except CutFailed as error:
            raise ProfilingError(str(error)) from None

    def _begin(self) -> None:
        """Open the graph and send the example."""
        self._link.open(self._local)
        data: Any = memoryview(self._inputs)
        self._asked(BEGIN, graph_bytes=len(data))
        for offset in range(0, len(data), PART_BYTES):
            part = data[offset : offset + PART_BYTES]
            asked = Asked(Ask.MEASURE, self._local.key, stage=INPUTS, offset=offset, data=part)
            self._link.tell(asked)

    def _asked(self, stage: str, **fields: Any) -> dict[str, Any]:
        asked = Asked(Ask.MEASURE, self._local.key, stage=stage, **fields)
        answer = self._link.ask(asked, time.monotonic() + ANSWER_S)
        if answer.answer is not Answer.READY:
            raise ProfilingError(answer.why or f'the server answers {answer.answer.name}')
        try:
            report = json.loads(answer.data) if answer.data else {}
        except (ValueError, RecursionError):
            report = None
        if not isinstance(report, dict):
            raise ProfilingError('a report of the server is no JSON object')
        return report
