"""The robot's node: sensor topics in, one result per accepted frame out, wherever it was
computed."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
import os
import time
from typing import Any
import uuid

from ament_index_python.packages import get_package_share_directory
from rcl_interfaces.msg import SetParametersResult
from rclpy.clock import Clock, ClockType  # type: ignore[attr-defined]  # where Humble has it
from rclpy.exceptions import InvalidHandle
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
import torch

from offload_ros.models.config import ConfigError, InputSpec, ModelConfig
from offload_ros.models.config_file import load_models_file
from offload_ros.models.model import Model, load_model, runtime_description
from offload_ros.models.sources import ModelError
from offload_ros.msg import (
    InferenceReply,
    InferenceRequest,
    InferenceResult,
    OffloadStatus,
    ServerHeartbeat,
)
from offload_ros.nodes.messages import (
    answer_to_message,
    message_to_reply,
    message_to_server_state,
    model_status_message,
    request_to_message,
)
from offload_ros.nodes.parameters import declare, value_of
from offload_ros.nodes.process import run_node
from offload_ros.nodes.sensor_inputs import message_type, to_tensor
from offload_ros.nodes.topics import HEARTBEAT_S, HEARTBEAT_TOPIC, HELLO_S, valid_node_name
from offload_ros.robot.answer import Answer
from offload_ros.robot.lane import DeviceLane
from offload_ros.robot.pipeline import Inputs, Pipeline
from offload_ros.robot.synchronizer import Synchronizer
from offload_ros.strategy import Link, StrategyRefused, strategy_names
from offload_ros.wire.client import OffloadClient
from offload_ros.wire.directory import ServerDirectory, ServerState
from offload_ros.wire.exchange import Request
from offload_ros.wire.tensors import Limits

CONTROL = QoSProfile(depth=10)
LATEST = QoSProfile(depth=1)
SENSOR = QoSProfile(depth=2, reliability=ReliabilityPolicy.BEST_EFFORT)
STATUS = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)


class OffloadManager(Node):
    """Parameters, topics and timers around one ``Pipeline`` per model."""

    def __init__(self) -> None:
        super().__init__('offload_manager')
        default_file = os.path.join(
            get_package_share_directory('offload_ros'), 'config', 'models.yaml'
        )
        models_file = declare(
            self, 'models_file', default_file, 'models.yaml: what this robot runs', read_only=True
        )
        device = declare(
            self, 'device', 'cpu', 'where the robot computes: cpu, cuda, cuda:1', read_only=True
        )
        threads = declare(
            self, 'threads', 0, 'CPU threads of one operator; 0: all cores', 0, 1024, read_only=True
        )
        limit_mb = declare(
            self,
            'max_message_mb',
            64.0,
            'larger replies are refused (MB)',
            0.001,
            4096.0,
            read_only=True,
        )
        declare(
            self, 'server.name', '', 'use only this server (node name); empty: the least loaded'
        )
        declare(
            self,
            'server.lost_after_ms',
            500.0,
            'a server silent for this long is lost (ms)',
            150.0,
            60_000.0,
        )
        if threads:
            torch.set_num_threads(threads)
        self._limits = Limits(total_bytes=int(limit_mb * 1e6))
        name = self.get_fully_qualified_name()
        self._directory = ServerDirectory(value_of(self, 'server.lost_after_ms') / 1000.0)
        self._client = OffloadClient(name, uuid.uuid4().hex[:16], self._directory, self._transmit)
        self._client.preferred_server = value_of(self, 'server.name')
        self._requests: dict[str, Publisher] = {}  # server name -> its request topic
        self._greeted_s: dict[str, float] = {}
        self._ready: set[str] = set()  # servers with both directions open
        self._link = Link(DeviceLane(), self._client)
        self._pipelines: dict[str, Pipeline] = {}
        self._results: dict[str, Publisher] = {}
        for config in load_models_file(models_file):
            self._add_model(config, device)
        self.add_on_set_parameters_callback(self._on_parameters)
        self.create_subscription(InferenceReply, f'{name}/reply', self._on_reply, CONTROL)
        self.create_subscription(ServerHeartbeat, HEARTBEAT_TOPIC, self._on_heartbeat, LATEST)
        self._status = self.create_publisher(OffloadStatus, 'offload/status', STATUS)
        # Liveness counts real time, also when a simulation's /clock stands still.
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(HEARTBEAT_S / 4, self._watch, clock=steady)
        self.create_timer(1.0, self._publish_status, clock=steady)
        self.get_logger().info(f'{len(self._pipelines)} model(s): {runtime_description(device)}')

    def _add_model(self, config: ModelConfig, device: str) -> None:
        model = load_model(config, device)
        self.get_logger().info(
            f"model '{model.name}' ({model.variant}, {model.hash[:8]}) on {device}"
        )
        if model.remark:
            self.get_logger().warning(model.remark)
        self._results[config.name] = self.create_publisher(
            InferenceResult, f'inference/result/{config.name}', CONTROL
        )
        strategy = declare(
            self,
            f'{config.name}.strategy',
            config.strategy,
            f'how it runs: {" | ".join(strategy_names())}',
        )
        deadline_ms = declare(
            self,
            f'{config.name}.deadline_ms',
            config.deadline_ms,
            'the robot answers by itself in time for this, counted from receipt (ms)',
            1.0,
            60_000.0,
        )
        try:
            pipeline = Pipeline(
                model, self._link, partial(_read, config), partial(self._publish, model)
            )
            pipeline.set_strategy(strategy)
        except StrategyRefused as error:
            raise ConfigError(str(error)) from None
        pipeline.deadline_s = deadline_ms / 1000.0
        self._pipelines[config.name] = pipeline
        synchronizer = Synchronizer(
            [spec.name for spec in config.inputs], config.sync_slop_ms / 1000.0
        )
        for spec in config.inputs:
            self.create_subscription(
                message_type(spec),
                spec.topic,
                partial(self._on_input, pipeline, synchronizer, spec),
                SENSOR,
            )

    def _on_input(
        self, pipeline: Pipeline, synchronizer: Synchronizer, spec: InputSpec, message: Any
    ) -> None:
        received_s = time.monotonic()
        stamp = message.header.stamp
        parts = synchronizer.add(spec.name, stamp.sec + 1e-9 * stamp.nanosec, message)
        if parts is not None:
            pipeline.offer(parts, received_s)

    def _publish(self, model: Model, answer: Answer, parts: Mapping[str, Any]) -> None:
        if answer.error:
            self.get_logger().error(
                f"model '{model.name}': {answer.error}", throttle_duration_sec=5.0
            )
        elif answer.fallback:
            self.get_logger().warning(
                f"model '{model.name}': computed by the robot: {answer.reason}",
                throttle_duration_sec=5.0,
            )
        header = parts[model.config.inputs[0].name].header
        try:
            self._results[model.name].publish(answer_to_message(answer, model, header))
        except InvalidHandle as error:  # the process is ending: nobody listens any more
            self.get_logger().debug(f'result {answer.seq} could not be published: {error}')

    def _transmit(self, server: ServerState, request: Request) -> None:
        publisher = self._requests.get(server.name)
        if publisher is not None:
            publisher.publish(request_to_message(request))

    def _on_reply(self, message: Any) -> None:
        self._client.on_reply(message_to_reply(message, self._limits))

    def _on_heartbeat(self, message: Any) -> None:
        if not valid_node_name(message.server):
            self.get_logger().warning(
                f'a heartbeat names the server {message.server[:80]!r}, which is no node name: '
                'dropped',
                throttle_duration_sec=10.0,
            )
            return
        if message.closing:
            if self._directory.leave(message.server, message.session):
                self.get_logger().warning(
                    f'server {message.server} ends: this robot computes by itself'
                )
                self._close(message.server)
            return
        state = message_to_server_state(message)
        if self._directory.heard(state):
            self._open(state)
        self._greet(state)

    def _open(self, state: ServerState) -> None:
        """A server (or a new life of it) appeared."""
        self._close(state.name)
        self._requests[state.name] = self.create_publisher(
            InferenceRequest, f'{state.name}/request', CONTROL
        )
        self.get_logger().info(
            f'server {state.name} is there ({state.device}, models: {", ".join(state.models)})'
        )

    def _close(self, server: str) -> None:
        self._greeted_s.pop(server, None)
        self._ready.discard(server)
        publisher = self._requests.pop(server, None)
        if publisher is not None:
            self.destroy_publisher(publisher)

    def _greet(self, state: ServerState) -> None:
        """Until it is connected with every heartbeat, later now and then, so that it knows that we
        live."""
        now = time.monotonic()
        connected = any(
            known.name == state.name and known.connected for known in self._directory.alive()
        )
        if connected and state.name not in self._ready:
            self._ready.add(state.name)
            self.get_logger().info(f'server {state.name} is ready')
        if not connected or now - self._greeted_s.get(state.name, 0.0) > HELLO_S:
            self._greeted_s[state.name] = now
            self._client.greet(state)

    def _watch(self) -> None:
        for name in self._directory.expire():
            self.get_logger().warning(f'server {name} is lost: this robot computes by itself')
            self._close(name)

    def _publish_status(self) -> None:
        message = OffloadStatus()
        message.header.stamp = self.get_clock().now().to_msg()
        message.robot = self._client.robot
        for pipeline in self._pipelines.values():
            server, _ = self._client.server_for(pipeline.model)
            message.models.append(model_status_message(pipeline, server.name if server else ''))
        message.servers = self._alive_messages()
        self._status.publish(message)

    def _alive_messages(self) -> list[ServerHeartbeat]:
        return [
            ServerHeartbeat(
                server=state.name,
                session=state.session,
                runtime=state.runtime,
                device=state.device,
                queue_length=state.queue_length,
                queue_limit=state.queue_limit,
                busy=state.busy,
            )
            for state in self._directory.alive()
        ]

    def _on_parameters(self, parameters: list[Parameter[Any]]) -> SetParametersResult:
        """Check all of them, then take them up: the next frame runs with them."""
        for parameter in parameters:
            model, _, key = parameter.name.partition('.')
            if key == 'strategy' and model in self._pipelines:
                try:
                    self._pipelines[model].prepare_strategy(parameter.value)
                except StrategyRefused as error:
                    return SetParametersResult(successful=False, reason=str(error))
        for parameter in parameters:
            self._apply(parameter)
        return SetParametersResult(successful=True)

    def _apply(self, parameter: Parameter[Any]) -> None:
        model, _, key = parameter.name.partition('.')
        if parameter.name == 'server.name':
            self._client.preferred_server = parameter.value
        elif parameter.name == 'server.lost_after_ms':
            self._directory.lost_after_s = parameter.value / 1000.0
        elif key == 'strategy':
            self._pipelines[model].set_strategy(parameter.value)
        elif key == 'deadline_ms':
            self._pipelines[model].deadline_s = parameter.value / 1000.0

    def close(self) -> None:
        """End the threads; the frame in hand still gets its result."""
        for pipeline in getattr(self, '_pipelines', {}).values():
            pipeline.close()
        if hasattr(self, '_link'):
            self._link.lane.close()


def _read(config: ModelConfig, parts: Mapping[str, Any]) -> Inputs:
    """The messages of one frame to tensors; called in the pipeline's thread, for accepted frames
    only."""
    inputs, buffers = {}, {}
    for spec in config.inputs:
        tensor, buffer = to_tensor(parts[spec.name], spec)
        inputs[spec.name] = tensor
        if buffer is not None:
            buffers[spec.name] = buffer
    return inputs, buffers


def main() -> None:
    """Entry point of ``ros2 run offload_ros offload_manager``."""
    run_node(OffloadManager, (ConfigError, ModelError))
