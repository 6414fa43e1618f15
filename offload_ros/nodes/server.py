"""The server node: answers requests of all robots on its models and tells that it lives."""

from __future__ import annotations

import os
import time
from typing import Any
import uuid

from ament_index_python.packages import get_package_share_directory
from rclpy.clock import Clock, ClockType  # type: ignore[attr-defined]  # where Humble has it
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import QoSProfile
import torch

from offload_ros.models.config import ConfigError
from offload_ros.models.config_file import load_models_file
from offload_ros.models.model import load_model, runtime_description
from offload_ros.models.sources import ModelError
from offload_ros.msg import InferenceReply, InferenceRequest, ServerHeartbeat
from offload_ros.nodes.messages import heartbeat_message, message_to_request, reply_to_message
from offload_ros.nodes.parameters import declare
from offload_ros.nodes.process import run_node
from offload_ros.nodes.topics import HEARTBEAT_S, HEARTBEAT_TOPIC, SESSION_SILENT_S, valid_node_name
from offload_ros.server.engine import Engine
from offload_ros.wire.exchange import Kind, Reply, Request, Status
from offload_ros.wire.tensors import Limits, WireError

MAX_SESSIONS = 64
CONTROL = QoSProfile(depth=10)
LATEST = QoSProfile(depth=1)


class OffloadServer(Node):
    """Parameters, topics and timers around ``Engine``."""

    def __init__(self) -> None:
        super().__init__('offload_server')
        default_file = os.path.join(
            get_package_share_directory('offload_ros'), 'config', 'models.yaml'
        )
        models_file = declare(
            self, 'models_file', default_file, 'models.yaml: what this server runs', read_only=True
        )
        self._device = declare(
            self, 'device', 'cpu', 'where to compute: cpu, cuda, cuda:1', read_only=True
        )
        threads = declare(
            self, 'threads', 0, 'CPU threads of one operator; 0: all cores', 0, 1024, read_only=True
        )
        queue_limit = declare(
            self,
            'queue_limit',
            32,
            'requests that may wait; more are refused',
            1,
            10_000,
            read_only=True,
        )
        limit_mb = declare(
            self,
            'max_message_mb',
            64.0,
            'larger requests are refused (MB)',
            0.001,
            4096.0,
            read_only=True,
        )
        if threads:
            torch.set_num_threads(threads)
        self._limits = Limits(total_bytes=int(limit_mb * 1e6))
        models = {}
        for config in load_models_file(models_file):
            models[config.name] = model = load_model(config, self._device)
            self.get_logger().info(
                f"model '{model.name}' ({model.variant}, {model.hash[:8]}) on {self._device}"
            )
            if model.remark:
                self.get_logger().warning(model.remark)
        self._runtime = runtime_description(self._device)
        self._engine = Engine(
            self.get_fully_qualified_name(), uuid.uuid4().hex[:16], models, queue_limit
        )
        self._replies: dict[
            str, tuple[Publisher, float]
        ] = {}  # robot session -> publisher, last heard
        self._robots: dict[str, str] = {}  # robot name -> its session
        self._heartbeat = self.create_publisher(ServerHeartbeat, HEARTBEAT_TOPIC, LATEST)
        self.create_subscription(
            InferenceRequest, f'{self._engine.name}/request', self._on_request, CONTROL
        )
        # Liveness counts real time, also when a simulation's /clock stands still.
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(HEARTBEAT_S, self._beat, clock=steady)
        self.get_logger().info(f'serving {len(models)} model(s): {self._runtime}')

    def _beat(self) -> None:
        self._heartbeat.publish(heartbeat_message(self._engine, self._runtime, self._device))
        now = time.monotonic()
        for session, (_, heard_s) in list(self._replies.items()):
            if now - heard_s > SESSION_SILENT_S:
                self._forget(session, 'is silent')

    def _on_request(self, message: Any) -> None:
        if message.server_session not in ('', self._engine.session):
            return  # for an earlier life of this server: nobody waits for it any more
        publisher = self._session(message.robot, message.session)
        if publisher is None:
            return
        try:
            request = message_to_request(message, self._limits)
        except WireError as error:
            self._send(publisher, self._refusal(message, str(error)))
            return
        if request.kind == Kind.HELLO:
            self._send(publisher, self._echo(request))
        else:
            self._engine.submit(request, lambda reply: self._send(publisher, reply))

    def _session(self, robot: str, session: str) -> Publisher | None:
        """The way back to a robot; opened when it first speaks, None when it may not have one."""
        now = time.monotonic()
        known = self._replies.get(session)
        if known is not None:
            self._replies[session] = (known[0], now)
            return known[0]
        if not valid_node_name(robot) or not session:
            self.get_logger().warning(
                f'a request names the robot {robot[:80]!r}, which is no node name: dropped',
                throttle_duration_sec=10.0,
            )
            return None
        if robot in self._robots:
            self._forget(self._robots[robot], 'began a new session')
        if len(self._replies) >= MAX_SESSIONS:
            self.get_logger().warning(
                f'{robot} is refused: {MAX_SESSIONS} robots are connected',
                throttle_duration_sec=10.0,
            )
            return None
        publisher = self.create_publisher(InferenceReply, f'{robot}/reply', CONTROL)
        self._replies[session] = (publisher, now)
        self._robots[robot] = session
        self.get_logger().info(f'robot {robot} connected')
        return publisher

    def _forget(self, session: str, why: str) -> None:
        publisher, _ = self._replies.pop(session)
        for robot, current in list(self._robots.items()):
            if current == session:
                del self._robots[robot]
                self.get_logger().info(f'robot {robot} {why}')
        self.destroy_publisher(publisher)

    def _send(self, publisher: Publisher, reply: Reply) -> None:
        try:
            publisher.publish(reply_to_message(reply))
        except Exception as error:  # the session may have ended while its request ran
            self.get_logger().debug(f'reply {reply.seq} could not be sent: {error}')

    def _echo(self, request: Request) -> Reply:
        return Reply(
            self._engine.name, self._engine.session, request.session, request.seq, Status.OK
        )

    def _refusal(self, message: Any, detail: str) -> Reply:
        return Reply(
            self._engine.name,
            self._engine.session,
            message.session,
            message.seq,
            Status.ERROR,
            detail,
        )

    def close(self) -> None:
        """Tell the robots, answer what waits, end the engine's thread."""
        if hasattr(self, '_heartbeat'):
            self._heartbeat.publish(
                heartbeat_message(self._engine, self._runtime, self._device, closing=True)
            )
        if hasattr(self, '_engine'):
            self._engine.close()


def main() -> None:
    """Entry point of ``ros2 run offload_ros offload_server``."""
    run_node(OffloadServer, (ConfigError, ModelError))
