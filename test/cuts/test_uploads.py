"""A server uses what it has, asks for what it lacks, and trusts nothing of it."""

from concurrent.futures import ThreadPoolExecutor
import io
import itertools
import os
import pickle
import time
import zipfile

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
import numpy as np
import pytest
import torch

from offload_ros.cuts import client as client_module
from offload_ros.cuts import store as store_module
from offload_ros.cuts.client import GraphLink, LocalGraph
from offload_ros.cuts.cut import Cut
from offload_ros.cuts.errors import CutFailed
from offload_ros.cuts.host import MAX_EARLY, MAX_OPENINGS, GraphHost
from offload_ros.cuts.messages import (
    Answer,
    Answered,
    Ask,
    Asked,
    Port,
    answered_from_bytes,
    answered_to_buffers,
    asked_from_bytes,
    asked_to_buffers,
    value_key,
)
from offload_ros.cuts.store import peak_bytes
from offload_ros.cuts.values import value_from_bytes, value_to_buffers
from offload_ros.graph.graph import Graph, Input, Node, TensorSpec, Value
from offload_ros.robot.lane import DeviceLane
from offload_ros.wire.channel import key_of, number_of
from offload_ros.wire.errors import WireError
from offload_ros.wire.exchange import GRAPHS
from offload_ros.wire.in_process import InProcessLink
from offload_ros.wire.incoming import TransferError
from offload_ros.wire.shaper import LinkShape

from ..graph.equality import assert_same, same_bits
from .conftest import LONG_S, captured, local_graph, until

KEY = 'a' * 64


def run_whole(link, lane, local, name):
    example, graph, _, expected = captured(name)
    ran = link.run(local, Cut(graph, range(len(graph.nodes))), example, lane)
    assert_same(ran.outputs, expected)


def test_a_graph_travels_once_and_serves_all_robots_until_they_come_back(site):
    server = site()
    (first, lane), (second, other_lane) = server.robot(), server.robot()
    local = local_graph('unet')
    assert first.open(local)
    assert not first.open(local)
    assert not second.open(local)
    run_whole(second, other_lane, local, 'unet')
    for link in server.links:
        link.close()
    until(lambda: all(not g.users for g in server.host.store._graphs.values()))
    again, lane = server.robot()
    assert not again.open(local)
    run_whole(again, lane, local, 'unet')


def test_weights_travel_in_parts(site, monkeypatch):
    for module in (client_module, store_module):
        monkeypatch.setattr(module, 'PART_BYTES', 10_001)
    server = site()
    link, lane = server.robot()
    local = local_graph('resnet')
    assert sum(map(len, local.files())) > 100_000
    assert link.open(local)
    run_whole(link, lane, local, 'resnet')


def test_graphs_that_are_opened_at_the_same_time_all_arrive(site):
    server = site()
    link, lane = server.robot(up=LinkShape(bytes_per_s=2e6))
    names = ('unet', 'resnet', 'vit', 'convnext')
    with ThreadPoolExecutor(len(names)) as threads:
        assert all(threads.map(link.open, map(local_graph, names)))
    for name in names:
        run_whole(link, lane, local_graph(name), name)


def test_a_robot_that_opens_graph_after_graph_is_refused(raw):
    raw.session._host.later(lambda: time.sleep(0.5))
    numbers = [raw.say(asked_to_buffers(Asked(Ask.OPEN, KEY, 5, 5))) for _ in range(20)]
    answers = [
        answered_from_bytes(raw.link.robot.incoming(key_of(GRAPHS, number), LONG_S).wait())
        for number in numbers
    ]
    refused = [each for each in answers if 'are being opened' in each.why]
    assert len(refused) == 20 - MAX_OPENINGS
    assert raw.ask(Ask.OPEN, graph_bytes=5, parameter_bytes=7).answer is Answer.SEND


def test_memory_is_what_the_parameter_allows(site):
    sizes = {name: sum(map(len, local_graph(name).files())) for name in ('vgg', 'resnet', 'unet')}
    server = site(memory_bytes=sizes['vgg'] + sizes['resnet'] + sizes['unet'] // 2)
    link, lane = server.robot()
    for name in ('vgg', 'resnet'):
        assert link.open(local_graph(name))
    with pytest.raises(CutFailed, match=r'MB are taken \(parameter graphs.memory_mb\)'):
        link.open(local_graph('unet'))
    link.release(local_graph('vgg').key)
    until(lambda: any(not g.users for g in server.host.store._graphs.values()))
    assert link.open(local_graph('unet'))
    run_whole(link, lane, local_graph('unet'), 'unet')
    assert server.host.store.used_bytes == sizes['resnet'] + sizes['unet']
    with pytest.raises(CutFailed, match=r'not open on this server|nothing waits for this value'):
        run_whole(link, lane, local_graph('vgg'), 'vgg')


def test_a_server_without_memory_for_graphs_says_so(site):
    link, _ = site(memory_bytes=0).robot()
    with pytest.raises(CutFailed, match=r'parameter graphs.memory_mb is 0'):
        link.open(local_graph('unet'))


def test_a_run_that_takes_too_much_memory_is_refused(site):
    nodes = [
        Node(0, 'aten.relu.default', (Input('x'),), {}, (TensorSpec((1, 1000), torch.float32),))
    ]
    spec = TensorSpec((5000, 1000), torch.float32)
    nodes.append(Node(1, 'aten.expand.default', (Value(0), (5000, 1000)), {}, (spec,)))
    nodes.append(Node(2, 'aten.neg.default', (Value(1),), {}, (spec,)))
    graph = Graph('wide', {'x': nodes[0].outputs[0]}, {}, tuple(nodes), {'y': Value(2)})
    assert peak_bytes(graph) == 2 * 20_000_000  # views count as what they show
    link, _ = site(memory_bytes=30_000_000).robot()
    with pytest.raises(CutFailed, match=r'a run of the graph takes 40.0 MB'):
        link.open(LocalGraph(graph, {}))


class Raw:
    """A robot that says what it likes."""

    def __init__(self, host):
        self.link = InProcessLink()
        self.session = host.serve(self.link.server, '/stranger')
        self.numbers = itertools.count(1)

    def say(self, data, number=None):
        number = next(self.numbers) if number is None else number
        self.link.robot.send(key_of(GRAPHS, number), data)
        return number

    def ask(self, ask, **fields):
        number = self.say(asked_to_buffers(Asked(ask, **{'graph': KEY, **fields})))
        return answered_from_bytes(self.link.robot.incoming(key_of(GRAPHS, number), LONG_S).wait())

    def upload(self, graph, parameters, key=KEY):
        answer = self.ask(
            Ask.OPEN, graph=key, graph_bytes=len(graph), parameter_bytes=len(parameters)
        )
        assert answer.answer is Answer.SEND, answer
        for of_parameters, data in ((False, graph), (True, parameters)):
            if data:
                asked = Asked(Ask.PART, key, of_parameters=of_parameters, data=memoryview(data))
                number = next(self.numbers)
                sent = self.link.robot.send(key_of(GRAPHS, number), asked_to_buffers(asked))
                sent.wait(LONG_S)
        return self.ask(Ask.FINISH, graph=key)


@pytest.fixture
def raw():
    host = GraphHost(1 << 28)
    stranger = Raw(host)
    yield stranger
    stranger.link.close()
    host.close()


class Impostor:
    """A server that answers what it likes."""

    def __init__(self):
        self.link = InProcessLink()
        self.answers = []
        self.values = {}
        self.link.server.listen(GRAPHS, lambda incoming: incoming.when_ended(self.answer))
        self.lane = DeviceLane()
        self.robot = GraphLink(self.link.robot)

    def answer(self, incoming):
        self.link.server.send(incoming.key, self.answers.pop(0))
        for place, data in self.values.items():
            self.link.server.send(value_key(number_of(incoming.key), place), data)

    def close(self):
        self.link.close()
        self.lane.close()


@pytest.fixture
def impostor():
    made = Impostor()
    yield made
    made.close()


DONE = b''.join(map(bytes, answered_to_buffers(Answered(Answer.DONE))))


@pytest.mark.parametrize('answer', [b'', b'{}', b'\2\0\0\0{}', DONE, DONE[:-3]])
def test_a_server_whose_answer_makes_no_sense_opens_nothing(impostor, answer):
    impostor.answers = [answer]
    with pytest.raises(CutFailed):
        impostor.robot.open(local_graph('unet'), LONG_S)


@pytest.mark.parametrize('size', [0, 10, 64, 100, 1 << 20])
@pytest.mark.parametrize('place', [0, 1, 2, 60_000])
def test_values_of_a_server_that_do_not_fit_end_the_run(impostor, place, size):
    local = local_graph('unet')
    cut = Cut(local.graph, range(len(local.graph.nodes)))
    assert (len(cut.up), len(cut.down)) == (1, 2)
    impostor.answers, impostor.values = [DONE, DONE], {place: b'\xff' * size}
    with pytest.raises(CutFailed, match='value'):
        impostor.robot.run(local, cut, captured('unet')[0], impostor.lane)


class Creates:
    """Unpickled, it makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def hostile_files(folder):
    """What would run something if it were unpickled or given to ``torch.load``."""
    trap = pickle.dumps(Creates(folder / 'made'))
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, 'w') as file:
        file.writestr('archive/data.pkl', trap)
    return [trap, archive.getvalue()]


def test_uploads_that_are_no_graphs_are_refused_and_nothing_of_them_runs(raw, tmp_path):
    graph, parameters = local_graph('unet').files()
    for data in hostile_files(tmp_path):
        answer = raw.upload(data, parameters)
        assert answer.answer is Answer.REFUSED and 'never does' in answer.why
        answer = raw.upload(graph, data)
        assert answer.answer is Answer.REFUSED, answer
    assert not (tmp_path / 'made').exists()
    evil = graph.replace(b'aten.relu.default', b'aten.save.default')
    for data in (b'{', b'[]', evil, graph[:-1]):
        assert raw.upload(data, parameters).answer is Answer.REFUSED
    assert len(raw.session._store) == 0 and raw.session._store.used_bytes == 0


def test_a_graph_that_is_not_what_its_hash_names_is_refused(raw):
    local = local_graph('unet')
    answer = raw.upload(*local.files())
    assert answer == Answered(Answer.REFUSED, 'the upload is not the graph that its hash names')
    assert raw.upload(*local.files(), local.key).answer is Answer.READY


def test_messages_out_of_place_are_refused(raw):
    part = {'offset': 0, 'data': memoryview(b'12')}
    assert 'not begun' in raw.ask(Ask.PART, **part).why
    assert 'not begun' in raw.ask(Ask.FINISH).why
    assert raw.ask(Ask.RUN, nodes=((0, 3),)).answer is Answer.UNKNOWN
    assert '1 to' in raw.ask(Ask.OPEN, graph_bytes=1 << 40, parameter_bytes=1).why
    assert 'MB are wanted' in raw.ask(Ask.OPEN, graph_bytes=1, parameter_bytes=1 << 40).why
    assert raw.ask(Ask.OPEN, graph_bytes=5, parameter_bytes=7).answer is Answer.SEND
    for offset, data in ((1, b'12345'), (0, b'1234'), (0, b'123456'), (1 << 40, b'1')):
        answer = raw.ask(Ask.PART, offset=offset, data=memoryview(data))
        assert 'does not belong' in answer.why
    assert 'missing' in raw.ask(Ask.FINISH).why
    local = local_graph('unet')
    raw.upload(*local.files(), local.key)
    answer = raw.ask(Ask.RUN, graph=local.key, nodes=((0, 1 << 20),))
    assert answer.answer is Answer.REFUSED and 'of a graph that has' in answer.why


@settings(
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.binary(max_size=200), length=st.none() | st.integers(0, 250))
def test_garbage_is_refused_and_the_server_goes_on(raw, data, length):
    head = b'' if length is None else length.to_bytes(4, 'little')
    raw.say(head + data)
    assert raw.ask(Ask.RUN).answer is Answer.UNKNOWN


def test_values_that_nobody_asked_for_are_refused_and_early_ones_are_few(raw):
    raw.ask(Ask.RUN)  # number 1: it has ended
    late = raw.link.robot.send(value_key(1, 0), b'x' * 100)
    with pytest.raises(TransferError, match='nothing waits'):
        late.wait(LONG_S)
    early = [raw.link.robot.send(value_key(1000 + n, 0), b'y' * 100) for n in range(MAX_EARLY)]
    for sent in early:
        sent.wait(LONG_S)
    with pytest.raises(TransferError, match='nothing waits'):
        raw.link.robot.send(value_key(5000, 0), b'z' * 100).wait(LONG_S)


def test_values_that_do_not_fit_end_the_run(raw):
    local = local_graph('unet')
    raw.upload(*local.files(), local.key)
    nodes = ((0, len(local.graph.nodes) - 1),)
    spec = local.graph.inputs['image']
    good = b''.join(map(bytes, value_to_buffers(spec, torch.zeros(spec.shape, dtype=spec.dtype))))
    for bad in (good[:-1], good + b'1', b'', b'\7' + good[1:]):
        number = raw.say(asked_to_buffers(Asked(Ask.RUN, local.key, nodes=nodes)))
        raw.link.robot.send(value_key(number, 0), bad)
        incoming = raw.link.robot.incoming(key_of(GRAPHS, number), LONG_S)
        answer = answered_from_bytes(incoming.wait(LONG_S))
        assert answer.answer is Answer.FAILED and 'value' in answer.why, bad[:8]
    assert raw.session.runs == 0


SPECS = [
    TensorSpec((2, 3, 5), torch.float32),
    TensorSpec((2, 3, 5), torch.float32, (0, 2, 1)),
    TensorSpec((None, 7), torch.int64),
    TensorSpec((), torch.float64),
    TensorSpec((0, 4), torch.uint8),
    TensorSpec((3, 3), torch.bool),
    TensorSpec((2, 1), torch.bfloat16),
    TensorSpec((4, 6), torch.uint8, None, (0, 1)),
]


@pytest.mark.parametrize('spec', SPECS, ids=str)
def test_a_value_survives_the_wire(spec):
    shape = [5 if extent is None else extent for extent in spec.shape]
    tensor = torch.randint(0, 2, shape).to(spec.dtype)
    data = np.frombuffer(b''.join(map(bytes, value_to_buffers(spec, tensor))), np.uint8).copy()
    received = value_from_bytes(spec, data)
    assert same_bits(received, tensor)
    if spec.order is not None:
        assert received.stride() == tensor.permute(0, 2, 1).contiguous().permute(0, 2, 1).stride()
    for broken in (data[:-1], data[:10], np.append(data, np.uint8(0))):
        with pytest.raises(WireError):
            value_from_bytes(spec, broken)


def test_a_bool_is_0_or_1():
    spec = TensorSpec((2,), torch.bool)
    data = np.zeros(66, np.uint8)
    data[0], data[40], data[64] = 2, 2, 3
    with pytest.raises(WireError, match='0 and 1'):
        value_from_bytes(spec, data)


def test_messages_survive_the_wire():
    asked = Asked(
        Ask.RUN, KEY, 5, 6, 'vit', 'abc', (Port('image', (2, 3), torch.uint8),), True, 7,
        memoryview(b'123'), ((0, 4), (6, 6)), 0.25, 9,
    )  # fmt: skip
    data = b''.join(map(bytes, asked_to_buffers(asked)))
    assert asked_from_bytes(np.frombuffer(data, np.uint8)) == asked
    answered = Answered(Answer.FAILED, 'why', 0.5, 0.75)
    data = b''.join(map(bytes, answered_to_buffers(answered)))
    assert answered_from_bytes(np.frombuffer(data, np.uint8)) == answered


@pytest.mark.parametrize(
    'head',
    [
        b'{"ask": 3, "graph": "xyz"}',
        b'{"ask": true}',
        b'{"ask": 77}',
        b'{"ask": 4, "run": -1}',
        b'{"ask": 4, "budget_s": NaN}',
        b'{"ask": 4, "nodes": [[3, 1]]}',
        b'{"ask": 4, "nodes": [[0, 4], [4, 5]]}',
        b'{"ask": 4, "nodes": [[0, 1e3]]}',
        b'{"ask": 4, "inputs": [["image", [1099511627776, 2], 1]]}',
        b'{"ask": 4, "inputs": [["image", [2], 99]]}',
        b'{"ask": 4, "data": "x"}',
        b'{"ask": 4, "of_parameters": 1}',
        b'[1]',
    ],
)
def test_a_message_that_makes_no_sense_is_refused(head):
    data = np.frombuffer(len(head).to_bytes(4, 'little') + head, np.uint8)
    with pytest.raises(WireError):
        asked_from_bytes(data)


def test_a_server_that_has_the_model_makes_the_graph_by_itself(site, tmp_path):
    from offload_ros.graph.of_model import capture_model
    from offload_ros.models.config import InputSpec, ModelConfig, Source
    from offload_ros.models.model import Model

    config = ModelConfig(
        'conv', Source('x:y'), inputs=(InputSpec('image', 'cam'),), outputs=('out',)
    )

    def model(key):
        torch.manual_seed(3)
        network = torch.nn.Conv2d(3, 4, 3).eval()
        whole = torch.nn.Sequential(Chw(), network).eval()
        return Model(config, whole, key, True)

    mine, theirs = model('abc'), model('abc')
    image = torch.randint(0, 256, (9, 11, 3), dtype=torch.uint8)
    graph, parameters = capture_model(mine, {'image': image})
    weight = mine.network[1].weight
    assert any(each.data_ptr() == weight.data_ptr() for each in parameters.values())
    ports = (Port('image', (9, 11, 3), torch.uint8),)
    known = {('conv', 'abc'): theirs}
    server = site(find_model=lambda name, key: known.get((name, key)))
    link, lane = server.robot()
    local = LocalGraph(graph, parameters, 'cpu', 'conv', 'abc', ports)
    assert not link.open(local)
    assert server.host.store.used_bytes == 0
    ran = link.run(local, Cut(graph, range(1, len(graph.nodes))), {'image': image}, lane)
    assert same_bits(ran.outputs['out'], mine.run({'image': image})['out'])
    # Another content under the same name is asked for.
    known['conv', 'abc'].network[1].weight.data += 1
    other = site(find_model=lambda name, key: known.get((name, key)))
    link, _ = other.robot()
    assert link.open(local)


class Chw(torch.nn.Module):
    """(H, W, 3) uint8 to (1, 3, H, W) float32."""

    def forward(self, image):
        return image.permute(2, 0, 1).unsqueeze(0).float()
