"""The verifier: right answers pass, and each limit that is broken is told."""

from dataclasses import replace

import pytest

from offload_ros.fleet.assignment import Assignment, Route
from offload_ros.fleet.verify import violations

from .fleets import HAND, changed

BY_EDGE = Route('detection', ('robot', 'edge'), 'large', 4.0)
GOOD = Assignment({'edge': {'large': 1}}, (BY_EDGE,))


def test_a_right_answer_passes():
    assert violations(HAND, GOOD) == []
    assert violations(HAND, Assignment()) == []
    assert GOOD.value(HAND) == pytest.approx(3.6)
    assert GOOD.accuracy(HAND) == pytest.approx(0.9)


def routed(**values):
    return replace(GOOD, routes=(replace(BY_EDGE, **values),))


BROKEN = {
    'memory': (replace(GOOD, loaded={'edge': {'large': 1, 'small': 1}}), 'edge loads 330 bytes'),
    'no node': (replace(GOOD, loaded={**GOOD.loaded, 'moon': {}}), 'moon is no node'),
    'no model': (replace(GOOD, loaded={'edge': {'large': 1, 'tiny': 1}}), 'tiny, which is no'),
    'odd batch': (replace(GOOD, loaded={'edge': {'large': 3}}), 'edge runs large in batches of 3'),
    'no batch': (replace(GOOD, loaded={'edge': {'large': 0}}), 'edge runs large in batches of 0'),
    'large batch': (replace(GOOD, loaded={'edge': {'large': 64}}), 'in batches of 64'),
    'not loaded': (replace(GOOD, loaded={'edge': {'small': 1}}), 'large is not loaded on edge'),
    'more than asked': (routed(queries_per_s=4.1), '4.1 of 4 queries per s'),
    'twice': (replace(GOOD, routes=(BY_EDGE, BY_EDGE)), '8 of 4 queries per s'),
    'nothing': (routed(queries_per_s=0.0), '0.0 queries per s'),
    'no link': (routed(path=('robot', 'cloud')), 'there is no link robot to cloud'),
    'not from a robot': (routed(path=('edge',)), 'begins at no robot'),
    'circle': (routed(path=('robot', 'edge', 'robot')), 'goes in a circle'),
    'another task': (routed(task='depth'), 'nobody asks'),
    'wrong model': (routed(task='depth'), 'large has no such task'),
}  # fmt: skip


@pytest.mark.parametrize('assignment, message', BROKEN.values(), ids=BROKEN)
def test_broken_answers_are_told(assignment, message):
    assert any(message in each for each in violations(HAND, assignment))


LIMITED = {
    'link': (
        replace(HAND, links=(replace(HAND.links[0], capacity_bytes_per_s=399.0),)),
        'links[robot to edge]: 400 of 399 bytes per s',
    ),
    'time of a node': (
        changed(HAND, 'nodes', 'edge', load_limit=0.39),
        'edge computes 0.4 of 0.39 of its time',
    ),
    'latency of the task': (
        replace(HAND, tasks=(replace(HAND.tasks[0], latency_limit_s=0.209),)),
        'demand[robot, detection] by large on edge takes 0.21 s of 0.209 s',
    ),
    'latency of the demand': (
        replace(HAND, demand=(replace(HAND.demand[0], latency_limit_s=0.209),)),
        'demand[robot, detection] by large on edge takes 0.21 s of 0.209 s',
    ),
}  # fmt: skip


@pytest.mark.parametrize('problem, message', LIMITED.values(), ids=LIMITED)
def test_limits_that_are_just_exceeded_are_told(problem, message):
    assert message in violations(problem, GOOD)


def test_latency_and_time_of_batches_are_worked_out():
    # 4 per s in batches of 2: 1 / 8 s until one is full, 0.15 s to compute it, 0.11 s to get there.
    batched = replace(GOOD, loaded={'edge': {'large': 2}})
    limits = {
        0.386: [],
        0.384: ['demand[robot, detection] by large on edge takes 0.385 s of 0.384 s'],
    }
    for limit_s, told in limits.items():
        problem = replace(HAND, tasks=(replace(HAND.tasks[0], latency_limit_s=limit_s),))
        assert violations(problem, batched) == told
    # Two batches of 0.15 s a second.
    for load_limit, count in ((0.301, 0), (0.299, 1)):
        problem = changed(HAND, 'nodes', 'edge', load_limit=load_limit)
        assert len(violations(problem, batched)) == count


def test_both_links_of_a_path_count():
    by_cloud = Assignment(
        {'cloud': {'large': 1}}, (Route('detection', ('robot', 'edge', 'cloud'), 'large', 4.0),)
    )
    assert violations(HAND, by_cloud) == []
    thin = replace(HAND, links=(HAND.links[0], replace(HAND.links[1], capacity_bytes_per_s=390.0)))
    assert violations(thin, by_cloud) == ['links[edge to cloud]: 400 of 390 bytes per s']
    # 0.11 s, 0.05 + 100 / 500 s, 0.02 s.
    late = replace(HAND, tasks=(replace(HAND.tasks[0], latency_limit_s=0.379),))
    assert len(violations(late, by_cloud)) == 1


def test_models_that_a_node_cannot_run_are_told():
    problem = changed(HAND, 'nodes', 'edge', models=('small',))
    assert violations(problem, GOOD) == ['edge loads large, which it cannot run']
