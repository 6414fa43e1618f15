"""The world as a process of its own, seen over DDS."""

from itertools import pairwise
import math
import os
from pathlib import Path
import signal
import subprocess
import sys
import time

from geometry_msgs.msg import Twist
from nav_msgs.msg import Odometry
import numpy as np
import pytest
from rcl_interfaces.srv import SetParameters
import rclpy
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile, qos_profile_sensor_data
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, Image, LaserScan, PointCloud2
from std_msgs.msg import Float32
from tf2_msgs.msg import TFMessage
import yaml

from offload_ros.msg import GroundTruth
from offload_ros.nodes.world_parameters import SETTINGS

DOMAIN = 93
WORLD = Path(__file__).parents[2] / 'scripts' / 'world'
STATIC = QoSProfile(depth=10, durability=DurabilityPolicy.TRANSIENT_LOCAL)
TOPICS = {
    'camera/image_raw': (Image, qos_profile_sensor_data),
    'camera/depth': (Image, qos_profile_sensor_data),
    'camera/camera_info': (CameraInfo, qos_profile_sensor_data),
    'points': (PointCloud2, qos_profile_sensor_data),
    'scan': (LaserScan, qos_profile_sensor_data),
    'odom': (Odometry, 10),
    'ground_truth': (GroundTruth, 10),
    'real_time_factor': (Float32, 10),
    '/tf': (TFMessage, 10),
    '/tf_static': (TFMessage, STATIC),
    '/clock': (Clock, qos_profile_sensor_data),
}


def start(*arguments, **environment):
    return subprocess.Popen(
        [sys.executable, str(WORLD), '--ros-args', '-p', 'seed:=5', *arguments],
        env={
            **os.environ,
            'ROS_DOMAIN_ID': str(DOMAIN),
            'ROS_AUTOMATIC_DISCOVERY_RANGE': 'LOCALHOST',
            **environment,
        },
        stderr=subprocess.PIPE,
        text=True,
    )


def end(process, number=signal.SIGINT):
    """Send the signal and return exit code and standard error."""
    process.send_signal(number)
    try:
        _, errors = process.communicate(timeout=10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise
    return process.returncode, errors


class Listener:
    """A node that keeps what it hears."""

    def __init__(self, topics):
        self.context = Context()
        rclpy.init(context=self.context, domain_id=DOMAIN)
        self.node = Node('listener', context=self.context)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        self.heard = {name: [] for name in topics}
        for name, (kind, qos) in topics.items():
            keep = self.heard[name].append
            self.node.create_subscription(kind, name, keep, qos)

    def wait(self, condition, timeout_s=15.0):
        """Spin until the condition holds; return whether it did."""
        end_at = time.monotonic() + timeout_s
        while time.monotonic() < end_at:
            if condition():
                return True
            self.executor.spin_once(timeout_sec=0.05)
        return bool(condition())

    def set_parameter(self, name, value):
        """Return the world's verdict."""
        client = self.node.create_client(SetParameters, 'world/set_parameters')
        assert client.wait_for_service(timeout_sec=5)
        request = SetParameters.Request(
            parameters=[Parameter(name, value=value).to_parameter_msg()]
        )
        future = client.call_async(request)
        assert self.wait(future.done)
        return future.result().results[0]

    def close(self):
        self.node.destroy_node()
        self.context.try_shutdown()


@pytest.fixture(scope='module')
def listener():
    process = start()
    listening = Listener(TOPICS)
    yield listening
    listening.close()
    code, errors = end(process)
    assert code == 0, errors
    assert 'Traceback' not in errors


def seconds(stamp):
    return stamp.sec + stamp.nanosec * 1e-9


def last(listener, name):
    assert listener.wait(lambda: listener.heard[name]), f'nothing on {name}'
    return listener.heard[name][-1]


def test_every_topic_is_published(listener):
    silent = lambda: [name for name, heard in listener.heard.items() if len(heard) < 1]  # noqa: E731
    assert listener.wait(lambda: not silent()), silent()


def test_pictures_share_stamp_frame_and_model(listener):
    def pair():
        depths = {seconds(m.header.stamp): m for m in listener.heard['camera/depth']}
        for picture in listener.heard['camera/image_raw']:
            depth = depths.get(seconds(picture.header.stamp))
            if depth is not None:
                return picture, depth
        return None

    assert listener.wait(pair)
    picture, depth = pair()
    info = last(listener, 'camera/camera_info')
    for message in (picture, depth, info):
        assert message.header.frame_id == 'camera_optical_frame'
        assert (message.width, message.height) == (320, 240)
    assert (picture.encoding, depth.encoding) == ('rgb8', '32FC1')
    assert np.frombuffer(picture.data, np.uint8).reshape(240, 320, 3).std() > 10
    metres = np.frombuffer(depth.data, np.float32).reshape(240, 320)
    assert 0.15 <= np.nanmin(metres) < np.nanmax(metres) <= 12.0
    assert info.k[0] == pytest.approx(160 / math.tan(math.radians(32.5)))
    assert (info.k[2], info.k[5]) == (159.5, 119.5)


def test_scan_and_cloud_are_well_formed(listener):
    scan, cloud = last(listener, 'scan'), last(listener, 'points')
    assert len(scan.ranges) == 360
    covered = scan.angle_max - scan.angle_min + scan.angle_increment
    assert covered == pytest.approx(2 * math.pi, abs=1e-5)
    assert scan.header.frame_id == 'laser_link'
    assert [field.name for field in cloud.fields] == ['x', 'y', 'z']
    points = np.frombuffer(cloud.data, np.float32).reshape(-1, 3)
    assert len(points) == cloud.width > 1000
    assert np.isfinite(points).all()


def test_transforms_lead_from_the_map_to_every_sensor(listener):
    last(listener, '/tf')
    last(listener, '/tf_static')
    parent = {
        transform.child_frame_id: transform.header.frame_id
        for name in ('/tf', '/tf_static')
        for message in listener.heard[name]
        for transform in message.transforms
    }
    for frame in ('camera_optical_frame', 'lidar_link', 'laser_link'):
        chain = [frame]
        while chain[-1] in parent:
            chain.append(parent[chain[-1]])
        assert chain[1:] == ['base_link', 'odom', 'map']


def test_transform_is_where_the_truth_has_the_robot(listener):
    last(listener, '/tf')
    truth = last(listener, 'ground_truth')
    to_odom, to_base = listener.heard['/tf'][-1].transforms[:2]
    assert to_base.transform.translation.x == pytest.approx(0.0, abs=1e-9)  # it has not moved
    assert to_odom.transform.translation.x == pytest.approx(truth.robot_pose.position.x)
    assert to_odom.transform.translation.y == pytest.approx(truth.robot_pose.position.y)
    assert len(truth.objects) > 10
    assert len(truth.persons[0].keypoints) == 17


def test_stamps_advance_and_never_lead_the_clock(listener):
    assert listener.wait(lambda: len(listener.heard['odom']) > 40)
    stamps = [seconds(m.header.stamp) for m in listener.heard['odom']]
    assert all(b > a for a, b in pairwise(stamps))
    clock = [seconds(m.clock) for m in listener.heard['/clock']]
    assert clock[-1] > clock[0] > 0
    assert all(b >= a for a, b in pairwise(clock))
    assert stamps[-1] <= clock[-1] + 0.02


def test_world_keeps_up_with_the_wall_clock(listener):
    listener.heard['real_time_factor'].clear()
    assert listener.wait(lambda: len(listener.heard['real_time_factor']) >= 2)
    assert max(m.data for m in listener.heard['real_time_factor']) > 0.9


def test_commands_drive_the_robot_and_silence_stops_it(listener):
    publisher = listener.node.create_publisher(Twist, 'cmd_vel', 10)
    odom = listener.heard['odom']
    assert listener.wait(lambda: publisher.get_subscription_count() > 0)
    wrong, turn = Twist(), Twist()
    wrong.linear.x = math.nan
    turn.angular.z = 0.8
    publisher.publish(wrong)
    publisher.publish(turn)
    assert listener.wait(lambda: odom[-1].twist.twist.angular.z > 0.75, 5)
    assert listener.wait(lambda: odom[-1].twist.twist.angular.z == 0.0, 5)
    assert all(math.isfinite(m.pose.pose.position.x) for m in odom)


def test_parameters_are_checked(listener):
    refused = listener.set_parameter('robot_motion', 'dance')
    assert not refused.successful
    assert 'one of cmd_vel, patrol' in refused.reason
    assert not listener.set_parameter('seed', 9).successful
    assert not listener.set_parameter('person_speed_mps', 99.0).successful
    assert listener.set_parameter('person_speed_mps', 0.6).successful


def test_rate_and_patrol_can_be_changed_while_it_runs(listener):
    assert listener.set_parameter('odom_hz', 0.0).successful
    listener.wait(lambda: False, 0.3)
    listener.heard['odom'].clear()
    listener.wait(lambda: False, 0.5)
    assert not listener.heard['odom']
    assert listener.set_parameter('odom_hz', 30.0).successful
    assert listener.set_parameter('robot_motion', 'patrol').successful
    assert listener.set_parameter('real_time_factor', 4.0).successful
    moved = lambda: any(m.twist.twist.linear.x > 0.1 for m in listener.heard['odom'])  # noqa: E731
    assert listener.wait(moved, 20)


def test_second_robot_has_names_and_frames_of_its_own():
    process = start(
        '-r', '__ns:=/robot1', '-p', 'frame_prefix:=robot1/', '-p', 'publish_clock:=false'
    )
    topics = {
        '/robot1/scan': (LaserScan, qos_profile_sensor_data),
        '/robot1/odom': (Odometry, 10),
    }
    listening = Listener(topics)
    try:
        assert last(listening, '/robot1/scan').header.frame_id == 'robot1/laser_link'
        odom = last(listening, '/robot1/odom')
        assert (odom.header.frame_id, odom.child_frame_id) == ('robot1/odom', 'robot1/base_link')
    finally:
        listening.close()
        code, errors = end(process, signal.SIGTERM)
    assert code == 0
    assert 'Traceback' not in errors


@pytest.mark.parametrize(
    ('arguments', 'environment', 'text'),
    [
        (('-p', 'robot_motion:=dance'), {}, 'robot_motion must be one of cmd_vel, patrol'),
        (('-p', 'person_speed_mps:=50.0'), {}, 'person_speed_mps'),
        (('-p', 'person_speed_mps:=1'), {}, 'person_speed_mps'),
        ((), {'MUJOCO_GL': 'disable'}, 'apt-get install libosmesa6'),
    ],
)
def test_mistake_at_the_start_ends_it_with_one_clear_line(arguments, environment, text):
    process = start(*arguments, **environment)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 1
    lines = [line for line in errors.splitlines() if line.startswith('error: ')]
    assert len(lines) == 1
    assert text in lines[0]
    assert 'Traceback' not in errors


def test_parameter_file_lists_every_parameter_with_its_default():
    file = yaml.safe_load((WORLD.parents[1] / 'config' / 'world.yaml').read_text())
    listed = file['/**']['ros__parameters']
    assert listed == {name: setting.default for name, setting in SETTINGS.items()}
    assert all(type(listed[name]) is type(SETTINGS[name].default) for name in listed)
