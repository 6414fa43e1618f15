"""The person follower as a process: it sees people, places them, follows, stops when it must."""

from __future__ import annotations

import math
import time
from typing import Any

from geometry_msgs.msg import PoseWithCovarianceStamped, Twist
from nav_msgs.msg import OccupancyGrid
import numpy as np
import pytest
from rclpy.qos import DurabilityPolicy, QoSProfile, qos_profile_sensor_data
from sensor_msgs.msg import CameraInfo, Image
from system import Listener, Process, new_domain, running, until
import torch
from visualization_msgs.msg import MarkerArray

pytest.importorskip('mujoco')

from offload_ros.msg import FollowStatus, GroundTruth, InferenceResult, PersonSkeletons, Tensor
from offload_ros.sim import World
from offload_ros.tracking.geometry import Rigid
from offload_ros.wire.tensors import encode

LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)


class Network:
    """What a good network would answer, from the truth of the simulated world."""

    def __init__(self, listener: Listener) -> None:
        self.trained, self.gives = True, True
        with World(5) as world:
            place, (w, x, y, z) = world.camera_mount()
            self._camera = world.config.camera
        self._mount = Rigid.of_quaternion(place, (x, y, z, w))
        self._publisher = listener.publisher(InferenceResult, 'inference/result/kapao')
        listener.node.create_subscription(GroundTruth, 'ground_truth', self._on_truth, 10)

    def _on_truth(self, truth: Any) -> None:
        if not self.gives:
            return
        robot = truth.robot_pose
        yaw = 2 * math.atan2(robot.orientation.z, robot.orientation.w)
        camera = Rigid.planar(robot.position.x, robot.position.y, yaw).then(self._mount)
        poses, boxes = [], []
        for person in truth.persons:
            points = np.array([(p.x, p.y, p.z) for p in person.keypoints])
            at = camera.inverse().apply(points)
            if at[:, 2].min() < 0.3:
                continue
            pixels = self._camera.focal_px * at[:, :2] / at[:, 2:] + self._camera.centre_px + 0.5
            inside = (pixels > 0).all(1)
            inside &= (pixels < (self._camera.width_px, self._camera.height_px)).all(1)
            if inside.sum() < 6:
                continue
            poses.append(np.concatenate([pixels, 0.9 * inside[:, None]], 1))
            boxes.append((*pixels.min(0), *pixels.max(0), 0.8))
        message = InferenceResult(model='kapao', weights_trained=self.trained)
        message.header = truth.header
        message.outputs = [
            encode(Tensor(), name, torch.tensor(np.array(rows), dtype=torch.float32).reshape(shape))
            for name, rows, shape in (('poses', poses, (-1, 17, 3)), ('boxes', boxes, (-1, 5)))
        ]
        self._publisher.publish(message)


@pytest.fixture
def site():
    domain = new_domain()
    world = Process(
        domain, 'ros2', 'run', 'offload_ros', 'world', '--ros-args', '-p', 'seed:=5',
        '-p', 'object_count:=6', '-p', 'cloud_hz:=0.0',
    )  # fmt: skip
    listener = Listener(domain)
    with running(world):
        yield domain, listener
    listener.close()


def tracker(domain: int, *arguments: str) -> Process:
    return Process(
        domain, 'ros2', 'launch', 'offload_ros', 'tracker.launch.py', 'use_sim_time:=true',
        *arguments,
    )  # fmt: skip


def set_parameter(domain: int, name: str, value: str) -> str:
    process = Process(domain, 'ros2', 'param', 'set', '/kapao_tracker', name, value)
    process.ended()
    return process.output


def test_it_follows_a_person_and_stops_when_results_end(site):
    domain, listener = site
    network = Network(listener)
    status = listener.collect(FollowStatus, 'people/status')
    skeletons = listener.collect(PersonSkeletons, 'people/skeletons')
    targets = listener.collect(PoseWithCovarianceStamped, 'people/target')
    markers = listener.collect(MarkerArray, 'people/markers')
    pictures = listener.collect(Image, 'people/image', qos_profile_sensor_data)
    maps = listener.collect(OccupancyGrid, 'people/map', LATCHED)
    speeds = listener.collect(Twist, 'cmd_vel')
    truths = listener.collect(GroundTruth, 'ground_truth')
    process = tracker(domain)
    with running(process):
        until(lambda: status and status[-1].mode == 'following', 'it follows')
        until(lambda: any(abs(each.linear.x) > 0.05 for each in speeds), 'it drives')
        until(lambda: targets and markers and pictures and maps, 'everything is published')

        # Where it says that the person is, the person is: the odometry begins at the first pose.
        until(lambda: len([s for s in status if s.mode == 'following']) > 30, 'it goes on')
        newest = status[-1]
        assert 0.5 < newest.distance_m < 6 and newest.result_hz > 3 and newest.target == 1
        stamp = newest.header.stamp
        truth = min(truths, key=lambda t: abs(t.header.stamp.sec - stamp.sec)
                    + 1e-9 * abs(t.header.stamp.nanosec - stamp.nanosec))  # fmt: skip
        person, robot = truth.persons[0].pose.position, truth.robot_pose.position
        apart = math.hypot(person.x - robot.x, person.y - robot.y)
        assert newest.distance_m == pytest.approx(apart, abs=0.5)

        person = next(p for s in reversed(skeletons) for p in s.persons if p.target)
        assert person.id == 1 and person.confidence == pytest.approx(0.8)
        assert 0 <= person.keypoints[0].x <= 1.5 and math.isfinite(person.position.x)
        assert any(math.isfinite(point.position.z) for point in person.keypoints)
        assert 0 < targets[-1].pose.covariance[0] < 1
        picture = np.frombuffer(pictures[-1].data, np.uint8)
        assert (pictures[-1].height, pictures[-1].width, len(picture)) == (240, 320, 230400)
        grid = maps[-1]
        assert grid.info.width * grid.info.height == len(grid.data)
        assert {-1, 0, 100} == set(np.unique(np.array(grid.data)).tolist())

        network.gives = False
        until(lambda: status[-1].mode == 'stale', 'it notices')
        assert 'no results' in status[-1].reason
        assert speeds[-1].linear.x == 0 and speeds[-1].angular.z == 0
        network.gives = True
        until(lambda: status[-1].mode == 'following', 'it follows again')

        assert 'out of range' in set_parameter(domain, 'distance_m', '99.0')
        assert 'successful' in set_parameter(domain, 'drive', 'false')
        until(lambda: status[-1].mode == 'off', 'it is off')
        time.sleep(0.5)
        count = len(speeds)
        time.sleep(1.0)
        assert len(speeds) == count  # others may drive now
        assert speeds[-1].linear.x == 0 and speeds[-1].angular.z == 0
        assert process.stop() == 0


def test_results_of_random_weights_move_nothing(site):
    domain, listener = site
    network = Network(listener)
    network.trained = False
    status = listener.collect(FollowStatus, 'people/status')
    speeds = listener.collect(Twist, 'cmd_vel')
    process = tracker(domain)
    with running(process):
        process.wait_for('not trained')
        until(lambda: len(status) > 20, 'time passes')
        assert {each.mode for each in status} <= {'stale', 'waiting'}
        assert 'not trained' in status[-1].reason
        assert all(each.linear.x == 0 and each.angular.z == 0 for each in speeds)
        assert process.stop() == 0


def test_messages_that_fit_nothing_are_said_and_left_out(site):
    domain, listener = site
    status = listener.collect(FollowStatus, 'people/status')
    results = listener.publisher(InferenceResult, 'inference/result/kapao')
    infos = listener.publisher(CameraInfo, 'camera/camera_info', reliable=False)
    process = tracker(domain)
    with running(process):
        until(lambda: status, 'it runs')
        wrong = InferenceResult(model='kapao', weights_trained=True)
        wrong.outputs = [encode(Tensor(), 'labels', torch.zeros(3))]

        def send(message: Any, text: str) -> None:
            def said() -> bool:
                results.publish(message)
                time.sleep(0.1)
                return text in process.output

            until(said, text)

        send(wrong, 'gives labels, not poses and boxes')
        wrong.outputs = [
            encode(Tensor(), 'poses', torch.zeros(2, 16, 3)),
            encode(Tensor(), 'boxes', torch.zeros(2, 5)),
        ]
        send(wrong, 'poses must have the shape')
        wrong.outputs[0].shape = [2, 17, 3]
        send(wrong, 'poses of kapao')
        wrong.status, wrong.detail = InferenceResult.ERROR, 'the server is gone'
        send(wrong, 'kapao gives no results: the server is gone')

        def uncalibrated() -> bool:
            infos.publish(CameraInfo(width=320, height=240))
            time.sleep(0.1)
            return 'not calibrated' in process.output

        until(uncalibrated, 'not calibrated')
        count = len(status)
        until(lambda: len(status) > count + 5, 'it goes on')
        assert process.stop() == 0


@pytest.mark.parametrize(
    ('arguments', 'text'),
    [
        (['-p', 'lidar:=sonar'], 'lidar must be one of scan, points'),
        (['-p', 'target:=tallest'], 'target must be one of centre, nearest'),
        (['-p', 'distance_m:=100.0'], 'distance_m'),
        (['-p', 'fixed_frame:=""'], 'frames must have names'),
    ],
)
def test_wrong_parameters_end_it_with_one_line(arguments, text):
    process = Process(
        new_domain(), 'ros2', 'run', 'offload_ros', 'kapao_tracker', '--ros-args', *arguments
    )
    with running(process):
        assert process.ended() == 1
        assert text in process.output and 'Traceback' not in process.output
