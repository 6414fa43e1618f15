"""Inferences that robot and server compute together have the bits of one machine's."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial
import random
import threading
import time

import pytest

from offload_ros.cuts import client as client_module
from offload_ros.cuts import host as host_module
from offload_ros.cuts import store as store_module
from offload_ros.cuts.cut import Cut
from offload_ros.cuts.errors import CutFailed
from offload_ros.cuts.messages import value_key
from offload_ros.cuts.sender import ValueSender
from offload_ros.graph.graph import GraphError, Input, Value
from offload_ros.intra_dp.run_timeline import Kind
from offload_ros.wire.codecs import BITS, SHUFFLE_ZSTD, ZSTD
from offload_ros.wire.connection import Connection
from offload_ros.wire.exchange import VALUES
from offload_ros.wire.in_process import InProcessLink
from offload_ros.wire.incoming import ReceiveLimits, State
from offload_ros.wire.shaper import LinkShape

from ..graph.equality import assert_same
from ..graph.networks import NETWORKS
from .conftest import LONG_S, captured, local_graph, until


def random_cuts(graph, seed):
    """At one place, in stripes, and node by node: many crossings both ways."""
    choice = random.Random(seed)
    count = len(graph.nodes)
    place = choice.randrange(1, count)
    yield range(place, count)
    yield range(place)
    first, last = sorted(choice.sample(range(count), 2))
    yield range(first, last)
    yield [each for each in range(count) if each not in range(first, last)]
    yield range(count)
    for share in (0.1, 0.5, 0.9):
        yield [each for each in range(count) if choice.random() < share]


def both_ways(graph, size=1):
    """Stripes: crossings up and down by turns."""
    return [each for each in range(len(graph.nodes)) if each // size % 2]


@pytest.mark.parametrize('name', NETWORKS)
def test_random_cuts_give_the_bits_of_the_whole(site, name):
    example, graph, _, expected = captured(name)
    link, lane = site().robot()
    local = local_graph(name)
    assert link.open(local)
    crossed = 0
    for on_server in random_cuts(graph, name):
        cut = Cut(graph, on_server)
        ran = link.run(local, cut, example, lane, time.monotonic() + LONG_S)
        assert_same(ran.outputs, expected)
        crossed = max(crossed, len(cut.up) + len(cut.down))
    assert crossed > 5


@pytest.mark.long
@pytest.mark.parametrize('name', NETWORKS)
def test_many_random_cuts_give_the_bits_of_the_whole(site, name):
    example, graph, _, expected = captured(name)
    link, lane = site().robot()
    local = local_graph(name)
    link.open(local)
    for seed in range(25):
        for on_server in random_cuts(graph, f'{name} {seed}'):
            ran = link.run(local, Cut(graph, on_server), example, lane)
            assert_same(ran.outputs, expected)


def test_a_lossy_link_changes_no_bit(site):
    shape = LinkShape(bytes_per_s=20e6, delay_s=0.001, loss=0.02)
    example, graph, _, expected = captured('resnet')
    link, lane = site().robot(up=shape, down=shape)
    local = local_graph('resnet')
    link.open(local)
    for _ in range(3):
        ran = link.run(local, Cut(graph, both_ways(graph, 9)), example, lane)
        assert_same(ran.outputs, expected)


def needing_input(graph):
    """Nodes that depend on an input of the model."""
    found = set()
    for node in graph.nodes:
        read = [each for each in node.references if isinstance(each, Input)]
        if read or found.intersection(node.predecessors):
            found.add(node.id)
    return found


def test_each_node_is_in_one_segment_of_one_side_and_each_value_crosses_once():
    for name in ('densenet', 'unet', 'yolo_tail'):
        _, graph, _, _ = captured(name)
        for on_server in random_cuts(graph, name):
            cut = Cut(graph, on_server)
            robot = [node for segment in cut.robot for node in segment.nodes]
            server = [node for segment in cut.server for node in segment.nodes]
            assert sorted(robot) == robot and sorted(server) == server
            assert not set(robot) & set(server) & needing_input(graph)
            assert (len(robot), len(server)) == cut.counts
            sent = [r for side in (cut.robot, cut.server) for s in side for r in s.sends]
            waited = [r for side in (cut.robot, cut.server) for s in side for r in s.waits]
            assert sorted(map(repr, sent)) == sorted(map(repr, waited))
            assert set(sent) == set(cut.crossings) and len(sent) == len(cut.crossings)


def test_what_a_side_holds_in_the_end_is_only_the_results():
    _, graph, _, _ = captured('unet')
    cut = Cut(graph, both_ways(graph, 5))
    for side, results in ((cut.robot, set(graph.outputs.values())), (cut.server, set())):
        held = {Input(name) for name in graph.inputs} if side is cut.robot else set()
        for segment in side:
            held |= {*segment.waits, *segment.keeps}
            assert set(segment.reads) <= held and set(segment.sends) <= held
            assert set(segment.drops) <= held
            held -= set(segment.drops)
        assert held - {Input(name) for name in graph.inputs} == results


def test_a_side_sends_a_value_as_soon_as_it_is_computed():
    _, graph, _, _ = captured('unet')
    cut = Cut(graph, both_ways(graph, 7))
    for segment in (*cut.robot, *cut.server):
        for reference in segment.sends:
            if isinstance(reference, Value):
                assert segment.nodes[-1] == reference.node


def test_a_node_that_does_not_exist_is_refused():
    _, graph, _, _ = captured('unet')
    with pytest.raises(GraphError, match='has the nodes 0 to'):
        Cut(graph, [len(graph.nodes)])


def test_bytes_that_cross_are_counted_and_an_image_stays_one_byte_a_value(site):
    example, graph, _, _ = captured('yolo')
    link, lane = site().robot()
    local = local_graph('yolo')
    link.open(local)
    cut = Cut(graph, range(len(graph.nodes)))
    ran = link.run(local, cut, example, lane)
    assert ran.bytes_up == 47 * 59 * 3 + 64
    assert ran.bytes_down == sum(graph.spec_of(each).nbytes + 64 for each in cut.down)
    assert ran.robot_s == 0.0 and 0.0 < ran.server_s < ran.total_s


@pytest.mark.parametrize('size', [3, 1000])
def test_a_timeline_tells_when_each_operator_ran_and_each_value_crossed(site, size):
    server = site()
    link, lane = server.robot(up=LinkShape(delay_s=0.004), down=LinkShape(delay_s=0.004))
    example, graph, _, expected = captured('unet')
    local = local_graph('unet')
    link.open(local)
    cut = Cut(graph, both_ways(graph, size) if size < 1000 else range(len(graph.nodes)))
    assert link.run(local, cut, example, lane).timeline is None
    ran = link.run(local, cut, example, lane, timeline=True)
    assert_same(ran.outputs, expected)
    up, down = range(len(cut.up)), range(len(cut.up), len(cut.crossings))
    for events, sent, received, segments in (
        (ran.timeline.robot, up, down, cut.robot),
        (ran.timeline.server, down, up, cut.server),
    ):
        by_kind = {kind: [each for each in events if each.kind is kind] for kind in Kind}
        assert sorted(each.number for each in by_kind[Kind.SEND]) == list(sent)
        assert sorted(each.number for each in by_kind[Kind.RECEIVE]) == list(received)
        computing = {number: each for number, each in enumerate(segments) if each.nodes}
        spans = {each.number: each for each in by_kind[Kind.COMPUTE]}
        assert computing.keys() <= spans.keys()
        nodes = [node for each in computing.values() for node in each.nodes]
        assert [each.number for each in by_kind[Kind.NODE]] == nodes
        own = {each.number: each for each in by_kind[Kind.NODE]}
        for number, segment in computing.items():
            for node in segment.nodes:
                assert spans[number].start_s <= own[node].start_s <= own[node].stop_s
                assert own[node].stop_s <= spans[number].stop_s + 1e-5
        assert all(-1e-6 <= each.start_s <= each.stop_s <= ran.total_s + 0.05 for each in events)
    both = ran.timeline.robot, ran.timeline.server
    for one, other in (both, both[::-1]):
        left = {each.number: each.start_s for each in one if each.kind is Kind.SEND}
        came = {each.number: each.stop_s for each in other if each.kind is Kind.RECEIVE}
        assert left and all(came[place] >= left[place] for place in left)
    timed = link.run(local, cut, example, lane, timed=True)
    on_server = {node for each in cut.server for node in each.nodes}
    assert timed.timeline is None and timed.node_s.keys() == on_server


def test_several_robots_and_runs_at_once(site):
    server = site()
    robots = [server.robot() for _ in range(3)]
    work = []
    for (link, lane), names in zip(robots, (('unet', 'vit'), ('unet',), ('resnet',)), strict=True):
        for name in names:
            local = local_graph(name)
            link.open(local)
            work.append((link, lane, name, local))
    assert len(server.host.store) == 3

    def play(each):
        link, lane, name, local = each
        example, graph, _, expected = captured(name)
        for size in (2, 3, 5, 8, 13):
            ran = link.run(local, Cut(graph, both_ways(graph, size)), example, lane)
            assert_same(ran.outputs, expected)

    with ThreadPoolExecutor(len(work)) as threads:
        for done in [threads.submit(play, each) for each in work]:
            done.result(LONG_S)
    until(lambda: not any(session.runs for session in server.sessions))


def background(call):
    """Run ``call`` in a thread; a list that gets what it raised, or its result."""
    found = []

    def run():
        try:
            found.append(call())
        except CutFailed as error:
            found.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return found


def slow_run(site, up_bytes_per_s=20e3):
    """A run whose input needs seconds on the link; it is under way on both sides."""
    server = site()
    link, lane = server.robot()
    local = local_graph('yolo')
    link.open(local)
    server.links[0].up.shape = LinkShape(bytes_per_s=up_bytes_per_s)
    _, graph, _, _ = captured('yolo')
    runs = []
    cut = Cut(graph, range(len(graph.nodes)))
    return server, link, lane, local, cut, runs


def test_a_server_lost_in_mid_inference_ends_the_run(site):
    server, link, lane, local, cut, runs = slow_run(site)
    example = captured('yolo')[0]
    found = background(lambda: link.run(local, cut, example, lane, began=runs.append))
    until(lambda: server.sessions[0].runs == 1)
    server.links[0].robot.close('server /s is lost')
    until(lambda: found)
    assert isinstance(found[0], CutFailed) and 'is lost' in str(found[0])
    with pytest.raises(CutFailed, match='is lost'):
        link.run(local, cut, example, lane)
    server.links[0].server.close('robot /r is gone')
    until(lambda: server.sessions[0].runs == 0, 2.0)
    assert all(not graph.users for graph in server.host.store._graphs.values())


def test_a_cancel_ends_the_run_on_both_sides_and_the_next_one_is_right(site):
    server, link, lane, local, cut, runs = slow_run(site)
    example, _, _, expected = captured('yolo')
    found = background(lambda: link.run(local, cut, example, lane, began=runs.append))
    until(lambda: server.sessions[0].runs == 1)
    runs[0].end('cancelled')
    until(lambda: found)
    assert str(found[0]) == 'cancelled'
    until(lambda: server.sessions[0].runs == 0)
    server.links[0].up.shape = LinkShape()
    assert_same(link.run(local, cut, example, lane).outputs, expected)


def test_the_deadline_ends_the_run(site):
    server, link, lane, local, cut, _ = slow_run(site)
    began_s = time.monotonic()
    with pytest.raises(CutFailed, match='the deadline has passed'):
        link.run(local, cut, captured('yolo')[0], lane, began_s + 0.1)
    assert time.monotonic() - began_s < LONG_S / 3
    until(lambda: server.sessions[0].runs == 0)


def test_a_lane_that_is_busy_does_not_hold_up_a_cancel(site):
    link, lane = site().robot()
    local = local_graph('vit')
    link.open(local)
    example, graph, _, _ = captured('vit')
    go, runs = threading.Event(), []
    lane.submit(lambda: go.wait(LONG_S))
    cut = Cut(graph, both_ways(graph, 4))
    found = background(lambda: link.run(local, cut, example, lane, began=runs.append))
    until(lambda: runs)
    runs[0].end('cancelled')
    until(lambda: found)
    go.set()


def test_a_value_too_large_for_the_other_side_is_told_at_once(site, monkeypatch):
    for module in (client_module, store_module):
        monkeypatch.setattr(module, 'PART_BYTES', 20_000)
    small = {'connection': lambda: Connection(ReceiveLimits(400_000, 96, 30_000))}
    link, lane = site().robot(**small)
    local = local_graph('yolo')
    link.open(local)
    example, graph, _, _ = captured('yolo')
    larger = [node.id for node in graph.nodes for spec in node.outputs if spec.nbytes > 31_000]
    for on_server in (range(larger[0] + 1), range(larger[0] + 1, len(graph.nodes))):
        began_s = time.monotonic()
        with pytest.raises(CutFailed, match=r'did not reach the .*at most 30000 are allowed'):
            link.run(local, Cut(graph, on_server), example, lane)
        assert time.monotonic() - began_s < LONG_S / 2


def test_the_value_that_is_sent_first_arrives_first():
    shape = LinkShape(bytes_per_s=2e6, delay_s=0.001)
    with InProcessLink(up=shape) as link:
        sender, arrived = ValueSender(link.robot), []
        link.server.listen(
            VALUES, lambda incoming: incoming.when_ended(lambda ended: arrived.append(ended.key))
        )
        sizes = (200_000, 60_000, 100, 90_000, 10)
        for place, size in enumerate(sizes):
            sender.send(value_key(1, place), [bytes(size)])
        until(lambda: len(arrived) == len(sizes))
        assert arrived == [value_key(1, place) for place in range(len(sizes))]


def test_values_that_take_long_to_code_leave_in_their_turn_and_hold_up_nobody_else():
    with InProcessLink() as link:
        sender, arrived = ValueSender(link.robot), []
        link.server.listen(
            VALUES, lambda incoming: incoming.when_ended(lambda ended: arrived.append(ended.key))
        )
        coded, failed = threading.Event(), []

        def code(place):
            assert coded.wait(LONG_S)
            return [bytes([place] * 10)]

        def broken():
            raise MemoryError('none left')

        sender.send(value_key(1, 0), [b'0'])
        for place in (1, 3):
            sender.send_coded(value_key(1, place), partial(code, place), failed.append)
        sender.send(value_key(1, 2), [b'2'])
        sender.send_coded(value_key(1, 4), broken, failed.append)
        sender.send_coded(value_key(2, 0), partial(code, 0), failed.append)
        until(lambda: arrived == [value_key(1, 0)])
        sender.withdraw(value_key(2, 0), value_key(2, 9), 'cancelled')
        coded.set()
        sender.send(value_key(1, 5), [b'5'])
        until(lambda: len(arrived) == 5)
        assert arrived == [value_key(1, place) for place in (0, 1, 3, 2, 5)]
        assert failed == ['a value was not coded: MemoryError: none left']


def test_a_value_that_cannot_be_coded_on_the_server_ends_the_run(site, monkeypatch):
    example, graph, _, _ = captured('unet')
    link, lane = site().robot()
    local = local_graph('unet')
    link.open(local)
    monkeypatch.setattr(host_module, 'CODED_ASIDE_BYTES', 0)
    to_buffers = host_module.value_to_buffers

    def broken(spec, tensor, codec):
        if codec:
            raise MemoryError('none left')
        return to_buffers(spec, tensor, codec)

    monkeypatch.setattr(host_module, 'value_to_buffers', broken)
    codecs = {node.id: SHUFFLE_ZSTD for node in graph.nodes}
    with pytest.raises(CutFailed, match='not coded: MemoryError: none left'):
        link.run(local, Cut(graph, both_ways(graph)), example, lane, codecs=codecs)


@pytest.mark.parametrize('name', ['unet', 'yolo', 'resnet3d', 'vit'])
@pytest.mark.parametrize('codec', [SHUFFLE_ZSTD, ZSTD, BITS])
def test_coded_values_give_the_bits_of_the_whole(site, monkeypatch, name, codec):
    example, graph, _, expected = captured(name)
    link, lane = site().robot()
    local = local_graph(name)
    link.open(local)
    codecs = dict.fromkeys(range(-len(graph.inputs), len(graph.nodes)), codec)
    for aside in (0, 1 << 40):
        monkeypatch.setattr(host_module, 'CODED_ASIDE_BYTES', aside)
        for on_server in (both_ways(graph), both_ways(graph, 5)):
            cut = Cut(graph, on_server)
            coded = link.run(local, cut, example, lane, codecs=codecs)
            assert_same(coded.outputs, expected)
        raw = link.run(local, cut, example, lane)
        assert coded.bytes_up <= raw.bytes_up and coded.bytes_down <= raw.bytes_down
        if codec == SHUFFLE_ZSTD and name != 'vit':
            assert coded.bytes_down < 0.98 * raw.bytes_down


def test_values_that_are_withdrawn_are_not_sent():
    with InProcessLink(up=LinkShape(bytes_per_s=1e4)) as link:
        sender, ended = ValueSender(link.robot), []
        for run in (1, 2):
            for place in range(40):
                sender.send(value_key(run, place), [bytes(5000)], on_end=ended.append)
        sender.withdraw(value_key(1, 0), value_key(1, 0xFFFF), 'cancelled')
        link.up.shape = LinkShape()
        until(lambda: sum(sent.state is State.DONE for sent in ended) == 40)
        assert {sent.key >> 16 & 0xFFFF for sent in ended if sent.state is State.DONE} == {2}


def test_an_operator_that_fails_on_the_server_is_told(site):
    server = site()
    link, lane = server.robot()
    local = local_graph('vit')
    link.open(local)
    hosted = next(iter(server.host.store._graphs.values()))

    def broken(*args):
        raise RuntimeError('out of memory')

    hosted.executor.run = broken
    example, graph, _, _ = captured('vit')
    with pytest.raises(CutFailed, match='out of memory'):
        link.run(local, Cut(graph, range(len(graph.nodes))), example, lane)
