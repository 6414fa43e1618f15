# ruff: noqa: F811  # fixtures of another module are used by their names
"""Strategy ``intra_dp``: equal results by plans that split operators, chosen, kept, recorded."""

import json
import threading
import time

import pytest
import torch

from offload_ros.baselines.problem import Subject
from offload_ros.cuts.local_graph import LocalGraph
from offload_ros.graph.schedule import Link
from offload_ros.graph.split_plan import Plan
from offload_ros.intra_dp import plans as plans_module
from offload_ros.intra_dp.plan_worker import SCALES, answer, family_of, figures
from offload_ros.intra_dp.plans import SplitPlans
from offload_ros.policy.goal import LEAST_LATENCY, Goal, Objective
from offload_ros.policy.power import PowerModel
from offload_ros.robot.lane import DeviceLane
from offload_ros.robot.pacing import Pacer
from offload_ros.strategy import LinkState, StrategyRefused
from offload_ros.wire.shaper import LinkShape

from ..cuts.conftest import no_endless_wait, one_thread, until  # noqa: F401
from ..cuts.test_strategy import (  # noqa: F401
    folders,
    model_of,
    robot,
    run,
    until_run,
)
from ..cuts.test_strategy import images as small_images
from ..cuts.test_strategy import measured as measured_at

SLOWDOWN = 30.0
SIZE = (341, 317, 3)


def images(count, first=1):
    return small_images(count, SIZE, first)


def measured(model):
    return measured_at(model, SIZE, SLOWDOWN)


def shared(profile, share=0.1):
    """The robot computes a part of the rows of everything that can be split."""
    return Plan.shares(profile, [share if each.split else 0.0 for each in profile.operators])


def told(profile, plan, method, task):
    """A plan as the process that plans tells it."""
    return {
        'step': task['step'], 'method': method, 'family': family_of(plan), 'codecs': {},
        'plan': plan.document(), **figures(Subject(profile), plan, Link(*task['link'])),
    }  # fmt: skip


@pytest.fixture
def by_hand(monkeypatch):
    """Plans are these, for whatever link: (method, plan of a profile)."""
    wanted = []

    def ask(self, tasks, urgent=False):
        for task in tasks:
            for method, make in wanted:
                self._on_answer(told(self.of, make(self.of), method, task))

    original = plans_module.Planning.__init__

    def begin(self, profile, on_answer):
        original(self, profile, on_answer)
        self.of = profile

    monkeypatch.setattr(plans_module.Planning, '__init__', begin)
    monkeypatch.setattr(plans_module.Planning, 'ask', ask)
    return wanted


@pytest.fixture
def slow_robot(robot):
    """Its accelerator takes ``SLOWDOWN`` times as long as the server."""
    robot.lane.close()
    robot.lane = DeviceLane(Pacer(SLOWDOWN))
    robot.lanes.append(robot.lane)
    return robot


def until_plan(strategy, frames, text, without=None):
    """Play until a plan has ``text``, and not the other; (frame, result)."""
    end_s = time.monotonic() + 60.0
    while time.monotonic() < end_s:
        frame, result = until_run(strategy, frames)
        if text in result.plan and (without is None or without not in result.plan):
            return frame, result
        time.sleep(0.01)
    raise AssertionError(result.plan)


def same(result, model, frame):
    """Equal bits where the result says so, else within its tolerance."""
    want = model.run(frame.inputs)
    assert list(result.outputs) == list(want)
    for name, tensor in want.items():
        found = result.outputs[name]
        if result.exact or not tensor.is_floating_point():
            assert torch.equal(found, tensor), name
        else:
            top = float(tensor.abs().max())
            torch.testing.assert_close(found, tensor, rtol=result.tolerance, atol=1e-5 * top)


def test_split_plans_give_the_models_result_and_say_so(slow_robot, by_hand):
    robot = slow_robot
    model = model_of()
    measured(model)
    by_hand.append(('intra_dp', shared))
    robot.start()
    strategy = robot.strategy('intra_dp', model)
    first, result = until_plan(strategy, images(1000), 'split, ')
    assert result.plan.startswith('intra_dp at 160 Mbit/s: split, ') and result.bytes_up > 0
    expected = strategy.predict(robot.state)
    assert expected.latency_s > 0.0 and expected.energy_j > 0.0
    # On a busy machine the next plan may leave all to the robot.
    assert (expected.server_busy_s > 0.0) == (expected.uplink_busy_s > 0.0)
    same(result, model, first)
    for frame in images(5, first=first.seq + 1):  # split, or not where that turned out to be slow
        result = run(strategy, frame)
        same(result, model, frame)
        assert ('split, ' in result.plan) == (result.tolerance == 1e-4) == (not result.exact)


def test_another_goal_takes_other_plans_from_the_next_frame_on_and_back(slow_robot, by_hand):
    """For the least energy the server computes all; for the latency plans are another's."""
    robot = slow_robot
    model = model_of()
    measured(model)
    by_hand.append(('layer_cut', shared))
    robot.start()
    strategy = robot.strategy('intra_dp', model)
    first, result = until_plan(strategy, images(1000), 'split, ')
    assert ' J (' not in result.plan
    by_hand[0] = (
        'layer_cut',
        lambda profile: Plan.cut(profile, [not each.is_input for each in profile.operators]),
    )
    strategy.aim(Goal(Objective.ENERGY), 2.0)
    first, result = until_plan(strategy, images(1000, first=2000), ': server, ')
    same(result, model, first)
    assert ' J (least energy within ' in result.plan, result.plan
    strategy.aim(LEAST_LATENCY, 2.0)
    # split or all on the robot: whichever turned out to be faster on this machine by now
    first, result = until_plan(strategy, images(1000, first=4000), 'intra_dp', without=' J (')
    same(result, model, first)


def test_until_a_plan_is_there_the_robot_computes_alone_without_falling_back(slow_robot, by_hand):
    robot = slow_robot
    model = model_of()
    measured(model)
    robot.start()
    strategy = robot.strategy('intra_dp', model)
    frame, result = until_run(strategy, images(1000))
    assert result.plan.startswith('intra_dp: all on the robot (')
    same(result, model, frame)
    by_hand.append(('intra_dp', shared))
    robot.state = LinkState(60e6, 12e6, 0.002)  # a link of which nothing was asked yet
    until_plan(strategy, images(1000, first=2000), 'split, ')


def test_plans_follow_the_link_and_none_is_waited_for(slow_robot, by_hand, monkeypatch):
    """Cuts and splits by turns; a frame never waits for lowering, nor for the server's own."""
    robot = slow_robot
    model = model_of()
    measured(model)
    lowering = []
    lower = LocalGraph.lower

    def slow_lower(self, plan):
        lowering.append(threading.current_thread().name)
        time.sleep(0.5)
        return lower(self, plan)

    monkeypatch.setattr(LocalGraph, 'lower', slow_lower)
    by_hand.append(('layer_cut', lambda profile: Plan.cut(
        profile, [place > 5 for place in range(len(profile))])))  # fmt: skip
    robot.start()
    strategy = robot.strategy('intra_dp', model)
    frame, _ = until_plan(strategy, images(1000), ': cut, ')
    for number, share in enumerate((0.05, 0.1, 0.15)):
        by_hand[0] = ('intra_dp', lambda profile, s=share: shared(profile, s))
        robot.state = LinkState(4e6, 12e6 * 3.0**number, 0.002)
        seen = []
        for frame in images(100, first=10_000 * (number + 1)):
            result = run(strategy, frame)
            same(result, model, frame)
            seen.append(result.plan.split(': ')[1].split(',')[0])
            if seen[-1] == 'split':
                break
        assert seen[-1] == 'split', seen
    assert lowering and all('lower' in name for name in lowering)


def test_a_link_that_stops_is_not_waited_for_the_robot_completes_the_frame(slow_robot, by_hand):
    robot = slow_robot
    model = model_of()
    measured(model)
    by_hand.append(('intra_dp', shared))
    robot.start(up=LinkShape(bytes_per_s=20e6))
    strategy = robot.strategy('intra_dp', model)
    first, _ = until_plan(strategy, images(1000), 'split, ')
    robot.links[0].up.shape = LinkShape(bytes_per_s=1e3)
    plans = []
    for frame in images(50, first=first.seq + 1):
        result = run(strategy, frame)
        same(result, model, frame)
        plans.append(result.plan)
        if 'completed' in result.plan:
            break
    assert '; the robot completed ' in plans[-1], plans
    # What was learnt from that: the robot alone, until the link is tried again.
    families = [run(strategy, each).plan for each in images(3, first=frame.seq + 1)]
    assert any('all on the robot' in each or 'completed' in each for each in families)


def test_a_frame_is_recorded_when_asked(slow_robot, by_hand, tmp_path):
    robot = slow_robot
    model = model_of()
    _, profile = measured(model)
    by_hand.append(('intra_dp', shared))
    robot.start()
    strategy = robot.strategy('intra_dp', model)
    first, _ = until_plan(strategy, images(1000), 'split, ')
    file = tmp_path / 'run.json'
    strategy.record(file)
    # On a busy machine plans that split may seem slow for a while.
    for frame in images(1000, first=first.seq + 1):
        same(run(strategy, frame), model, frame)
        if file.exists():  # a frame that the robot computes alone is none
            break
    document = json.loads(file.read_text())
    assert document['plan'] == shared(profile).document()
    bars = document['bars']
    assert all(bars[row] for row in ('robot', 'uplink', 'server', 'downlink')), bars
    for row in bars.values():
        for _, start, end, _ in row:
            assert -0.01 <= start <= end <= 1.5 * document['measured_ms'] + 5.0
    last = max(end for _, _, end, _ in bars['downlink'])
    assert max(end for _, _, end, _ in bars['uplink']) <= last + 0.1
    file.unlink()
    run(strategy, next(images(1, first=frame.seq + 1)))
    assert not file.exists(), 'only one inference is recorded'


def test_a_model_that_was_not_measured_is_refused_with_the_command(robot):
    with pytest.raises(StrategyRefused, match='ros2 run offload_ros profile --model net'):
        robot.strategy('intra_dp', model_of())


def test_the_process_that_plans_serves_plans_that_are_kept_on_disk(tmp_path):
    """Real planning, in its own process."""
    graph, profile = measured(model_of())
    local = LocalGraph(graph, {name: torch.zeros(spec.shape, dtype=spec.dtype)
                               for name, spec in graph.parameters.items()})  # fmt: skip
    options = (local, 'a' * 64, profile, ('server', 'layer_cut'), tmp_path)
    state = LinkState(9e6, 3e6, 0.003)
    plans = SplitPlans(*options)
    assert [each.family for each in plans.candidates(state)] == ['device']
    until(lambda: 'server' in [each.family for each in plans.candidates(state)])
    until(lambda: plans.status() == 'plans for 26 of 26 links', 10.0)
    plans.close()
    again = SplitPlans(*options)
    until(lambda: len(again.candidates(state)) == len(plans.candidates(state)) > 1)
    again.close()
    assert again._planning._process is None
    file = next(tmp_path.glob('*.json'))
    for text in ('{', '[]', '{"1,1,1": 3}', '{"1,1,1": {"server": {"family": "x"}}}', '{"1": {}}'):
        file.write_text(text)
        SplitPlans(*options).close()


def test_kept_plans_are_of_one_goal(tmp_path):
    """Those for the energy, in a tenth of the time that the robot needs or not, and the fastest
    ones lie side by side; each is read again by its own."""
    graph, profile = measured(model_of())
    local = LocalGraph(graph, {name: torch.zeros(spec.shape, dtype=spec.dtype)
                               for name, spec in graph.parameters.items()})  # fmt: skip
    state, kept = LinkState(9e6, 3e6, 0.003), {}
    alone_s = sum(each.robot_s for each in profile.operators)
    goals = [LEAST_LATENCY, *(Goal(Objective.ENERGY, alone_s * each) for each in (0.1, 3.0))]
    for goal in goals:
        plans = SplitPlans(local, 'a' * 64, profile, ('layer_cut',), tmp_path, goal)
        assert [each.family for each in plans.candidates(state)] == ['device']
        plans._asked.clear()
        plans.close()
        kept[goal] = plans._path
    assert len(set(kept.values())) == 3


def test_a_process_that_dies_is_started_again_a_few_times_and_then_named(tmp_path, monkeypatch):
    graph, profile = measured(model_of())
    local = LocalGraph(graph, {name: torch.zeros(spec.shape, dtype=spec.dtype)
                               for name, spec in graph.parameters.items()})  # fmt: skip
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / 'numpy.py').write_text('raise RuntimeError("broken numpy")')
    plans = SplitPlans(local, 'a' * 64, profile, ('layer_cut',), tmp_path)
    plans.candidates(LinkState(9e6, 3e6, 0.003))
    until(lambda: 'broken numpy' in plans.status() and not plans._planning._running)
    assert [each.family for each in plans.candidates(LinkState(9e6, 9e6, 0.003))] == ['device']
    plans.close()


def test_plans_of_the_process_are_the_methods(tmp_path):
    _, profile = measured(model_of())
    task = {
        'step': [1, 2, 3], 'link': [5e6, 5e6, 0.002, 0.95], 'goal': LEAST_LATENCY.document(),
    }  # fmt: skip
    server = answer(Subject(profile), {**task, 'method': 'server'})
    assert server['family'] == 'server' and server['step'] == [1, 2, 3]
    assert server['latency_s'] == sorted(server['latency_s'], reverse=True)
    assert server['energy_j'] == sorted(server['energy_j'], reverse=True)
    assert SCALES[10] == 1.0  # the link itself
    link = Link(*task['link'])
    own = Subject(profile).evaluator.schedule(Plan.from_document(profile, server['plan']), link)
    assert server['energy_j'][10] == pytest.approx(own.energy_j(PowerModel()))
    assert 'there is no method' in answer(Subject(profile), {**task, 'method': 'none'})['error']
    assert 'finite' in answer(Subject(profile), {**task, 'link': [float('nan')] * 4,
                                                  'method': 'server'})['error']  # fmt: skip
    assert family_of(Plan.cut(profile, [False] * len(profile))) == 'device'
    assert family_of(shared(profile)) == 'split'
