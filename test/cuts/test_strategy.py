"""Strategies that cut a model: equal results, what they tell, and whom they fall back on."""

from dataclasses import replace
import threading
import time

import pytest
import torch
from torch import nn

from offload_ros.cuts import plan_table
from offload_ros.cuts import strategy as strategy_module
from offload_ros.cuts.plan_table import PlanTable, Step, link_of, nodes_on_server, stay_or_move
from offload_ros.cuts.value_codecs import code_named
from offload_ros.graph.classify import classify
from offload_ros.graph.codings import uncoded
from offload_ros.graph.execute import Executor
from offload_ros.graph.measure import measure_nodes, profile_of
from offload_ros.graph.of_model import capture_model, graph_hash
from offload_ros.graph.profile import Coding, ProfileError
from offload_ros.graph.profile_store import MeasuredProfile, save_profile
from offload_ros.graph.split_plan import Plan, PlanError
from offload_ros.models.config import InputSpec, ModelConfig, Preprocess, Source
from offload_ros.models.model import Model, runtime_description
from offload_ros.policy.goal import LEAST_LATENCY, Goal, Objective
from offload_ros.robot.lane import DeviceLane
from offload_ros.strategy import (
    Frame,
    Link,
    LinkState,
    StrategyRefused,
    Unanswered,
    make_strategy,
)
from offload_ros.wire.client import OffloadClient
from offload_ros.wire.directory import ServerDirectory, ServerState
from offload_ros.wire.shaper import LinkShape

from .conftest import LONG_S, Site, captured, until

METHODS = ('dsccs', 'mcop', 'spso_ga', 'layer_cut')
SIZE = (41, 37, 3)


class Network(nn.Module):
    """(1, 3, H, W) to ``map`` (1, 4, h, w) and ``best`` (1,)."""

    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 9, 3, 2), nn.BatchNorm2d(9), nn.ReLU())
        self.left, self.right = nn.Conv2d(9, 4, 3, padding=1), nn.Conv2d(9, 4, 1)

    def forward(self, image):
        x = self.first(image)
        y = torch.relu(self.left(x)) + self.right(x)
        return {'map': y, 'best': y.flatten(1).argmax(1)}


def model_of(seed=0, network=None, **options):
    torch.manual_seed(seed)
    config = ModelConfig(
        'net',
        Source('tests:Network'),
        inputs=(InputSpec('image', 'camera', **options),),
        preprocess=Preprocess(mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.2)),
        outputs=('map', 'best'),
    )
    return Model(config, (network or Network()).eval(), f'hash{seed}', True)


def images(count, size=SIZE, first=1):
    generator = torch.Generator().manual_seed(first)
    for seq in range(first, first + count):
        pixels = torch.randint(0, 256, size, dtype=torch.uint8, generator=generator)
        yield Frame(seq, {'image': pixels}, time.monotonic())


@pytest.fixture(autouse=True)
def folders(tmp_path, monkeypatch):
    """Profiles and plans of a test are its own."""
    monkeypatch.setenv('XDG_DATA_HOME', str(tmp_path / 'data'))
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))


def measured(model, size=SIZE, slowdown=50.0):
    """What ``ros2 run offload_ros profile`` leaves; the robot is ``slowdown`` times slower."""
    inputs = next(images(1, size)).inputs
    graph, parameters = capture_model(model, inputs)
    times = measure_nodes(Executor(graph, parameters), inputs, 3)
    profile = profile_of(graph, classify(graph), times.slower(slowdown), times)
    save_profile(MeasuredProfile(profile, graph_hash(graph), model.hash))
    return graph, profile


class Robot(Site):
    """A robot's client with a server that may come and go; ``state``: what its link is."""

    def __init__(self):
        super().__init__()
        self.directory = ServerDirectory(1e6)
        self.client = OffloadClient('/robot', 's0', self.directory, lambda *_: 0)
        self.state = LinkState(20e6, 20e6, 0.002)
        self.client.link_state = lambda name: self.state
        self.channels = {}
        self.client.channel_to = self.channels.get
        self.made = []
        self.lane = DeviceLane()
        self.lanes.append(self.lane)

    def start(self, name='/server', runtime=None, **shapes):
        self.robot(**shapes)
        session = f's{len(self.links)}'
        self.directory.heard(ServerState(name, session, runtime or runtime_description()))
        self.directory.connect(name, session)
        self.channels[name] = self.links[-1].robot

    def stop(self, name='/server'):
        state = next(each for each in self.directory.alive() if each.name == name)
        self.directory.leave(name, state.session)
        self.channels.pop(name).close(f'server {name} is lost')

    def strategy(self, name, model):
        strategy = make_strategy(name)
        self.made.append(strategy)
        strategy.prepare(model, Link(self.lane, self.client))
        return strategy

    def close(self):
        for each in self.made:
            each.close()
        super().close()


@pytest.fixture
def robot():
    made = Robot()
    yield made
    made.close()


def run(strategy, frame, limit_s=LONG_S):
    return strategy.run(frame, time.monotonic() + limit_s)


def until_run(strategy, frames):
    """Play until there is a result; (frame, result)."""
    end_s = time.monotonic() + LONG_S
    for frame in frames:
        try:
            return frame, run(strategy, frame)
        except Unanswered as error:
            assert time.monotonic() < end_s, error
            time.sleep(0.02)
    raise AssertionError('no frames are left')


@pytest.mark.parametrize('method', METHODS)
def test_results_are_those_of_the_robot_and_the_plan_tells_how(robot, method):
    model = model_of()
    measured(model)
    robot.start()
    strategy = robot.strategy(method, model)
    first, result = until_run(strategy, images(1000))
    for frame in images(5, first=first.seq + 1):
        result = run(strategy, frame)
        want = model.run(frame.inputs)
        assert list(result.outputs) == ['map', 'best']
        for name, tensor in want.items():
            assert torch.equal(result.outputs[name], tensor), name
            assert result.outputs[name].is_contiguous()
        assert result.exact and result.tolerance == 0.0
    assert result.plan.startswith(f'{method} at 160 Mbit/s: ')
    assert ' operators on the robot, ' in result.plan and result.bytes_up > 0, result.plan
    prediction = strategy.predict(robot.state)
    assert 0.002 < prediction.latency_s < LONG_S and prediction.energy_j > 0.0


def test_a_model_that_was_not_measured_is_refused_with_the_command(robot):
    with pytest.raises(StrategyRefused, match='ros2 run offload_ros profile --model net'):
        robot.strategy('dsccs', model_of())
    measured(model_of(seed=1))
    with pytest.raises(StrategyRefused, match='not measured'):
        robot.strategy('dsccs', model_of(seed=2))


def test_images_of_another_size_are_the_robots_until_they_are_measured(robot):
    model = model_of()
    measured(model)
    robot.start()
    strategy = robot.strategy('dsccs', model)
    until_run(strategy, images(1000))
    other = list(images(400, (30, 33, 3), first=2000))
    until(lambda: 'not measured for inputs of this size' in why(strategy, other.pop(0)))
    measured(model, (30, 33, 3))
    frame, result = until_run(strategy, other)
    assert torch.equal(result.outputs['map'], model.run(frame.inputs)['map'])


def why(strategy, frame):
    try:
        run(strategy, frame)
    except Unanswered as error:
        return str(error)
    return ''


def test_a_slow_link_leaves_all_to_the_robot_and_a_new_profile_counts_at_once(robot, monkeypatch):
    model = model_of()
    measured(model, slowdown=1.0)
    robot.start()
    robot.state = LinkState(0.3e6, 0.3e6, 0.02)
    strategy = robot.strategy('dsccs', model)
    frame, result = until_run(strategy, images(1000))
    assert result.plan.startswith('dsccs at 2 Mbit/s: all ')
    assert torch.equal(result.outputs['map'], model.run(frame.inputs)['map'])
    assert len(robot.host.store) == 0 and result.exact
    # The link gets better: so does the plan.
    monkeypatch.setattr(strategy_module, 'LOOK_AGAIN_S', 0.05)
    measured(model, slowdown=200.0)
    robot.state = LinkState(100e6, 100e6, 0.001)
    for frame in images(1000, first=5000):
        time.sleep(0.02)
        try:
            if 'on the server' in run(strategy, frame).plan:
                break
        except Unanswered as error:
            assert 'computed' in str(error) or 'sent' in str(error), error
    assert len(robot.host.store) == 1


def test_a_server_lost_in_the_middle_and_another_one(robot):
    model = model_of()
    measured(model)
    robot.start(up=LinkShape(bytes_per_s=20e6))
    strategy = robot.strategy('dsccs', model)
    frame, _ = until_run(strategy, images(1000))
    robot.links[0].up.shape = LinkShape(bytes_per_s=1e3)
    found = []
    threading.Thread(
        target=lambda: found.append(why(strategy, next(images(1, first=frame.seq + 1)))),
        daemon=True,
    ).start()
    until(lambda: robot.sessions[0].runs)
    robot.stop()
    until(lambda: found, 2.0)
    assert found == ['server /server: server /server is lost']
    assert why(strategy, next(images(1, first=5000))) == 'no server is there'
    robot.start()
    frame, result = until_run(strategy, images(1000, first=6000))
    assert torch.equal(result.outputs['map'], model.run(frame.inputs)['map'])


def test_a_cancel_ends_a_frame_also_before_it_begins(robot):
    model = model_of()
    measured(model)
    robot.start()
    strategy = robot.strategy('dsccs', model)
    frame, _ = until_run(strategy, images(1000))
    strategy.cancel(frame.seq + 1)
    assert why(strategy, next(images(1, first=frame.seq + 1))) == 'cancelled'
    run(strategy, next(images(1, first=frame.seq + 2)))


def test_a_server_that_forgot_the_graph_gets_it_again(robot):
    model = model_of()
    measured(model)
    robot.start()
    strategy = robot.strategy('dsccs', model)
    frame, _ = until_run(strategy, images(1000))
    robot.host.store._graphs.clear()
    text = why(strategy, next(images(1, first=frame.seq + 1)))
    assert 'not open' in text or 'nothing waits' in text  # whichever comes first
    until_run(strategy, images(1000, first=frame.seq + 2))


def test_strategies_of_a_model_share_its_graph_and_release_it_together(robot):
    model = model_of()
    measured(model)
    robot.start()
    first, second = robot.strategy('dsccs', model), robot.strategy('layer_cut', model)
    until_run(first, images(1000))
    until_run(second, images(1000))
    assert first._graph is second._graph
    graphs = list(robot.host.store._graphs.values())
    assert len(graphs) == 1 and graphs[0].users
    first.close()
    time.sleep(0.05)
    assert graphs[0].users
    second.close()
    until(lambda: not graphs[0].users)


@pytest.mark.parametrize('method', ['layer_cut', 'mcop'])
def test_a_goal_is_taken_up_while_frames_go_on(robot, method):
    """A link on which energy and latency want other cuts; no frame is left without a plan."""
    model = model_of()
    _, profile = measured(model)
    alone_s = sum(each.robot_s for each in profile.operators)
    robot.start()
    robot.state = LinkState(0.3e6, 20e6, 0.002)
    strategy = robot.strategy(method, model)
    frame, _ = until_run(strategy, images(1000))
    fast = strategy.predict(robot.state)
    strategy.aim(Goal(Objective.ENERGY), 100.0 * alone_s)
    until(lambda: (run(strategy, next(images(1, first=frame.seq + 1))),
                   strategy._table.goal.objective is Objective.ENERGY)[1])  # fmt: skip
    assert strategy._table.goal.deadline_s == pytest.approx(99.0 * alone_s)
    frugal = strategy.predict(robot.state)
    assert frugal.energy_j <= fast.energy_j and frugal.latency_s >= fast.latency_s
    strategy.aim(LEAST_LATENCY, 1.0)
    until(lambda: (run(strategy, next(images(1, first=frame.seq + 2))),
                   strategy._table.goal == LEAST_LATENCY)[1])  # fmt: skip
    assert strategy.predict(robot.state).latency_s == fast.latency_s


def test_another_runtime_on_the_server_is_not_exact(robot):
    model = model_of()
    measured(model)
    robot.start(runtime='torch 1.0')
    _, result = until_run(robot.strategy('dsccs', model), images(1000))
    assert not result.exact and result.tolerance > 0.0


def test_plans_are_kept_on_disk(tmp_path):
    graph, profile = measured(model_of())
    options = (graph, 'a' * 64, profile, 'dsccs')
    table, state = PlanTable(*options, folder=tmp_path), LinkState(9e6, 3e6, 0.003)
    until(lambda: table.choose(state) and table.choose(state).step == Step(10, 7, 2))
    until(lambda: list(tmp_path.glob('*.json')))
    again = PlanTable(*options, folder=tmp_path).choose(state)
    assert again.step == Step(10, 7, 2)
    assert again.plan.document() == table.choose(state).plan.document()
    file = next(tmp_path.glob('*.json'))
    for text in ('{', '[]', '{"1,1,1": 3}', '{"1,1,1": {"schema": 1}}'):
        file.write_text(text)
        assert PlanTable(*options, folder=tmp_path).graph is graph


def test_plans_know_how_tensors_are_coded_on_their_link_also_from_disk(tmp_path):
    graph, profile = measured(model_of())
    packed = Coding('zstd', 50, 0.0001, 0.0001, 0.0001, 0.0001)
    first, *rest = profile.operators
    profile = replace(profile, operators=(replace(first, codings=(packed,)), *rest))
    slow, fast = LinkState(0.3e6, 0.3e6, 0.003), LinkState(250e6, 250e6, 0.003)
    for _ in range(2):  # the second table reads what the first one wrote
        table = PlanTable(graph, 'a' * 64, profile, 'server', folder=tmp_path)
        until(lambda: table.choose(slow) and table.choose(slow).step == Step(1, 1, 2))  # noqa: B023
        assert table.choose(slow).codecs == {-1: code_named('zstd')}
        predicted = table.predict(table.choose(slow), slow)
        until(lambda: table.choose(fast) and table.choose(fast).step == Step(20, 20, 2))  # noqa: B023
        assert table.choose(fast).codecs == {}
        raw = PlanTable(graph, 'b' * 64, uncoded(profile), 'server', folder=tmp_path)
        until(lambda: raw.choose(slow) and raw.choose(slow).step == Step(1, 1, 2))  # noqa: B023
        assert predicted.uplink_busy_s < 0.05 * raw.predict(raw.choose(slow), slow).uplink_busy_s
        until(lambda: len(list(tmp_path.glob('*.json'))) == 2)


def test_a_strategy_sends_coded_what_its_profile_says_pays(robot):
    model = model_of()
    graph, profile = measured(model)
    operators = tuple(
        replace(each, codings=(Coding('zstd', 9),)) if each.is_input else each
        for each in profile.operators
    )
    coded = replace(profile, operators=operators)
    save_profile(MeasuredProfile(coded, graph_hash(graph), model.hash))
    robot.start()
    black = torch.zeros(SIZE, dtype=torch.uint8)
    frames = (Frame(seq, {'image': black}, time.monotonic()) for seq in range(1, 1000))
    frame, result = until_run(robot.strategy('layer_cut', model), frames)
    for name, tensor in model.run(frame.inputs).items():
        assert torch.equal(result.outputs[name], tensor), name
    assert 0 < result.bytes_up < black.nbytes / 10


def test_a_link_between_two_steps_stays_where_it_is():
    at = LinkState(4e6, 4e6, 0.002)
    assert stay_or_move(None, at) == Step(8, 8, 1)
    for factor, place in ((1.15, 8), (1.25, 8), (1.5, 9), (0.8, 8), (0.6, 7)):
        moved = LinkState(4e6 * factor, 4e6, 0.002)
        assert stay_or_move(Step(8, 8, 1), moved) == Step(place, 8, 1), factor
    assert stay_or_move(None, LinkState(1e12, 1.0, 100.0)) == Step(20, 0, 6)
    assert link_of(LinkState()).uplink_bytes_per_s == plan_table.UNMEASURED_BYTES_PER_S


def test_nodes_that_a_profile_does_not_list_go_where_they_are_read():
    _, graph, _, _ = captured('yolo_tail')
    times = measure_nodes(Executor(graph, captured('yolo_tail')[2]), captured('yolo_tail')[0], 1)
    profile = profile_of(graph, classify(graph), times, times)
    listed = {operator.id for operator in profile.operators if operator.id >= 0}
    everywhere = Plan.cut(profile, [not each.is_input for each in profile.operators])
    there = nodes_on_server(graph, everywhere)
    assert listed <= there
    assert not nodes_on_server(graph, Plan.cut(profile, [False] * len(profile)))
    with pytest.raises(PlanError, match='no layer cut'):
        split = next(each for each in profile.operators if each.split and each.width > 3)
        shares = [0.5 if each is split else 1.0 for each in profile.operators]
        nodes_on_server(graph, Plan.shares(profile, shares))


def test_a_profile_of_another_graph_is_refused(tmp_path):
    graph, _ = measured(model_of())
    _, other, parameters, _ = captured('resnet')
    times = measure_nodes(Executor(other, parameters), captured('resnet')[0], 1)
    profile = profile_of(other, classify(other), times, times)
    with pytest.raises(ProfileError, match='nodes that its graph lacks'):
        PlanTable(graph, 'a' * 64, profile, 'dsccs', folder=tmp_path)
