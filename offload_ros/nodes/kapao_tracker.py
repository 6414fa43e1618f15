"""Finds people with KAPAO's results and follows one of them: a node around ``PersonFollowing``.

It subscribes to results only; where the network ran is not its business.
"""

from __future__ import annotations

from typing import Any

from geometry_msgs.msg import PoseWithCovarianceStamped, Twist
from nav_msgs.msg import OccupancyGrid, Odometry
from rcl_interfaces.msg import SetParametersResult
from rclpy.qos import DurabilityPolicy, QoSProfile, qos_profile_sensor_data
from sensor_msgs.msg import CameraInfo, Image, LaserScan, PointCloud2
from visualization_msgs.msg import MarkerArray

from offload_ros.models.errors import InputError
from offload_ros.msg import FollowStatus, InferenceResult, PersonSkeletons
from offload_ros.nodes import tracker_inputs as given
from offload_ros.nodes import tracker_messages as told
from offload_ros.nodes import tracker_parameters
from offload_ros.nodes.given_frames import PlacingNode, seconds
from offload_ros.nodes.parameters import value_of
from offload_ros.nodes.process import run_node
from offload_ros.tracking.follow import STALE, Command
from offload_ros.tracking.geometry import PoseMissing
from offload_ros.tracking.system import OFF, PersonFollowing, Seen

CONTROL_S = 0.1
MAP_S = 1.0
UNTRAINED_S = 2.0  # after a result of random weights nothing moves for so long


class KapaoTracker(PlacingNode):
    """Results, depth, lidar and odometry in; people, target and speeds out."""

    def __init__(self) -> None:
        """Subscribe; raises ValueError for parameters that do not fit together."""
        super().__init__('kapao_tracker')
        self._following = PersonFollowing(tracker_parameters.declare_all(self))
        self.add_on_set_parameters_callback(self._on_set)
        self._size: tuple[int, int] | None = None
        self._camera_frame = ''
        self._persons = 0
        self._untrained_s = float('-inf')
        self._moving = False
        self._publish()
        self._subscribe()
        self.create_timer(CONTROL_S, self._control)
        self.create_timer(MAP_S, self._publish_map)

    def _publish(self) -> None:
        make = self.create_publisher
        self._skeletons = make(PersonSkeletons, 'people/skeletons', 10)
        self._target = make(PoseWithCovarianceStamped, 'people/target', 10)
        self._markers = make(MarkerArray, 'people/markers', 10)
        self._image = make(Image, 'people/image', qos_profile_sensor_data)
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self._map = make(OccupancyGrid, 'people/map', latched)
        self._status = make(FollowStatus, 'people/status', 10)
        self._cmd_vel = make(Twist, 'cmd_vel', 10)

    def _subscribe(self) -> None:
        sensor, make = qos_profile_sensor_data, self.create_subscription
        model = value_of(self, 'model')
        make(InferenceResult, f'inference/result/{model}', self._on_result, 10)
        make(Image, 'camera/depth', self._on_depth, sensor)
        make(Image, 'camera/image_raw', self._on_image, sensor)
        make(CameraInfo, 'camera/camera_info', self._on_camera_info, sensor)
        make(Odometry, 'odom', self._on_odometry, 50)
        self.follow_frames(self._following.frames)
        lidar = value_of(self, 'lidar')
        if lidar != 'points':
            make(LaserScan, 'scan', self._on_scan, sensor)
        if lidar != 'scan':
            make(PointCloud2, 'points', self._on_points, sensor)

    # ---- what comes in

    def _on_result(self, message: Any) -> None:
        stamp_s = seconds(message.header.stamp)
        if message.status != InferenceResult.OK:
            self.warn(f'{message.model} gives no results: {message.detail}')
            return
        if not message.weights_trained:
            # A robot never moves on what random weights say.
            self._untrained_s = self.now_s()
            self.warn(f'the weights of {message.model} are not trained: the robot stands still')
            return

        def take() -> None:
            poses, boxes = given.people_of(message)
            self._persons = len(poses)
            self._show(self._following.result(stamp_s, poses, boxes))

        self.checked(take)

    def _on_depth(self, message: Any) -> None:
        def take() -> None:
            depth = given.depth_of(message)
            if self._size is None:
                self._size = depth.shape
            self._camera_frame = message.header.frame_id
            stamp_s = seconds(message.header.stamp)
            self._show(self._following.depth(stamp_s, message.header.frame_id, depth))

        self.checked(take)

    def _on_image(self, message: Any) -> None:
        def take() -> None:
            rgb = given.rgb_of(message)
            self._size = rgb.shape[:2]
            self._following.image(seconds(message.header.stamp), rgb)

        self.checked(take)

    def _on_camera_info(self, message: Any) -> None:
        self.checked(
            lambda: self._following.camera(message.k, int(message.width), int(message.height))
        )

    def _on_odometry(self, message: Any) -> None:
        def take() -> None:
            stamp_s = self.take_odometry_pose(message, value_of(self, 'base_frame'))
            speeds = message.twist.twist
            self._following.odometry(stamp_s, speeds.linear.x, speeds.angular.z)

        self.checked(take)

    def _on_scan(self, message: Any) -> None:
        def take() -> None:
            stamp_s = seconds(message.header.stamp)
            self._following.rays(stamp_s, message.header.frame_id, *given.rays_of_scan(message))

        self.checked(take)

    def _on_points(self, message: Any) -> None:
        def take() -> None:
            stamp_s, frame = seconds(message.header.stamp), message.header.frame_id
            base = value_of(self, 'base_frame')
            try:
                mount = self._following.frames.lookup(base, frame, stamp_s)
            except PoseMissing as error:
                raise InputError(f'the lidar cannot be placed: {error}') from None
            points = given.points_of(message)
            self._following.cloud(stamp_s, frame, points)
            if value_of(self, 'lidar') == 'points':
                low, high = value_of(self, 'obstacle_low_m'), value_of(self, 'obstacle_high_m')
                rays = given.rays_of_cloud(points, low, high, float(mount.translation[2]))
                self._following.rays(stamp_s, frame, *rays)

        self.checked(take)

    # ---- what goes out

    def _show(self, results: list[Seen]) -> None:
        for seen in results:
            if self._size is None:
                continue
            self._skeletons.publish(
                told.skeletons_message(seen, self._following, self._size, self._camera_frame)
            )
            if self._markers.get_subscription_count():
                self._markers.publish(told.marker_messages(seen, self._following))
            rgb = self._following.image_at(seen.stamp_s)
            if rgb is not None and self._image.get_subscription_count():
                self._image.publish(
                    told.annotated_message(rgb, seen, self._following, self._camera_frame)
                )

    def _control(self) -> None:
        now_s = self.now_s()
        if self._following.clock(now_s):
            self._untrained_s = float('-inf')
            self.get_logger().warning('the clock went back: everything is forgotten')
        if now_s - self._untrained_s <= UNTRAINED_S:
            command = Command(0.0, 0.0, STALE, 'the weights are not trained')
        else:
            command = self._following.command()
        self._drive(command)
        target = self._following.target
        if target is not None and self._target.get_subscription_count():
            frame = self._following.config.fixed_frame
            self._target.publish(told.target_message(target, now_s, frame))
        self._status.publish(told.status_message(command, self._following, now_s, self._persons))

    def _drive(self, command: Command) -> None:
        """Publish the speeds; with drive false one zero, then nothing: others may drive."""
        if command.mode == OFF and not self._moving:
            return
        self._moving = command.mode != OFF
        message = Twist()
        message.linear.x, message.angular.z = command.linear_mps, command.angular_radps
        self._cmd_vel.publish(message)

    def _publish_map(self) -> None:
        if self._map.get_subscription_count():
            frame = self._following.config.fixed_frame
            self._map.publish(told.grid_message(self._following.grid, self.now_s(), frame))

    def _on_set(self, parameters: list[Any]) -> SetParametersResult:
        changes = {each.name: each.value for each in parameters}
        known = {
            name: each for name, each in changes.items() if name in tracker_parameters.SETTINGS
        }
        try:
            self._following.configure(tracker_parameters.config_of(self, known))
        except (ValueError, TypeError) as error:
            return SetParametersResult(successful=False, reason=str(error))
        return SetParametersResult(successful=True)

    def close(self) -> None:
        """Stop the robot."""
        if self._moving:
            self._cmd_vel.publish(Twist())


def main() -> None:
    """Entry point of ``ros2 run offload_ros kapao_tracker``."""
    run_node(KapaoTracker, (ValueError,))
