"""Pieces that come late or never, ends in the middle, and messages of strangers."""

import threading
import time

import numpy as np
import pytest

from offload_ros.cuts.errors import CutFailed
from offload_ros.cuts.hosted_plans import MAX_PLANS
from offload_ros.cuts.messages import Answer, Ask, Asked, value_key
from offload_ros.graph.graph import Input
from offload_ros.graph.intervals import Interval
from offload_ros.graph.steps import Step, Steps
from offload_ros.intra_dp.lower import lower
from offload_ros.intra_dp.lower_steps import steps_bytes
from offload_ros.intra_dp.run import put_inputs, results, run_segment
from offload_ros.intra_dp.run_held import Held
from offload_ros.intra_dp.run_late import Patience, completion, last_reads
from offload_ros.intra_dp.run_timeline import Kind
from offload_ros.wire.exchange import VALUES
from offload_ros.wire.incoming import State
from offload_ros.wire.shaper import LinkShape

from ..cuts.conftest import LONG_S, no_endless_wait, site, until
from .conftest import UNBATCHED_IN_LONG, in_rows
from .step_plans import operators, random_plan, split_plan
from .test_lower import assert_close
from .test_runtime import network, opened

__all__ = ['no_endless_wait', 'site']
SLOW = LinkShape(bytes_per_s=5e3)


def halves(rows, **options):
    return lower(rows, split_plan(rows, dict.fromkeys(operators(rows), 0.5), **options))


def background(call):
    """Run ``call`` in a thread; a list that gets what it raised, or its result."""
    found = []

    def run():
        try:
            found.append(call())
        except Exception as error:
            found.append(error)

    threading.Thread(target=run, daemon=True).start()
    return found


@pytest.mark.parametrize('name', UNBATCHED_IN_LONG)
def test_whatever_has_come_the_robot_can_compute_the_rest(name):
    rows, executor, example, expected = in_rows(name)
    for seed in range(2):
        work = lower(rows, random_plan(rows, seed))
        segments = work.robot.segments
        stop = len(segments) * (seed + 1) // 3
        held = _as_far_as(work, executor, example, stop)
        computes = completion(rows, held.has)
        drops = last_reads(rows, computes)
        for place, compute in enumerate(computes):
            held.compute(compute)
            for value in drops.get(place, ()):
                held.drop(value)
        assert_close(name, results(rows, held), expected)


def _as_far_as(work, executor, example, stop):
    """What the robot holds after ``stop`` segments."""
    robot, server = (Held(work.rows, executor, s.buffers) for s in (work.robot, work.server))
    put_inputs(robot, work.rows, example)
    arrived, places = {}, [0, 0]
    sides = ((work.robot.segments[:stop], robot), (work.server.segments, server))
    moved = True
    while moved:
        moved = False
        for side, (segments, held) in enumerate(sides):
            while places[side] < len(segments) and arrived.keys() >= set(
                segments[places[side]].waits
            ):
                leaving = run_segment(work, segments[places[side]], held, arrived)
                arrived.update({place: tensor.clone() for place, tensor in leaving})
                places[side] += 1
                moved = True
    assert places[0] == stop
    return robot


@pytest.mark.parametrize('name', ['vgg', 'unet', 'densenet', 'vit'])
def test_pieces_that_never_come_are_computed_by_the_robot(site, name):
    server, link, lane, local = opened(site, name)
    _, _, example, expected = network(name)
    work = halves(local.rows, tiles=2)
    link.open_plan(local, work)
    server.links[0].down.shape = SLOW
    began_s = time.monotonic()
    ran = link.run_split(
        local, work, example, lane, time.monotonic() + LONG_S, Patience(late_s=0.2), timeline=True
    )
    assert 0.2 <= time.monotonic() - began_s < LONG_S / 2
    assert_close(name, ran.outputs, expected)
    assert ran.completed_locally > 3 and ran.why_local == 'pieces of the server are late'
    assert any(each.kind is Kind.COMPLETE for each in ran.timeline.robot)
    until(lambda: server.sessions[0].runs == 0)
    server.links[0].down.shape = LinkShape()
    again = link.run_split(local, work, example, lane, time.monotonic() + LONG_S)
    assert_close(name, again.outputs, expected)
    assert not again.completed_locally and not again.why_local


def test_only_pieces_that_are_named_late_are_late(site):
    server, link, lane, local = opened(site, 'vgg')
    _, _, example, expected = network('vgg')
    work = halves(local.rows)
    down = LinkShape(bytes_per_s=1e6, delay_s=0.1)
    server.links[0].down.shape = down
    patience = Patience(late_s=LONG_S, late_at={work.up: 0.01})
    ran = link.run_split(local, work, example, lane, time.monotonic() + LONG_S, patience)
    assert ran.completed_locally
    assert_close('vgg', ran.outputs, expected)
    patience = Patience(late_s=0.01, late_at=dict.fromkeys(range(len(work.pieces)), LONG_S))
    ran = link.run_split(local, work, example, lane, time.monotonic() + LONG_S, patience)
    assert not ran.completed_locally


def test_the_robot_stops_waiting_while_it_can_still_meet_the_deadline(site):
    server, link, lane, local = opened(site, 'unet')
    _, _, example, expected = network('unet')
    work = halves(local.rows, tiles=2)
    link.open_plan(local, work)
    server.links[0].down.shape = SLOW
    nodes = operators(local.rows)
    patience = Patience(node_s=dict.fromkeys(nodes, 2.0 / len(nodes)))  # 2 s in all
    began_s = time.monotonic()
    ran = link.run_split(local, work, example, lane, began_s + 4.0, patience)
    took_s = time.monotonic() - began_s
    assert took_s < 4.0
    assert 'deadline' in ran.why_local
    assert_close('unet', ran.outputs, expected)
    # Half of it was computed before: the robot waits longer than if nothing were.
    assert took_s > 2.0


def under_way(site, name='unet'):
    """A run that waits for pieces of the server, which come slowly."""
    server, link, lane, local = opened(site, name)
    work = halves(local.rows, tiles=2)
    link.open_plan(local, work)
    server.links[0].down.shape = SLOW
    runs = []
    example = network(name)[2]
    found = background(
        lambda: link.run_split(
            local, work, example, lane, time.monotonic() + LONG_S, began=runs.append
        )
    )
    until(lambda: runs and runs[0].compute_s > 0.0)
    return server, link, lane, local, work, runs, found


def test_a_server_lost_in_mid_inference_leaves_the_rest_to_the_robot(site):
    server, link, lane, local, work, _, found = under_way(site)
    server.links[0].robot.close('server /s is lost')
    until(lambda: found, 10.0)
    assert found[0].completed_locally and 'is lost' in found[0].why_local
    assert_close('unet', found[0].outputs, network('unet')[3])
    with pytest.raises(CutFailed, match='is lost'):
        link.run_split(local, work, network('unet')[2], lane)
    server.links[0].server.close('robot /r is gone')
    until(lambda: server.sessions[0].runs == 0, 2.0)
    assert not len(server.sessions[0]._plans)


def test_an_operator_that_fails_on_the_server_leaves_the_rest_to_the_robot(site):
    server, link, lane, local = opened(site, 'vgg')
    _, _, example, expected = network('vgg')
    hosted = next(iter(server.host.store._graphs.values()))
    work = halves(local.rows)

    def broken(*args):
        raise RuntimeError('out of memory')

    # Lowering is done: only computing fails.
    link.open_plan(local, work)
    hosted.executor.parameter = hosted.executor.run_node = broken
    ran = link.run_split(local, work, example, lane, time.monotonic() + LONG_S)
    assert ran.completed_locally and 'out of memory' in ran.why_local
    assert_close('vgg', ran.outputs, expected)


def test_a_cancel_ends_the_run_on_both_sides_and_the_next_one_is_right(site):
    server, link, lane, local, work, runs, found = under_way(site)
    runs[0].end('cancelled')
    until(lambda: found)
    assert isinstance(found[0], CutFailed) and str(found[0]) == 'cancelled'
    until(lambda: server.sessions[0].runs == 0)
    server.links[0].down.shape = LinkShape()
    _, _, example, expected = network('unet')
    ran = link.run_split(local, work, example, lane, time.monotonic() + LONG_S)
    assert_close('unet', ran.outputs, expected)


def test_the_deadline_ends_a_run_that_nobody_completes(site):
    server, link, lane, local = opened(site, 'unet')
    work = halves(local.rows)
    link.open_plan(local, work)
    server.links[0].down.shape = SLOW
    began_s = time.monotonic()
    with pytest.raises(CutFailed, match='the deadline has passed'):
        link.run_split(local, work, network('unet')[2], lane, began_s + 0.3)
    assert time.monotonic() - began_s < LONG_S / 3
    until(lambda: server.sessions[0].runs == 0)


def test_a_robots_lane_that_is_closed_is_one_clear_error(site):
    _, link, lane, local = opened(site, 'vgg')
    lane.close()
    with pytest.raises(CutFailed, match='lane'):
        link.run_split(local, halves(local.rows), network('vgg')[2], lane)


def test_a_servers_lane_that_is_closed_leaves_the_rest_to_the_robot(site):
    server, link, lane, local = opened(site, 'vgg')
    work = halves(local.rows)
    link.open_plan(local, work)
    server.host.lane.close()
    ran = link.run_split(local, work, network('vgg')[2], lane, time.monotonic() + LONG_S)
    assert ran.completed_locally and 'closing' in ran.why_local
    assert_close('vgg', ran.outputs, network('vgg')[3])


def test_a_plan_that_the_server_forgot_is_opened_again(site):
    server, link, lane, local = opened(site, 'vgg')
    _, _, example, expected = network('vgg')
    work = halves(local.rows)
    link.open_plan(local, work)
    server.sessions[0]._plans.forget()
    first = link.run_split(local, work, example, lane, time.monotonic() + LONG_S)
    assert first.completed_locally
    # Pieces that nobody waits for may be refused before the server says why.
    assert 'plan is not open' in first.why_local or 'nothing waits' in first.why_local
    until(lambda: not link._plans)
    second = link.run_split(local, work, example, lane, time.monotonic() + LONG_S)
    assert not second.completed_locally
    for ran in (first, second):
        assert_close('vgg', ran.outputs, expected)


def test_a_server_keeps_the_last_plans(site):
    server, link, _, local = opened(site, 'vgg')
    first = operators(local.rows)[0]
    width = local.rows.width(first)
    for border in range(1, 40):
        borders = dict.fromkeys(operators(local.rows), 1.0) | {first: border / width}
        link.open_plan(local, lower(local.rows, split_plan(local.rows, borders)))
    plans = server.sessions[0]._plans
    assert 30 <= len(plans) <= MAX_PLANS
    link.release(local.key)
    until(lambda: not len(plans))


def answer_to(link, asked):
    return link.ask(asked, time.monotonic() + 10.0)


def test_plans_of_strangers_are_refused(site):
    server, link, lane, local = opened(site, 'vgg')
    work = halves(local.rows)
    data = steps_bytes(work.steps)
    count = len(work.steps.robot)
    first = work.steps.robot[0]
    huge = steps_bytes(Steps((Step(first.operator, 0, 2**31 - 1),), ()))
    other = steps_bytes(Steps((*work.steps.robot, Step(2**20, 0, 1)), ()))
    for bytes_, robot_steps, text in (
        (data[:-1], count, 'no list of steps'),
        (data, 10**6, 'no list of steps'),
        (huge, 1, 'has 43 rows'),
        (np.full(30, -5, '<i4').tobytes(), 10, 'no operator'),
        (other, count + 1, 'no operator'),
        (bytes(12 * 30_000), 0, '20000 are allowed'),
        (data, count - 1, ''),
        (b'', 0, ''),
    ):
        asked = Asked(
            Ask.PLAN, local.key, plan='0' * 64, robot_steps=robot_steps, data=memoryview(bytes_)
        )
        answer = answer_to(link, asked)
        assert answer.answer is Answer.REFUSED
        assert text in answer.why
    wrong = Asked(Ask.PLAN, local.key, plan='0' * 64, robot_steps=count, data=memoryview(data))
    assert 'other versions' in answer_to(link, wrong).why
    nobody = Asked(Ask.PLAN, 'a' * 64, plan=work.key, robot_steps=count, data=memoryview(data))
    assert answer_to(link, nobody).answer is Answer.UNKNOWN
    assert not len(server.sessions[0]._plans)
    assert answer_to(link, Asked(Ask.RUN, local.key, plan='1' * 64)).answer is Answer.UNKNOWN
    ran = link.run_split(local, work, network('vgg')[2], lane, time.monotonic() + LONG_S)
    assert_close('vgg', ran.outputs, network('vgg')[3])


def test_a_plan_that_needs_more_memory_than_is_allowed_is_refused(site):
    server, link, _, local = opened(site, 'vgg')
    server.host.store.memory_bytes = 20_000
    with pytest.raises(CutFailed, match='a run by these steps takes'):
        link.open_plan(local, halves(local.rows))


def test_pieces_that_no_plan_has_are_refused(site):
    server, link, _, local = opened(site, 'vgg')
    work = halves(local.rows)
    link.open_plan(local, work)
    for place, size, refused in (
        (60_000, 100, 'nothing waits'),
        (work.up, 100, 'nothing waits'),
        (0, 10, 'shorter than its head'),
        (0, 1 << 20, 'at most'),
    ):
        number = next(link._numbers)
        link._send(number, Asked(Ask.RUN, local.key, plan=work.key))
        until(lambda: server.sessions[0].runs == 1)
        ended = []
        link._sender.send(value_key(number, place), [bytes(size)], on_end=ended.append)
        until(lambda ended=ended: ended)
        assert ended[0].state is State.REFUSED and refused in ended[0].why
        link._send(next(link._numbers), Asked(Ask.CANCEL, run=number))
        until(lambda: server.sessions[0].runs == 0)


def test_a_piece_with_a_wrong_head_ends_the_run_on_the_server(site):
    server, link, _, local = opened(site, 'vgg')
    work = halves(local.rows)
    link.open_plan(local, work)
    number = next(link._numbers)
    link._send(number, Asked(Ask.RUN, local.key, plan=work.key))
    until(lambda: server.sessions[0].runs == 1)
    for place in range(work.up):
        size = 64 + work.piece_spec(place).nbytes
        link._sender.send(value_key(number, place), [b'\x01' * size])
    until(lambda: server.sessions[0].runs == 0)


def test_pieces_of_a_lying_server_leave_the_rest_to_the_robot(site, monkeypatch):
    _, link, lane, local = opened(site, 'vgg')
    _, _, example, expected = network('vgg')
    work = halves(local.rows)
    take = type(link)._on_value

    def damaged(self, incoming):
        incoming.when_ended(lambda each: each.buffer.__setitem__(slice(0, 8), 255))
        take(self, incoming)

    monkeypatch.setattr(type(link), '_on_value', damaged)
    link._channel.listen(VALUES, link._on_value)
    ran = link.run_split(local, work, example, lane, time.monotonic() + LONG_S)
    assert ran.completed_locally and 'bad piece' in ran.why_local
    assert_close('vgg', ran.outputs, expected)


def test_rows_that_are_not_held_are_no_tensor():
    rows, executor, example, _ = in_rows('vgg')
    node = operators(rows)[0]
    value = rows.values(node)[0]
    held = Held(rows, executor, {value: Interval(0, 20)})
    whole = executor.run({Input('image'): example['image']}, [node], [value])[value]
    axis = rows.axis(value)
    held.put(value, Interval(2, 5), whole.narrow(axis, 2, 3))
    held.put(value, Interval(9, 25), whole.narrow(axis, 9, 16))
    assert list(held.has(value)) == [Interval(2, 5), Interval(9, 25)]
    assert held.get(value, Interval(3, 5)).equal(whole.narrow(axis, 3, 2))
    for lacking in (Interval(1, 4), Interval(4, 10), Interval(24, 26)):
        with pytest.raises(LookupError):
            held.get(value, lacking)
