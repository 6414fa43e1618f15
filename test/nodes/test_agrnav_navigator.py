"""The navigator as a process: it maps, asks, takes results, drives to goals, stops when told."""

from __future__ import annotations

import math
from typing import Any

from geometry_msgs.msg import PoseStamped, Twist
from nav_msgs.msg import OccupancyGrid, Path
import numpy as np
import pytest
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import SetParameters
from rclpy.qos import DurabilityPolicy, QoSProfile, qos_profile_sensor_data
from sensor_msgs.msg import Image, PointCloud2
from system import Listener, Process, new_domain, running, until
import torch

pytest.importorskip('mujoco')

from offload_ros.msg import GroundTruth, InferenceResult, NavigationStatus, Tensor
from offload_ros.wire.tensors import encode

LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
SHAPE = (128, 16, 128)


@pytest.fixture
def site():
    domain = new_domain()
    world = Process(
        domain, 'ros2', 'run', 'offload_ros', 'world', '--ros-args', '-p', 'seed:=5',
        '-p', 'robot_flies:=true', '-p', 'person_count:=0', '-p', 'camera_hz:=0.0',
        '-p', 'scan_hz:=0.0',
    )  # fmt: skip
    listener = Listener(domain)
    with running(world):
        yield domain, listener
    listener.close()


def navigator(domain: int, *arguments: str) -> Process:
    return Process(
        domain, 'ros2', 'launch', 'offload_ros', 'navigator.launch.py', 'use_sim_time:=true',
        *arguments,
    )  # fmt: skip


def goal(x: float, y: float, frame: str = 'odom') -> PoseStamped:
    message = PoseStamped()
    message.header.frame_id = frame
    message.pose.position.x, message.pose.position.y = x, y
    message.pose.orientation.w = 1.0
    return message


def result(asked: Any, labels: np.ndarray, name: str = 'labels') -> InferenceResult:
    message = InferenceResult(model='agrnav', weights_trained=True)
    message.header = asked.header
    message.outputs = [encode(Tensor(), name, torch.from_numpy(labels))]
    return message


def test_it_maps_asks_takes_results_and_drives_to_a_goal(site):
    domain, listener = site
    status = listener.collect(NavigationStatus, 'agrnav/status')
    speeds = listener.collect(Twist, 'cmd_vel')
    asked = listener.collect(Image, 'agrnav/voxels', qos_profile_sensor_data)
    clouds = listener.collect(PointCloud2, 'agrnav/occupancy', qos_profile_sensor_data)
    maps = listener.collect(OccupancyGrid, 'agrnav/map', LATCHED)
    paths = listener.collect(Path, 'agrnav/path')
    truths = listener.collect(GroundTruth, 'ground_truth')
    goals = listener.publisher(PoseStamped, 'goal_pose')
    results = listener.publisher(InferenceResult, 'inference/result/agrnav')
    process = navigator(domain)
    with running(process):
        until(lambda: status and status[-1].state == 'waiting', 'it waits for a goal')
        until(lambda: asked and clouds and maps, 'map and voxels are published')
        assert math.isnan(status[-1].completion_age_s) and status[-1].predicted == 0
        voxels = asked[-1]
        assert (voxels.height, voxels.width, voxels.encoding) == (128, 256, 'mono8')
        until(lambda: status[-1].observed > 1000, 'it sees the room')
        until(
            lambda: set(np.unique(np.array(maps[-1].data)).tolist()) == {-1, 0, 100},
            'the flat map has the unknown, the free and the occupied',
        )

        # Results without labels, of another shape, or for another stamp change nothing.
        results.publish(result(asked[-1], np.zeros(SHAPE, np.uint8), 'poses'))
        results.publish(result(asked[-1], np.zeros((3, 3, 3), np.uint8)))
        until(lambda: 'not labels' in process.output, 'it says what is wrong')
        until(lambda: 'labels must be' in process.output, 'it says what is wrong')
        full = np.full(SHAPE, 3, np.uint8)
        before = len(asked)
        until(lambda: len(asked) > before, 'it asks again')
        results.publish(result(asked[-1], full))
        until(lambda: status[-1].predicted > 10_000, 'it takes the prediction')
        assert status[-1].completion_age_s < 5
        before = len(asked)
        until(lambda: len(asked) > before, 'it asks again')
        results.publish(result(asked[-1], np.zeros(SHAPE, np.uint8)))
        until(lambda: status[-1].predicted < 10_000, 'a newer prediction replaces it')

        goals.publish(goal(1.0, 0.0, 'nowhere'))
        until(lambda: "must be in frame 'odom'" in process.output, 'a wrong frame is said')
        assert status[-1].goal == 'open' and status[-1].state == 'waiting'
        start = truths[-1].robot_pose.position
        goals.publish(goal(1.2, 0.3))
        until(lambda: any(abs(each.linear.x) > 0.1 for each in speeds), 'it moves')
        until(lambda: any(path.poses for path in paths), 'its path is published')
        until(lambda: status[-1].goal == 'arrived', 'it arrives')
        there = truths[-1].robot_pose.position
        assert math.hypot(there.x - start.x, there.y - start.y) == pytest.approx(1.24, abs=0.5)
        assert truths[-1].robot_energy_j > 0
        until(lambda: abs(speeds[-1].linear.x) < 1e-6, 'it stands')


def test_it_stands_when_odometry_ends_and_while_drive_is_false(site):
    domain, listener = site
    status = listener.collect(NavigationStatus, 'agrnav/status')
    speeds = listener.collect(Twist, 'cmd_vel')
    goals = listener.publisher(PoseStamped, 'goal_pose')
    process = navigator(domain, 'drive:=false')
    with running(process):
        until(lambda: status and status[-1].state == 'off', 'it is off')
        until(lambda: status[-1].observed > 500, 'it maps all the same')
        goals.publish(goal(1.5, 0.0))
        until(lambda: len(status) > 30, 'time passes')
        assert not speeds


def test_how_often_it_asks_may_be_changed_while_it_runs(site):
    domain, listener = site
    status = listener.collect(NavigationStatus, 'agrnav/status')
    asked = listener.collect(Image, 'agrnav/voxels', qos_profile_sensor_data)

    def ask(hz: float) -> None:
        value = ParameterValue(type=ParameterType.PARAMETER_DOUBLE, double_value=hz)
        request = SetParameters.Request(parameters=[Parameter(name='ask_hz', value=value)])
        answer = listener.call(SetParameters, '/agrnav_navigator/set_parameters', request)
        assert answer.results[0].successful, answer

    with running(navigator(domain, 'drive:=false')):
        until(lambda: asked, 'it asks')
        ask(0.0)
        told = len(status)
        until(lambda: len(status) > told + 5, 'what was on its way is here')
        count, told = len(asked), len(status)
        until(lambda: len(status) > told + 20, 'time passes')
        assert len(asked) == count
        ask(5.0)
        until(lambda: len(asked) > count + 3, 'it asks again')


@pytest.mark.parametrize(
    ('argument', 'text'),
    [('grid_height:=3', 'grid_height'), ('step_m:=0.5', 'step_m')],
)
def test_mistakes_at_the_start_end_it_with_one_clear_line(argument, text):
    process = Process(
        new_domain(), 'ros2', 'run', 'offload_ros', 'agrnav_navigator', '--ros-args', '-p',
        argument,
    )  # fmt: skip
    assert process.ended() != 0
    lines = [line for line in process.output.splitlines() if text in line]
    assert len(lines) == 1, process.output
    assert 'Traceback' not in process.output
