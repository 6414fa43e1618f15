"""The cells of ``benchmarks/intra_dp.py``: one network at one bandwidth, all methods in turns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
import json
import os
import random
import traceback
from typing import Any

import numpy as np

from benchmarks.ends import MBIT, Asked, Passes

RTT_S = 0.0026
METHODS = ('device', 'server', 'dsccs', 'mcop', 'spso_ga', 'layer_cut', 'intra_dp')
OURS, BASELINES = METHODS[-1], METHODS[:-1]
STRATEGY = 'intra_dp_strategy'  # plans of several links, of which it chooses, and learns
AROUND = (0.7, 1.4)  # the bandwidth: links that the strategy has plans for
LEARNING = 25  # its inferences before the first round
PASSES = 5  # that measure the operators before plans are made
PASS_EACH = 4  # rounds
SLOW = 3.0  # times the fastest predicted latency: such plans run in each fourth round only
SLOW_EACH = 4
FAILURES = 3  # after so many a plan is not run again
LITTLE = 0.01  # of a whole forward on a side counts as nothing there


@dataclass(frozen=True)
class Cell:
    """``server_speed``: share of this machine's. ``coded``: with lossless codecs for whatever
    crosses, where they pay; otherwise nothing is compressed, as in the published comparisons."""

    network: str
    mbit: float
    server_speed: float = 1.0
    coded: bool = False

    @property
    def key(self) -> str:
        """In the JSON file."""
        speed = '' if self.server_speed == 1.0 else f', server speed {self.server_speed:g}'
        coded = ', lossless codecs' if self.coded else ''
        return f'{self.network}, {self.mbit:g} Mbit/s{speed}{coded}'


def link_of(mbit: float) -> Any:
    """The testbed's link for the cost model; what TCP takes of it is in the messages' costs."""
    from offload_ros.graph.schedule import Link

    return Link(mbit * MBIT, mbit * MBIT, RTT_S / 2.0, 1.0)


def plan_of(method: str, subject: Any, mbit: float) -> Any:
    """As the strategy of this name plans."""
    from offload_ros.baselines.problem import Objective, Problem
    from offload_ros.cuts.strategy import SpsoGaStrategy
    from offload_ros.graph.methods import find_method

    goal: tuple[Objective, float] | tuple[()] = ()
    if method == SpsoGaStrategy.method:
        goal = (SpsoGaStrategy.objective, SpsoGaStrategy.deadline_s)
    return find_method(method)[1](Problem(subject, link_of(mbit), *goal))


def methods() -> list[str]:
    """Of ``METHODS`` those that this package has."""
    from offload_ros.graph.methods import method_names

    known = method_names()
    return [each for each in METHODS if each in known]


class Network:
    """A network on both ends, with what is measured of it once."""

    def __init__(
        self,
        ends: Mapping[str, Asked],
        name: str,
        cost: tuple[float, float],
        handling: Mapping[str, Any],
        repeats: int,
    ) -> None:
        from offload_ros.graph.shares import ShareSample, fit_shares

        self.name, self.ends = name, ends
        self._cost, self._handling = cost, handling
        samples = {
            side: [ShareSample(**each) for each in end('shares', model=name, repeats=repeats)]
            for side, end in ends.items()
        }
        self._shares = fit_shares(samples['robot']), fit_shares(samples['server'])
        self._codings: Any = None
        self.passes = Passes(ends, name, cost, self._shares, None, handling)

    def measured(self, coded: bool = False) -> Any:
        """The profile by passes of now; ``passes`` goes on with them. The robot gets it too.
        ``coded``: with what codecs do."""
        from offload_ros.graph.coding_walk import CodingSample, merged_codings
        from offload_ros.graph.profile_file import profile_document

        if coded and self._codings is None:
            found = [
                [CodingSample(*each) for each in self.ends[side]('codings', model=self.name)]
                for side in ('robot', 'server')
            ]
            self._codings = merged_codings(*found)
        codings = self._codings if coded else None
        self.passes = Passes(
            self.ends, self.name, self._cost, self._shares, codings, self._handling
        )
        for _ in range(PASSES):
            self.passes.add()
        profile = self.passes.profile()
        self.ends['robot']('take_profile', model=self.name, profile=profile_document(profile))
        return profile


def measure_cell(network: Network, cell: Cell, rounds: int) -> dict[str, Any]:
    """All methods of one cell; see ``intra_dp_report.case_figures`` for what follows from it."""
    from offload_ros.baselines.problem import Subject
    from offload_ros.graph.codings import codecs_of

    robot = network.ends['robot']
    link = link_of(cell.mbit)
    subject = Subject(network.measured(cell.coded)).at(link)
    profile = subject.profile
    codecs = codecs_of(profile)
    plans: dict[str, Any] = {}  # by content: methods with equal plans share one
    chosen: dict[str, str] = {}
    without_plan: dict[str, str] = {}
    for method in methods():
        try:
            plan = plan_of(method, subject, cell.mbit)
        except Exception as error:  # of one method: the others are measured
            traceback.print_exc()
            without_plan[method] = f'{type(error).__name__}: {error}'
            continue
        key = json.dumps(plan.document(), sort_keys=True)
        name = next((name for name, (other, _) in plans.items() if other == key), method)
        plans.setdefault(name, (key, plan))
        chosen[method] = name
        robot('take_plan', model=cell.network, key=name, plan=plan.document(), codecs=codecs)
    made = {name: plan for name, (_, plan) in plans.items()}
    schedules = {name: subject.evaluator.schedule(plan, link) for name, plan in made.items()}
    robot('prepare_way', model=cell.network, way=OURS, low_mbit=AROUND[0] * cell.mbit,
          high_mbit=AROUND[1] * cell.mbit)  # fmt: skip
    for _ in range(LEARNING):
        robot('run_way', model=cell.network, way=OURS)
    runs, loads = in_turns(network, made, schedules, rounds)
    after = Subject(network.passes.profile()).at(link).evaluator
    return {
        'network': cell.network,
        'mbit': cell.mbit,
        'server_speed': cell.server_speed,
        'coded': cell.coded,
        'chosen': {**chosen, STRATEGY: STRATEGY},
        'without_plan': without_plan,
        'runs': runs,
        'load_average': round(max(loads), 2),
        'robot_whole_s': float(profile.column('robot_s').sum()),
        'server_whole_s': float(profile.column('server_s').sum()),
        'plans': {
            name: {
                'predicted_s': schedules[name].latency_s,
                'predicted_with_later_passes_s': after.schedule(
                    moved(plan, after.profile), link
                ).latency_s,
                'predicted_bytes': [schedules[name].uplink_bytes, schedules[name].downlink_bytes],
                **parts(plan, schedules[name]),
            }
            for name, plan in made.items()
        }
        | {STRATEGY: what_it_chose(runs[STRATEGY])},
    }


def what_it_chose(runs: Sequence[Mapping[str, Any] | None]) -> dict[str, Any]:
    """Of the strategy's runs, in the form of a plan."""
    good = [each for each in runs if each and 'failed' not in each]
    predicted_s = float(np.median([each['predicted_s'] for each in good])) if good else 0.0
    return {
        'predicted_s': predicted_s,
        'predicted_with_later_passes_s': predicted_s,
        'busy_s': {'robot': 0.0, 'server': 0.0},
        'messages': [0, 0],
        'steps': None,
        'kind': ', '.join(sorted({each['plan'].split()[0] for each in good})),
    }


def in_turns(
    network: Network, plans: Mapping[str, Any], schedules: Mapping[str, Any], rounds: int
) -> tuple[dict[str, list[dict[str, Any] | None]], list[float]]:
    """(runs of each plan, one place per round, None where it did not run; load averages)."""
    robot = network.ends['robot']
    fastest_s = min(each.latency_s for each in schedules.values())
    runs: dict[str, list[dict[str, Any] | None]] = {name: [] for name in (*plans, STRATEGY)}
    failures = dict.fromkeys(plans, 0)
    order = random.Random(network.name)
    loads = []
    for turn in range(rounds + 1):  # the first one warms up
        names = [*plans, STRATEGY]
        order.shuffle(names)
        for name in names:
            if name == STRATEGY:
                ran = robot('run_way', model=network.name, way=OURS)
                if turn:
                    runs[name].append(ran)
                continue
            slow = schedules[name].latency_s > SLOW * fastest_s
            skip = failures[name] >= FAILURES or (slow and turn > 1 and turn % SLOW_EACH)
            ran = None if skip else robot('run_plan', model=network.name, key=name)
            failures[name] += ran is not None and 'failed' in ran
            if turn:
                runs[name].append(ran)
        if turn % PASS_EACH == PASS_EACH - 1:
            network.passes.add()
        loads.append(os.getloadavg()[0])
    return runs, loads


def moved(plan: Any, profile: Any) -> Any:
    """The same plan with another measurement of its operators."""
    from offload_ros.graph.split_plan import Plan

    return Plan(profile, plan.robot, plan.server, plan.steps)


def parts(plan: Any, schedule: Any) -> dict[str, Any]:
    """How much each side does."""
    busy = {
        side: sum(each.end_s - each.start_s for each in getattr(schedule, side))
        for side in ('robot', 'server')
    }
    steps = plan.steps
    return {
        'busy_s': busy,
        'messages': [len(schedule.uplink), len(schedule.downlink)],
        'steps': None if steps is None else [len(steps.robot), len(steps.server)],
        'kind': kind(plan, schedule),
    }


def kind(plan: Any, schedule: Any) -> str:
    """``device``, ``server``, ``cut`` or ``split``: where there is next to nothing on a side, it
    counts as the other's. ``streamed``: on the server, which begins before all has arrived."""
    shares = []
    for side in ('robot', 'server'):
        whole_s = float(plan.profile.column(f'{side}_s').sum())
        busy_s = sum(each.end_s - each.start_s for each in getattr(schedule, side))
        shares.append(busy_s / whole_s if whole_s else 0.0)
    if shares[1] < LITTLE:
        return 'device'
    if shares[0] < LITTLE:
        return 'server' if plan.is_cut else 'streamed'
    return 'cut' if plan.is_cut else 'split'


def fallbacks(profile: Any, mbits: Sequence[float]) -> dict[str, Any]:
    """Of each method up to which bandwidth (Mbit/s) it leaves all to the robot, and from which on
    all to the server, by planning; None: never. The paper's Fig. 17."""
    from offload_ros.baselines.problem import Subject

    subject = Subject(profile)
    found: dict[str, Any] = {}
    for method in methods():
        kinds = []
        for mbit in mbits:
            plan = plan_of(method, subject, mbit)
            kinds.append(kind(plan, subject.evaluator.schedule(plan, link_of(mbit))))
        device = np.cumprod([each == 'device' for each in kinds]).astype(bool)
        there = [each in ('server', 'streamed') for each in reversed(kinds)]
        server = np.cumprod(there)[::-1].astype(bool)
        found[method] = {
            'device_only_up_to_mbit': mbits[int(device.sum()) - 1] if device.any() else None,
            'server_only_from_mbit': mbits[int(np.argmax(server))] if server.any() else None,
            'kinds': kinds,
        }
    return {'mbit': list(mbits), 'methods': found}
