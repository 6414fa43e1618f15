"""Maps, completes the scene with SCONet's results, plans and drives or flies to a goal.

A node around ``Navigation``. It publishes what it has seen as the input of a model, and subscribes
to that model's results; where the network runs is not its business.
"""

from __future__ import annotations

from dataclasses import replace
import math
import threading
import time
from typing import Any

from geometry_msgs.msg import PoseStamped, Twist
from nav_msgs.msg import OccupancyGrid, Odometry, Path
from rcl_interfaces.msg import SetParametersResult
from rclpy.qos import DurabilityPolicy, QoSProfile, qos_profile_sensor_data
from sensor_msgs.msg import Image, PointCloud2

from offload_ros.msg import InferenceResult, NavigationStatus
from offload_ros.navigation.driving import STAND
from offload_ros.navigation.system import Navigation
from offload_ros.nodes import navigator_messages as told
from offload_ros.nodes import navigator_parameters
from offload_ros.nodes.given_frames import PlacingNode, seconds
from offload_ros.nodes.parameters import value_of
from offload_ros.nodes.process import run_node
from offload_ros.nodes.tracker_inputs import points_of

CONTROL_S, STEP_S, MAP_S = 0.05, 0.1, 1.0


class AgrnavNavigator(PlacingNode):
    """Callbacks and control on the executor's thread, mapping and planning on one of their own."""

    def __init__(self) -> None:
        """Subscribe; raises ValueError for parameters that do not fit together."""
        super().__init__('agrnav_navigator')
        self._navigation = Navigation(navigator_parameters.declare_all(self))
        self._frame = self._navigation.config.fixed_frame
        self.add_on_set_parameters_callback(self._on_set)
        self._moving = False
        self._ended = threading.Event()
        self._publish()
        self._subscribe()
        self.create_timer(CONTROL_S, self._control)
        self._worker = threading.Thread(target=self._work, daemon=True)
        self._worker.start()

    def _publish(self) -> None:
        make = self.create_publisher
        self._voxels = make(Image, 'agrnav/voxels', qos_profile_sensor_data)
        self._status = make(NavigationStatus, 'agrnav/status', 10)
        self._path = make(Path, 'agrnav/path', 10)
        self._occupancy = make(PointCloud2, 'agrnav/occupancy', qos_profile_sensor_data)
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self._map = make(OccupancyGrid, 'agrnav/map', latched)
        self._cmd_vel = make(Twist, 'cmd_vel', 10)

    def _subscribe(self) -> None:
        make = self.create_subscription
        make(InferenceResult, f'inference/result/{value_of(self, "model")}', self._on_result, 10)
        make(PointCloud2, 'points', self._on_points, qos_profile_sensor_data)
        make(Odometry, 'odom', self._on_odometry, 50)
        make(PoseStamped, 'goal_pose', self._on_goal, 10)
        self.follow_frames(self._navigation.frames)

    # ---- what comes in

    def _on_result(self, message: Any) -> None:
        if message.status != InferenceResult.OK:
            self.warn(f'{message.model} gives no results: {message.detail}')
        elif not message.weights_trained:
            self.warn(f'the weights of {message.model} are not trained: the map does without')
        else:
            stamp_s = seconds(message.header.stamp)
            self.checked(lambda: self._navigation.result(stamp_s, told.labels_of(message)))

    def _on_points(self, message: Any) -> None:
        stamp_s, frame = seconds(message.header.stamp), message.header.frame_id
        self.checked(lambda: self._navigation.cloud(stamp_s, frame, points_of(message)))

    def _on_odometry(self, message: Any) -> None:
        def take() -> None:
            stamp_s = self.take_odometry_pose(message, value_of(self, 'base_frame'))
            speed = message.twist.twist.linear
            self._navigation.odometry(stamp_s, (speed.x, speed.y, speed.z))

        self.checked(take)

    def _on_goal(self, message: Any) -> None:
        self.checked(lambda: self._navigation.goal(told.goal_of(message, self._frame)))

    def _on_set(self, parameters: list[Any]) -> SetParametersResult:
        """The next speeds are found with them."""
        values = {name: value_of(self, name) for name in navigator_parameters.SETTINGS}
        values.update({each.name: each.value for each in parameters})
        drive = navigator_parameters.driving_of(values)
        self._navigation.config = replace(self._navigation.config, drive=drive)
        return SetParametersResult(successful=True)

    # ---- what goes out

    def _control(self) -> None:
        """Publish speeds; with drive false one zero, then nothing: others may drive."""
        drives = bool(value_of(self, 'drive'))
        if not drives and not self._moving:
            return
        self._moving = drives
        speeds = self._navigation.speeds(self.now_s()) if drives else STAND
        self._cmd_vel.publish(told.twist_of(speeds))

    def _work(self) -> None:
        """Map, plan, and tell what there is, until the node closes."""
        asked_s = mapped_s = -math.inf
        longest: list[tuple[float, float]] = []  # when a step ended, and what it took
        while not self._ended.wait(STEP_S):
            began_s = time.monotonic()
            now_s = self.now_s()
            try:
                report = self._navigation.step(now_s)
            except Exception as error:  # the thread must live on; without steps the robot stands
                self.warn(f'a step failed: {type(error).__name__}: {error}')
                continue
            ended_s = time.monotonic()
            longest = [each for each in longest if ended_s - each[0] < 1.0]
            longest.append((ended_s, ended_s - began_s))
            ask_hz = value_of(self, 'ask_hz')
            if ask_hz > 0 and ended_s - asked_s >= 1 / ask_hz:
                asked_s = ended_s
                asked = self._navigation.ask()
                if asked is not None and self._voxels.get_subscription_count():
                    self._voxels.publish(told.voxels_message(asked, self._frame))
            if ended_s - mapped_s >= MAP_S:
                mapped_s = ended_s
                self._publish_map(now_s)
            self._tell(report, now_s, max(took for _, took in longest))

    def _tell(self, report: Any, now_s: float, took_s: float) -> None:
        navigation = self._navigation
        status = told.status_message(
            report, navigation.airborne, navigation.trouble, now_s, self._frame
        )
        if not value_of(self, 'drive'):
            status.state = 'off'
        known = math.isfinite(navigation.completed_s)
        status.completion_age_s = now_s - navigation.completed_s if known else math.nan
        status.planning_s = took_s
        voxels = navigation.brain.voxels
        status.observed = int(voxels.occupied.sum())
        status.predicted = int(voxels.predicted.sum())
        self._status.publish(status)
        if self._path.get_subscription_count():
            motion = navigation.brain.motion
            self._path.publish(told.path_message(motion, now_s, self._frame))

    def _publish_map(self, now_s: float) -> None:
        voxels, body = self._navigation.brain.voxels, self._navigation.config.body
        if self._occupancy.get_subscription_count():
            self._occupancy.publish(told.occupancy_message(voxels, now_s, self._frame))
        if self._map.get_subscription_count():
            self._map.publish(
                told.grid_message(voxels, body.step_m, body.ground_height_m, now_s, self._frame)
            )

    def close(self) -> None:
        """Stop the robot and the thread."""
        self._ended.set()
        self._worker.join(timeout=5.0)
        if self._moving:
            self._cmd_vel.publish(Twist())


def main() -> None:
    """Entry point of ``ros2 run offload_ros agrnav_navigator``."""
    run_node(AgrnavNavigator, (ValueError,))
