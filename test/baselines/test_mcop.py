"""MCOP by hand and against every cut of small graphs."""

from __future__ import annotations

from hypothesis import given, settings
import numpy as np
import pytest

from offload_ros.baselines.mcop import WeightedGraph, mcop, merging_phases, weighted
from offload_ros.baselines.problem import Objective, Problem, Subject
from offload_ros.baselines.serial_cost import SerialCosts
from offload_ros.graph.profile import Profile, ProfiledOperator
from offload_ros.graph.schedule import Link
from offload_ros.policy.power import PowerModel

from ..graph.random_profiles import bandwidths, dags
from .brute_force import all_cuts, least_serial, serial_total


def graph_of(gain, edges, local_cost=100.0):
    matrix = np.zeros((len(gain), len(gain)))
    for (left, right), weight in edges.items():
        matrix[left, right] = matrix[right, left] = weight
    return WeightedGraph(np.array(gain, dtype=float), matrix, local_cost, np.arange(len(gain)))


def least_of_all(graph):
    """Over every set of vertices without vertex 0."""
    count = len(graph.gain)
    sets = (
        np.array(list(np.binary_repr(k, count - 1)), dtype=int) for k in range(2 ** (count - 1))
    )
    return min(graph.cost(np.r_[False, each.astype(bool)]) for each in sets)


def test_what_gains_more_than_it_costs_to_reach_is_offloaded():
    graph = graph_of([0, 30, 5], {(0, 1): 10, (1, 2): 8, (0, 2): 1})
    on_server, cost = merging_phases(graph)
    assert on_server.tolist() == [False, True, True]  # 35 gained, 11 paid
    assert cost == pytest.approx(100 - 35 + 11) == graph.cost(on_server)


def test_nothing_is_offloaded_where_every_transfer_costs_more():
    graph = graph_of([0, 3, 4, 5], {(0, 1): 10, (1, 2): 10, (2, 3): 10, (0, 3): 10})
    on_server, cost = merging_phases(graph)
    assert not on_server.any() and cost == 100.0


def test_vertices_that_lose_on_the_server_stay_on_the_robot():
    graph = graph_of([0, -20, 40], {(0, 1): 5, (1, 2): 6, (0, 2): 7})
    on_server, cost = merging_phases(graph)
    assert on_server.tolist() == [False, False, True]
    assert cost == pytest.approx(100 - 40 + 13)


def test_vertices_join_by_their_connection_with_all_that_have_joined():
    # 2 is tied to 1 alone: only when 1 has joined does it come before 3, which is then last.
    graph = graph_of([0, 0, 5, 0.5], {(0, 1): 6, (1, 2): 10, (0, 3): 0.4})
    on_server, cost = merging_phases(graph)
    assert on_server.tolist() == [False, False, False, True]
    assert cost == pytest.approx(99.9)


@settings(max_examples=60, deadline=None)
@given(dags(9, codec=True), bandwidths)
def test_cost_of_the_phases_is_that_of_their_cut_and_not_below_the_least(profile, bandwidth):
    costs = SerialCosts.of_time(profile, Link(bandwidth * 1e6, 1.7e6))
    graph = WeightedGraph.of_costs(costs)
    on_server, cost = merging_phases(graph)
    assert graph.cost(on_server) == pytest.approx(cost, rel=1e-9, abs=1e-12)
    assert not on_server[0]
    least = least_of_all(graph)
    assert cost >= least - 1e-12
    assert cost <= graph.local_cost + 1e-12


@settings(max_examples=40, deadline=None)
@given(dags(9), bandwidths)
def test_graph_counts_chains_as_the_serial_cost_does(profile, bandwidth):
    # One reader at most, equal bandwidths: there the two models are the same.
    link = Link(bandwidth * 1e6, bandwidth * 1e6)
    chain = [
        ProfiledOperator(
            each.id,
            each.name,
            (profile.operators[place - 1].id,) if place else (),
            1,
            each.output_bytes,
            each.robot_s if place else 0.0,
            each.server_s if place else 0.0,
            is_input=not place,
            is_output=place == len(profile) - 1,
        )
        for place, each in enumerate(profile.operators)
    ]
    profile = Profile('chain', tuple(chain))
    graph = WeightedGraph.of_costs(SerialCosts.of_time(profile, link))
    for cut in all_cuts(profile).T:
        vertices = np.r_[False, cut[1:]]
        assert graph.cost(vertices) == pytest.approx(serial_total(profile, link, cut))
        assert (graph.operators(vertices) == cut).all()


@settings(max_examples=40, deadline=None)
@given(dags(9), bandwidths)  # as dear up as down: an edge has one weight
def test_mcop_is_no_better_than_the_optimum_and_no_worse_than_the_robot_alone(profile, bandwidth):
    link = Link(bandwidth * 1e6, bandwidth * 1e6)
    found = serial_total(profile, link, mcop(Problem(Subject(profile), link)).on_server)
    alone = sum(operator.robot_s for operator in profile.operators)
    assert least_serial(profile, link) - 1e-12 <= found
    # An edge per reader only overstates what a cut pays, so a promised gain is a real one.
    assert found <= alone + 1e-12


def test_weighted_objective_is_relative_to_the_robot_alone():
    start = ProfiledOperator(0, 'in', (), 1, 1000, 0.0, 0.0, is_input=True)
    last = ProfiledOperator(1, 'op', (0,), 1, 10, 0.2, 0.1, is_output=True)
    profile, link = Profile('two', (start, last)), Link(1e6, 1e6)
    time = SerialCosts.of_time(profile, link)
    energy = SerialCosts.of_energy(profile, link, PowerModel())
    for share in (0.0, 0.25, 1.0):
        both = weighted(time, energy, share)
        alone = np.zeros((2, 1), dtype=bool)
        assert both.total(alone)[0] == pytest.approx(1.0)
        offloaded = np.array([[False], [True]])
        expected = share * time.total(offloaded)[0] / 0.2
        expected += (1 - share) * energy.total(offloaded)[0] / (0.2 * 13.35)
        assert both.total(offloaded)[0] == pytest.approx(expected)


def test_energy_is_saved_within_the_deadline():
    start = ProfiledOperator(0, 'in', (), 1, 100_000, 0.0, 0.0, is_input=True)
    last = ProfiledOperator(1, 'op', (0,), 1, 10, 0.08, 0.01, is_output=True)
    subject, link = Subject(Profile('two', (start, last))), Link(1e6, 1e6)
    fast = mcop(Problem(subject, link))
    frugal = mcop(Problem(subject, link, Objective.ENERGY, 1.0))
    hurried = mcop(Problem(subject, link, Objective.ENERGY, 0.1))
    assert not fast.on_server.any()  # 124 ms over the link
    assert frugal.on_server.tolist() == [False, True]
    assert not hurried.on_server.any()
