"""J3O, the exact program and the simpler methods: against enumeration, against each other, and
within all limits."""

from dataclasses import replace
import math
import statistics

from hypothesis import assume, given, settings
import numpy as np
import pytest

from offload_ros.fleet.assignment import Assignment
from offload_ros.fleet.baselines import BASELINES
from offload_ros.fleet.exact import GAP, exact
from offload_ros.fleet.instances import LIMITS, Size, random_problem
from offload_ros.fleet.j3o import J3oOptions, j3o
from offload_ros.fleet.options import Options
from offload_ros.fleet.problem import Demand, Link, Model, Node
from offload_ros.fleet.reasons import remarks
from offload_ros.fleet.verify import violations

from ..draws import examples
from .fleets import HAND, best_by_enumeration, changed, small_problems

ONE_BY_ONE = J3oOptions(batching=False)


def answers(problem, seed=0):
    """Of every method by name."""
    found = {name: method(problem, seed) for name, method in BASELINES.items()}
    return found | {'j3o': j3o(problem).assignment, 'exact': exact(problem).assignment}


@settings(max_examples=examples(12, 120))
@given(small_problems(robots=2, servers=1, tasks=2, models=3))
def test_exact_program_equals_enumeration_of_all_loadings(problem):
    assume(len(Options.of(problem).node) <= 8)
    found = exact(problem)
    best = best_by_enumeration(problem)
    assert found.optimal
    assert best * (1.0 - GAP) - 1e-9 <= found.value <= best + 1e-6
    assert found.bound >= best * (1.0 - 1e-6)
    assert found.assignment.value(problem) == pytest.approx(found.value, rel=1e-6, abs=1e-6)


@settings(max_examples=examples(7, 100))
@given(small_problems(robots=3, tasks=2))
def test_every_method_keeps_all_limits_and_none_beats_the_exact_program(problem):
    optimum = exact(problem)
    for name, assignment in answers(problem).items():
        assert violations(problem, assignment) == [], name
        if name != 'j3o':  # which has batches
            assert assignment.value(problem) <= optimum.bound * (1.0 + 1e-6) + 1e-9, name


def test_j3o_is_near_the_optimum_and_ahead_of_simpler_methods():
    ratios, values = [], dict.fromkeys(BASELINES, 0.0)
    for seed in range(15):
        rng = np.random.default_rng((seed, 3))
        size = Size(
            int(rng.integers(2, 9)), int(rng.integers(1, 4)), int(rng.integers(2, 5)),
            int(rng.integers(3, 9)), bool(seed % 2), LIMITS[seed % len(LIMITS)],
        )  # fmt: skip
        problem = random_problem((seed, 4), size)
        optimum = exact(problem)
        assert optimum.optimal
        for name in values:
            value = BASELINES[name](problem, seed).value(problem)
            values[name] += value / optimum.value
            if name == 'j3o_one_by_one':
                ratios.append(value / optimum.value)
    assert statistics.fmean(ratios) >= 0.99
    assert min(ratios) >= 0.95
    assert max(values, key=values.__getitem__) == 'j3o_one_by_one'


def test_hand_made_fleet_loads_the_large_model_on_a_server():
    for method in (j3o(HAND, ONE_BY_ONE), exact(HAND)):
        assert method.value == pytest.approx(4 * 0.9)
        assert violations(HAND, method.assignment) == []
    # Nothing that is not used.
    assert j3o(HAND, ONE_BY_ONE).assignment.loaded in (
        {'edge': {'large': 1}},
        {'cloud': {'large': 1}},
    )
    assert BASELINES['robot_only'](HAND, 0).value(HAND) == pytest.approx(4 * 0.5)
    assert BASELINES['server_only'](HAND, 0).value(HAND) == pytest.approx(4 * 0.9)
    # By its own bytes the small one is worth more, and leaves no room for the large one.
    greedy = BASELINES['greedy_accuracy_per_byte'](HAND, 0)
    assert greedy.value(HAND) == pytest.approx(4 * 0.5)
    assert BASELINES['greedy_accuracy'](HAND, 0).value(HAND) == pytest.approx(4 * 0.9)


def test_each_limit_moves_queries_elsewhere():
    no_cloud = changed(HAND, 'nodes', 'cloud', memory_bytes=0.0)
    cases = {
        'edge computes for 2 queries per s': changed(no_cloud, 'nodes', 'edge', load_limit=0.2),
        'link carries 2 queries per s': replace(
            no_cloud, links=(replace(HAND.links[0], capacity_bytes_per_s=200.0), HAND.links[1])
        ),
    }
    for case, problem in cases.items():
        for found in (j3o(problem, ONE_BY_ONE), exact(problem)):
            assert found.value == pytest.approx(2 * 0.9 + 2 * 0.5), case
    # 0.21 s by the edge server, 0.1 s on the robot.
    late = replace(HAND, demand=(replace(HAND.demand[0], latency_limit_s=0.2),))
    exactly = replace(HAND, demand=(replace(HAND.demand[0], latency_limit_s=0.21),))
    assert j3o(late, ONE_BY_ONE).value == pytest.approx(4 * 0.5)
    assert j3o(exactly, ONE_BY_ONE).value == pytest.approx(4 * 0.9)
    by_task = changed(HAND, 'tasks', 'detection', latency_limit_s=0.2)
    assert j3o(by_task, ONE_BY_ONE).value == pytest.approx(4 * 0.5)


def test_queries_pass_a_server_that_only_forwards():
    problem = changed(HAND, 'nodes', 'edge', load_limit=0.0)
    found = j3o(problem)
    assert [each.path for each in found.assignment.routes] == [('robot', 'edge', 'cloud')]
    assert found.value == pytest.approx(4 * 0.9)
    assert violations(problem, found.assignment) == []


def test_robot_with_a_link_to_the_cloud_needs_no_server():
    problem = replace(HAND, links=(Link('robot', 'cloud', 1000.0, 0.1),))
    found = j3o(problem, ONE_BY_ONE)
    assert [each.path for each in found.assignment.routes] == [('robot', 'cloud')]


def test_improving_helps_and_a_short_time_still_answers():
    values = {True: 0.0, False: 0.0}
    for seed in range(4):
        problem = random_problem(seed, Size(8, 2, 4, 6, limits='memory'))
        for improve in values:
            values[improve] += j3o(problem, replace(ONE_BY_ONE, improve=improve)).value
        hasty = j3o(problem, J3oOptions(time_limit_s=1e-9))
        assert violations(problem, hasty.assignment) == []
        assert hasty.rounds == 1
        assert hasty.value > 0.5 * j3o(problem).value
    assert values[True] > values[False]


def test_exact_program_that_runs_out_of_time_says_so_with_a_bound():
    problem = random_problem(3, Size(30, 4, 6, 12, limits='tight'))
    found = exact(problem, 0.02)
    assert not found.optimal
    assert violations(problem, found.assignment) == []
    assert found.bound >= j3o(problem, ONE_BY_ONE).value


@pytest.mark.parametrize(
    'wrong',
    [{'rounds': 0}, {'patience': 0}, {'damping': 0.0}, {'damping': 1.5}, {'time_limit_s': 0.0}],
)
def test_settings_that_make_no_sense_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        J3oOptions(**wrong)


def test_exact_program_refuses_a_time_limit_of_nothing():
    with pytest.raises(ValueError, match='time_limit_s is above 0'):
        exact(HAND, 0.0)


# ---- nothing asked, nothing possible, one robot


IDLE = replace(HAND, demand=(replace(HAND.demand[0], queries_per_s=0.0),))


@pytest.mark.parametrize('problem', [IDLE, replace(HAND, demand=())])
def test_without_demand_nothing_is_loaded_and_accuracy_is_not_a_number(problem):
    for name, assignment in answers(problem).items():
        if name not in ('greedy_accuracy', 'greedy_accuracy_per_byte', 'random'):
            assert assignment == Assignment(), name
        assert assignment.value(problem) == 0.0
        assert math.isnan(assignment.accuracy(problem))
        assert math.isnan(assignment.answered(problem))
        assert list(remarks(problem, assignment)) == [
            'demand: nothing is asked, so nothing is loaded'
        ]


def test_nodes_get_only_models_that_they_can_run():
    problem = changed(HAND, 'nodes', 'edge', models=('small',))
    problem = changed(problem, 'nodes', 'cloud', models=())
    for name, assignment in answers(problem).items():
        assert assignment.loaded.get('cloud', {}) == {}, name
        assert assignment.loaded.get('edge', {}).keys() <= {'small'}, name
        assert violations(problem, assignment) == [], name
    assert exact(problem).value < exact(HAND).value


IMPOSSIBLE = {
    'no node that can': (
        replace(HAND, nodes=tuple(replace(each, models=()) for each in HAND.nodes)),
        'no node within reach (robot, edge, cloud) can run a model with this task',
    ),
    'no memory': (
        replace(HAND, nodes=tuple(replace(each, memory_bytes=10.0) for each in HAND.nodes)),
        'no model with this task fits the memory of a node within reach (robot, edge, cloud)',
    ),
    'no link, no memory': (
        replace(changed(HAND, 'nodes', 'robot', memory_bytes=0.0), links=()),
        'no model with this task fits the memory of a node within reach (robot)',
    ),
    'no time': (
        changed(HAND, 'tasks', 'detection', latency_limit_s=0.05),
        'the fastest, small on robot, takes 100 ms of 50 ms',
    ),
    'no model': (
        replace(
            HAND,
            tasks=(*HAND.tasks, replace(HAND.tasks[0], name='depth')),
            demand=(Demand('robot', 'depth', 1.0, 10.0),),
        ),
        'no model has task depth with an accuracy above 0',
    ),
    'no computing': (
        replace(HAND, nodes=tuple(replace(each, load_limit=0.0) for each in HAND.nodes)),
        'load_limit is 0 on every node within reach (robot, edge, cloud)',
    ),
}


@pytest.mark.parametrize('problem, reason', IMPOSSIBLE.values(), ids=IMPOSSIBLE)
def test_demand_that_cannot_be_answered_is_told_with_the_reason(problem, reason):
    place = problem.demand[0].place
    for name, assignment in answers(problem).items():
        assert assignment.routes == (), name
        assert assignment.accuracy(problem) == 0.0
        assert violations(problem, assignment) == []
        told = list(remarks(problem, assignment))
        assert f'{place}: cannot be answered: {reason}' in told


def test_model_larger_than_every_memory_is_named_and_loaded_nowhere():
    problem = replace(
        HAND, models=(*HAND.models, Model('huge', 301.0, {'detection': 1.0}, 0.01, 0.01))
    )
    for assignment in answers(problem).values():
        assert all('huge' not in models for models in assignment.loaded.values())
        assert (
            'models.huge: its 301 bytes are more than the memory of every node (300 at most), '
            'so it is loaded nowhere'
        ) in list(remarks(problem, assignment))
    assert j3o(problem, ONE_BY_ONE).value == pytest.approx(4 * 0.9)


def test_model_that_just_fits_is_loaded():
    tight = changed(HAND, 'nodes', 'edge', memory_bytes=250.0)
    assert j3o(tight, ONE_BY_ONE).value == pytest.approx(4 * 0.9)
    alone = changed(tight, 'nodes', 'cloud', memory_bytes=0.0)
    alone = changed(alone, 'models', 'large', size_bytes=250.1)
    assert j3o(alone, ONE_BY_ONE).value == pytest.approx(4 * 0.5)


def test_part_of_a_demand_that_goes_unanswered_is_told():
    busy = replace(HAND, links=(), demand=(replace(HAND.demand[0], queries_per_s=40.0),))
    found = j3o(busy)
    assert found.value == pytest.approx(10 * 0.5)
    assert found.assignment.answered(busy) == pytest.approx(0.25)
    told = list(remarks(busy, found.assignment))
    assert len(told) == 1
    assert told[0].startswith('demand[robot, detection]: 75.0 % of its queries go unanswered')


def test_one_robot_alone_takes_the_better_of_two_models_that_do_not_fit_together():
    nodes = (Node('robot', 'robot', 100.0, 1.0),)
    models = (
        Model('fast', 60.0, {'detection': 0.6}, 0.0, 0.1),
        Model('slow', 60.0, {'detection': 0.9}, 0.0, 0.5),
    )
    problem = replace(HAND, nodes=nodes, links=(), models=models)
    # 4 per s by the fast one, 2 per s by the slow one.
    for found in (j3o(problem), exact(problem)):
        assert found.value == pytest.approx(4 * 0.6)
    roomy = changed(problem, 'nodes', 'robot', memory_bytes=120.0)
    # 0.1 x + 0.5 y <= 1 and x + y <= 4: x = 2.5, y = 1.5.
    for found in (j3o(roomy), exact(roomy)):
        assert found.value == pytest.approx(2.5 * 0.6 + 1.5 * 0.9)


def test_random_fleets_are_the_same_for_a_seed_and_every_task_has_a_model():
    for limits in LIMITS:
        size = Size(5, 2, 8, 4, limits=limits)
        problem = random_problem(1, size)
        assert problem == random_problem(1, size)
        assert problem != random_problem(2, size)
        for task in problem.task:
            assert any(task in each.accuracy for each in problem.models)


@pytest.mark.parametrize('wrong', [{'robots': 0}, {'servers': -1}, {'limits': 'odd'}])
def test_sizes_of_no_fleet_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Size(**{'robots': 1, 'servers': 1, 'tasks': 1, 'models': 1} | wrong)
