"""Onloading and offloading at given prices: greedy, linear program, duals, neighbours."""

from dataclasses import replace

from hypothesis import assume, given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from offload_ros.fleet.evaluation import OneByOne
from offload_ros.fleet.improve import Improver, onloading_at
from offload_ros.fleet.neighbours import MOST_SUBSETS, Neighbours, Tables
from offload_ros.fleet.onloading import NOTHING, Onloading
from offload_ros.fleet.options import Options
from offload_ros.fleet.problem import Demand, Model, Node, Problem, Task
from offload_ros.fleet.routing import LeastUse, route, undominated

from ..draws import examples
from .fleets import HAND, changed, every_loading, small_problems


@st.composite
def cases(draw):
    """Options, a loading that fits, prices."""
    options = Options.of(draw(small_problems()))
    assume(len(options))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    loaded, room = np.zeros(len(options.node), bool), options.memory_bytes.copy()
    for at in rng.permutation(len(loaded))[: int(rng.integers(len(loaded) + 1))]:
        if options.size_bytes[at] <= room[options.node[at]]:
            loaded[at] = True
            room[options.node[at]] -= options.size_bytes[at]
    price = rng.exponential(draw(st.sampled_from([0.0, 0.3, 3.0])), len(options.limit))
    price[-1] = 0.0
    return options, loaded, price


def naive_greedy(onloading, per_byte, start):
    """What gains most (per byte) of all that fits, over and over."""
    options, loaded = onloading.options, start.copy()
    while True:
        best = onloading.covered(loaded)
        used = np.bincount(
            options.node[loaded], options.size_bytes[loaded], len(options.memory_bytes)
        )
        room = options.memory_bytes - used
        gains = onloading.gains(best)
        gains[loaded | (options.size_bytes > room[options.node]) | (gains <= NOTHING)] = 0.0
        worth = gains / options.size_bytes if per_byte else gains
        if not worth.max() > 0.0:
            return loaded
        loaded[np.argmax(worth)] = True


@settings(max_examples=examples(40, 600))
@given(cases(), st.booleans(), st.booleans())
def test_lazy_greedy_equals_naive_greedy(case, per_byte, from_start):
    options, loaded, price = case
    onloading = onloading_at(OneByOne(options), price)
    start = loaded if from_start else np.zeros(len(loaded), bool)
    expected = naive_greedy(onloading, per_byte, start)
    assert (onloading.greedy(per_byte, start) == expected).all()


@settings(max_examples=examples(40, 400))
@given(cases())
def test_worth_is_monotone_and_submodular(case):
    options, loaded, price = case
    onloading = onloading_at(OneByOne(options), price)
    few = loaded & (np.arange(len(loaded)) % 2 == 0)
    gains_few = onloading.gains(onloading.covered(few))
    gains = onloading.gains(onloading.covered(loaded))
    assert (gains >= 0.0).all()
    assert (gains <= gains_few + 1e-9).all()
    for at in range(len(loaded)):
        one = loaded.copy()
        one[at] = True
        assert onloading.worth(one) - onloading.worth(loaded) == pytest.approx(gains[at], abs=1e-9)


@settings(max_examples=examples(40, 600))
@given(cases())
def test_onloading_fits_memory_and_is_no_worse_than_any_single_model(case):
    options, _, price = case
    onloading = onloading_at(OneByOne(options), price)
    loaded = onloading.onload()
    sizes = np.bincount(options.node[loaded], options.size_bytes[loaded], len(options.memory_bytes))
    assert (sizes <= options.memory_bytes).all()
    for at in range(len(loaded)):
        single = np.zeros(len(loaded), bool)
        single[at] = True
        assert onloading.worth(loaded) >= onloading.worth(single) - 1e-9
    assert onloading.worth(loaded) >= onloading.worth(onloading.greedy(True)) - 1e-9


def test_one_large_model_beats_the_small_one_that_gains_more_per_byte():
    # Per byte the small one is ahead; it takes the room that the large one needs.
    problem = changed(HAND, 'nodes', 'robot', memory_bytes=0.0)
    problem = changed(problem, 'nodes', 'cloud', memory_bytes=0.0)
    options = Options.of(problem)
    onloading = onloading_at(OneByOne(options), np.zeros(len(options.limit)))
    small, large = (
        np.array([name == each for each in names(options)]) for name in ('small', 'large')
    )
    assert (onloading.greedy(per_byte=True) == small).all()
    assert (onloading.onload() == large).all()


def test_one_node_takes_its_best_single_model_where_others_fill_theirs_by_the_byte():
    nodes = tuple(Node(name, 'robot', 100.0, 1.0) for name in ('left', 'right'))
    tasks = tuple(Task(name) for name in ('t1', 't2', 't3'))
    models = tuple(
        Model(name, size, accuracy, 0.0, 1e-3)
        for name, size, accuracy in (
            ('wide', 100.0, {'t1': 0.7}),
            ('first', 50.0, {'t1': 0.6}),
            ('second', 50.0, {'t2': 0.6}),
            ('little', 10.0, {'t3': 0.3}),
            ('large', 100.0, {'t3': 0.9}),
        )
    )
    demand = tuple(
        Demand(robot, task, rate, 1.0)
        for robot, task, rate in (('left', 't1', 2.0), ('left', 't2', 2.0), ('right', 't3', 1.0))
    )
    options = Options.of(Problem(nodes, (), tasks, models, demand))
    onloading = onloading_at(OneByOne(options), np.zeros(len(options.limit)))
    # By the byte 2 * 1.2 + 0.3, by what is gained first 2 * 0.7 + 0.9.
    assert onloading.worth(onloading.greedy(True)) == pytest.approx(2.7)
    assert onloading.worth(onloading.greedy(False)) == pytest.approx(2.3)
    assert onloading.worth(onloading.onload()) == pytest.approx(2 * 1.2 + 0.9)


def names(options):
    return [options.problem.models[at].name for at in options.model]


@settings(max_examples=examples(40, 600))
@given(cases())
def test_duals_prove_the_routing_optimal(case):
    options, loaded, _ = case
    routing = route(options, loaded[options.candidate])
    assert (routing.price >= 0.0).all()
    assert (routing.share >= 0.0).all()
    # Strong duality: every query's best at these prices, and what the limits are worth.
    best = onloading_at(OneByOne(options), routing.price).covered(loaded).sum()
    limits = routing.price[:-1] @ options.limit[:-1]
    assert best + limits == pytest.approx(routing.value, rel=1e-6, abs=1e-7)


@settings(max_examples=examples(10, 200))
@given(cases(), st.floats(0.5, 1.5))
def test_prices_bound_what_other_limits_would_bring(case, factor):
    options, loaded, _ = case
    routing = route(options, loaded[options.candidate])
    for at in range(len(options.limit) - 1):
        limit = options.limit.copy()
        limit[at] *= factor
        other = route(replace(options, limit=limit), loaded[options.candidate])
        most = routing.value + routing.price[at] * (limit[at] - options.limit[at])
        assert other.value <= most + 1e-6 * (1.0 + routing.value)


def test_prices_of_a_link_and_of_a_node_are_what_one_works_out():
    problem = replace(
        changed(HAND, 'nodes', 'cloud', memory_bytes=0.0),
        links=(replace(HAND.links[0], capacity_bytes_per_s=200.0), HAND.links[1]),
    )
    options = Options.of(problem)
    best = (options.node == 0) | (np.array(names(options)) == 'large')
    routing = route(options, best[options.candidate])
    # 2 of 4 queries per s pass the link, each worth 0.9 instead of 0.5.
    assert routing.value == pytest.approx(2 * 0.9 + 2 * 0.5)
    assert routing.price[len(problem.nodes)] == pytest.approx(2 * 0.4)
    options = Options.of(
        changed(replace(problem, links=HAND.links), 'nodes', 'edge', load_limit=0.2)
    )
    routing = route(options, best[options.candidate])
    # 0.1 s each of the edge server: 2 per s in 0.2 of its time, 10 per s in all of it.
    assert routing.value == pytest.approx(2 * 0.9 + 2 * 0.5)
    assert routing.price[1] == pytest.approx(10 * 0.4)


@settings(max_examples=examples(40, 400))
@given(cases())
def test_dominated_options_change_nothing(case):
    options, loaded, _ = case
    usable = loaded[options.candidate]
    kept = np.zeros(len(usable), bool)
    kept[undominated(options, usable, options.use)] = True
    assert not (kept & ~usable).any()
    # An empty least use keeps all columns in the program.
    none = LeastUse(np.zeros(0, np.int64), np.zeros(0))
    assert route(options, usable).value == pytest.approx(
        route(options, usable, least=none).value, rel=1e-7, abs=1e-9
    )


def test_least_use_is_kept_or_refused():
    options = Options.of(HAND)
    loaded = np.ones(len(options.node), bool)  # of memory this program knows nothing
    worst = int(np.flatnonzero(options.node == 0)[0])  # on the robot, at 0.5
    least = LeastUse(np.array([worst]), np.array([3.0]))
    routing = route(options, loaded[options.candidate], least=least)
    assert routing.value == pytest.approx(3 * 0.5 + 1 * 0.9)
    more = LeastUse(np.array([worst]), np.array([4.5]))
    assert route(options, loaded[options.candidate], least=more) is None


@settings(max_examples=examples(25, 250))
@given(cases(), st.sampled_from([0, MOST_SUBSETS]))
def test_no_change_gains_more_than_the_neighbours_say(case, most_subsets):
    options, loaded, _ = case
    with pytest.MonkeyPatch.context() as patch:
        # Of none, swaps are looked at instead.
        patch.setattr('offload_ros.fleet.neighbours.MOST_SUBSETS', most_subsets)
        evaluation, tables = OneByOne(options), Tables(options)
    state = evaluation.state(loaded)
    onloading = onloading_at(evaluation, state.routing.price)
    neighbours = Neighbours(tables, onloading, loaded)
    for node in range(len(options.memory_bytes)):
        for change in neighbours.of(node, 10, above=-np.inf):
            other = loaded.copy()
            other[tables.candidates[node]] = False
            other[list(change.loads)] = True
            sizes = options.size_bytes[list(change.loads)].sum()
            assert sizes <= options.memory_bytes[node]
            value = evaluation.state(other).value
            assert value - state.value <= change.gain + 1e-6 * (1.0 + state.value)


def test_swaps_are_found_where_there_are_too_many_subsets(monkeypatch):
    monkeypatch.setattr('offload_ros.fleet.neighbours.MOST_SUBSETS', 0)
    options = Options.of(HAND)
    tables = Tables(options)
    assert all(each is None for each in tables.subsets)
    evaluation = OneByOne(options)
    edge_small = (options.node == 1) & (np.array(names(options)) == 'small')
    state = evaluation.state(edge_small)
    assert state.value == pytest.approx(4 * 0.5)
    better = Improver(evaluation, tables).improve(state, float('inf'))
    assert better.value == pytest.approx(4 * 0.9)


@settings(max_examples=examples(15, 150))
@given(cases())
def test_improving_never_loses_and_fits_memory(case):
    options, loaded, _ = case
    evaluation = OneByOne(options)
    state = evaluation.state(loaded)
    better = Improver(evaluation, Tables(options)).improve(state, float('inf'))
    assert better.value >= state.value
    sizes = np.bincount(
        options.node[better.loaded], options.size_bytes[better.loaded], len(options.memory_bytes)
    )
    assert (sizes <= options.memory_bytes).all()


def test_robots_that_get_into_each_others_way_change_by_halves_or_not_at_all(monkeypatch):
    options = Options.of(
        replace(
            HAND,
            nodes=(*HAND.nodes, Node('other', 'robot', 100.0, 1.0)),
            demand=(*HAND.demand, Demand('other', 'detection', 4.0, 100.0)),
        )
    )
    improver = Improver(OneByOne(options), Tables(options))
    nothing = improver.evaluation.state(np.zeros(len(options.node), bool))
    tried = []

    def state(loaded):
        tried.append(int(loaded.sum()))
        # Only one of the two changes gains.
        return nothing if loaded.sum() == 2 else OneByOne(options).state(loaded)

    monkeypatch.setattr(improver.evaluation, 'state', state)
    assert improver._robots_step(nothing).value == pytest.approx(4 * 0.5)
    monkeypatch.setattr(improver.evaluation, 'state', lambda loaded: nothing)
    assert improver._robots_step(nothing) is None
    assert tried == [2, 1]


def test_prices_that_make_all_worthless_load_nothing():
    options = Options.of(HAND)
    onloading = Onloading(options, np.full(len(options.pair_query), -1.0))
    assert not onloading.onload().any()


def test_enumeration_of_the_hand_made_fleet_has_what_fits():
    # Robot: small or nothing; edge and cloud each: nothing, small, large.
    assert len(list(every_loading(Options.of(HAND)))) == 2 * 3 * 3


@settings(max_examples=examples(10, 100))
@given(cases())
def test_interior_point_method_finds_the_same_value_and_valid_prices(case):
    options, loaded, _ = case
    expected = route(options, loaded[options.candidate])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr('offload_ros.fleet.routing.INTERIOR_POINT_FROM', 0)
        found = route(options, loaded[options.candidate])
    assert found.value == pytest.approx(expected.value, rel=1e-6, abs=1e-9)
    best = onloading_at(OneByOne(options), found.price).covered(loaded).sum()
    assert best + found.price[:-1] @ options.limit[:-1] == pytest.approx(found.value, rel=1e-5)
