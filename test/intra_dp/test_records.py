# ruff: noqa: F811  # fixtures of another module are used by their names
"""What was measured of one inference, beside what was predicted, for every strategy that cuts."""

from dataclasses import replace
from itertools import pairwise
import json

import pytest
import torch

from offload_ros.baselines.device import DeviceStrategy
from offload_ros.graph import plan as plan_command
from offload_ros.graph.split_plan import Plan
from offload_ros.intra_dp.gantt import LANES, charts_of_record, read_record
from offload_ros.strategy import Link, LinkState, StrategyRefused, make_strategy
from offload_ros.wire.directory import ServerDirectory

from ..baselines.test_server import Server
from ..cuts.conftest import no_endless_wait, one_thread, until  # noqa: F401
from ..cuts.test_strategy import folders, model_of, robot, run, until_run  # noqa: F401
from .test_strategy import by_hand, images, measured, same, slow_robot, until_plan  # noqa: F401


def charts(file):
    """(predicted, measured) of a record."""
    found = charts_of_record(read_record(file))
    assert [each.title for each in found] == ['predicted', 'measured']
    return found


def is_sound(document, lanes):
    """Each bar ends after it began, within the inference; a processor does one thing at a time."""
    for lane in LANES:
        assert bool(document['bars'][lane]) == (lane in lanes), (lane, document['bars'][lane])
        for _, start, end, _ in document['bars'][lane]:
            assert -0.01 <= start <= end <= document['measured_ms'] + 20.0
    for lane in ('robot', 'server'):
        bars = document['bars'][lane]
        assert all(one[2] <= other[1] + 0.01 for one, other in pairwise(bars))


def half(profile):
    """The robot begins, the server ends."""
    return Plan.cut(profile, [place > len(profile) // 2 for place in range(len(profile))])


LONG = [pytest.param(each, marks=pytest.mark.long) for each in ('mcop', 'layer_cut', 'spso_ga')]


@pytest.mark.parametrize('method', ['dsccs', *LONG])
def test_a_layer_cut_is_recorded_operator_by_operator(slow_robot, tmp_path, method):
    model, file = model_of(), tmp_path / 'run.json'
    _, profile = measured(model)
    slow_robot.start()
    strategy = slow_robot.strategy(method, model)
    strategy.record(file)
    frame, result = until_run(strategy, images(1000))
    same(result, model, frame)
    document = json.loads(file.read_text())
    computed = document['bars']['server'] + document['bars']['robot']
    is_sound(document, LANES if document['bars']['robot'] else LANES[1:])
    plan = Plan.from_document(profile, document['plan'])
    labels = {int(label.split()[0]) for label, *_ in document['bars']['server']}
    there = {
        each.id
        for each, on in zip(profile.operators, plan.on_server, strict=True)
        if on and each.server_s > 0.0
    }
    assert there <= labels, 'each operator that takes time has its bar'
    assert len(computed) > 10
    predicted, measured_ = charts(file)
    # The robot also makes what needs no input, which costs nothing.
    assert all(measured_.bars[lane] for lane in LANES if predicted.bars[lane])
    assert measured_.latency_ms == document['measured_ms']
    picture = tmp_path / 'run.png'
    assert plan_command.main(['--measured', str(file), '--gantt', str(picture)]) == 0
    assert picture.stat().st_size > 10_000
    file.unlink()
    run(strategy, next(images(1, first=frame.seq + 1)))
    assert not file.exists(), 'only one inference is recorded'


def test_intra_dp_records_its_cuts_as_they_run(slow_robot, by_hand, tmp_path):
    model, file = model_of(), tmp_path / 'run.json'
    _, profile = measured(model)
    by_hand.append(('layer_cut', half))
    slow_robot.start()
    strategy = slow_robot.strategy('intra_dp', model)
    # Asked for at first, since a busy machine may teach the strategy to leave the cut again; what
    # the robot computes alone is not recorded.
    strategy.record(file)
    frame, result = until_plan(strategy, images(1000), ': cut, ')
    same(result, model, frame)
    document = json.loads(file.read_text())
    assert document['plan'] == half(profile).document()
    is_sound(document, LANES)
    robot_end = max(end for _, _, end, _ in document['bars']['robot'][:1])
    assert robot_end < max(end for _, _, end, _ in document['bars']['server'])
    charts(file)


def test_a_plan_that_leaves_all_to_the_robot_is_recorded_too(robot, tmp_path):
    model, file = model_of(), tmp_path / 'run.json'
    measured(model)
    robot.start()
    robot.state = LinkState(1e4, 1e4, 0.2)
    strategy = robot.strategy('dsccs', model)
    strategy.record(file)
    _, result = until_run(strategy, images(1000))
    assert ': all ' in result.plan
    document = json.loads(file.read_text())
    is_sound(document, ('robot',))
    predicted, _ = charts(file)
    assert predicted.bars['robot'] and not predicted.bars['uplink']


def test_the_robot_alone_is_recorded_beside_what_its_profile_predicts(robot, tmp_path):
    model, file = model_of(), tmp_path / 'run.json'
    strategy = robot.strategy('device', model)
    assert isinstance(strategy, DeviceStrategy)
    with pytest.raises(StrategyRefused, match='ros2 run offload_ros profile --model net'):
        strategy.record(file)
    measured(model)
    strategy.record(file)
    run(strategy, next(images(1)))
    document = json.loads(file.read_text())
    is_sound(document, ('robot',))
    _, end = document['bars']['robot'][0][1:3]
    assert end == document['measured_ms']
    charts(file)
    strategy.record(tmp_path / 'none' / 'run.json')  # cannot be written: the frame is answered
    assert run(strategy, next(images(1))).outputs


def test_the_server_alone_is_recorded_in_the_shares_of_the_link(tmp_path):
    model, file = model_of(), tmp_path / 'run.json'
    measured(model)
    directory = ServerDirectory(30.0)
    server = Server(directory)
    state = replace(server.state, models={'net': frozenset({'hash0'})})
    server.answer = {
        'outputs': {'map': torch.ones(3), 'best': torch.ones(1)}, 'server_s': 0.0, 'compute_s': 0.0,
    }  # fmt: skip
    directory.heard(state)
    directory.connect('/server', 's1')
    server.client.link_state = lambda name: LinkState(1e6, 2e6, 0.002)
    strategy = make_strategy('server')
    strategy.prepare(model, Link(None, server.client))
    strategy.record(file)
    result = run(strategy, next(images(1)))
    document = json.loads(file.read_text())
    is_sound(document, LANES[1:])
    assert document['link'] == {'up_MBps': 1.0, 'down_MBps': 2.0, 'round_trip_ms': 2.0}
    (_, _, arrived_ms, _), = document['bars']['uplink']  # fmt: skip
    assert arrived_ms == pytest.approx(1e3 * result.uplink_s, abs=1e-3)
    predicted, _ = charts(file)
    assert predicted.bars['server'] and not predicted.bars['robot']
