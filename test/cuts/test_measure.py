"""A robot measures a graph on itself and on its server, over the channel."""

import json
import threading
import time

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
import numpy as np
import pytest
import torch

from offload_ros.cuts import hosted_measure
from offload_ros.cuts.client import LocalGraph
from offload_ros.cuts.cut import Cut
from offload_ros.cuts.errors import CutFailed
from offload_ros.cuts.hosted_measure import (
    BEGIN,
    END,
    INPUTS,
    OPEN,
    inputs_from_bytes,
    inputs_to_bytes,
    most_bytes,
)
from offload_ros.cuts.messages import Answer, Ask, Asked
from offload_ros.cuts.value_codecs import code_named
from offload_ros.cuts.values import HEAD_BYTES
from offload_ros.graph.codings import codecs_of, coded_for
from offload_ros.graph.execute import Executor
from offload_ros.graph.graph import Graph, GraphError, Input, Node, TensorSpec, Value
from offload_ros.graph.measuring import CODINGS, OPERATORS, SHARES, WHOLE, ProfilingError
from offload_ros.graph.of_model import graph_hash
from offload_ros.graph.profile import TransferCost
from offload_ros.graph.stopwatch import live_nodes
from offload_ros.robot.pacing import Pacer
from offload_ros.wire.errors import WireError

from ..graph.equality import assert_same
from ..graph.scenes import scene
from ..tries import tries
from .conftest import LONG_S, captured, local_graph, until


@tries(3)
def test_both_sides_are_measured_and_make_a_profile_of_the_graph(site):
    example, graph, *_ = captured('unet')
    link, lane = site(pacer=Pacer(8.0)).robot()
    local, steps = local_graph('unet'), []
    costs = {
        'fixed_s': [0.001, 0.004, 0.002],
        'robot_handling': (0.0003, 1e-9),
        'server_handling': (0.0005, 2e-9),
    }
    measured = link.measure(
        local, example, lane, 2, lambda *step: steps.append(step), lambda count: costs
    )
    profile = measured.profile
    assert measured.graph_hash == graph_hash(graph) and profile.model == graph.name
    assert {each.id for each in profile.operators if not each.is_input} <= set(live_nodes(graph))
    # The server is paced to an eighth of the speed; the tests' machine is noisy.
    ratio = profile.column('server_s').sum() / profile.column('robot_s').sum()
    assert 1.6 < ratio < 40.0
    assert measured.server['slowdown'] == 8.0 and measured.robot['slowdown'] == 1.0
    assert profile.robot.encode.fixed_s == 0.001
    assert profile.robot.handling == TransferCost(0.0003, 1e-9)
    assert profile.server.handling == TransferCost(0.0005, 2e-9)
    assert profile.server.resume_s >= 0.0
    parts = [each.robot_part for each in profile.operators if each.split and not each.is_input]
    assert parts and all(each is not None for each in parts)
    assert profile.server.floor_s > profile.robot.floor_s > 0.0
    assert [done for _, done, _ in steps] == list(range(len(steps)))
    assert steps[-1][1] == steps[-1][2]


def test_what_was_measured_to_pay_is_how_tensors_cross(site):
    example, graph, parameters = scene()
    expected = graph_outputs(graph, parameters, example)
    link, lane = site().robot()
    local = LocalGraph(graph, parameters)
    profile = link.measure(local, example, lane, 1).profile
    codecs = {
        operator: code_named(name)
        for operator, name in codecs_of(coded_for(profile, 1e4, 1e4)).items()
    }
    assert {-1, len(graph.nodes) - 1} <= codecs.keys()
    cut = Cut(graph, range(len(graph.nodes)))
    raw = link.run(local, cut, example, lane)
    coded = link.run(local, cut, example, lane, codecs=codecs)
    for ran in (raw, coded):
        assert_same(ran.outputs, expected)
    voxels, labels = example['voxels'].nbytes, expected[next(iter(expected))].nbytes
    assert raw.bytes_up == HEAD_BYTES + voxels and raw.bytes_down == HEAD_BYTES + labels
    assert coded.bytes_up <= HEAD_BYTES + voxels / 8
    assert coded.bytes_down <= HEAD_BYTES + labels / 8


def graph_outputs(graph, parameters, example):
    return Executor(graph, parameters)(example)


@pytest.mark.parametrize('name', ['yolo', 'unet3d', 'vit'])
def test_what_travels_once_are_all_inputs_of_any_kind(name):
    example, graph, *_ = captured(name)
    data = np.frombuffer(inputs_to_bytes(graph, example), np.uint8)
    assert len(data) <= most_bytes(graph)
    assert_same(inputs_from_bytes(graph, data), example)
    with pytest.raises(GraphError, match='takes the inputs'):
        inputs_to_bytes(graph, {})


POINTS = TensorSpec((None, 3), torch.float32)
TWO_INPUTS = Graph(
    'points',
    {'points': POINTS, 'kinds': TensorSpec((5,), torch.int64)},
    {},
    (
        Node(
            0,
            'aten.mul.Tensor',
            (Input('points'), 2.0),
            {},
            (TensorSpec((None, 3), torch.float32),),
        ),
    ),
    {'data': Value(0)},
)
GIVEN = {'points': torch.ones(7, 3), 'kinds': torch.arange(5)}


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_damaged_inputs_are_refused_or_fit_the_graph(draws):
    data = np.frombuffer(inputs_to_bytes(TWO_INPUTS, GIVEN), np.uint8).copy()
    for _ in range(draws.draw(st.integers(0, 3))):
        data[draws.draw(st.integers(0, len(data) - 1))] ^= draws.draw(st.integers(1, 255))
    data = data[: draws.draw(st.integers(0, len(data)))]
    try:
        found = inputs_from_bytes(TWO_INPUTS, data)
    except WireError as error:
        assert '\n' not in str(error)
        return
    assert found['points'].shape[1:] == (3,) and found['kinds'].shape == (5,)


def test_others_are_served_between_the_pieces(site):
    example, graph, _, expected = captured('resnet')
    server = site(pacer=Pacer(4.0))
    link, lane = server.robot()
    other, other_lane = server.robot()
    local = local_graph('resnet')
    other.open(local)
    ended, slowest_s, count = threading.Event(), 0.0, 0
    failed = []

    def measure():
        try:
            link.measure(local, example, lane, 3)
        except Exception as error:
            failed.append(error)
        ended.set()

    thread = threading.Thread(target=measure)
    thread.start()
    cut = Cut(graph, [len(graph.nodes) - 1])
    first_s = time.monotonic()
    while not ended.is_set():
        began_s = time.monotonic()
        assert_same(other.run(local, cut, example, other_lane, began_s + LONG_S).outputs, expected)
        slowest_s = max(slowest_s, time.monotonic() - began_s)
        count += 1
    thread.join()
    assert not failed
    # Never behind more than a whole forward, which is measured in one piece.
    assert count > 10 and slowest_s < (time.monotonic() - first_s) / 2


def test_one_robot_measures_at_a_time_and_the_next_when_it_is_gone(site, monkeypatch):
    example, *_ = captured('unet')
    server = site()
    link, lane = server.robot()
    other, other_lane = server.robot()
    local = local_graph('unet')
    began, go_on = threading.Event(), threading.Event()

    def wait(*step):
        if step[1] == 5:
            began.set()
            assert go_on.wait(LONG_S)

    with pytest.raises(ZeroDivisionError):  # what progress raises ends it
        link.measure(local, example, lane, 1, lambda *step: 1 // (step[1] < 4))
    thread = threading.Thread(target=link.measure, args=(local, example, lane, 1, wait))
    thread.start()
    assert began.wait(LONG_S)
    with pytest.raises(ProfilingError, match='another robot is measuring'):
        other.measure(local, example, other_lane, 1)
    go_on.set()
    thread.join()
    other.measure(local, example, other_lane, 1)
    assert server.host.desk._visit is None


def test_a_robot_that_leaves_in_the_middle_ends_its_measurement(site):
    example, *_ = captured('unet')
    server = site()
    link, lane = server.robot()
    other, other_lane = server.robot()
    local = local_graph('unet')

    def leave(*step):
        if step[1] == 4:
            server.links[0].close()

    with pytest.raises(ProfilingError):
        link.measure(local, example, lane, 1, leave)
    until(lambda: server.host.desk._visit is None)
    other.measure(local, example, other_lane, 1)


def test_a_robot_that_forgot_its_measurement_does_not_keep_others_out(site):
    example, *_ = captured('unet')
    server = site()
    server.host.desk._idle_s = 0.05
    link, _ = server.robot()
    other, other_lane = server.robot()
    local = local_graph('unet')
    begin(link, local)
    time.sleep(0.1)
    other.measure(local, example, other_lane, 1)
    with pytest.raises(CutFailed, match='begin again'):
        said(link, local, WHOLE)


def begin(link, local, size=None, key=None):
    link.open(local)
    size = most_bytes(local.graph) if size is None else size
    return said(link, local, BEGIN, graph_bytes=size)


def said(link, local, stage, **fields):
    """The answer's text of a request that a stranger may send; CutFailed where it is refused."""
    asked = Asked(Ask.MEASURE, local.key, stage=stage, **fields)
    answer = link.ask(asked, time.monotonic() + LONG_S)
    if answer.answer is not Answer.READY:
        raise CutFailed(answer.why or answer.answer.name)
    return json.loads(answer.data) if answer.data else None


def sent(link, local, data, offset=0):
    link.tell(Asked(Ask.MEASURE, local.key, stage=INPUTS, offset=offset, data=memoryview(data)))


def test_requests_of_a_stranger_are_refused_with_the_reason(site):
    example, *_ = captured('unet')
    server = site()
    link, _ = server.robot()
    local = local_graph('unet')
    with pytest.raises(CutFailed, match='not open'):
        said(link, local, BEGIN, graph_bytes=1000)
    with pytest.raises(CutFailed, match='begin again'):
        said(link, local, WHOLE)
    link.open(local)
    for size in (0, 10, most_bytes(local.graph) + 1, 1 << 47):
        with pytest.raises(CutFailed, match='are allowed'):
            begin(link, local, size)
    data = inputs_to_bytes(local.graph, example)
    begin(link, local, len(data))
    with pytest.raises(CutFailed, match='not opened'):
        said(link, local, WHOLE)
    with pytest.raises(CutFailed, match='are missing'):
        said(link, local, OPEN)
    sent(link, local, data[:-1])  # not a part of it
    sent(link, local, data, 7)
    with pytest.raises(CutFailed, match='are missing'):
        said(link, local, OPEN)
    sent(link, local, data)
    assert said(link, local, OPEN)['machine']['slowdown'] == 1.0
    for stage, fields, says in (
        ('dance', {}, 'no stage'),
        (SHARES, {'part': 3}, 'part 3 is not the next'),
        (CODINGS, {'part': 60_000}, 'is not the next'),
        (SHARES, {'repeats': 0}, 'repeats must lie'),
        (SHARES, {'repeats': 10_000}, 'repeats must lie'),
        (WHOLE, {'part': 1 << 20}, 'whole number below'),
    ):
        with pytest.raises(CutFailed, match=says):
            said(link, local, stage, **fields)
    assert said(link, local, WHOLE)['whole_s'] > 0.0
    assert len(said(link, local, OPERATORS)['node_s']) > 10
    assert said(link, local, END) is None
    with pytest.raises(CutFailed, match='begin again'):
        said(link, local, WHOLE)


@settings(
    max_examples=25,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.binary(min_size=100, max_size=300))
def test_garbage_instead_of_inputs_is_refused(stranger, data):
    link, local = stranger
    begin(link, local, len(data))
    sent(link, local, data)
    with pytest.raises(CutFailed, match=r'input|value'):
        said(link, local, OPEN)


@pytest.fixture
def stranger(site):
    link, _ = site().robot()
    local = local_graph('unet')
    link.open(local)
    return link, local


def test_a_stage_ends_in_time(site, monkeypatch):
    example, *_ = captured('unet')
    monkeypatch.setattr(hosted_measure, 'STAGE_S', 0.0)
    link, lane = site().robot()
    with pytest.raises(ProfilingError, match='takes more than'):
        link.measure(local_graph('unet'), example, lane, 1)


@pytest.mark.parametrize(
    ('data', 'says'),
    [
        (b'{', 'no JSON object'),
        (b'[]', 'no JSON object'),
        (b'{}', 'is none'),
        (b'{"graph_hash": 3}', 'another graph'),
    ],
)
def test_a_server_that_answers_nonsense_is_told_from_one_that_measures(
    site, monkeypatch, data, says
):
    example, *_ = captured('unet')
    link, lane = site().robot()
    ask = link.ask
    monkeypatch.setattr(
        link,
        'ask',
        lambda asked, end_s: (
            ask(asked, end_s)._replace(data=data) if asked.stage == OPEN else ask(asked, end_s)
        ),
    )
    with pytest.raises(ProfilingError, match=says):
        link.measure(local_graph('unet'), example, lane, 1)


def test_reports_with_wrong_numbers_make_no_profile(site, monkeypatch):
    example, *_ = captured('unet')
    link, lane = site().robot()
    ask = link.ask
    for wrong in (
        {'node_s': {'0': -1.0}, 'nbytes': {}},
        {'node_s': [], 'nbytes': {}},
        {'node_s': {'0': 1e400}, 'nbytes': {'x': 2}},
    ):

        def other(asked, end_s, wrong=wrong):
            answer = ask(asked, end_s)
            if asked.stage == OPERATORS:
                return answer._replace(data=json.dumps(wrong).encode())
            return answer

        monkeypatch.setattr(link, 'ask', other)
        with pytest.raises((ProfilingError, ValueError)):
            link.measure(local_graph('unet'), example, lane, 1)


def test_inputs_that_are_not_the_graphs_are_refused_on_the_robot(site):
    link, lane = site().robot()
    with pytest.raises(ProfilingError, match='takes the inputs'):
        link.measure(local_graph('unet'), {'other': torch.zeros(3)}, lane, 1)


def test_a_server_that_runs_no_graphs_says_so(site):
    example, *_ = captured('unet')
    link, lane = site(memory_bytes=0).robot()
    with pytest.raises(ProfilingError, match='runs no graphs'):
        link.measure(local_graph('unet'), example, lane, 1)
