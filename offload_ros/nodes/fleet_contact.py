"""The manager's ear for fleet plans."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rclpy.node import Node

from offload_ros.fleet.followed import FollowedPlan
from offload_ros.models.config import ModelConfig
from offload_ros.msg import FleetPlan
from offload_ros.nodes.fleet_messages import message_to_plan
from offload_ros.nodes.topics import FLEET_PLAN_TOPIC, STATUS
from offload_ros.robot.pipeline import Pipeline
from offload_ros.wire.client import OffloadClient

SAY_AGAIN_S = 10.0


class FleetContact:
    """Subscribes, and keeps ``followed``, which strategy ``fleet`` asks."""

    def __init__(self, node: Node, configs: Iterable[ModelConfig]) -> None:
        self.followed = FollowedPlan(node.get_fully_qualified_name(), configs)
        self._node = node
        self._subscription = node.create_subscription(
            FleetPlan, FLEET_PLAN_TOPIC, self._on_plan, STATUS
        )

    def close(self) -> None:
        """No plan comes any more."""
        self._node.destroy_subscription(self._subscription)

    def _on_plan(self, message: Any) -> None:
        log = self._node.get_logger()
        try:
            warnings = self.followed.take(message_to_plan(message, self.followed.robot))
        except ValueError as error:
            why = f'a fleet plan of {message.planner[:80]!r} is refused: {error}'
            self.followed.refuse(why)
            log.warning(why, throttle_duration_sec=SAY_AGAIN_S)
            return
        if warnings:
            log.warning('; '.join(warnings), throttle_duration_sec=SAY_AGAIN_S)


def server_in_use(client: OffloadClient, fleet: FleetContact | None, pipeline: Pipeline) -> str:
    """The server for a model's frames now, of several in a plan that with the most; or empty."""
    if pipeline.strategy == 'fleet' and fleet is not None:
        planned = fleet.followed.main_server(pipeline.model.name)
        if planned is not None:
            return planned
    server, _ = client.server_for(pipeline.model)
    return server.name if server else ''
