"""What the planner is compared with: differential evolution, tensor parallelism."""

from __future__ import annotations

import numpy as np
import pytest

from offload_ros.baselines.problem import Problem, Subject
from offload_ros.graph.crossings import Halo
from offload_ros.graph.methods import device, server
from offload_ros.graph.profile import Profile, ProfiledOperator
from offload_ros.graph.profile_file import read_profile
from offload_ros.graph.schedule import Link
from offload_ros.intra_dp.planner import intra_dp
from offload_ros.intra_dp.tensor_parallel import tensor_parallel

from ..graph.random_profiles import DATA


def two_layers():
    """An input of 1000 bytes, layers of 1000 and 2000 bytes, 10 ms on the robot, 1 ms there."""
    fields = {'width': 1, 'output_bytes': 1000}
    larger = {'width': 1, 'output_bytes': 2000}
    return Profile(
        'two',
        (
            ProfiledOperator(0, 'input', (), robot_s=0, server_s=0, is_input=True, **fields),
            ProfiledOperator(1, 'a', (0,), robot_s=0.010, server_s=0.001, **fields),
            ProfiledOperator(2, 'b', (1,), robot_s=0.010, server_s=0.001, is_output=True, **larger),
        ),
    )


def test_tensor_parallelism_exchanges_every_layer():
    link = Link(1e9, 1e9, delay_s=0.001)
    found = tensor_parallel(Subject(two_layers()), link)
    share = found.robot_share
    schedule = found.schedule
    # The whole input and the robot's share of a go up; the server's shares of a and b come down.
    assert schedule.uplink_bytes == pytest.approx(1000 + 1000 * share, abs=2)
    assert schedule.downlink_bytes == pytest.approx(3000 * (1 - share), abs=6)
    computing_s = max(0.010 * share, 0.001 + 0.001 * (1 - share))
    assert schedule.latency_s == pytest.approx(computing_s + 0.010 * share + 0.001, rel=0.3)
    assert 0.05 < share < 0.4


def test_tensor_parallelism_loses_to_a_plan_that_need_not_exchange_every_layer():
    subject = Subject(read_profile(DATA / 'VGG19_BN.json'))
    link = Link.of_megabytes_per_s(12)
    plan = intra_dp(Problem(subject, link))
    ours_s = subject.evaluator.schedule(plan, link).latency_s
    assert tensor_parallel(subject, link).schedule.latency_s > 3.0 * ours_s


@pytest.mark.parametrize('halo', list(Halo))
def test_differential_evolution_finds_plans_that_fit_and_are_no_worse_than_one_side(halo):
    pytest.importorskip('scipy', reason='SciPy is not installed: differential evolution needs it')
    from offload_ros.intra_dp.evolution import intra_dp_de

    subject = Subject(read_profile(DATA / 'VGG19_BN.json'), halo)
    problem = Problem(subject, Link.of_megabytes_per_s(8))
    evaluator = subject.evaluator

    def latency_s(plan):
        return evaluator.schedule(plan, problem.link).latency_s

    found = intra_dp_de(problem, evaluations=1200)
    assert latency_s(found) <= min(latency_s(device(problem)), latency_s(server(problem)))
    assert latency_s(intra_dp(problem)) <= latency_s(found)
    again = intra_dp_de(problem, evaluations=1200)
    assert np.array_equal(again.robot, found.robot)
