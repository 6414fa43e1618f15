"""The simulated world as a ROS 2 node: sensors, transforms, clock and ground truth."""

from __future__ import annotations

import dataclasses
import math
import time
from typing import Any

from geometry_msgs.msg import PoseStamped, Twist
from nav_msgs.msg import Odometry
import numpy as np
from rclpy.clock import Clock as RosClock
from rclpy.clock import ClockType  # type: ignore[attr-defined]  # where Humble has it
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy, qos_profile_sensor_data
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, Image, LaserScan, PointCloud2
from std_msgs.msg import Float32
from tf2_msgs.msg import TFMessage

from offload_ros.msg import GroundTruth
from offload_ros.nodes import world_messages as to_message
from offload_ros.nodes import world_parameters
from offload_ros.nodes.process import run_node
from offload_ros.sim import World
from offload_ros.sim.robot import Pose
from offload_ros.sim.world import STEP_S

TICK_S = 0.02
# More simulated time than this is never owed: a world that cannot keep up slows down.
LONGEST_DEBT_S = 0.1
SLOW_FACTOR = 0.95
GOAL_APART_M = 4.0  # of a place to go to from the robot, if there is one


class WorldNode(Node):  # type: ignore[misc]
    """Steps the world along the wall clock and publishes what its sensors see."""

    def __init__(self) -> None:
        """Build the world; raises ValueError or RuntimeError if it cannot be built or drawn."""
        super().__init__('world')
        self._settings = world_parameters.declare(self)
        self._changed = False
        self.add_on_set_parameters_callback(self._on_set)
        config = world_parameters.world_config(self._settings)
        self._world = World(self._settings['seed'], config)
        self._world.render()  # OpenGL starts here, and fails here if it must
        self._apply()
        self._objects = to_message.object_messages(self._world.truth())
        prefix = self._settings['frame_prefix']
        self._frames = {
            name: prefix + name
            for name in ('odom', 'base_link', 'camera_optical_frame', 'lidar_link', 'laser_link')
        }
        self._make_publishers()
        self._publish_static_transforms()
        self._due_s = dict.fromkeys(('camera', 'cloud', 'scan', 'odom', 'ground_truth'), 0.0)
        self._waiting_depth: Any = None
        self._goal_s = -math.inf  # when a place to go to was published last
        self._goal_rng = np.random.default_rng([self._settings['seed'], 12])
        self._achieved = 1.0
        self._debt_s = 0.0
        self._clocked_s = 0.0
        self._last_tick = self._measured_at = time.monotonic()
        self._measured_s = 0.0
        self.create_subscription(Twist, 'cmd_vel', self._on_cmd_vel, 10)
        # Even where use_sim_time is set: this node is what makes that time.
        steady = RosClock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(TICK_S, self._tick, clock=steady)
        self.get_logger().info(
            f'world {self._world.seed}: {len(self._world.objects)} objects, '
            f'{len(self._world.walkers)} people, robot_motion {self._settings["robot_motion"]}'
        )

    def _make_publishers(self) -> None:
        sensor = qos_profile_sensor_data
        if self._settings['reliable_sensors']:
            sensor = QoSProfile(depth=5)
        state = QoSProfile(depth=10)
        make = self.create_publisher
        self._rgb = make(Image, 'camera/image_raw', sensor)
        self._depth = make(Image, 'camera/depth', sensor)
        self._info = make(CameraInfo, 'camera/camera_info', sensor)
        self._cloud = make(PointCloud2, 'points', sensor)
        self._scan = make(LaserScan, 'scan', sensor)
        self._odom = make(Odometry, 'odom', state)
        self._truth = make(GroundTruth, 'ground_truth', state)
        self._goal = make(PoseStamped, 'goal_pose', state)
        self._factor = make(Float32, 'real_time_factor', state)
        self._tf = make(TFMessage, '/tf', QoSProfile(depth=100))
        self._tf_static = make(
            TFMessage,
            '/tf_static',
            QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL),
        )
        best_effort = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
        self._clock_publisher = (
            make(Clock, '/clock', best_effort) if self._settings['publish_clock'] else None
        )

    def _publish_static_transforms(self) -> None:
        stamp, base = to_message.stamp_of(0.0), self._frames['base_link']
        upright = (1.0, 0.0, 0.0, 0.0)
        lidar = self._world.config.lidar
        mounts = [
            ('camera_optical_frame', *self._world.camera_mount()),
            ('lidar_link', (0.0, 0.0, lidar.cloud_height_m), upright),
            ('laser_link', (0.0, 0.0, lidar.scan_height_m), upright),
        ]
        self._tf_static.publish(
            TFMessage(
                transforms=[
                    to_message.transform_message(stamp, base, self._frames[name], place, turn)
                    for name, place, turn in mounts
                ]
            )
        )

    def _on_set(self, parameters: list[Any]) -> Any:
        verdict = world_parameters.check(parameters)
        self._changed = self._changed or verdict.successful
        return verdict

    def _apply(self) -> None:
        """Hand the parameters that may change while it runs to the world."""
        settings = self._settings
        robot = self._world.robot
        robot.config = dataclasses.replace(
            robot.config, cmd_vel_timeout_s=settings['cmd_vel_timeout_ms'] / 1000
        )
        for walker in self._world.walkers:
            walker.speed_mps = settings['person_speed_mps']
        self._world.motion = settings['robot_motion']

    def _on_cmd_vel(self, message: Any) -> None:
        if self._world.motion != 'cmd_vel':
            self.get_logger().warning('cmd_vel is ignored: robot_motion is patrol', once=True)
            return
        try:
            self._world.command(
                message.linear.x, message.angular.z, message.linear.y, message.linear.z
            )
        except ValueError as error:
            self.get_logger().warning(f'{error}: such commands are ignored', once=True)

    def _tick(self) -> None:
        """Step as much as the wall clock asks for and publish what is due on the way."""
        if self._changed:
            self._changed = False
            self._settings = world_parameters.read(self)
            self._apply()
        self._publish_waiting_depth()
        now = time.monotonic()
        self._debt_s += (now - self._last_tick) * self._settings['real_time_factor']
        self._debt_s = min(self._debt_s, max(LONGEST_DEBT_S, self._most_in_a_tick()))
        self._last_tick = now
        while self._debt_s >= STEP_S:
            self._debt_s -= STEP_S
            self._world.step(STEP_S)
            self._publish_due()
        self._publish_clock()
        self._measure(now)

    def _most_in_a_tick(self) -> float:
        """Return the simulated time that two ticks cover at the wanted factor."""
        return 2 * TICK_S * float(self._settings['real_time_factor'])

    def _publish_clock(self) -> None:
        """Publish the clock, once for each instant and before anything stamped with it."""
        if self._clock_publisher is not None and self._clocked_s != self._world.time_s:
            self._clocked_s = self._world.time_s
            self._clock_publisher.publish(Clock(clock=to_message.stamp_of(self._clocked_s)))

    def _publish_due(self) -> None:
        now_s = self._world.time_s
        for sensor, due_s in self._due_s.items():
            rate = self._settings[f'{sensor}_hz']
            if rate <= 0 or now_s < due_s - 1e-6:
                continue
            # Keep the phase, but do not make up for what was switched off.
            self._due_s[sensor] = max(due_s + 1 / rate, now_s)
            self._publish_clock()
            getattr(self, f'_publish_{sensor}')(to_message.stamp_of(now_s))
        every_s = self._settings['goal_every_s']
        if every_s > 0 and now_s - self._goal_s >= every_s and self._goal.get_subscription_count():
            self._goal_s = now_s
            self._publish_goal(to_message.stamp_of(now_s))

    def _publish_goal(self, stamp: Any) -> None:
        robot = self._world.robot
        place = self._world.destination(GOAL_APART_M, self._goal_rng)
        here = robot.odometry.then(robot.pose.inverse().then(Pose(*place)))
        self._goal.publish(to_message.goal_message(here, stamp, self._frames['odom']))

    def _publish_camera(self, stamp: Any) -> None:
        frame = self._frames['camera_optical_frame']
        wants_depth = self._settings['depth'] and self._depth.get_subscription_count()
        if wants_depth or self._rgb.get_subscription_count():
            picture, depth = self._world.render()
            self._rgb.publish(to_message.image_message(picture, stamp, frame))
            if wants_depth:
                self._publish_waiting_depth()
                # Both at once overflow the shared memory of Fast DDS (512 kB) and one is lost.
                self._waiting_depth = to_message.image_message(depth, stamp, frame)
        camera = self._world.config.camera
        self._info.publish(to_message.camera_info_message(camera, stamp, frame))

    def _publish_waiting_depth(self) -> None:
        if self._waiting_depth is not None:
            self._depth.publish(self._waiting_depth)
            self._waiting_depth = None

    def _publish_cloud(self, stamp: Any) -> None:
        if self._cloud.get_subscription_count():
            points = self._world.point_cloud()
            frame = self._frames['lidar_link']
            self._cloud.publish(to_message.cloud_message(points, stamp, frame))

    def _publish_scan(self, stamp: Any) -> None:
        if self._scan.get_subscription_count():
            period_s = 1 / self._settings['scan_hz']
            lidar, frame = self._world.config.lidar, self._frames['laser_link']
            ranges = self._world.scan()
            self._scan.publish(to_message.scan_message(ranges, lidar, period_s, stamp, frame))

    def _publish_odom(self, stamp: Any) -> None:
        """Publish odometry and the frames above the robot: map to odom holds the drift."""
        odom, base = self._frames['odom'], self._frames['base_link']
        robot = self._world.robot
        self._odom.publish(to_message.odometry_message(robot, stamp, odom, base))
        drift = robot.pose.then(robot.odometry.inverse())
        self._tf.publish(
            TFMessage(
                transforms=[
                    to_message.floor_transform(stamp, 'map', odom, drift),
                    to_message.floor_transform(
                        stamp, odom, base, robot.odometry, self._world.height_m
                    ),
                ]
            )
        )

    def _publish_ground_truth(self, stamp: Any) -> None:
        if self._truth.get_subscription_count():
            self._truth.publish(
                to_message.truth_message(
                    self._world.truth(),
                    self._objects,
                    self._world.seed,
                    self._achieved,
                    stamp,
                    'map',
                )
            )

    def _measure(self, now: float) -> None:
        """Publish once a second how fast simulated time runs."""
        wall_s = now - self._measured_at
        if wall_s < 1.0:
            return
        self._achieved = (self._world.time_s - self._measured_s) / wall_s
        self._measured_at, self._measured_s = now, self._world.time_s
        self._factor.publish(Float32(data=self._achieved))
        if self._achieved < SLOW_FACTOR * self._settings['real_time_factor']:
            self.get_logger().warning(
                f'the world runs at {self._achieved:.2f} of real time: this machine is too busy',
                throttle_duration_sec=10.0,
            )

    def destroy_node(self) -> None:
        """Free the camera with the node, also with one whose construction failed half-way."""
        world: World | None = getattr(self, '_world', None)
        if world is not None:
            world.close()
        super().destroy_node()


def main() -> None:
    """Entry point of ``ros2 run offload_ros world``."""
    run_node(WorldNode, (ValueError, RuntimeError))
