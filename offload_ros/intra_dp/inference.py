"""One model's inferences by Intra-DP: a plan is chosen, run, and learnt from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
import logging
import math
from pathlib import Path
import threading
import time
from typing import Any, cast
import weakref

import numpy as np
import torch

from offload_ros.cuts.client import GraphLink
from offload_ros.cuts.cut import Cut
from offload_ros.cuts.errors import CutFailed
from offload_ros.cuts.local_graph import LocalGraph
from offload_ros.cuts.plan_table import link_of
from offload_ros.cuts.ran import Ran
from offload_ros.cuts.robot_side import RobotSide
from offload_ros.graph.profile import Profile
from offload_ros.graph.schedule import Evaluator
from offload_ros.intra_dp.candidate import DEVICE, Candidate
from offload_ros.intra_dp.control import Choice, Controller
from offload_ros.intra_dp.lower import Work
from offload_ros.intra_dp.plans import METHODS, Ready, SplitPlans
from offload_ros.intra_dp.record import Recorded
from offload_ros.intra_dp.run_late import Patience
from offload_ros.policy.goal import LEAST_LATENCY, Goal
from offload_ros.robot.lane import DeviceLane
from offload_ros.strategy import LinkState, Prediction

log = logging.getLogger(__name__)
Tensors = Mapping[str, torch.Tensor]
Began = Callable[[RobotSide], None]
AGAIN_S = 2.0  # after a server refused a plan
_opener = ThreadPoolExecutor(1, 'open plan')


@dataclass(frozen=True, eq=False)
class Chosen:
    """A plan for the next inference over ``link`` (None: without a server)."""

    ready: Ready
    choice: Choice
    state: LinkState
    link: GraphLink | None
    goal: Goal = LEAST_LATENCY


class SplitInference:
    """Of one graph with its profile. For one thread, but for ``record`` and ``close``.

    Plans, and what is learnt, are of the link to one server at a time. ``goal``: what plans are
    made and chosen for; those for the least latency are made in any case, as some inferences can
    only be as fast as possible.
    """

    def __init__(
        self,
        local: LocalGraph,
        graph_hash: str,
        profile: Profile,
        methods: Sequence[str] = METHODS,
        folder: Path | None = None,
        goal: Goal = LEAST_LATENCY,
    ) -> None:
        self._local, self._methods = local, methods
        self._graph_hash, self._profile, self._folder = graph_hash, profile, folder
        self.plans = SplitPlans(local, graph_hash, profile, methods, folder)
        self._own: SplitPlans | None = None  # for another goal than the least latency
        self.goal = LEAST_LATENCY
        self._controllers: dict[str, Controller] = {}
        self._opened: weakref.WeakKeyDictionary[GraphLink, _Opened] = weakref.WeakKeyDictionary()
        self._node_s = {each.id: each.robot_s for each in profile.operators}
        self._record_to: Path | None = None
        self._evaluator = Evaluator(profile)
        self._shares: dict[str, _Share] = {}  # by plan
        self.predicted_family = DEVICE
        self.aim(goal)

    def aim(self, goal: Goal) -> None:
        """Another goal from the next inference on. What was learnt stays, and until plans for it
        are there, those for the least latency are chosen from."""
        if goal == self.goal:
            return
        old, self._own, self.goal = self._own, None, goal
        if old is not None:
            old.close()
        if goal != LEAST_LATENCY:  # the server alone is the same for whatever goal
            methods = [each for each in self._methods if each != 'server']
            self._own = SplitPlans(
                self._local, self._graph_hash, self._profile, methods, self._folder, goal
            )
        for each in self._controllers.values():
            each.goal = goal

    def choose(self, server: str, state: LinkState, link: GraphLink | None) -> Chosen:
        """For the link to ``server`` as it is; None for ``link`` where the server does not have the
        graph (yet): then all is left to the robot."""
        controller = self._controllers.setdefault(server, Controller(goal=self.goal))
        candidates = self._candidates(state)
        if link is None:
            candidates = candidates[:1]
        else:
            opened = self._opened.setdefault(link, _Opened(link, self._local))
            candidates = [each for each in candidates if opened.has(_ready(each))]
        choice = controller.choose(candidates, state, time.monotonic())
        return Chosen(_ready(choice.candidate), choice, state, link, self.goal)

    def _candidates(self, state: LinkState) -> list[Candidate]:
        """The robot alone first, each plan once."""
        own = [] if self._own is None else self._own.candidates(state)
        found = {_ready(each).key: each for each in self.plans.candidates(state)}
        for each in own:
            found.setdefault(_ready(each).key, each)
        return list(found.values())

    def run(
        self, chosen: Chosen, inputs: Tensors, lane: DeviceLane, deadline_s: float, began: Began
    ) -> Ran:
        """On both machines; ``chosen.ready.work`` is not None. ``CutFailed``."""
        assert chosen.link is not None and chosen.ready.work is not None
        work, codecs = chosen.ready.work, chosen.ready.codecs
        path, self._record_to = self._record_to, None
        told = chosen.ready.plan, chosen.state, chosen.choice.predicted_s
        if isinstance(work, Cut):
            ran = chosen.link.run(
                self._local, work, inputs, lane, deadline_s, began, codecs,
                timeline=path is not None,
            )  # fmt: skip
            if path is not None:
                Recorded.of_cut(*told, work, ran).write(path)
            return ran
        ran = chosen.link.run_split(
            self._local,
            work,
            inputs,
            lane,
            deadline_s,
            Patience(late_s=chosen.choice.late_s, node_s=self._node_s),
            began,
            codecs,
            timeline=path is not None,
        )
        if ran.completed_locally:
            self._opened[chosen.link].forget(chosen.ready)
        if path is not None:
            Recorded.of_steps(*told, work, ran).write(path)
        return ran

    def learn(self, server: str, chosen: Chosen, measured_s: float) -> None:
        """What the inference took, from its beginning to its outputs on the robot."""
        self._controllers[server].learn(chosen.choice, measured_s)

    def predict(self, server: str, state: LinkState) -> Prediction:
        """Of the plan that would run now on the link to ``server``, if the server has it."""
        controller = self._controllers.setdefault(server, Controller(goal=self.goal))
        choice = controller.choose(self._candidates(state), state, time.monotonic(), tries=False)
        ready = _ready(choice.candidate)
        self.predicted_family = choice.candidate.family
        if ready.key not in self._shares:  # a schedule takes milliseconds
            if len(self._shares) > 1000:
                self._shares.clear()
            self._shares[ready.key] = self._share_of(ready, state)
        share, link = self._shares[ready.key], link_of(state)
        up = share.bytes_up / (link.uplink_bytes_per_s * link.utilisation)
        down = share.bytes_down / (link.downlink_bytes_per_s * link.utilisation)
        return Prediction(
            choice.predicted_s,
            _energy_j(choice),
            robot_busy_s=share.robot_s,
            uplink_busy_s=up,
            server_busy_s=share.server_s,
            downlink_busy_s=down,
            bytes_up=share.bytes_up,
            late_s=choice.late_s,
        )

    def _share_of(self, ready: Ready, state: LinkState) -> _Share:
        link = link_of(state)
        schedule = self._evaluator.schedule(ready.plan, link)
        robot_s, up_s, server_s, down_s = (
            sum(each.end_s - each.start_s for each in tasks)
            for tasks in (schedule.robot, schedule.uplink, schedule.server, schedule.downlink)
        )
        up = up_s * link.uplink_bytes_per_s * link.utilisation
        return _Share(robot_s, server_s, up, down_s * link.downlink_bytes_per_s * link.utilisation)

    def record(self, path: Path) -> None:
        """Write what happens when in the next inference that uses the server to ``path``."""
        self._record_to = path

    def close(self) -> None:
        """Plan no more."""
        self.plans.close()
        if self._own is not None:
            self._own.close()


@dataclass(frozen=True)
class _Share:
    """What a plan takes of each, whatever the link."""

    robot_s: float
    server_s: float
    bytes_up: float
    bytes_down: float


def _energy_j(choice: Choice) -> float:
    curve = choice.candidate.energy
    if math.isfinite(choice.predicted_j) or curve is None:
        return choice.predicted_j
    return float(curve(np.array([choice.bytes_per_s]))[0])


def _ready(candidate: Candidate) -> Ready:
    return cast(Ready, candidate.key)


class _Opened:
    """Which plans a server has. Others are sent to it in the background, before they are used."""

    def __init__(self, link: GraphLink, local: LocalGraph) -> None:
        self._link, self._local = weakref.ref(link), local
        self._lock = threading.Lock()
        self._state: dict[str, float | None] = {}  # None: it has it; else when to ask again

    def has(self, ready: Ready) -> bool:
        """Whether ``ready`` can be run at once; sends it otherwise."""
        if not isinstance(ready.work, Work):  # a cut's nodes travel with each run
            return True
        with self._lock:
            again_s = self._state.get(ready.key, 0.0)
            if again_s is None or again_s > time.monotonic():
                return again_s is None
            self._state[ready.key] = float('inf')
        _opener.submit(self._open, ready)
        return False

    def forget(self, ready: Ready) -> None:
        """The server may have lost it."""
        with self._lock:
            self._state.pop(ready.key, None)

    def _open(self, ready: Ready) -> None:
        link: Any = self._link()
        again_s: float | None = time.monotonic() + AGAIN_S
        try:
            if link is not None:
                link.open_plan(self._local, ready.work)
                again_s = None
        except CutFailed as error:
            log.info('a plan is not opened: %s', error)
        except Exception:
            log.exception('a plan is not opened')
        with self._lock:
            self._state[ready.key] = again_s
