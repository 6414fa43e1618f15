"""Inferences by steps over a channel: both sides at the same time, and the model's result."""

from concurrent.futures import ThreadPoolExecutor
from functools import cache
import json
import random
import threading
import time

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from offload_ros.cuts.client import LocalGraph
from offload_ros.cuts.cut import Cut
from offload_ros.cuts.sender import ValueSender
from offload_ros.cuts.value_codecs import code_named
from offload_ros.graph.capture import capture
from offload_ros.graph.execute import Executor
from offload_ros.graph.graph import Input
from offload_ros.graph.measure import NodeTimes, profile_of
from offload_ros.graph.split_plan import Plan
from offload_ros.intra_dp.lower import lower
from offload_ros.intra_dp.pieces import Block
from offload_ros.intra_dp.run_held import Held
from offload_ros.intra_dp.run_timeline import Event, Kind, events_from_bytes, events_to_bytes
from offload_ros.models.model import Model
from offload_ros.wire.errors import WireError
from offload_ros.wire.shaper import LinkShape

from ..cuts.conftest import LONG_S, no_endless_wait, site, until
from ..graph.equality import assert_same
from ..graph.networks import build
from .conftest import UNBATCHED_IN_LONG
from .step_plans import operators, random_plan, split_plan, streamed
from .test_lower import assert_close

__all__ = ['no_endless_wait', 'site']


@cache
def network(name):
    """(graph, parameters, example, outputs of the whole graph)."""
    model, example = build(name)
    graph, parameters = capture(model, example, name)
    return graph, parameters, example, LocalGraph(graph, parameters).executor(example)


def local_graph(name):
    graph, parameters, _, _ = network(name)
    return LocalGraph(graph, parameters)


def opened(site, name, **shapes):
    """(site, link, lane, local graph) with the graph on the server."""
    server = site()
    link, lane = server.robot(**shapes)
    local = local_graph(name)
    link.open(local)
    return server, link, lane, local


@pytest.mark.parametrize('name', UNBATCHED_IN_LONG)
def test_random_steps_over_a_channel_give_the_result_of_the_model(site, name):
    _, link, lane, local = opened(site, name)
    _, _, example, expected = network(name)
    for seed in range(2):
        steps = random_plan(local.rows, seed)
        if seed % 2:
            steps = streamed(local.rows, steps, seed // 2)
        work = lower(local.rows, steps)
        ran = link.run_split(local, work, example, lane, time.monotonic() + LONG_S)
        assert_close(name, ran.outputs, expected)
        assert not ran.completed_locally
        assert (ran.bytes_up > 0) == (work.up > 0)


def flops_of(name):
    """Of each node that convolves or multiplies matrices."""
    graph, parameters, example, _ = network(name)
    found = {}

    def count(node, compute):
        with FlopCounterMode(display=False) as counter:
            result = compute()
        found[node.id] = counter.get_total_flops()
        return result

    Executor(graph, parameters)(example, count)
    return {node: flops for node, flops in found.items() if flops}


def watched(monkeypatch):
    """By executor, what is computed of which node; from here on no graph is run as a whole."""
    found = {}
    compute = Held.compute

    def noted(held, item):
        own = found.setdefault(held._executor, [])
        if isinstance(item, Block):
            own.extend((node, None) for node in item.nodes)
        else:
            own.append(item[:2])
        compute(held, item)

    def whole(*args, **options):
        raise AssertionError('the whole model was called')

    monkeypatch.setattr(Held, 'compute', noted)
    monkeypatch.setattr(Executor, '__call__', whole)
    monkeypatch.setattr(Model, 'run', whole)
    return found


SPLIT = ['vgg', 'vgg3d', 'resnet', 'resnext', 'densenet', 'convnext', 'yolo', 'unet', 'unet3d']


@pytest.mark.parametrize('name', SPLIT)
def test_both_sides_do_a_tenth_of_the_work_at_least_and_nobody_runs_the_whole(
    site, monkeypatch, name
):
    flops = flops_of(name)
    server, link, lane, local = opened(site, name)
    _, _, example, expected = network(name)
    borders = dict.fromkeys(operators(local.rows), 0.5)
    work = lower(local.rows, split_plan(local.rows, borders, halo=1, tiles=3))
    computed = watched(monkeypatch)
    ran = link.run_split(local, work, example, lane, time.monotonic() + LONG_S)
    assert_close(name, ran.outputs, expected)
    hosted = next(iter(server.host.store._graphs.values()))
    total = sum(flops.values())
    for executor in (local.executor, hosted.executor):
        done = 0.0
        for node, rows in computed[executor]:
            share = 1.0 if rows is None else rows.length / local.rows.width(node)
            done += share * flops.get(node, 0)
        assert 0.1 * total < done < 0.9 * total
    assert ran.robot_s > 0.0


def test_pieces_may_arrive_in_any_order(site, monkeypatch):
    send = ValueSender.send
    draw = random.Random(0)

    def later(sender, *args, **options):
        timer = threading.Timer(draw.random() * 0.02, send, (sender, *args), options)
        timer.daemon = True
        timer.start()

    _, link, lane, local = opened(site, 'unet')
    _, _, example, expected = network('unet')
    monkeypatch.setattr(ValueSender, 'send', later)
    for seed in range(3):
        borders = dict.fromkeys(operators(local.rows), 0.3 + 0.2 * seed)
        work = lower(local.rows, split_plan(local.rows, borders, tiles=5))
        assert len(work.pieces) > 10
        ran = link.run_split(local, work, example, lane, time.monotonic() + LONG_S)
        assert_close('unet', ran.outputs, expected)
        assert not ran.completed_locally


@pytest.mark.parametrize('name', ['resnet', 'unet'])
def test_a_bandwidth_that_changes_in_mid_request_changes_no_bit(site, monkeypatch, name):
    fast, slow = LinkShape(bytes_per_s=4e6, delay_s=0.001), LinkShape(bytes_per_s=0.2e6, loss=0.01)
    server, link, lane, local = opened(site, name)
    _, _, example, expected = network(name)
    shapers = (server.links[0].up, server.links[0].down)
    work = lower(
        local.rows, split_plan(local.rows, dict.fromkeys(operators(local.rows), 0.5), tiles=4)
    )
    alone = link.run_split(local, work, example, lane, time.monotonic() + LONG_S)
    send, sent = ValueSender.send, []

    def changing(sender, *args, **options):
        sent.append(args[0])
        for each in shapers:
            each.shape = slow if len(sent) // 4 % 2 else fast
        send(sender, *args, **options)

    monkeypatch.setattr(ValueSender, 'send', changing)
    ran = link.run_split(local, work, example, lane, time.monotonic() + LONG_S)
    assert len(sent) == len(work.pieces) > 8
    assert_close(name, ran.outputs, expected)
    assert_same(ran.outputs, alone.outputs)


def test_pieces_are_coded_as_the_plan_says_and_nothing_is_lost(site):
    _, link, lane, local = opened(site, 'unet3d')
    _, _, example, expected = network('unet3d')
    work = lower(local.rows, steps_on_server(local.rows))
    plain = link.run_split(local, work, example, lane, time.monotonic() + LONG_S)
    labels = next(
        reference.node
        for reference in local.graph.outputs.values()
        if local.graph.spec_of(reference).dtype == torch.uint8
    )
    codecs = {-1: code_named('bits'), labels: code_named('zstd')}
    coded = link.run_split(local, work, example, lane, time.monotonic() + LONG_S, codecs=codecs)
    assert_same(coded.outputs, plain.outputs)
    pieces = sum(isinstance(piece.value, Input) for piece in work.pieces)
    assert coded.bytes_up < plain.bytes_up / 4 + 80 * pieces
    assert coded.bytes_down < plain.bytes_down
    cut = Cut(local.graph, range(len(local.graph.nodes)))
    whole = link.run(local, cut, example, lane, time.monotonic() + LONG_S, codecs=codecs)
    assert whole.bytes_up < plain.bytes_up / 4 and whole.bytes_down < plain.bytes_down
    assert_same(whole.outputs, expected)


def test_a_plan_is_lowered_once():
    local = local_graph('vgg')
    times = NodeTimes({node.id: 1e-3 for node in local.graph.nodes}, 0.1)
    profile = profile_of(local.graph, local.rows.split, times, times)
    plans = [Plan.shares(profile, [share] * len(profile)) for share in (0.3, 0.3, 0.6)]
    one, again, other = map(local.lower, plans)
    assert one is again and one is not other


def steps_on_server(rows):
    return split_plan(rows, dict.fromkeys(operators(rows), 0.0), tiles=4)


def test_a_timeline_tells_what_happened_when_on_both_sides(site):
    shape = LinkShape(bytes_per_s=2e6, delay_s=0.004)
    _, link, lane, local = opened(site, 'vgg', up=shape, down=shape)
    _, _, example, _ = network('vgg')
    work = lower(
        local.rows, split_plan(local.rows, dict.fromkeys(operators(local.rows), 0.5), tiles=3)
    )
    assert link.run_split(local, work, example, lane).timeline is None
    ran = link.run_split(local, work, example, lane, timeline=True)
    up, down = range(work.up), range(work.up, len(work.pieces))
    for events, sent, received, segments in (
        (ran.timeline.robot, up, down, work.robot.segments),
        (ran.timeline.server, down, up, work.server.segments),
    ):
        by_kind = {kind: [each for each in events if each.kind is kind] for kind in Kind}
        assert [each.number for each in by_kind[Kind.SEND]] == list(sent)
        assert sorted(each.number for each in by_kind[Kind.RECEIVE]) == list(received)
        computing = [place for place, each in enumerate(segments) if each.computes]
        found = [each.number for each in by_kind[Kind.COMPUTE]]
        assert [each for each in found if segments[each].computes] == computing
        assert all(0.0 <= each.start_s <= each.stop_s <= ran.total_s + 0.05 for each in events)
    left = {e.number: e.start_s for e in ran.timeline.server if e.kind is Kind.SEND}
    came = {e.number: e.stop_s for e in ran.timeline.robot if e.kind is Kind.RECEIVE}
    assert all(came[place] >= left[place] for place in down)
    json.dumps(ran.timeline.document())


def test_an_events_bytes_are_read_back_and_others_refused():
    events = (Event(Kind.COMPUTE, 3, 0.001, 0.002), Event(Kind.SEND, 65535, -0.5, 12.0))
    assert events_from_bytes(events_to_bytes(events)) == events
    for data in (bytes(15), bytes([9, 0, 0, 0] * 4)):
        with pytest.raises(WireError):
            events_from_bytes(data)


def test_several_robots_and_plans_at_once(site):
    server = site()
    robots = [(*server.robot(), local_graph(name), name) for name in ('unet', 'vgg', 'unet')]
    for link, _, local, _ in robots:
        link.open(local)

    def play(link, lane, local, name):
        _, _, example, expected = network(name)
        for seed in range(4):
            work = lower(local.rows, random_plan(local.rows, seed))
            ran = link.run_split(local, work, example, lane, time.monotonic() + LONG_S)
            assert_close(name, ran.outputs, expected)

    with ThreadPoolExecutor(len(robots)) as threads:
        for done in [threads.submit(play, *each) for each in robots]:
            done.result(LONG_S)
    until(lambda: not any(session.runs for session in server.sessions))
