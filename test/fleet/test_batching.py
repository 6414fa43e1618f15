"""Batches: what they save, how long they let queries wait, and that they never cost accuracy."""

from dataclasses import replace

from hypothesis import given, settings
import numpy as np
import pytest

from offload_ros.fleet.baselines import j3o_one_by_one
from offload_ros.fleet.evaluation import Batches, OneByOne, State
from offload_ros.fleet.instances import Size, random_problem
from offload_ros.fleet.j3o import J3oOptions, j3o
from offload_ros.fleet.options import Options
from offload_ros.fleet.problem import Model
from offload_ros.fleet.routing import Routing
from offload_ros.fleet.verify import violations

from ..draws import examples
from .fleets import HAND, changed, small_problems

# 30 queries per s; the edge server answers 10 of them one by one with the large model:
# tau(b) = 0.05 + 0.05 b. A batch of 8 takes 0.45 s, so 17.8 per s; a batch of 16 would be full and
# computed after 0.4 + 0.85 s.
BUSY = replace(
    changed(
        changed(HAND, 'nodes', 'cloud', memory_bytes=0.0),
        'models',
        'small',
        accuracy={'detection': 0.3},
    ),
    links=(replace(HAND.links[0], capacity_bytes_per_s=1e5),),
    demand=(replace(HAND.demand[0], queries_per_s=30.0),),
)


def loaded_large(options):
    """The large model on the edge server, the small one on the robot."""
    return (options.node == 0) | (options.model == 1)


def test_a_batch_answers_what_one_by_one_cannot():
    one_by_one = j3o(BUSY, J3oOptions(batching=False))
    assert one_by_one.value == pytest.approx(10 * 0.9 + 10 * 0.3)
    batched = j3o(BUSY)
    assert batched.assignment.loaded['edge'] == {'large': 8}
    assert batched.value == pytest.approx(8 / 0.45 * 0.9 + 10 * 0.3)
    assert violations(BUSY, batched.assignment) == []


@pytest.mark.parametrize(
    'limit_s, batch', [(10.0, 32), (1.0, 8), (0.69, 8), (0.65, 4), (0.3, 2), (0.15, 1)]
)
def test_latency_limits_the_batch(limit_s, batch):
    # At 8: 0.011 s to the server, 7 / (2 * 17.8) s until it is full, 0.45 s: 0.658 s.
    problem = replace(BUSY, demand=(replace(BUSY.demand[0], latency_limit_s=limit_s),))
    found = j3o(problem)
    assert found.assignment.loaded['edge'] == {'large': batch}
    assert violations(problem, found.assignment) == []
    assert found.value == pytest.approx(min(30.0, batch / (0.05 + 0.05 * batch)) * 0.9 + 3.0)


def test_largest_batch_of_a_node_is_kept():
    for most, value in ((1, 9.0 + 3.0), (2, 12.0 + 3.0), (4, 14.4 + 3.0)):
        problem = changed(BUSY, 'nodes', 'edge', max_batch=most)
        found = j3o(problem)
        assert found.value == pytest.approx(value)
        assert found.assignment.loaded['edge'] == {'large': most}


def test_batches_are_no_larger_than_the_load_asks_for():
    idle = replace(BUSY, demand=(replace(BUSY.demand[0], queries_per_s=9.0),))
    assert j3o(idle).assignment.loaded['edge'] == {'large': 1}
    more = replace(BUSY, demand=(replace(BUSY.demand[0], queries_per_s=13.0),))
    assert j3o(more).assignment.loaded['edge'] == {'large': 2}  # 2 / 0.15 s = 13.3 per s


def test_a_model_without_fixed_time_runs_one_by_one():
    problem = changed(BUSY, 'models', 'large', alpha_s=0.0, beta_s=0.4)
    found = j3o(problem)
    assert found.assignment.loaded['edge'] == {'large': 1}
    assert found.value == pytest.approx(9.0 + 3.0)


@settings(max_examples=examples(10, 200))
@given(small_problems())
def test_batches_never_cost_accuracy_and_keep_all_limits(problem):
    one_by_one, batched = j3o_one_by_one(problem), j3o(problem)
    assert batched.value >= one_by_one.value(problem) - 1e-9
    assert violations(problem, batched.assignment) == []


def test_batches_help_fleets_that_computing_limits():
    gains = []
    for seed in range(5):
        problem = random_problem(seed, Size(12, 2, 4, 6, limits='compute'))
        one_by_one = j3o_one_by_one(problem).value(problem)
        gains.append(j3o(problem).value / one_by_one - 1.0)
    assert min(gains) >= 0.0
    assert sum(gain > 1e-4 for gain in gains) >= 4


def test_rescan_never_loses():
    options = Options.of(BUSY)
    batches = Batches(options)
    state = OneByOne(options).state(loaded_large(options))
    found = batches.rescan(state)
    assert found.value == pytest.approx(8 / 0.45 * 0.9 + 3.0)
    again = batches.rescan(found)
    assert again.value >= found.value


def test_smaller_batches_keep_the_routing_within_the_nodes_time():
    options = Options.of(BUSY)
    batches = Batches(options)
    state = batches.state(loaded_large(options))
    large = options.model == 1
    assert (state.batch[large] == 8).all()
    # Half of the queries: 8.9 per s, which the server answers one by one.
    routing = replace(state.routing, share=state.routing.share * 0.5)
    halved = batches.smallest(State(state.loaded, routing, state.batch))
    assert (halved.batch == 1).all()
    assert (batches.smallest(state).batch == state.batch).all()
    assert np.array_equal(halved.routing.share, routing.share)


def test_routing_keeps_as_many_queries_arriving_as_the_wait_for_a_batch_counts_on(monkeypatch):
    # A later scan would choose smaller batches for what then arrives.
    monkeypatch.setattr('offload_ros.fleet.evaluation.RESCANS', 0)
    # A better model on the cloud draws nearly all queries from a server that has large batches.
    problem = replace(
        changed(BUSY, 'nodes', 'cloud', memory_bytes=300.0),
        links=(BUSY.links[0], replace(HAND.links[1], capacity_bytes_per_s=2900.0)),
        models=(*BUSY.models, Model('best', 290.0, {'detection': 0.95}, 0.0, 0.4)),
    )
    options, batches = Options.of(problem), Batches(Options.of(problem))
    edge = (options.node == 1) & (options.model == 1)
    loaded = edge | ((options.node == 2) & (options.model == 2))
    share = np.where(edge[options.candidate], 10.0 / 30.0, 0.0)
    routing = Routing(9.0, share, np.zeros(len(options.limit)))
    found = batches.rescan(State(loaded, routing, np.ones(len(loaded), np.int64)))
    assert found.value > 25.0
    assert (found.batch[edge] == 8).all()
    assignment = options.assignment(found.loaded, found.routing.share, found.batch)
    assert violations(problem, assignment) == []
