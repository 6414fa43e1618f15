"""DSCCS and the best layer cut, against every cut of small graphs."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from offload_ros.baselines.dsccs import bottleneck_s, dsccs, least_bottleneck, minimum_cut
from offload_ros.baselines.layer_cut import layer_cut
from offload_ros.baselines.layers import merged_layers
from offload_ros.baselines.problem import Objective, Problem, Subject
from offload_ros.baselines.reduction import path_bound, prefix_cuts, prefix_totals, serial_bound
from offload_ros.baselines.serial_cost import SerialCosts
from offload_ros.graph.profile import Profile, ProfiledOperator
from offload_ros.graph.profile_file import read_profile
from offload_ros.graph.schedule import Evaluator, Link
from offload_ros.policy.power import PowerModel

from ..graph.random_profiles import DATA, NAMES, bandwidths, dags
from .brute_force import all_cuts, least_serial, serial_total

ENERGY_W = (13.35, 4.04, 4.25, 4.04)


def operator(id_, inputs, size, robot_ms=0.0, server_ms=0.0, **fields):
    return ProfiledOperator(
        id_, f'op{id_}', inputs, 1, size, robot_ms / 1e3, server_ms / 1e3, **fields
    )


def problem_of(profile, bandwidth, **fields):
    return Problem(Subject(profile), Link(bandwidth * 1e6, 1.7e6), **fields)


def optimal(profile, bandwidth):
    """DSCCS is optimal by its own cost, through the reductions and without them."""
    problem = problem_of(profile, bandwidth)
    least = least_serial(profile, problem.link)
    cut = dsccs(problem).on_server
    assert serial_total(profile, problem.link, cut) == pytest.approx(least, rel=1e-9, abs=1e-12)
    plain = minimum_cut(SerialCosts.of_time(profile, problem.link))
    assert serial_total(profile, problem.link, plain) == pytest.approx(least, rel=1e-9, abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(dags(9, codec=True), bandwidths)
def test_dsccs_is_optimal_by_its_own_cost(profile, bandwidth):
    optimal(profile, bandwidth)


@pytest.mark.long
@settings(max_examples=1500, deadline=None)
@given(dags(12, codec=True), bandwidths)
def test_dsccs_is_optimal_by_its_own_cost_on_many_graphs(profile, bandwidth):
    optimal(profile, bandwidth)


@settings(max_examples=25, deadline=None)
@given(dags(8, codec=True), bandwidths)
def test_dsccs_for_energy_is_optimal_by_serial_energy(profile, bandwidth):
    problem = problem_of(profile, bandwidth, objective=Objective.ENERGY)
    found = serial_total(profile, problem.link, dsccs(problem).on_server, ENERGY_W)
    least = least_serial(profile, problem.link, ENERGY_W)
    assert found == pytest.approx(least, rel=1e-9, abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(dags(10, codec=True), bandwidths)
def test_serial_cost_is_the_sum_and_never_below_the_evaluator(profile, bandwidth):
    link = Link(bandwidth * 1e6, 1.7e6)
    cuts = all_cuts(profile)
    cuts = cuts[:, np.linspace(0, cuts.shape[1] - 1, 24).astype(int)]
    totals = SerialCosts.of_time(profile, link).total(cuts)
    np.testing.assert_allclose(totals, [serial_total(profile, link, cut) for cut in cuts.T])
    energies = SerialCosts.of_energy(profile, link, PowerModel()).total(cuts)
    expected = [serial_total(profile, link, cut, ENERGY_W) for cut in cuts.T]
    np.testing.assert_allclose(energies, expected)
    assert np.all(Evaluator(profile).cut_costs(cuts, link).latency_s <= totals + 1e-12)


@settings(max_examples=60, deadline=None)
@given(dags(10, codec=True), st.sampled_from([0.0, 0.5, 8.0]))
def test_costs_of_cuts_at_one_place_follow_from_sums(profile, bandwidth):
    costs = SerialCosts.of_time(profile, Link(bandwidth * 1e6, 1e6))
    np.testing.assert_allclose(prefix_totals(costs), costs.total(prefix_cuts(profile)), atol=1e-12)


@settings(max_examples=60, deadline=None)
@given(dags(9, codec=True), bandwidths)
def test_no_cut_that_separates_a_tensor_from_a_reader_is_below_its_bound(profile, bandwidth):
    link = Link(bandwidth * 1e6, 1.7e6)
    costs, cuts = SerialCosts.of_time(profile, link), all_cuts(profile)
    totals = costs.total(cuts)
    latencies = Evaluator(profile).cut_costs(cuts, link).latency_s
    for place, readers in enumerate(profile.consumers):
        for reader in readers:
            apart = cuts[place] != cuts[reader]
            assert np.all(totals[apart] >= serial_bound(costs)[place] - 1e-12)
            assert np.all(latencies[apart] >= path_bound(costs)[place] - 1e-12)


@settings(max_examples=60, deadline=None)
@given(dags(10, codec=True), bandwidths)
def test_merged_layers_hold_a_best_cut_and_cost_the_same(profile, bandwidth):
    link = Link(bandwidth * 1e6, 1.7e6)
    layers = merged_layers(profile)
    cuts = all_cuts(layers.profile)
    totals = SerialCosts.of_time(layers.profile, link).total(cuts)
    expanded = [serial_total(profile, link, layers.expand(cut)) for cut in cuts.T]
    np.testing.assert_allclose(totals, expanded, atol=1e-12)
    assert min(expanded) == pytest.approx(least_serial(profile, link), rel=1e-9, abs=1e-12)
    cut = cuts[:, cuts.shape[1] // 2]
    assert (layers.shrink(layers.expand(cut)) == cut).all()


@pytest.mark.parametrize('robot_first', [True, False])
def test_layers_keep_a_cut_open_beside_what_the_robot_computes_faster(robot_first):
    times = [(1, 100), (100, 1)] if robot_first else [(100, 1), (1, 100)]
    start, before = operator(0, (), 10, is_input=True), operator(1, (0,), 10, 100, 1)
    pair = [operator(2, (1,), 10, *times[0]), operator(3, (2,), 10, *times[1])]
    profile = Profile(
        'mixed', (start, before, *pair, operator(4, (3,), 10, 100, 1, is_output=True))
    )
    problem = Problem(Subject(profile), Link(1e6, 1e6, 0.0, 1.0))
    first = [False, True]
    middle = [False, True] if robot_first else [True, False]
    assert dsccs(problem).on_server.tolist() == [*first, *middle, True]


@settings(max_examples=40, deadline=None)
@given(
    dags(10, codec=True), bandwidths, st.sampled_from(list(Objective)), st.sampled_from([0.02, 1.0])
)
def test_best_layer_cut_is_never_worse_than_device_server_and_dsccs(
    profile, bandwidth, objective, deadline_s
):
    problem = problem_of(profile, bandwidth, objective=objective, deadline_s=deadline_s)
    movable = np.array([not each.is_input for each in profile.operators])
    others = [movable, ~movable & False, dsccs(problem).on_server]

    def rank(cut):
        costs = problem.subject.evaluator.cut_costs(cut[:, None], problem.link, problem.power)
        return problem.rank(costs)[0]

    found = rank(layer_cut(problem).on_server)
    assert all(found <= rank(other) for other in others)


@settings(max_examples=25, deadline=None)
@given(dags(9, codec=True), bandwidths)
def test_best_layer_cut_is_near_the_best_of_all_cuts(profile, bandwidth):
    problem = problem_of(profile, bandwidth)
    evaluator = problem.subject.evaluator
    best = evaluator.cut_costs(all_cuts(profile), problem.link).latency_s.min()
    found = evaluator.schedule(layer_cut(problem), problem.link).latency_s
    assert best <= found + 1e-12 <= 1.1 * best + 2e-12


def test_a_tensor_that_several_operators_read_is_paid_once():
    readers = [operator(each, (1,), 10, 50, 1) for each in (2, 3, 4, 5)]
    last = operator(6, (2, 3, 4, 5), 10, 1, 1, is_output=True)
    start, first = operator(0, (), 10**7, is_input=True), operator(1, (0,), 10**5, 5, 5)
    profile = Profile('fan', (start, first, *readers, last))
    # 100 kB take 100 ms at 1 MB/s: once, against 200 ms for the readers on the robot.
    problem = Problem(Subject(profile), Link(1e6, 1e6, 0.0, 1.0))
    assert dsccs(problem).on_server.tolist() == [False, False, True, True, True, True, True]


def test_ways_back_to_the_robot_and_the_result_are_charged():
    start = operator(0, (), 1000, is_input=True)
    big = operator(1, (0,), 10**6, 100, 1)  # its output goes back to a robot that is faster
    small = operator(2, (1,), 10**6, 1, 900, is_output=True)
    problem = Problem(Subject(Profile('back', (start, big, small))), Link(1e6, 1e6, 0.0, 1.0))
    assert not dsccs(problem).on_server.any()
    costs = SerialCosts.of_time(problem.profile, problem.link)
    free_return = replace(costs, down=np.zeros(3))
    assert minimum_cut(free_return).tolist() == [False, True, False]


def test_small_tensors_never_cross_where_they_are_excluded():
    start = operator(0, (), 10**6, is_input=True)
    chain = [operator(1, (0,), 1000, 10, 1), operator(2, (1,), 10**6, 100, 1, is_output=False)]
    last = operator(3, (2,), 10, 10, 1, is_output=True)
    problem = Problem(Subject(Profile('small', (start, *chain, last))), Link(1e6, 1e6))
    assert dsccs(problem).on_server.tolist() == [False, False, True, True]
    excluded = dsccs(problem, exclude_below_bytes=20_000)
    assert not excluded.on_server.any()


@settings(max_examples=15, deadline=None)
@given(dags(8, codec=True), bandwidths)
def test_heavy_load_finds_a_bottleneck_near_the_least(profile, bandwidth):
    problem = problem_of(profile, bandwidth)
    least = min(bottleneck_s(profile, problem.link, cut) for cut in all_cuts(profile).T)
    found = bottleneck_s(profile, problem.link, least_bottleneck(problem).on_server)
    alone = bottleneck_s(profile, problem.link, np.zeros(len(profile), dtype=bool))
    assert least <= found + 1e-12 and found <= alone + 1e-12
    assert found <= 3.0 * least + 1e-9  # the paper's own algorithm guarantees as much


@pytest.mark.parametrize('name', NAMES)
def test_reductions_lose_nothing_on_measured_profiles(name):
    profile = read_profile(DATA / f'{name}.json')
    layers = merged_layers(profile)
    for bandwidth in (3.0, 14.0):
        link = Link.of_megabytes_per_s(bandwidth)
        costs = SerialCosts.of_time(profile, link)
        whole = minimum_cut(costs)
        merged = layers.expand(minimum_cut(SerialCosts.of_time(layers.profile, link)))
        totals = costs.total(np.stack([whole, merged], axis=1))
        assert totals[0] == pytest.approx(totals[1], rel=1e-9)
