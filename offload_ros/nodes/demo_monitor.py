"""What the demo hears, and how it asks nodes for other parameters."""

from __future__ import annotations

from collections import deque
from functools import partial
import math
import time
from typing import Any

import numpy as np
import numpy.typing as npt
from rcl_interfaces.srv import SetParameters
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image
from std_msgs.msg import Float32

from offload_ros.msg import FollowStatus, GroundTruth, InferenceResult, OffloadStatus
from offload_ros.nodes.demo_script import FOLLOWED, MODELS, Estimate, Place, Record, Row
from offload_ros.nodes.topics import STATUS
from offload_ros.wire.tensors import decode

ANSWER_S = 10.0  # of a node that is asked for other parameters
SURE = 0.5  # a keypoint's confidence


class Monitor(Node):
    """Listens to everything that the demo shows. Callbacks run in the executor's thread."""

    def __init__(self, record: Record) -> None:
        super().__init__('demo')
        self._record = record
        self.began_s = time.monotonic()
        self.status: Any = None
        self.following: Any = None
        self.view: npt.NDArray[np.uint8] | None = None  # (H, W, 3), and
        self.poses: npt.NDArray[np.float32] | None = None  # (N, 17, 3) of the people found in it
        self._sharpest = -1
        self._images: deque[Any] = deque(maxlen=20)
        make = self.create_subscription
        sensor = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
        make(OffloadStatus, 'offload/status', self._on_status, STATUS)
        for model in MODELS:
            topic = f'inference/result/{model}'
            make(InferenceResult, topic, partial(self._on_result, model), 50)
        make(Image, 'camera/image_raw', self._on_image, sensor)
        make(Float32, 'real_time_factor', self._on_factor, 10)
        make(GroundTruth, 'ground_truth', self._on_truth, 10)
        make(FollowStatus, 'people/status', self._on_following, 10)
        self._setting: dict[str, Any] = {
            node: self.create_client(SetParameters, f'{node}/set_parameters')
            for node in ('offload_manager', 'agrnav_navigator')
        }

    def ask(self, node: str, **values: Any) -> str:
        """What ``ros2 param set`` does, of several at once, with __ for a dot in a name; why the
        node refuses, or nothing. Not from the executor's thread."""
        parameters = [
            Parameter(name.replace('__', '.'), value=value).to_parameter_msg()
            for name, value in values.items()
        ]
        client = self._setting[node]
        if not client.wait_for_service(ANSWER_S):
            return f'{node} is not there'
        asked = client.call_async(SetParameters.Request(parameters=parameters))
        end_s = time.monotonic() + ANSWER_S
        while not asked.done():
            if time.monotonic() > end_s:
                return f'{node} does not answer'
            time.sleep(0.005)
        return next((each.reason for each in asked.result().results if not each.successful), '')

    def begin(self) -> None:
        """What was heard before does not count: the run begins now."""
        self._record.clear()
        self._sharpest = -1
        self.began_s = time.monotonic()

    def now_s(self) -> float:
        """Since the run began."""
        return time.monotonic() - self.began_s

    def _on_status(self, message: Any) -> None:
        self.status = message
        # Without a server there is no link to have an idea of.
        link = message.links[0] if message.links else None
        values = (
            8e-6 * getattr(link, f'up{name}_bytes_per_s', math.nan)
            for name in ('', '_low', '_high')
        )
        self._record.estimates.append(Estimate(self.now_s(), *values))

    def _on_image(self, message: Any) -> None:
        self._images.append(message)

    def _on_factor(self, message: Any) -> None:
        self._record.factors.append((self.now_s(), message.data))

    def _on_following(self, message: Any) -> None:
        self.following = message
        self._record.modes.append(message.mode)

    def _on_truth(self, message: Any) -> None:
        if not message.persons:
            return
        robot, person = message.robot_pose.position, message.persons[0].pose.position
        self._record.places.append(Place(self.now_s(), (robot.x, robot.y), (person.x, person.y)))

    def _on_result(self, model: str, message: Any) -> None:
        self._record.rows[model].append(
            Row(
                self.now_s(),
                message.seq,
                message.strategy_used,
                message.total_s,
                message.energy_j,
                message.fallback,
                message.late,
                message.detail,
                message.bytes_up,
                message.bytes_down,
                message.reason,
            )
        )
        if model == FOLLOWED and message.status == InferenceResult.OK:
            self._keep_view(message)

    def _keep_view(self, message: Any) -> None:
        """The picture on which most of a person was found, with what was found."""
        poses = next((decode(each) for each in message.outputs if each.name == 'poses'), None)
        images = [each for each in self._images if each.header.stamp == message.header.stamp]
        if poses is None or not images or images[0].encoding != 'rgb8':
            return
        found = int((poses[..., 2] > SURE).sum())
        if found < self._sharpest or not found:
            return
        image = images[0]
        self._sharpest = found
        self.poses = poses.numpy().astype(np.float32)
        self.view = np.frombuffer(image.data, np.uint8).reshape(image.height, image.width, 3)
