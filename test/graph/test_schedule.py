"""The schedule evaluator: against a second one, and by hand."""

from __future__ import annotations

from dataclasses import replace
import time

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from offload_ros.graph.crossings import Halo
from offload_ros.graph.profile import Profile, ProfiledOperator, Side, TransferCost
from offload_ros.graph.profile_file import read_profile
from offload_ros.graph.schedule import Evaluator, Link
from offload_ros.graph.split_plan import Plan, PlanError, cut_rows
from offload_ros.policy.power import PowerModel

from .random_profiles import DATA, NAMES, bandwidths, dags, split_profiles
from .slow_schedule import evaluate

LINK = Link(1e6, 2e6, delay_s=0.001, utilisation=1.0)


def chain(*operators, width=10, **fields):
    """Input of 1000 bytes, then (robot_s, server_s, kernel) each with an output of 1000 bytes."""
    made = [ProfiledOperator(0, 'input', (), width, 1000, 0.0, 0.0, True, is_input=True)]
    for place, (robot_s, server_s, kernel) in enumerate(operators, 1):
        made.append(
            ProfiledOperator(
                place,
                f'op{place}',
                (place - 1,),
                width,
                1000,
                robot_s,
                server_s,
                split=True,
                kernel=kernel,
                padding=(kernel - 1) / 2,
                is_output=place == len(operators),
            )
        )
    return Profile('chain', tuple(made), **fields)


def plan_of(profile, robot, server):
    return Plan(profile, np.array(robot, dtype=float), np.array(server, dtype=float))


@st.composite
def planned(draw, profiles):
    """A profile and intervals for both sides that cover every row, overlapping or not."""
    profile = draw(profiles)
    robot, server = [], []
    for operator in profile.operators:
        width = operator.width
        if operator.is_input:
            robot.append((0, width))
            server.append((0, 0))
            continue
        if not operator.split or width == 1:
            kind = draw(st.sampled_from(['robot', 'server', 'both']))
            robot.append((0, width) if kind != 'server' else (0, 0))
            server.append((0, width) if kind != 'robot' else (0, 0))
            continue
        border = draw(st.integers(0, width))
        overlap = draw(st.integers(0, min(3, width - border)))
        low, high = (0, border + overlap), (border, width)
        flip = draw(st.booleans())
        robot.append(high if flip else low)
        server.append(low if flip else high)
    return profile, plan_of(profile, robot, server)


def agrees(profile, plan, link):
    schedule = Evaluator(profile).schedule(plan, link)
    latency, up, down, (computing_s, communicating_s) = evaluate(profile, plan, link)
    assert schedule.latency_s == pytest.approx(latency, abs=1e-12)
    assert schedule.uplink_bytes == pytest.approx(up)
    assert schedule.downlink_bytes == pytest.approx(down)
    assert schedule.states.computing_s[0] == pytest.approx(computing_s, abs=1e-12)
    assert schedule.states.communicating_s[0] == pytest.approx(communicating_s, abs=1e-12)
    return schedule


@settings(max_examples=150, deadline=None)
@given(planned(split_profiles(codec=True)), bandwidths)
def test_partial_plans_take_as_long_as_in_the_slow_evaluator(case, bandwidth):
    profile, plan = case
    agrees(profile, plan, Link(bandwidth * 1e6, 1.7e6))


@settings(max_examples=100, deadline=None)
@given(planned(dags(codec=True)), bandwidths, st.sampled_from([0.0, 0.002]))
def test_cuts_of_any_graph_take_as_long_as_in_the_slow_evaluator(case, bandwidth, floor_s):
    profile, plan = case
    profile = replace(profile, robot=replace(profile.robot, floor_s=floor_s))
    agrees(profile, replace(plan, profile=profile), Link(bandwidth * 1e6, 1.7e6))


@pytest.mark.long
@settings(max_examples=5000, deadline=None)
@given(planned(st.one_of(split_profiles(20, codec=True), dags(20, codec=True))), bandwidths)
def test_many_plans_take_as_long_as_in_the_slow_evaluator(case, bandwidth):
    profile, plan = case
    agrees(profile, plan, Link(bandwidth * 1e6, 1.7e6))


@settings(max_examples=60, deadline=None)
@given(dags(), st.data())
def test_cuts_evaluated_together_equal_cuts_evaluated_alone(profile, data):
    evaluator, power = Evaluator(profile), PowerModel()
    movable = np.array([not operator.is_input for operator in profile.operators])
    cuts = np.array(
        [data.draw(st.lists(st.booleans(), min_size=5, max_size=5)) for _ in profile.operators]
    )
    cuts &= movable[:, None]
    links = [Link.of_megabytes_per_s(each) for each in (0.0, 0.5, 2.0, 8.0, 50.0)]
    as_cuts = evaluator.cut_costs(cuts, links, power)
    as_rows = evaluator.costs(*cut_rows(profile, cuts), links, power)
    for index, link in enumerate(links):
        alone = evaluator.schedule(Plan.cut(profile, cuts[:, index]), link)
        assert alone.plan.is_cut
        for costs in (as_cuts, as_rows):
            assert costs.latency_s[index] == alone.latency_s
            assert costs.uplink_bytes[index] == alone.uplink_bytes
            assert costs.downlink_bytes[index] == alone.downlink_bytes
            assert costs.energy_j[index] == pytest.approx(alone.energy_j(power), rel=1e-12)


def test_transfer_occupies_the_link_and_arrives_a_delay_later():
    profile = chain((0.1, 0.005, 1))
    schedule = Evaluator(profile).schedule(Plan.cut(profile, [False, True]), LINK)
    (up,), (task,), (down,) = schedule.uplink, schedule.server, schedule.downlink
    assert (up.start_s, up.end_s, up.arrival_s) == pytest.approx((0.0, 0.001, 0.002))
    assert (task.start_s, task.end_s) == pytest.approx((0.002, 0.007))
    assert (down.start_s, down.end_s, down.arrival_s) == pytest.approx((0.007, 0.0075, 0.0085))
    assert schedule.latency_s == pytest.approx(0.0085)
    assert schedule.energy_j(PowerModel(100.0, 10.0, 1.0)) == pytest.approx(
        0.0015 * 10.0 + 0.007 * 1.0
    )


def test_utilisation_is_the_share_of_the_bandwidth_that_is_reached():
    profile = chain((0.1, 0.0, 1))
    link = replace(LINK, utilisation=0.5)
    schedule = Evaluator(profile).schedule(Plan.cut(profile, [False, True]), link)
    assert schedule.latency_s == pytest.approx(0.002 + 0.001 + 0.001 + 0.001)


def test_messages_of_one_direction_queue_and_the_directions_do_not():
    profile = Profile(
        'two',
        (
            ProfiledOperator(0, 'a', (), 1, 3000, 0.0, 0.0, is_input=True),
            ProfiledOperator(1, 'b', (), 1, 1000, 0.0, 0.0, is_input=True),
            ProfiledOperator(2, 'of a', (0,), 1, 4000, 0.0, 0.001, is_output=True),
            ProfiledOperator(3, 'of b', (1,), 1, 4000, 0.0, 0.001, is_output=True),
        ),
    )
    schedule = Evaluator(profile).schedule(Plan.cut(profile, [False, False, True, True]), LINK)
    assert [task.end_s for task in schedule.uplink] == pytest.approx([0.003, 0.004])
    # b's reader starts when b is there; its way back waits for that of a's.
    assert [task.start_s for task in schedule.downlink] == pytest.approx([0.005, 0.007])
    assert schedule.latency_s == pytest.approx(0.007 + 0.002 + 0.001)


def test_robot_computes_while_the_link_and_the_server_work():
    profile = chain((0.010, 0.010, 1))
    halves = plan_of(profile, [[0, 10], [0, 5]], [[0, 0], [5, 10]])
    schedule = Evaluator(profile).schedule(halves, LINK)
    # 500 bytes up, 5 ms, 500 bytes down beside 5 ms on the robot.
    assert schedule.latency_s == pytest.approx(0.0005 + 0.001 + 0.005 + 0.00025 + 0.001)
    assert (schedule.uplink_bytes, schedule.downlink_bytes) == (500, 500)


def test_halo_rows_cross_the_link_and_without_halo_they_do_not():
    profile = chain((0.010, 0.010, 1), (0.010, 0.010, 3))
    plan = plan_of(profile, [[0, 10], [0, 5], [0, 5]], [[0, 0], [5, 10], [5, 10]])
    exact = Evaluator(profile).schedule(plan, LINK)
    assert [task.operator for task in exact.uplink] == [0, 1]
    assert exact.uplink_bytes == 500 + 100  # row 4 of the first operator
    assert exact.downlink_bytes == 100 + 500  # row 5 of it, and the result's rows
    plain = Evaluator(profile, Halo.NONE).schedule(plan, LINK)
    assert (plain.uplink_bytes, plain.downlink_bytes) == (500, 500)
    wider = plan_of(profile, [[0, 10], [0, 6], [0, 5]], [[0, 0], [4, 10], [5, 10]])
    recomputed = Evaluator(profile).schedule(wider, LINK)
    assert (recomputed.uplink_bytes, recomputed.downlink_bytes) == (600, 500)


def test_without_halo_any_share_is_a_plan_and_nothing_but_its_part_crosses():
    profile = chain((0.010, 0.002, 3), (0.010, 0.002, 3))
    plan = Plan.shares(profile, [1.0, 1 / 3, 1 / 3], whole_rows=False)
    schedule = Evaluator(profile, Halo.NONE).schedule(plan, LINK)
    assert schedule.uplink_bytes == pytest.approx(2000 / 3)
    assert len(schedule.uplink) == 1 and len(schedule.downlink) == 1


def test_rows_that_nobody_computes_are_refused():
    profile = chain((0.010, 0.010, 1))
    plan = plan_of(profile, [[0, 10], [0, 5]], [[0, 0], [6, 10]])
    evaluator = Evaluator(profile)
    with pytest.raises(PlanError, match=r"operator 1 \('op1'\): rows are needed that neither"):
        evaluator.schedule(plan, LINK)
    costs = evaluator.costs(plan.robot[..., None], plan.server[..., None], LINK)
    assert costs.latency_s[0] == np.inf


@pytest.mark.parametrize(
    ('robot', 'server', 'text'),
    [
        ([[0, 10], [0, 11]], [[0, 0], [0, 0]], 'must lie in'),
        ([[0, 10], [5, 4]], [[0, 0], [0, 0]], 'must lie in'),
        ([[0, 10], [0, np.nan]], [[0, 0], [0, 0]], 'must lie in'),
        ([[0, 9], [0, 10]], [[9, 10], [0, 0]], 'an input of the model is on the robot'),
        ([[0, 10]], [[0, 0]], '2 intervals are needed'),
    ],
)
def test_plans_that_do_not_fit_are_refused(robot, server, text):
    with pytest.raises(PlanError, match=text):
        plan_of(chain((0.01, 0.01, 1)), robot, server)


def test_a_barrier_is_computed_by_one_side_whole():
    profile = chain((0.01, 0.01, 1))
    barrier = replace(profile.operators[1], split=False)
    profile = Profile('barrier', (profile.operators[0], barrier))
    with pytest.raises(PlanError, match='barrier'):
        plan_of(profile, [[0, 10], [0, 5]], [[0, 0], [5, 10]])


def test_a_part_costs_its_share_and_at_least_the_floor_of_a_launch():
    profile = chain((0.010, 0.010, 1), robot=Side(floor_s=0.004), server=Side(floor_s=0.0001))
    evaluator = Evaluator(profile)

    def robot_s(rows):
        plan = plan_of(profile, [[0, 10], [0, rows]], [[0, 0], [rows, 10]])
        return sum(task.end_s - task.start_s for task in evaluator.schedule(plan, LINK).robot)

    assert robot_s(10) == pytest.approx(0.010)
    assert robot_s(7) == pytest.approx(0.007)
    assert robot_s(2) == pytest.approx(0.004)
    assert robot_s(0) == 0.0


def test_a_measured_share_curve_replaces_proportional_time():
    curve = ((0.0, 0.3), (0.5, 0.9), (1.0, 1.0))
    profile = chain((0.010, 0.010, 1), robot=Side(share_curve=curve))
    plan = plan_of(profile, [[0, 10], [0, 5]], [[0, 0], [5, 10]])
    schedule = Evaluator(profile).schedule(plan, LINK)
    assert schedule.robot[1].end_s == pytest.approx(0.009)
    assert schedule.server[0].end_s - schedule.server[0].start_s == pytest.approx(0.005)


def test_codec_time_delays_a_message_and_occupies_neither_link_nor_processor():
    robot, server = Side(encode=TransferCost(0.01, 1e-6)), Side(decode=TransferCost(0.02, 2e-6))
    profile = chain((0.1, 0.005, 1), robot=robot, server=server)
    (up,) = Evaluator(profile).schedule(Plan.cut(profile, [False, True]), LINK).uplink
    assert up.start_s == pytest.approx(0.011)
    assert up.end_s - up.start_s == pytest.approx(0.001)
    assert up.arrival_s - up.end_s == pytest.approx(0.001 + 0.022)


def test_encoded_size_crosses_the_link_where_the_profile_has_one():
    profile = chain((0.1, 0.005, 1))
    small = replace(profile.operators[0], wire_bytes=125)
    profile = Profile('packed', (small, profile.operators[1]))
    schedule = Evaluator(profile).schedule(Plan.cut(profile, [False, True]), LINK)
    assert schedule.uplink_bytes == 125


def test_a_part_of_a_tensor_takes_its_part_of_the_codecs_time():
    profile = chain((0.1, 0.005, 1), (0.02, 0.001, 1))
    times = {'robot_encode_s': 0.04, 'server_encode_s': 9.0, 'robot_decode_s': 9.0}
    coded = replace(profile.operators[1], wire_bytes=200, server_decode_s=0.08, **times)
    profile = Profile('coded', (profile.operators[0], coded, profile.operators[2]))
    plan = plan_of(profile, [(0, 10), (0, 10), (0, 5)], [(0, 0), (0, 0), (5, 10)])
    (up,) = Evaluator(profile).schedule(plan, LINK).uplink
    assert up.amount_bytes == 100
    assert up.start_s == pytest.approx(0.1 + 0.02)
    assert up.end_s - up.start_s == pytest.approx(0.0001)
    assert up.arrival_s - up.end_s == pytest.approx(0.001 + 0.04)


def test_plans_survive_their_json_form():
    profile = chain((0.01, 0.01, 3), (0.01, 0.01, 1))
    plan = plan_of(profile, [[0, 10], [0, 6], [0, 10]], [[0, 0], [4, 10], [0, 0]])
    document = plan.document()
    assert document == {
        'schema': 1,
        'robot': [[0, 0], [2, 2]],
        'server': [],
        'split': {'1': [0, 6, 4, 10]},
    }
    again = Plan.from_document(profile, document)
    assert (again.robot == plan.robot).all() and (again.server == plan.server).all()
    for broken in ({}, {'schema': 2}, {'schema': 1, 'robot': [[0, 1]]}, {**document, 'split': []}):
        with pytest.raises(ValueError, match=r'.'):
            Plan.from_document(profile, broken)
    with pytest.raises(PlanError, match='no operator'):
        Plan.from_document(profile, {'schema': 1, 'robot': [[0, 7]]})


@pytest.mark.parametrize('name', NAMES)
def test_device_and_server_only_of_measured_profiles_follow_from_their_sums(name):
    profile = read_profile(DATA / f'{name}.json')
    movable = [not operator.is_input for operator in profile.operators]
    link = Link.of_megabytes_per_s(8)
    evaluator = Evaluator(profile)
    device = evaluator.schedule(Plan.cut(profile, [False] * len(profile)), link)
    server = evaluator.schedule(Plan.cut(profile, movable), link)
    robot_s, server_s = profile.column('robot_s').sum(), profile.column('server_s').sum()
    sent_s = (profile.input_bytes + profile.output_bytes) / 7.2e6
    assert device.latency_s == pytest.approx(robot_s)
    assert device.energy_j(PowerModel()) == pytest.approx(13.35 * robot_s)
    assert server.latency_s == pytest.approx(server_s + sent_s + 0.0026)
    assert server.energy_j(PowerModel()) == pytest.approx(
        4.25 * sent_s + 4.04 * (server_s + 0.0026)
    )


def test_a_search_can_evaluate_many_plans_of_a_large_network():
    profile = read_profile(DATA / 'kapao.json')
    evaluator = Evaluator(profile)
    share = np.random.default_rng(0).random((1, 256))
    split = np.array([operator.split for operator in profile.operators])[:, None]
    border = np.where(split, np.round(share * profile.widths[:, None]), profile.widths[:, None])
    border[0] = profile.widths[0]
    zero, width = np.zeros_like(border), np.broadcast_to(profile.widths[:, None], border.shape)
    robot, server = np.stack([zero, border], axis=1), np.stack([border, width], axis=1)
    began_s = time.perf_counter()
    costs = evaluator.costs(robot, server, Link.of_megabytes_per_s(8))
    took_s = time.perf_counter() - began_s
    assert np.isfinite(costs.latency_s).all()
    one = evaluator.schedule(Plan(profile, robot[..., 7], server[..., 7]), Link(8e6, 8e6))
    assert one.latency_s == costs.latency_s[7]
    assert took_s < 2.0  # 0.05 s on an idle core
