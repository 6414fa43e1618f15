"""What nodes that place things take alike: transforms, the pose of odometry, wrong messages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from tf2_msgs.msg import TFMessage

from offload_ros.models.errors import InputError
from offload_ros.tracking.frames import FrameTree


def seconds(stamp: Any) -> float:
    """A builtin_interfaces/Time in seconds."""
    return float(stamp.sec) + 1e-9 * float(stamp.nanosec)


class PlacingNode(Node):  # type: ignore[misc]
    """A node with a tree of frames, and with one line for each kind of wrong message."""

    def __init__(self, name: str) -> None:
        """Make the node; ``follow_frames`` subscribes."""
        super().__init__(name)
        self._said = ''

    def follow_frames(self, frames: FrameTree) -> None:
        """Keep ``frames`` as /tf and /tf_static tell them."""
        static = QoSProfile(depth=100, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self._frames = frames
        make = self.create_subscription
        make(TFMessage, '/tf', self._on_transforms, QoSProfile(depth=100))
        make(TFMessage, '/tf_static', self._on_fixed_transforms, static)

    def checked(self, take: Callable[[], None]) -> None:
        """Take a message; one that is wrong is left out, and said once for each kind of mistake."""
        try:
            take()
        except (InputError, ValueError) as error:
            self.warn(str(error))

    def warn(self, text: str) -> None:
        """Say something that was not just said."""
        if text != self._said:
            self._said = text
            self.get_logger().warning(text)

    def take_odometry_pose(self, message: Any, base_frame: str) -> float:
        """Add the pose of an Odometry to the frames; its stamp in seconds. ``ValueError`` for what
        is no pose."""
        stamp_s = seconds(message.header.stamp)
        at, turn = message.pose.pose.position, message.pose.pose.orientation
        self._frames.moving(
            message.header.frame_id,
            message.child_frame_id or base_frame,
            stamp_s,
            (at.x, at.y, at.z),
            (turn.x, turn.y, turn.z, turn.w),
        )
        return stamp_s

    def _on_transforms(self, message: Any) -> None:
        def take() -> None:
            for each in message.transforms:
                stamp_s = seconds(each.header.stamp)
                parent, child = each.header.frame_id, each.child_frame_id
                self._frames.moving(parent, child, stamp_s, *_pose(each.transform))

        self.checked(take)

    def _on_fixed_transforms(self, message: Any) -> None:
        def take() -> None:
            for each in message.transforms:
                parent, child = each.header.frame_id, each.child_frame_id
                self._frames.fixed(parent, child, *_pose(each.transform))

        self.checked(take)

    def now_s(self) -> float:
        """The node's clock in seconds."""
        return float(self.get_clock().now().nanoseconds) * 1e-9


def _pose(transform: Any) -> tuple[tuple[float, ...], tuple[float, ...]]:
    move, turn = transform.translation, transform.rotation
    return (move.x, move.y, move.z), (turn.x, turn.y, turn.z, turn.w)
