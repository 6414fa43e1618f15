"""Regions, tiles, the coarse graph and the quick clock: what the planner is built of."""

from __future__ import annotations

from dataclasses import replace
import itertools
import math

from hypothesis import assume, given, settings
from hypothesis import strategies as st
import pytest

from offload_ros.baselines.problem import Subject
from offload_ros.graph.crossings import Halo
from offload_ros.graph.handled import handled, inputs_of
from offload_ros.graph.profile import Side, TransferCost
from offload_ros.graph.profile_file import read_profile
from offload_ros.graph.schedule import Evaluator, Link
from offload_ros.graph.split_plan import Plan, PlanError
from offload_ros.graph.steps import Step, Steps
from offload_ros.graph.steps_flow import FlowError, Reads, flow_of
from offload_ros.intra_dp.coarse import coarse_of
from offload_ros.intra_dp.pace import Lane, Pace, walk
from offload_ros.intra_dp.regions import Mode, regions_of
from offload_ros.intra_dp.streams import Stream, Streams
from offload_ros.intra_dp.tiles import Segment, even, steps_of

from ..graph.random_profiles import DATA, NAMES, bandwidths, network_profile, split_profiles
from ..graph.test_steps_schedule import streams as random_streams


@st.composite
def decisions(draw, most=10):
    """A profile with a mode and a border for each operator."""
    profile = draw(split_profiles(most))
    count = len(profile)
    modes = draw(st.lists(st.sampled_from(list(Mode)), min_size=count, max_size=count))
    borders = draw(st.lists(st.floats(0.0, 1.0), min_size=count, max_size=count))
    return profile, modes, borders


@settings(max_examples=300, deadline=None)
@given(decisions(), st.sampled_from(list(Halo)))
def test_whatever_is_decided_every_row_that_is_read_is_computed(case, halo):
    profile, modes, borders = case
    reads = Reads.of_profile(profile, halo)
    regions = regions_of(reads, modes, borders)
    flow_of(reads, steps_of(reads, regions.robot, ()), steps_of(reads, regions.server, ()))
    rows = [[(a, b) if b > a else (0.0, 0.0) for a, b in side] for side in regions]
    for place, operator in enumerate(profile.operators):
        if operator.is_input:
            rows[0][place] = (0.0, operator.width)
    schedule = Evaluator(profile, halo).schedule(Plan(profile, *rows), Link(1e6, 1e6))
    assert math.isfinite(schedule.latency_s)


def test_modes_say_who_computes_the_halo():
    profile = read_profile(DATA / 'VGG19_BN.json')
    reads = Reads.of_profile(profile, Halo.EXACT)
    pool, conv = 7, 4  # max_pool2d of 112 rows, conv2d of 224 rows before it

    def rows(mode):
        modes, borders = [int(Mode.OWN)] * len(profile), [0.0] * len(profile)
        for place in range(pool, len(profile)):
            modes[place] = Mode.SPLIT
        modes[conv], borders[pool] = mode, 0.5
        regions = regions_of(reads, modes, borders)
        return [side[place] for place in (conv, conv - 1) for side in regions]

    # Rows 0 to 112 of the convolution are the robot's; it reads one more of the operator before.
    assert rows(Mode.OWN) == [(0, 112), (112, 224), (0, 113), (111, 224)]
    modes, borders = [int(Mode.OWN)] * len(profile), [0.0] * len(profile)
    for place in range(pool, len(profile)):
        modes[place] = Mode.SPLIT
    borders[pool] = 0.5
    for mode, expected in (
        (Mode.SERVER_LEADS, [(0, 111), (111, 224)]),
        (Mode.ROBOT_LEADS, [(0, 113), (113, 224)]),
        (Mode.MEET, [(0, 112), (112, 224)]),
    ):
        modes[conv - 1] = mode
        regions = regions_of(reads, modes, borders)
        assert [side[conv - 1] for side in regions] == expected


@st.composite
def tilings(draw):
    profile, modes, borders = draw(decisions(12))
    first = draw(st.integers(0, len(profile) - 1))
    last = draw(st.integers(first + 1, len(profile)))
    shares = even(draw(st.integers(1, 6)))
    return profile, modes, borders, (Segment(first, last, shares, draw(st.booleans())),)


@settings(max_examples=300, deadline=None)
@given(tilings(), st.sampled_from(list(Halo)))
def test_tiles_compute_each_row_once_and_in_an_order_that_one_side_alone_can_walk(case, halo):
    profile, _, _, segments = case
    reads = Reads.of_profile(profile, halo)
    rows = [(0.0, 0.0) if each.is_input else (0.0, each.width) for each in profile.operators]
    steps = steps_of(reads, rows, segments)
    for place, (start, stop) in enumerate(rows):
        own = sorted((a, b) for each, a, b in steps if each == place)
        assert [(a, b) for a, b in own if b <= a] == []
        if stop > start:
            assert own[0][0] == start and own[-1][1] == stop
            for (_, left), (right, _) in itertools.pairwise(own):
                assert left == pytest.approx(right)
    flow = flow_of(reads, steps, ())
    assert not flow.down  # the robot, alone, lacks nothing


def test_tiles_of_a_chain_take_rows_as_they_become_computable():
    profile = read_profile(DATA / 'VGG19_BN.json')
    reads = Reads.of_profile(profile, Halo.EXACT)
    rows = [(0.0, 0.0)] + [(0.0, each.width) for each in profile.operators[1:]]
    steps = steps_of(reads, rows, (Segment(0, 8, even(4)),))
    of_conv = [(a, b) for place, a, b in steps if place == 4]
    of_first = [(a, b) for place, a, b in steps if place == 1]
    assert of_conv == [(0, 56), (56, 112), (112, 168), (168, 224)]
    assert of_first == [(0, 57), (57, 113), (113, 169), (169, 224)]
    back = steps_of(reads, rows, (Segment(0, 8, even(4), True),))
    assert [(a, b) for place, a, b in back if place == 4] == of_conv[::-1]
    assert steps[-1][0] == len(profile) - 1


@settings(max_examples=150, deadline=None)
@given(split_profiles(14), st.data())
def test_a_group_reads_at_least_what_its_operators_read(profile, data):
    coarse = coarse_of(profile, Halo.EXACT)
    fine = coarse.fine_reads
    assert sorted(each.id for each in coarse.fine.operators) == sorted(
        each.id for each in profile.operators
    )
    group = data.draw(st.integers(0, len(coarse) - 1))
    first, last = coarse.members[group]
    width = int(fine.width[last - 1])
    assume(fine.split[last - 1] and not fine.is_input[last - 1])
    start = data.draw(st.integers(0, width - 1))
    stop = data.draw(st.integers(start + 1, width))
    needs = {last - 1: (start, stop)}
    outside = {}
    for place in range(last - 1, first - 1, -1):
        if place in needs:
            for producer, low, high in fine.of(place, *needs[place]):
                known = needs if producer >= first else outside
                a, b = known.get(producer, (low, high))
                known[producer] = (min(a, low), max(b, high))
    got = {}
    for producer, low, high in coarse.reads.of(group, start, stop):
        place = coarse.members[producer][1] - 1
        a, b = got.get(place, (low, high))
        got[place] = (min(a, low), max(b, high))
    if stop - start < width:  # the whole of a group reads its whole inputs, as operators do
        for producer, (low, high) in outside.items():
            assert got[producer][0] <= low and high <= got[producer][1]


@pytest.mark.parametrize('name', NAMES)
def test_a_coarse_graph_has_few_groups_and_all_the_work(name):
    profile = read_profile(DATA / f'{name}.json')
    coarse = coarse_of(profile, Halo.EXACT)
    assert len(coarse) < 0.35 * len(profile)
    for side in ('robot', 'server'):
        total = sum(each.whole for each in getattr(coarse, side))
        assert total == pytest.approx(profile.column(f'{side}_s').sum())


@settings(max_examples=200, deadline=None)
@given(random_streams(split_profiles()), bandwidths, st.sampled_from([0.0, 0.0023]))
def test_the_quick_clock_agrees_with_the_evaluator(case, bandwidth, handling_s):
    profile, steps = case
    profile = replace(  # no two messages are ready together
        profile,
        operators=tuple(
            each
            if each.is_input
            else replace(each, robot_s=each.robot_s + 37e-5, server_s=each.server_s + 11e-5)
            for each in profile.operators
        ),
        robot=Side(handling=TransferCost(handling_s, 3e-8), resume_s=0.7 * handling_s),
        server=Side(handling=TransferCost(0.4 * handling_s, 1e-8), resume_s=handling_s),
    )
    link = Link(bandwidth * 1e6, 1.7e6)
    evaluator = Evaluator(profile)
    try:
        schedule = evaluator.schedule(Plan.of_steps(profile, steps), link)
    except PlanError:
        return
    places = profile.positions
    flow = flow_of(
        evaluator.reads, *([(places[e.operator], e.start, e.stop) for e in side]
                           for side in (steps.robot, steps.server))
    )  # fmt: skip
    lanes = []
    for messages, rate in ((flow.up, bandwidth * 0.9e6), (flow.down, 1.7e6 * 0.9)):
        sizes = evaluator.steps.sizes(messages)
        zeros = [0.0] * len(sizes)
        lanes.append(Lane([e / rate for e in sizes], zeros, [link.delay_s] * len(sizes)))
    amounts = [evaluator.steps.sizes(messages) for messages in (flow.up, flow.down)]
    paces = []
    for side, (incoming, outgoing), first in (
        ('robot', amounts[::-1], inputs_of(flow.up)),
        ('server', amounts, 0),
    ):
        own, machine = getattr(flow, side), getattr(profile, side)
        handled_s = handled(own, machine.handling, incoming, outgoing, first)
        durations_s = evaluator.steps.durations_s(side, own.steps)
        paces.append(Pace(own, durations_s, handled_s, machine.resume_s))
    robot, server = paces
    assert walk(flow, robot, server, *lanes) == pytest.approx(schedule.latency_s, abs=1e-9)


@pytest.mark.parametrize('coded', [False, True], ids=['raw', 'coded'])
@pytest.mark.parametrize('seed', range(6))
def test_a_stream_costs_on_the_coarse_graph_about_what_its_plan_costs(seed, coded):
    profile = network_profile(seed, 90, 2 + seed % 2)
    if coded:
        operators = tuple(
            replace(
                each,
                codec='zstd',
                wire_bytes=each.output_bytes // 3,
                robot_encode_s=2e-8 * each.output_bytes,
                server_decode_s=1e-8 * each.output_bytes,
                server_encode_s=5e-9 * each.output_bytes,
                robot_decode_s=8e-9 * each.output_bytes,
            )
            for each in profile.operators
        )
        profile = replace(profile, operators=operators)
    evaluator = Evaluator(profile)
    streams = Streams(Subject(profile))
    count = len(streams.coarse)
    link = Link.of_megabytes_per_s(6)
    compared = 0
    for mode in (Mode.OWN, Mode.SERVER_LEADS, Mode.MEET):
        for border in (0.3, 0.7):
            cut = 2 * count // 3
            modes = (*[int(mode)] * cut, *[int(Mode.SPLIT)] * (count - cut))
            borders = (*[border] * (cut + 1), *[0.0] * (count - cut - 1))
            tiles = (Segment(0, cut, even(4)),)
            stream = Stream(modes, borders, (), tiles)
            try:
                exact_s = evaluator.schedule(streams.plan(stream), link).latency_s
            except PlanError:
                continue
            coarse_s = streams.latency_s(stream, link)
            if math.isfinite(coarse_s):
                assert coarse_s == pytest.approx(exact_s, rel=0.1)
                compared += 1
    assert compared >= 2


def test_steps_that_nobody_can_walk_are_no_plan():
    profile = read_profile(DATA / 'VGG19_BN.json')
    evaluator = Evaluator(profile)
    with pytest.raises(FlowError):
        flow_of(evaluator.reads, [(63, 0.0, 1.0)], [])
    with pytest.raises(PlanError):
        evaluator.schedule(Plan.of_steps(profile, Steps((Step(63, 0, 1),), ())), Link(1e6, 1e6))
