"""Plans with steps in time: against the evaluator of plans without, a slow one, and by hand."""

from __future__ import annotations

from dataclasses import replace
import itertools
import math

from hypothesis import assume, given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from offload_ros.graph.crossings import Halo
from offload_ros.graph.profile import Profile, ProfiledOperator, Side, TransferCost
from offload_ros.graph.schedule import Evaluator, Link
from offload_ros.graph.split_plan import Plan, PlanError
from offload_ros.graph.steps import Step, Steps
from offload_ros.policy.power import PowerModel

from .random_profiles import bandwidths, dags, split_profiles
from .slow_steps import Refused, evaluate_steps

LINK = Link(1e6, 1e6, delay_s=0.001, utilisation=1.0)
CURVE = ((0.0, 0.125), (0.5, 0.75), (1.0, 1.0))


def steps_of(robot, server):
    return Steps(tuple(Step(*each) for each in robot), tuple(Step(*each) for each in server))


def chain(count, width=10, robot_s=0.010, server_s=0.001, kernel=1, **fields):
    """An input and ``count`` operators of 100 bytes a row."""
    made = [ProfiledOperator(0, 'input', (), width, 100 * width, 0, 0, True, is_input=True)]
    for place in range(1, count + 1):
        made.append(
            ProfiledOperator(
                place, f'op{place}', (place - 1,), width, 100 * width, robot_s, server_s, True,
                kernel=kernel, padding=(kernel - 1) / 2, is_output=place == count,
            )
        )  # fmt: skip
    return Profile('chain', tuple(made), **fields)


def schedule(profile, steps, link=LINK, halo=Halo.EXACT):
    return Evaluator(profile, halo).schedule(Plan.of_steps(profile, steps), link)


@st.composite
def streams(draw, profiles, tiles=3, swaps=6):
    """A profile and steps of both sides: borders, overlaps and tiles at random, in an order that
    mostly can be walked."""
    profile = draw(profiles)
    lists = {'robot': [], 'server': []}
    for operator in profile.operators:
        if operator.is_input:
            continue
        width = operator.width
        border = draw(st.integers(0, width))
        overlap = draw(st.integers(0, min(3, width - border)))
        low, high = (0, border + overlap), (border, width)
        if not operator.split or width == 1:
            low, high = draw(st.sampled_from([((0, width), (0, 0)), ((0, 0), (0, width))]))
        if draw(st.booleans()):
            low, high = high, low
        for side, (start, stop) in (('robot', low), ('server', high)):
            if stop <= start:
                continue
            cuts = {start, stop}
            if operator.split:
                cuts |= draw(st.sets(st.integers(start, stop), max_size=tiles - 1))
            edges = sorted(cuts)
            parts = list(itertools.pairwise(edges))
            if draw(st.booleans()):
                parts.reverse()
            lists[side] += [Step(operator.id, *part) for part in parts]
    for steps in lists.values():
        for _ in range(draw(st.integers(0, swaps)) if len(steps) > 1 else 0):
            place = draw(st.integers(0, len(steps) - 2))
            steps[place : place + 2] = steps[place : place + 2][::-1]
    return profile, Steps(tuple(lists['robot']), tuple(lists['server']))


def agrees(profile, steps, link):
    try:
        latency, up, down = evaluate_steps(profile, steps, link)
    except Refused:
        with pytest.raises(PlanError, match=r'needed|wait for each other'):
            schedule(profile, steps, link)
        return
    found = schedule(profile, steps, link)
    assert found.latency_s == pytest.approx(latency, abs=1e-9)
    assert (found.uplink_bytes, found.downlink_bytes) == pytest.approx((up, down))


@settings(max_examples=250, deadline=None)
@given(
    streams(split_profiles(codec=True)),
    bandwidths,
    st.sampled_from([0.0, 0.002]),
    st.sampled_from([(), CURVE]),
)
def test_random_streams_take_as_long_as_in_the_slow_evaluator(case, bandwidth, floor_s, curve):
    profile, steps = case
    codec = TransferCost(0.0003, 1e-9)
    robot, server = Side('', floor_s, curve, encode=codec), Side('', 0.0005, decode=codec)
    profile = replace(profile, robot=robot, server=server)
    agrees(profile, steps, Link(bandwidth * 1e6, 1.7e6))


def measured(profile, handling_s, resume_s):
    """``profile`` as if it had been measured with parts and messages; only some operators were."""
    robot = Side(handling=TransferCost(handling_s, 3e-8), resume_s=0.7 * resume_s)
    server = Side(handling=TransferCost(0.4 * handling_s, 1e-8), resume_s=resume_s)
    operators = tuple(
        each
        if each.is_input or each.id % 3 == 0
        else replace(
            each,
            robot_part=(0.1 * each.robot_s + 0.00013, 0.95 * each.robot_s),
            server_part=(0.2 * each.server_s + 0.00007, 1.1 * each.server_s),
        )
        for each in profile.operators
    )
    return replace(profile, operators=operators, robot=robot, server=server)


@settings(max_examples=200, deadline=None)
@given(
    streams(split_profiles(codec=True)),
    bandwidths,
    st.sampled_from([0.0, 0.0021]),
    st.sampled_from([0.0, 0.0037]),
)
def test_measured_lines_handling_and_waits_are_as_in_the_slow_evaluator(
    case, bandwidth, handling_s, resume_s
):
    profile, steps = case
    agrees(measured(profile, handling_s, resume_s), steps, Link(bandwidth * 1e6, 1.7e6))


@pytest.mark.long
@settings(max_examples=8000, deadline=None)
@given(streams(st.one_of(split_profiles(16), dags(14, codec=True)), 4, 12), bandwidths)
def test_many_streams_take_as_long_as_in_the_slow_evaluator(case, bandwidth):
    profile, steps = case
    agrees(profile, steps, Link(bandwidth * 1e6, 1.7e6))


@st.composite
def parted(draw):
    """A plan of one border per operator, no rows twice; every computed operator takes time, so
    that no two messages are ready together."""
    profile = draw(split_profiles(codec=True))
    profile = replace(
        profile,
        operators=tuple(
            each if each.is_input else replace(each, robot_s=each.robot_s + 0.00037)
            for each in profile.operators
        ),
        server=Side(floor_s=0.00011),
    )
    readers = profile.consumers[0]
    assume(len(readers) == 1)  # an input that two steps read crosses in two messages
    shares = [draw(st.floats(0.0, 1.0)) for _ in profile.operators]
    return Plan.shares(profile, shares)


def as_steps(plan):
    """One step per part, in the order of the operators."""
    lists = []
    for side in ('robot', 'server'):
        rows = getattr(plan, side)
        lists.append(
            tuple(
                Step(operator.id, *map(float, rows[place]))
                for place, operator in enumerate(plan.profile.operators)
                if rows[place][1] > rows[place][0] and not operator.is_input
            )
        )
    return Plan(plan.profile, plan.robot, plan.server, Steps(*lists))


@settings(max_examples=250, deadline=None)
@given(parted(), bandwidths, st.sampled_from(list(Halo)))
def test_one_step_per_part_takes_as_long_as_the_plan_without_steps(plan, bandwidth, halo):
    link = Link(bandwidth * 1e6, 1.7e6)
    evaluator = Evaluator(plan.profile, halo)
    without, streamed = evaluator.schedule(plan, link), evaluator.schedule(as_steps(plan), link)
    gap = (
        any(  # of two readers' rows with a gap between: one message carries it, steps do not
            up.amount_bytes > down.amount_bytes + 1e-6
            for up, down in zip(without.uplink, streamed.uplink, strict=False)
        )
        or without.downlink_bytes > streamed.downlink_bytes + 1e-6
    )
    assume(not gap)
    assert streamed.latency_s == pytest.approx(without.latency_s, abs=1e-12)
    assert streamed.uplink_bytes == pytest.approx(without.uplink_bytes)
    assert streamed.downlink_bytes == pytest.approx(without.downlink_bytes)
    power = PowerModel()
    assert streamed.energy_j(power) == pytest.approx(without.energy_j(power))


def test_the_server_computes_rows_as_they_arrive():
    profile = chain(1, server_s=0.010)
    whole = schedule(profile, steps_of([], [(1, 0, 10)]))
    halves = schedule(profile, steps_of([], [(1, 0, 5), (1, 5, 10)]))
    # 1 ms up, 1 ms delay, 10 ms, 1 ms down, 1 ms delay; the second half is sent at 1 + 1 + 10.
    assert whole.latency_s == pytest.approx(0.014)
    assert halves.latency_s == pytest.approx(0.0005 + 0.001 + 0.010 + 0.0005 + 0.001)
    assert [task.rows for task in halves.uplink] == [(0, 5), (5, 10)]
    assert [task.start_s for task in halves.uplink] == pytest.approx([0.0, 0.0005])
    assert [task.start_s for task in halves.downlink] == pytest.approx([0.0065, 0.0115])


def test_rows_of_an_input_cross_once_in_the_order_in_which_they_are_read():
    profile = chain(1, kernel=3)
    found = schedule(profile, steps_of([], [(1, 6, 10), (1, 3, 6), (1, 0, 3)]))
    assert [task.rows for task in found.uplink] == [(5, 10), (2, 5), (0, 2)]
    assert found.uplink_bytes == 1000


def test_what_both_compute_does_not_cross():
    profile = chain(2, kernel=3)
    exchanged = schedule(profile, steps_of([(1, 0, 5), (2, 0, 5)], [(1, 5, 10), (2, 5, 10)]))
    twice = schedule(profile, steps_of([(1, 0, 6), (2, 0, 5)], [(1, 4, 10), (2, 5, 10)]))
    assert [task.operator for task in exchanged.uplink] == [0, 1]
    assert [task.operator for task in exchanged.downlink] == [1, 2]
    assert [task.operator for task in twice.uplink] == [0]
    assert [task.operator for task in twice.downlink] == [2]


def test_each_step_pays_its_floor_and_its_point_of_the_curve():
    profile = chain(1, robot_s=0.010, robot=Side(floor_s=0.004, share_curve=CURVE))
    found = schedule(profile, steps_of([(1, 0, 1), (1, 1, 10)], []))
    assert [task.end_s - task.start_s for task in found.robot] == pytest.approx([0.004, 0.0095])


def test_a_measured_line_is_what_a_part_costs_and_all_rows_cost_the_whole():
    profile = chain(1, robot_s=0.010)
    line = replace(profile.operators[1], robot_part=(0.002, 0.009))
    profile = replace(profile, operators=(profile.operators[0], line))
    found = schedule(profile, steps_of([(1, 0, 1), (1, 1, 10)], []))
    assert [task.end_s - task.start_s for task in found.robot] == pytest.approx([0.0029, 0.0101])
    assert schedule(profile, steps_of([(1, 0, 10)], [])).latency_s == pytest.approx(0.010)


def test_a_message_takes_computing_time_only_from_a_side_that_has_something_to_compute():
    # Rows of 1 ms each way: the server gets five, then the other five while it computes for 5 ms.
    steps = steps_of([], [(1, 0, 5), (1, 5, 10)])
    plain = schedule(chain(1, server_s=0.010), steps)
    starts = [0.0015, 0.0065]
    assert [task.start_s for task in plain.server] == pytest.approx(starts)
    side = Side(handling=TransferCost(0.002, 1e-6))
    handled = schedule(chain(1, server_s=0.010, server=side), steps)
    # Nothing was computed before the first message came: what it took is over by then. The second
    # one takes 2.5 ms, after 2.5 ms for what left after the first step.
    first_s = max(0.0025, 0.0015)
    assert handled.server[0].start_s == pytest.approx(first_s)
    assert handled.server[1].start_s == pytest.approx(first_s + 0.005 + 2 * 0.0025)
    waited = schedule(chain(1, server_s=0.010, server=Side(resume_s=0.003)), steps)
    ends = [task.end_s for task in waited.server]
    assert ends == pytest.approx([0.0015 + 0.003 + 0.005, 0.0015 + 0.003 + 0.010])


def test_a_barrier_in_two_steps_is_refused():
    profile = chain(1)
    barrier = replace(profile.operators[1], split=False)
    profile = Profile('barrier', (profile.operators[0], barrier))
    with pytest.raises(PlanError, match='a barrier: a step computes it whole'):
        schedule(profile, steps_of([(1, 0, 5), (1, 5, 10)], []))


@pytest.mark.parametrize(
    ('robot', 'server', 'text'),
    [
        ([(1, 0, 10)], [], r"operator 2 \('op2'\): rows 0 to 10 are needed"),
        ([(2, 0, 10), (1, 0, 10)], [], r"operator 1 \('op1'\): rows 0 to 10 are needed"),
        ([(2, 0, 9), (1, 0, 10)], [(1, 0, 10)], 'rows 9 to 10 are needed'),
        ([(0, 0, 10)], [], 'it is an input of the model'),
        ([(7, 0, 10)], [], 'no operator 7'),
        ([(1, 0, 11)], [], 'must lie in'),
        (
            [(2, 0, 5), (1, 0, 5)], [(2, 5, 10), (1, 5, 10)], 'rows 5 to 10 are needed'
        ),
    ],
)  # fmt: skip
def test_steps_that_cannot_be_walked_are_refused(robot, server, text):
    with pytest.raises(PlanError, match=text):
        schedule(chain(2), steps_of(robot, server))


def test_two_sides_that_wait_for_each_other_are_refused():
    profile = chain(2)
    with pytest.raises(PlanError, match='wait for each other'):
        schedule(
            profile,
            steps_of([(2, 0, 5), (1, 5, 10)], [(2, 5, 10), (1, 0, 5)]),
        )


def test_without_a_link_a_stream_never_ends_and_costs_endless_energy():
    profile = chain(1)
    found = schedule(profile, steps_of([(1, 0, 5)], [(1, 5, 10)]), Link(0.0, 0.0))
    assert found.latency_s == math.inf
    assert found.energy_j(PowerModel()) == math.inf
    alone = schedule(profile, steps_of([(1, 0, 5), (1, 5, 10)], []), Link(0.0, 0.0))
    assert alone.latency_s == pytest.approx(0.010)


def test_fractions_of_rows_are_steps_without_halos():
    profile = chain(2, kernel=3)
    third = 10 / 3
    steps = steps_of([(1, 0, third), (2, 0, third)], [(1, third, 10.0), (2, third, 10.0)])
    found = schedule(profile, steps, halo=Halo.NONE)
    assert found.uplink_bytes == pytest.approx(2000 / 3)
    assert [task.operator for task in found.downlink] == [2]
    assert np.isfinite(found.latency_s)
