"""The robot's contact with servers: who is alive, the topics to and from them, greetings."""

from __future__ import annotations

import time
from typing import Any
import uuid

from rclpy.exceptions import InvalidHandle
from rclpy.node import Node
from rclpy.publisher import Publisher

from offload_ros.msg import InferenceReply, InferenceRequest, ServerHeartbeat
from offload_ros.nodes.messages import (
    message_to_reply,
    message_to_server_state,
    request_to_message,
)
from offload_ros.nodes.topics import (
    CONTROL,
    HEARTBEAT,
    HEARTBEAT_S,
    HEARTBEAT_TOPIC,
    HELLO_S,
    request_topics,
    valid_node_name,
    valid_topic,
)
from offload_ros.wire.client import OffloadClient
from offload_ros.wire.directory import ServerDirectory, ServerState
from offload_ros.wire.exchange import Request
from offload_ros.wire.tensors import Limits


class ServerContacts:
    """Topics and bookkeeping around ``ServerDirectory`` and ``OffloadClient``.

    Everything but ``transmit`` is called in the node's executor.
    """

    def __init__(self, node: Node, limits: Limits, lost_after_s: float) -> None:
        self._node = node
        self._limits = limits
        self.directory = ServerDirectory(lost_after_s)
        self.client = OffloadClient(
            node.get_fully_qualified_name(), uuid.uuid4().hex[:16], self.directory, self.transmit
        )
        # Server name -> its shared request topic, and this robot's own.
        self._requests: dict[str, tuple[Publisher, Publisher]] = {}
        self._greeted_s: dict[str, float] = {}
        self._ready: set[str] = set()  # servers with both directions open
        self._watched_s = time.monotonic()
        self._subscriptions = [
            node.create_subscription(
                InferenceReply, f'{self.client.robot}/reply', self._on_reply, CONTROL
            ),
            node.create_subscription(
                ServerHeartbeat, HEARTBEAT_TOPIC, self._on_heartbeat, HEARTBEAT
            ),
        ]

    def transmit(self, server: ServerState, request: Request) -> None:
        """Publish a request; called from the pipelines' threads too."""
        publishers = self._requests.get(server.name)
        try:
            if publishers is not None:
                shared, own = publishers
                # The server opens our own topic when we first speak, and closes it when we are
                # silent for long: then the shared one opens it again.
                publisher = own if own.get_subscription_count() else shared
                publisher.publish(request_to_message(request))
                return
        except InvalidHandle:
            pass  # destroyed by the executor's thread since it was looked up: the server is lost
        self.client.cancel(request.seq, f'server {server.name} is lost')

    def watch(self) -> None:
        """Notice silent servers; to be called every few ten milliseconds."""
        now = time.monotonic()
        pause_s, self._watched_s = now - self._watched_s, now
        if pause_s > HEARTBEAT_S:  # this node was held up: servers are heard again after this
            self.directory.excuse(pause_s)
        for name in set(self._requests) - self.directory.names():
            self._close(name)  # it made room for another one
        for name in self.directory.expire():
            self._node.get_logger().warning(f'server {name} is lost: this robot computes by itself')
            self._close(name)

    def heartbeats(self) -> list[ServerHeartbeat]:
        """Alive servers for the status message."""
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
            for state in self.directory.alive()
        ]

    def close(self) -> None:
        """Destroy all topics; calls that still wait end with the reason."""
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        for name in list(self._requests):
            self._close(name)
        for state in self.directory.alive():
            self.directory.leave(state.name, state.session)

    def _on_reply(self, message: Any) -> None:
        self.client.on_reply(message_to_reply(message, self._limits))

    def _on_heartbeat(self, message: Any) -> None:
        log = self._node.get_logger()
        own = request_topics(message.server, message.session, self.client.robot)[1]
        if not valid_node_name(message.server) or not valid_topic(own):
            log.warning(
                f'a heartbeat names the server {message.server[:80]!r}, session '
                f'{message.session[:80]!r}, of which no topic can be made: dropped',
                throttle_duration_sec=10.0,
            )
            return
        if message.closing:
            if self.directory.leave(message.server, message.session):
                log.warning(f'server {message.server} ends: this robot computes by itself')
                self._close(message.server)
            return
        state = message_to_server_state(message)
        if self.directory.heard(state):
            self._open(state)
        if self.directory.holds(state.name, state.session):
            self._greet(state)
        elif state.name in self._requests:
            log.error(
                f'two servers are named {state.name}: start one of them with another name '
                '(server.launch.py name:=...)',
                throttle_duration_sec=5.0,
            )

    def _open(self, state: ServerState) -> None:
        """A server (or a new life of it) appeared."""
        self._close(state.name)
        shared, own = (
            self._node.create_publisher(InferenceRequest, topic, CONTROL)
            for topic in request_topics(state.name, state.session, self.client.robot)
        )
        self._requests[state.name] = (shared, own)
        self._node.get_logger().info(
            f'server {state.name} is there ({state.device}, models: {", ".join(state.models)})'
        )

    def _close(self, server: str) -> None:
        self._greeted_s.pop(server, None)
        self._ready.discard(server)
        for publisher in self._requests.pop(server, ()):
            self._node.destroy_publisher(publisher)

    def _greet(self, state: ServerState) -> None:
        """With every heartbeat until it is connected, later now and then to show that we live."""
        now = time.monotonic()
        connected = any(
            known.name == state.name and known.connected for known in self.directory.alive()
        )
        if connected and state.name not in self._ready:
            self._ready.add(state.name)
            self._node.get_logger().info(f'server {state.name} is ready')
        if not connected or now - self._greeted_s.get(state.name, 0.0) > HELLO_S:
            self._greeted_s[state.name] = now
            self.client.greet(state)
