"""The planner: never worse than what it is compared with, on measured and on random models."""

from __future__ import annotations

import math
import subprocess
import sys
import time

from hypothesis import given, settings
from hypothesis import strategies as st
import pytest

from offload_ros.baselines.layer_cut import layer_cut
from offload_ros.baselines.problem import Objective, Problem, Subject
from offload_ros.graph.crossings import Halo
from offload_ros.graph.methods import device, find_method, server
from offload_ros.graph.profile_file import read_profile
from offload_ros.graph.schedule import Evaluator, Link
from offload_ros.graph.split_plan import Plan
from offload_ros.intra_dp.planner import EFFORT, intra_dp
from offload_ros.policy.goal import LEAST_LATENCY, Goal

from ..graph.random_profiles import DATA, NAMES, bandwidths, dags, network_profile, split_profiles

QUICK = 60_000  # effort: where it does not matter how good a plan is
BANDWIDTHS = (2, 4, 8, 12, 16)
# ms, of a simple search with exact halos; and without halos, of which 3 % more are allowed.
EXACT_MS = {
    'VGG19_BN': (88.4, 88.4, 83, 63, 50),
    'DenseNet121': (76.01, 76.01, 67, 57, 51),
    'kapao': (394, 394, 280, 195, 152),
}
NONE_MS = {
    'VGG19_BN': (78, 72, 55, 40, 36),
    'DenseNet121': (67, 57, 43, 37, 33),
    'kapao': (289, 237, 169, 132, 112),
}


def cost(problem, plan):
    """By the evaluator, which refuses plans that do not fit."""
    schedule = problem.subject.evaluator.schedule(plan, problem.link)
    return problem.rank_one(schedule.latency_s, schedule.energy_j(problem.power))


def is_never_worse(problem, effort=QUICK):
    plan = intra_dp(problem, effort)
    found = cost(problem, plan)
    for method in (device, server, layer_cut):
        assert found <= cost(problem, method(problem)) * (1 + 1e-12)
    if plan.steps is not None:
        assert max(len(plan.steps.robot), len(plan.steps.server)) <= 4000
        if problem.subject.halo is Halo.EXACT:
            for step in (*plan.steps.robot, *plan.steps.server):
                assert step.start == int(step.start) and step.stop == int(step.stop)
        again = Plan.from_document(problem.profile, plan.document())
        assert cost(problem, again) == found
    return plan, found


def is_as_fast_as_asked_for(name, halo, bandwidths):
    subject = Subject(read_profile(DATA / f'{name}.json'), halo)
    limits = EXACT_MS[name] if halo is Halo.EXACT else [1.03 * each for each in NONE_MS[name]]
    for bandwidth, limit_ms in zip(BANDWIDTHS, limits, strict=True):
        if bandwidth in bandwidths:
            _, latency_s = is_never_worse(
                Problem(subject, Link.of_megabytes_per_s(bandwidth)), EFFORT
            )
            assert 1e3 * latency_s <= limit_ms


@pytest.mark.parametrize(
    ('name', 'halo', 'bandwidths'),
    [
        ('VGG19_BN', Halo.EXACT, (8,)),
        ('VGG19_BN', Halo.NONE, (2,)),
        ('DenseNet121', Halo.EXACT, (8,)),
        ('DenseNet121', Halo.NONE, (16,)),
        ('kapao', Halo.EXACT, (8,)),
    ],
)
def test_measured_models_are_as_fast_as_asked_for(name, halo, bandwidths):
    is_as_fast_as_asked_for(name, halo, bandwidths)


@pytest.mark.long
@pytest.mark.parametrize('name', NAMES)
@pytest.mark.parametrize('halo', list(Halo))
def test_measured_models_are_as_fast_as_asked_for_at_every_bandwidth(name, halo):
    is_as_fast_as_asked_for(name, halo, BANDWIDTHS)


@settings(max_examples=8, deadline=None)
@given(st.one_of(split_profiles(12), dags(10)), bandwidths, st.sampled_from(list(Halo)))
def test_no_plan_is_worse_than_a_baseline(profile, bandwidth, halo):
    is_never_worse(Problem(Subject(profile, halo), Link(bandwidth * 1e6, 1.7e6)))


@pytest.mark.long
@settings(max_examples=300, deadline=None)
@given(
    st.one_of(split_profiles(20), dags(16, codec=True)),
    bandwidths,
    st.sampled_from(list(Halo)),
    st.sampled_from(list(Objective)),
)
def test_no_plan_of_many_is_worse_than_a_baseline(profile, bandwidth, halo, objective):
    link = Link(bandwidth * 1e6, 1.7e6)
    is_never_worse(Problem(Subject(profile, halo), link, objective, 0.3))


@pytest.mark.parametrize(('seed', 'count', 'dimensions'), [(1, 70, 2), (2, 200, 3)])
def test_networks_of_other_sizes_are_planned_in_a_second_or_two(seed, count, dimensions):
    profile = network_profile(seed, count, dimensions)
    subject = Subject(profile)
    began_s = time.process_time()
    for bandwidth in (1.0, 6.0):
        is_never_worse(Problem(subject, Link.of_megabytes_per_s(bandwidth)))
    assert time.process_time() - began_s < 20.0


@pytest.mark.long
@pytest.mark.parametrize('seed', range(12))
def test_large_networks_are_planned(seed):
    profile = network_profile(seed, 100 + 45 * seed, 2 + seed % 2)
    subject = Subject(profile, list(Halo)[seed % 2])
    for bandwidth in (0.3, 2.0, 10.0, 50.0):
        is_never_worse(Problem(subject, Link.of_megabytes_per_s(bandwidth)))


def test_launch_floors_are_paid_and_still_nothing_is_worse():
    profile = read_profile(DATA / 'DenseNet121.json').with_floors(0.2e-3, 0.04e-3)
    subject = Subject(profile)
    for bandwidth in (8.0, 40.0):
        is_never_worse(Problem(subject, Link.of_megabytes_per_s(bandwidth)))


def test_both_sides_work_where_both_are_needed():
    profile = read_profile(DATA / 'VGG19_BN.json')
    problem = Problem(Subject(profile), Link.of_megabytes_per_s(8))
    plan, latency_s = is_never_worse(problem)
    schedule = problem.subject.evaluator.schedule(plan, problem.link)
    robot_s = sum(task.end_s - task.start_s for task in schedule.robot)
    server_s = sum(task.end_s - task.start_s for task in schedule.server)
    assert robot_s > 0.5 * latency_s
    assert server_s > 0.1 * profile.column('server_s').sum()


def test_energy_under_a_deadline_and_weighted_lie_between_the_extremes():
    subject = Subject(read_profile(DATA / 'VGG19_BN.json'))
    link = Link.of_megabytes_per_s(8)
    evaluator = Evaluator(subject.profile)

    def figures(objective, **fields):
        problem = Problem(subject, link, objective, **fields)
        plan, _ = is_never_worse(problem)
        schedule = evaluator.schedule(plan, link)
        return schedule.latency_s, schedule.energy_j(problem.power)

    fastest = figures(Objective.LATENCY)
    frugal = figures(Objective.ENERGY, deadline_s=1.0)
    pressed = figures(Objective.ENERGY, deadline_s=0.080)
    mixed = figures(Objective.WEIGHTED, weight=0.5)
    assert fastest[0] <= pressed[0] <= 0.080
    assert frugal[1] <= pressed[1] <= fastest[1] * (1 + 1e-9)
    local_s, local_j = 0.0883, 0.0883 * 13.35

    def weighted(latency_s, energy_j):
        return 0.5 * latency_s / local_s + 0.5 * energy_j / local_j

    assert weighted(*mixed) <= min(weighted(*fastest), weighted(*frugal)) * 1.02


@pytest.mark.parametrize(
    ('name', 'bandwidth'),
    [('VGG19_BN', 12.0)]
    + [
        pytest.param(name, bandwidth, marks=pytest.mark.long)
        for name in ('VGG19_BN', 'DenseNet121')
        for bandwidth in (4.0, 8.0, 24.0)
    ],
)
def test_a_plan_for_the_energy_takes_no_more_of_it_than_the_fastest_and_is_in_time(name, bandwidth):
    subject, link = Subject(read_profile(DATA / f'{name}.json')), Link.of_megabytes_per_s(bandwidth)

    def figures(goal):
        problem = Problem.of(subject, link, goal)
        plan, _ = is_never_worse(problem)
        schedule = subject.evaluator.schedule(plan, link)
        return schedule.latency_s, schedule.energy_j(problem.power)

    fast_s, fast_j = figures(LEAST_LATENCY)
    for allowed in (1.1, 3.0):
        latency_s, energy_j = figures(Goal(Objective.ENERGY, allowed * fast_s))
        assert latency_s <= allowed * fast_s and energy_j <= fast_j * (1 + 1e-9), allowed
    late_s, _ = figures(Goal(Objective.ENERGY, 0.5 * fast_s))  # nothing is in time
    assert late_s == pytest.approx(fast_s, rel=0.05)


def test_equal_problems_give_equal_plans():
    profile = read_profile(DATA / 'VGG19_BN.json')
    documents = [
        intra_dp(Problem(Subject(profile), Link.of_megabytes_per_s(9)), QUICK).document()
        for _ in range(2)
    ]
    assert documents[0] == documents[1]


def test_without_a_link_everything_stays_on_the_robot():
    subject = Subject(read_profile(DATA / 'kapao.json'))
    plan = intra_dp(Problem(subject, Link(0.0, 0.0)))
    assert not plan.on_server.any()
    assert math.isfinite(subject.evaluator.schedule(plan, Link(0.0, 0.0)).latency_s)


def test_the_method_has_the_names_that_people_type():
    assert {find_method(each)[0] for each in ('intra_dp', 'intradp', 'intra-dp')} == {'intra_dp'}


def test_planning_needs_no_torch():
    code = (
        'import sys, offload_ros.graph.plan, offload_ros.intra_dp.planner;'
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, '-c', code], check=False, timeout=60).returncode == 0
