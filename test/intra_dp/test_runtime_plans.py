"""Plans of the planner, run: robot and server compute what the cost model says, and the result is
the model's."""

import time

import pytest

from offload_ros.baselines.problem import Problem, Subject
from offload_ros.graph.measure import NodeTimes, profile_of
from offload_ros.graph.methods import find_method
from offload_ros.graph.schedule import Link

from ..cuts.conftest import LONG_S, no_endless_wait, site
from ..graph.networks import NETWORKS
from .test_lower import assert_close
from .test_runtime import flops_of, network, opened

__all__ = ['no_endless_wait', 'site']
ROBOT_S = 0.2  # what a model takes there


def profile_by_flops(name, rows):
    """The server is five times as fast as the robot."""
    flops = flops_of(name)
    elements = {
        node.id: sum(spec.numel for spec in node.outputs if spec.is_static)
        for node in rows.graph.nodes
    }
    work = {node: flops.get(node, 0) + 10 * elements[node] for node in elements}
    seconds = {node: ROBOT_S * each / sum(work.values()) for node, each in work.items()}
    nbytes = dict.fromkeys(elements, 64)  # of what only a run tells
    robot = NodeTimes(seconds, ROBOT_S, nbytes)
    return profile_of(rows.graph, rows.split, robot, robot.slower(0.2))


def run_plans(site, name, factors, method='intra_dp'):
    """Of plans for a link that takes the input in the time that the robot takes for the model, and
    for ``factors`` of that bandwidth: how many split operators."""
    _, link, lane, local = opened(site, name)
    _, _, example, expected = network(name)
    subject = Subject(profile_by_flops(name, local.rows))
    split = 0
    input_bytes = sum(spec.nbytes for spec in local.graph.inputs.values())
    for factor in factors:
        bandwidth = factor * input_bytes / ROBOT_S
        shaped = Link(bandwidth, bandwidth, 0.001)
        plan = find_method(method)[1](Problem(subject, shaped))
        schedule = subject.evaluator.schedule(plan, shaped)
        work = local.lower(plan)
        crossing = work.bytes_each_way
        counted = schedule.uplink_bytes, schedule.downlink_bytes
        assert all(one <= other + 1.0 for one, other in zip(crossing, counted, strict=True))
        ran = link.run_split(local, work, example, lane, time.monotonic() + LONG_S)
        assert_close(name, ran.outputs, expected)
        assert not ran.completed_locally
        split += bool(set(work.robot.rows) & set(work.server.rows))
    return split


@pytest.mark.parametrize('name', ['vgg', 'resnet3d', 'densenet', 'convnext', 'yolo', 'unet3d'])
def test_every_plan_of_the_planner_gives_the_result_of_the_model(site, name):
    assert run_plans(site, name, (2.5, 4.0)) > 0


@pytest.mark.long
@pytest.mark.parametrize('name', NETWORKS)
def test_every_plan_of_the_planner_at_any_bandwidth_gives_the_result(site, name):
    split = run_plans(site, name, [0.05 * 1.5**step for step in range(18)])
    assert split > 0 or name == 'alias'


@pytest.mark.parametrize('name', ['vgg', 'unet3d', 'yolo'])
def test_plans_of_the_other_methods_run_by_steps_too(site, name):
    for method in ('layer_cut', 'dsccs', 'device', 'server'):
        run_plans(site, name, (2.0,), method)
