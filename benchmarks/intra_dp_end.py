"""A process of ``benchmarks/intra_dp.py``: runs plans, or what the package's own planning and
control choose for a link that it only knows by its monitor."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
import math
import time
from typing import Any, NoReturn

from benchmarks.ends import LIMIT_S, End
from benchmarks.intra_dp_networks import Subject, build
from benchmarks.intra_dp_ways import Way, way_of


class PlanEnd(End):
    """An ``End`` of ``networks`` (names of ``intra_dp_networks``)."""

    def __init__(self, name: str, networks: list[str]) -> None:
        self.subjects: dict[str, Subject] = {each: build(each) for each in networks}
        super().__init__(
            name,
            lambda: {name: (each.network, each.inputs) for name, each in self.subjects.items()},
        )
        self._profiles: dict[str, Any] = {}
        self._plans: dict[tuple[str, str], Callable[[float], Any]] = {}
        self._ways: dict[tuple[str, str], Way] = {}
        self._wanted: dict[str, Mapping[str, Any]] = {}

    def pacer(self, name: str) -> Any:
        """Of this end's device: one of its own beside the core."""
        from benchmarks.accelerator import AcceleratorPacer
        from offload_ros.robot.pacing import Pacer

        paced = Pacer.of_server() if name == 'server' else Pacer.of_robot()
        return AcceleratorPacer(paced.slowdown)

    def resume_s(self, model: str) -> float:
        """A paced device takes the same time whatever was before."""
        return 0.0 if self.lane.slowdown > 1.0 else super().resume_s(model)

    def shares(self, model: str, repeats: int) -> list[dict[str, float]]:
        """Samples of parts of all operators, in s, unpaced."""
        from offload_ros.graph.classify import classify
        from offload_ros.graph.execute import Executor
        from offload_ros.graph.shares import measure_shares

        graph, parameters, inputs = self.graphs[model]
        executor = Executor(graph, parameters)
        samples = measure_shares(
            executor, classify(graph), parameters, inputs, repeats, lend=self.lend
        )
        return [asdict(each) for each in samples]

    def codings(self, model: str) -> list[list[Any]]:
        """What codecs do to all tensors that may cross."""
        from offload_ros.graph.coding_walk import CodingWalk
        from offload_ros.graph.execute import Executor

        graph, parameters, inputs = self.graphs[model]
        walk = CodingWalk(Executor(graph, parameters), inputs)
        samples = walk.inputs(self.lend)
        for node in range(len(graph.nodes)):
            samples += walk.next_node(node, self.lend)
        return [list(each) for each in samples]

    def take_profile(self, model: str, profile: dict[str, Any]) -> None:
        """What the next plans and ways of ``model`` are made for."""
        from offload_ros.graph.profile_file import parse_profile

        self._profiles[model] = parse_profile(profile, model)
        for kept in (self._plans, self._ways):
            for key in [key for key in kept if key[0] == model]:
                del kept[key]

    def take_plan(self, model: str, key: str, plan: dict[str, Any], codecs: dict[str, str]) -> None:
        """A plan that ``run_plan`` then knows by ``key``. ``codecs``: by operator."""
        from benchmarks.intra_dp_ways import runner
        from offload_ros.cuts.errors import CutFailed
        from offload_ros.graph.split_plan import Plan, PlanError

        try:
            made = Plan.from_document(self._profiles[model], plan)
            self._plans[model, key] = runner(self, model, made, codecs)
        except (CutFailed, PlanError) as error:
            self._plans[model, key] = partial(_fails, str(error))

    def run_plan(self, model: str, key: str) -> dict[str, Any]:
        """One inference, compared with what the model itself gives; ``failed`` where there is
        none."""
        from offload_ros.cuts.errors import CutFailed

        try:
            ran = self._plans[model, key](time.monotonic() + LIMIT_S)
        except CutFailed as error:
            return {'failed': str(error)}
        return {**figures(ran), 'agreement': self.agreement(model, ran.outputs)}

    def agreement(self, model: str, outputs: Mapping[str, Any]) -> str:
        """See ``Subject.agreement``."""
        subject = self.subjects[model]
        if model not in self._wanted:
            self._wanted[model] = subject.reference()
        return subject.agreement(outputs, self._wanted[model])

    def prepare_way(self, model: str, way: str, low_mbit: float, high_mbit: float) -> float:
        """Plan for all bandwidths between; how long that took, in s."""
        began_s = time.monotonic()
        made = way_of(self, model, self._profiles[model], way)
        made.plan(low_mbit, high_mbit)
        self._ways[model, way] = made
        return time.monotonic() - began_s

    def run_way(self, model: str, way: str) -> dict[str, Any]:
        """One inference by what it chooses; see ``run_plan``."""
        from offload_ros.cuts.errors import CutFailed

        try:
            ran, plan, predicted_s = self._ways[model, way].run(
                self.exchange.state(), time.monotonic() + LIMIT_S
            )
        except CutFailed as error:
            return {'failed': str(error)}
        agreement = self.agreement(model, ran.outputs)
        return {**figures(ran), 'agreement': agreement, 'plan': plan, 'predicted_s': predicted_s}

    def replay(self, model: str, way: str, lead_s: float, span_s: float) -> dict[str, Any]:
        """Inferences one after the other for ``lead_s + span_s``; those of the last ``span_s``."""
        from offload_ros.cuts.errors import CutFailed

        made = self._ways[model, way]
        began_s = time.monotonic()
        frames, wrong, failed = [], 0, 0
        while (now_s := time.monotonic()) < began_s + lead_s + span_s:
            state = self.exchange.state()
            try:
                ran, plan, predicted_s = made.run(state, now_s + LIMIT_S)
            except CutFailed:
                failed += 1
                continue
            if now_s < began_s + lead_s:
                continue
            wrong += self.agreement(model, ran.outputs) not in ('bits', 'close')
            frames.append(
                {
                    **figures(ran),
                    'at_s': now_s - began_s - lead_s,
                    'plan': plan,
                    'predicted_s': predicted_s if math.isfinite(predicted_s) else None,
                    'estimate': state.up_bytes_per_s if state.up_bytes_per_s > 0 else None,
                }
            )
        return {'frames': frames, 'wrong': wrong, 'failed': failed}

    def calls(self) -> dict[str, Callable[..., Any]]:
        """What may be asked, by name."""
        more = {
            'shares': self.shares,
            'codings': self.codings,
            'take_profile': self.take_profile,
            'take_plan': self.take_plan,
            'run_plan': self.run_plan,
            'prepare_way': self.prepare_way,
            'run_way': self.run_way,
            'replay': self.replay,
        }
        return {**super().calls(), **more}


def _fails(why: str, deadline_s: float) -> NoReturn:
    from offload_ros.cuts.errors import CutFailed

    raise CutFailed(why)


def figures(ran: Any) -> dict[str, Any]:
    """Of a ``Ran``, for JSON."""
    return {
        'total_s': ran.total_s,
        'robot_s': ran.robot_s,
        'server_s': ran.server_s,
        'up': ran.bytes_up,
        'down': ran.bytes_down,
        'completed_locally': getattr(ran, 'completed_locally', 0),
    }
