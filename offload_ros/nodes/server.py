"""The server node: answers requests of all robots on its models and tells that it lives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
import os
import queue
import threading
import time
from typing import Any
import uuid

from ament_index_python.packages import get_package_share_directory
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.clock import Clock, ClockType  # type: ignore[attr-defined]  # where Humble has it
from rclpy.exceptions import InvalidHandle
from rclpy.publisher import Publisher
from rclpy.subscription import Subscription
from rclpy.task import Future
import torch

from offload_ros.models.config import ModelConfig
from offload_ros.models.config_file import load_models_file
from offload_ros.models.errors import ConfigError, ModelError
from offload_ros.models.model import Model, load_model, runtime_description
from offload_ros.msg import InferenceReply, InferenceRequest, ServerHeartbeat
from offload_ros.nodes.diagnostics import server_diagnostics
from offload_ros.nodes.managed import BringUpError, ManagedNode
from offload_ros.nodes.messages import heartbeat_message, message_to_request, reply_to_message
from offload_ros.nodes.parameters import declare, value_of
from offload_ros.nodes.process import run_node
from offload_ros.nodes.topics import (
    CONTROL,
    HEARTBEAT,
    HEARTBEAT_S,
    HEARTBEAT_TOPIC,
    SESSION_SILENT_S,
    request_topics,
    valid_node_name,
    valid_topic,
)
from offload_ros.server.engine import Engine
from offload_ros.srv import SetModel
from offload_ros.wire.exchange import Kind, Reply, Status
from offload_ros.wire.tensors import Limits, WireError

MAX_SESSIONS = 64


@dataclass
class _Session:
    """One connected robot: the topics to it and from it alone, and when it was heard last."""

    replies: Publisher
    requests: Subscription
    heard_s: float


class OffloadServer(ManagedNode):
    """Lifecycle, topics and timers around ``Engine``."""

    FIXED_WHEN_CONFIGURED = ('models_file', 'device', 'queue_limit')

    def __init__(self) -> None:
        super().__init__('offload_server')
        default_file = os.path.join(
            get_package_share_directory('offload_ros'), 'config', 'models.yaml'
        )
        declare(self, 'models_file', default_file, 'models.yaml; read when configured')
        declare(self, 'device', 'cpu', 'where to compute: cpu, cuda, cuda:1; read when activated')
        threads = declare(
            self, 'threads', 0, 'CPU threads of one operator; 0: all cores', 0, 1024, True
        )
        declare(self, 'queue_limit', 32, 'requests that may wait; read when activated', 1, 10_000)
        declare(
            self, 'max_message_mb', 64.0, 'larger requests are refused (MB)', 0.001, 4096.0, True
        )
        if threads:
            torch.set_num_threads(threads)
        self._limits = Limits(total_bytes=int(value_of(self, 'max_message_mb') * 1e6))
        self._runtime = ''
        self._configs: dict[str, ModelConfig] = {}
        self._engine: Engine | None = None
        self._sessions: dict[str, _Session] = {}  # by the robot's session
        self._robots: dict[str, str] = {}  # robot name -> its session
        self._active_parts: list[tuple[Callable[[Any], Any], Any]] = []  # (destroy, entity)
        self._publishers: list[Any] = []
        self._loading: list[threading.Thread] = []
        self._later: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        # A group of its own: while its callback awaits, nothing else of its group is called.
        group = MutuallyExclusiveCallbackGroup()
        self.create_service(SetModel, '~/set_model', self._on_set_model, callback_group=group)

    def configure(self) -> None:
        """Read models.yaml, create the heartbeat's and the diagnostics' topics."""
        configs = load_models_file(value_of(self, 'models_file'))
        self._configs = {config.name: config for config in configs}
        self._heartbeat = self.create_publisher(ServerHeartbeat, HEARTBEAT_TOPIC, HEARTBEAT)
        self._diagnostics = self.create_publisher(DiagnosticArray, '/diagnostics', 10)
        self._publishers = [self._heartbeat, self._diagnostics]

    def activate(self) -> None:
        """Load every variant of every model, then take requests."""
        loaded = [
            self._load(config.variant_named(variant))
            for config in self._configs.values()
            for variant in config.variants()
        ]
        self._runtime = runtime_description(value_of(self, 'device'))
        name, session = self.get_fully_qualified_name(), uuid.uuid4().hex[:16]
        engine = Engine(name, session, loaded, value_of(self, 'queue_limit'))
        self._engine = engine
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._active_parts = [
            (
                self.destroy_subscription,
                self.create_subscription(
                    InferenceRequest,
                    request_topics(name, session, '')[0],
                    self._on_request,
                    CONTROL,
                ),
            ),
            # Liveness counts real time, also when a simulation's /clock stands still.
            (self.destroy_timer, self.create_timer(HEARTBEAT_S, self._beat, clock=steady)),
            (self.destroy_timer, self.create_timer(1.0, self._diagnose, clock=steady)),
        ]
        self.get_logger().info(f'serving {len(loaded)} model(s): {self._runtime}')

    def deactivate(self) -> None:
        """Tell the robots, answer what waits, free the models."""
        for destroy, part in self._active_parts:
            destroy(part)
        self._active_parts = []
        if self._engine is not None:
            self._heartbeat.publish(
                heartbeat_message(self._engine, self._runtime, self._device(), closing=True)
            )
            self._engine.close()
            self._engine = None
        for thread in self._loading:
            thread.join()
        self._run_later()
        for session in list(self._sessions):
            self._forget(session, 'is left')

    def cleanup(self) -> None:
        """Give the topics back."""
        for publisher in self._publishers:
            self.destroy_publisher(publisher)
        self._publishers = []
        self._configs = {}

    def _device(self) -> str:
        return str(value_of(self, 'device'))

    def _load(self, config: ModelConfig) -> Model:
        model = load_model(config, self._device())
        log = self.get_logger()
        log.info(f"model '{model.name}' ({model.variant}, {model.hash[:8]}) on {self._device()}")
        if model.remark:
            log.warning(model.remark)
        return model

    def _beat(self) -> None:
        self._run_later()
        if self._engine is None:
            return
        self._heartbeat.publish(heartbeat_message(self._engine, self._runtime, self._device()))
        now = time.monotonic()
        for session, known in list(self._sessions.items()):
            if now - known.heard_s > SESSION_SILENT_S:
                self._forget(session, 'is silent')

    def _run_later(self) -> None:
        while not self._later.empty():
            self._later.get()()

    def _diagnose(self) -> None:
        if self._engine is not None:
            self._diagnostics.publish(
                server_diagnostics(
                    self._engine, len(self._sessions), self.get_clock().now().to_msg()
                )
            )

    def _on_request(self, message: Any) -> None:
        engine = self._engine
        if engine is None or message.server_session not in ('', engine.session):
            return  # for an earlier life of this server: nobody waits for it any more
        publisher = self._session(message.robot, message.session)
        if publisher is None:
            return
        try:
            request = message_to_request(message, self._limits)
        except WireError as error:
            self._send(publisher, _reply(engine, message, Status.ERROR, str(error)))
            return
        if request.kind == Kind.HELLO:
            self._send(publisher, _reply(engine, message, Status.OK))
        elif request.kind == Kind.CANCEL:
            engine.cancel(request.session, request.seq)
        else:
            engine.submit(request, lambda reply: self._send(publisher, reply))

    def _session(self, robot: str, session: str) -> Publisher | None:
        """The way back to a robot; opened when it first speaks, None when it may not have one."""
        now = time.monotonic()
        known = self._sessions.get(session)
        if known is not None:
            known.heard_s = now
            return known.replies
        log = self.get_logger()
        assert self._engine is not None
        own = request_topics(self._engine.name, self._engine.session, robot)[1]
        if not valid_node_name(robot) or not valid_topic(own) or not session:
            text = f'a request names the robot {robot[:80]!r}, which is no node name: dropped'
            log.warning(text, throttle_duration_sec=10.0)
            return None
        if robot in self._robots:
            self._forget(self._robots[robot], 'began a new session')
        if len(self._sessions) >= MAX_SESSIONS:
            text = f'{robot} is refused: {MAX_SESSIONS} robots are connected'
            log.warning(text, throttle_duration_sec=10.0)
            return None
        publisher = self.create_publisher(InferenceReply, f'{robot}/reply', CONTROL)
        requests = self.create_subscription(InferenceRequest, own, self._on_request, CONTROL)
        self._sessions[session] = _Session(publisher, requests, now)
        self._robots[robot] = session
        log.info(f'robot {robot} connected')
        return publisher

    def _forget(self, session: str, why: str) -> None:
        known = self._sessions.pop(session)
        if self._engine is not None:
            self._engine.drop(session)
        for robot, current in list(self._robots.items()):
            if current == session:
                del self._robots[robot]
                self.get_logger().info(f'robot {robot} {why}')
        self.destroy_publisher(known.replies)
        self.destroy_subscription(known.requests)

    def _send(self, publisher: Publisher, reply: Reply) -> None:
        """Called in the engine's thread too."""
        try:
            publisher.publish(reply_to_message(reply))
        except InvalidHandle:  # the session ended while its request ran
            self.get_logger().debug(f'reply {reply.seq} has no robot any more')

    async def _on_set_model(
        self, request: SetModel.Request, response: SetModel.Response
    ) -> SetModel.Response:
        """Load or unload while serving; answers when it is done."""
        config, engine = self._configs.get(request.model), self._engine
        if config is None or engine is None:
            known = ', '.join(self._configs) or 'none: the server is not active'
            response.message = f"there is no model '{request.model}' here (there are: {known})"
            return response
        try:
            variants = [request.variant] if request.variant else config.variants()
            chosen = [config.variant_named(variant) for variant in variants]
        except ConfigError as error:
            response.message = str(error)
            return response
        if request.loaded:
            present = {(model.name, model.variant) for model in engine.models}
            missing = [each for each in chosen if (each.name, each.variant) not in present]
            response.message = await self._load_later(engine, missing) or ''
            if self._engine is not engine:
                response.message = 'the server was deactivated'
        else:
            for variant in variants:
                engine.remove(config.name, variant)
        response.success = not response.message
        if response.success:
            there = [model.variant for model in engine.models if model.name == config.name]
            response.message = f"model '{config.name}': {', '.join(there) or 'not loaded'}"
        return response

    def _load_later(self, engine: Engine, configs: list[ModelConfig]) -> Future[str]:
        """Load in a thread, so that heartbeats go on; the error's text, or empty."""
        done: Future[str] = Future()

        def load() -> None:
            error = ''
            try:
                for config in configs:
                    engine.add(self._load(config))
            except (ConfigError, ModelError) as failure:
                error = str(failure)
            except Exception as failure:  # foreign code loads models: whatever it raises is told
                error = f'{type(failure).__name__}: {failure}'
            self._later.put(lambda: done.set_result(error))

        thread = threading.Thread(target=load, name='load', daemon=True)
        self._loading = [other for other in self._loading if other.is_alive()] + [thread]
        thread.start()
        return done


def _reply(engine: Engine, message: Any, status: Status, detail: str = '') -> Reply:
    return Reply(engine.name, engine.session, message.session, message.seq, status, detail)


def main() -> None:
    """Entry point of ``ros2 run offload_ros offload_server``."""
    run_node(OffloadServer, (BringUpError,))
