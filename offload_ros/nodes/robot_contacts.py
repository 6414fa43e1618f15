"""The server's contact with robots: heartbeats, sessions, a channel to each, their requests."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
import time
from typing import Any

from rclpy.node import Node

from offload_ros.amot.host import AmotHost
from offload_ros.cuts.host import GraphHost
from offload_ros.msg import Handshake, ServerHeartbeat
from offload_ros.nodes.messages import heartbeat_fields, heartbeat_message
from offload_ros.nodes.topics import (
    HANDSHAKE,
    HEARTBEAT,
    HEARTBEAT_S,
    HEARTBEAT_TOPIC,
    SESSION_SILENT_S,
    handshake_topic,
    packet_topics,
    valid_node_name,
    valid_topic,
)
from offload_ros.nodes.wire_node import WireNode, handshake_message, receive_limits
from offload_ros.rrto.host import OperatorHost
from offload_ros.server.engine import Engine
from offload_ros.wire.channel import Channel, key_of, number_of
from offload_ros.wire.coding import LinkCoder
from offload_ros.wire.connection import Connection
from offload_ros.wire.exchange import CANCELS, REQUESTS, Kind, Reply, Request, Status
from offload_ros.wire.framing import frame_reply, parse_request
from offload_ros.wire.handshake import ServerHandshake
from offload_ros.wire.handshake_keys import Established
from offload_ros.wire.handshake_messages import (
    MAX_HASHES,
    HandshakeError,
    HandshakeRefused,
    Hello,
    Runtime,
    read,
)
from offload_ros.wire.heartbeat_proof import HeartbeatProof
from offload_ros.wire.host import credit_for, host_token, monitor_for
from offload_ros.wire.incoming import Incoming, State
from offload_ros.wire.key_file import PresharedKey
from offload_ros.wire.link_exchange import TICK_S, LinkExchange
from offload_ros.wire.outgoing import URGENT_PRIORITY, Outgoing
from offload_ros.wire.tensors import Limits, WireError

KEEP_S = 0.05
MAX_DOORS = 256  # topics to robots that asked for a session


@dataclass
class _Robot:
    """The channel to one session of one robot."""

    name: str
    session: str
    channel: Channel
    exchange: LinkExchange
    coder: LinkCoder
    close: Callable[[], None]
    packets: int = 0
    heard_s: float = field(default_factory=time.monotonic)
    pinged_s: float = 0.0


class RobotContacts:
    """Topics, sessions and channels around an ``Engine``; all runs in the ``WireNode``'s thread."""

    def __init__(
        self,
        node: Node,
        engine: Engine,
        runtime: Runtime,
        device: str,
        limits: Limits,
        programs: OperatorHost,
        graphs: GraphHost,
        amot: AmotHost,
        key: PresharedKey | None = None,
    ) -> None:
        self._engine = engine
        self._programs = programs
        self._graphs = graphs
        self._amot = amot
        self._runtime = runtime
        self._device = device
        self._limits = limits
        self._log = node.get_logger()
        self._host = host_token()
        credit_for('', '')  # a wrong limit in the environment shows now
        self._counter = 0  # of heartbeats
        self._proof = HeartbeatProof(key) if key else None
        self._handshake = ServerHandshake(
            engine.name,
            engine.session,
            runtime,
            self._models,
            key,
            self._host,
            heartbeat=lambda: self._counter,
        )
        self._robots: dict[str, _Robot] = {}  # by name
        self._doors: dict[str, Any] = {}  # robot name -> publisher of its handshake topic
        self._wire = WireNode(node)
        self._heartbeat = self._wire.node.create_publisher(
            ServerHeartbeat, HEARTBEAT_TOPIC, HEARTBEAT
        )
        self._wire.subscribe(Handshake, handshake_topic(engine.name), self._on_handshake, HANDSHAKE)
        self._wire.every(HEARTBEAT_S, self._beat)
        self._wire.every(KEEP_S, self._keep)
        self._wire.start()

    @property
    def count(self) -> int:
        """Robots with a session."""
        return len(self._robots)

    def close(self) -> None:
        """Tell the robots and end all sessions."""
        self._wire.stop()
        self._beat(closing=True)
        for robot in list(self._robots):
            self._forget(robot, 'is left')
        self._wire.close()

    def _beat(self, closing: bool = False) -> None:
        self._counter += 1
        message = heartbeat_message(self._engine, self._runtime.description, self._device, closing)
        message.counter = self._counter
        if self._proof is not None:
            message.proof = self._proof.proof(heartbeat_fields(message), self._counter)
        self._heartbeat.publish(message)

    def _models(self) -> Mapping[str, list[str]]:
        hashes: dict[str, list[str]] = {}
        for model in self._engine.models[:MAX_HASHES]:
            hashes.setdefault(model.name, []).append(model.hash)
        return hashes

    def _keep(self) -> None:
        now = time.monotonic()
        for robot in list(self._robots.values()):
            packets = robot.channel.counters.packets_in
            if packets != robot.packets:
                robot.packets, robot.heard_s = packets, now
            elif now - robot.heard_s > SESSION_SILENT_S:
                self._forget(robot.name, 'is silent')
                continue
            if now - robot.pinged_s > TICK_S:  # the first one tells the robot that all is open
                robot.pinged_s = now
                robot.exchange.tick()

    def _on_handshake(self, message: Any) -> None:
        data = message.data.tobytes()
        answer, established = None, None
        try:
            answer, established = self._handshake.on_message(data)
        except HandshakeRefused as error:
            self._log.warning(str(error), throttle_duration_sec=10.0)
            answer = error.reply
        except HandshakeError as error:
            self._log.debug(f'a handshake is dropped: {error}')
        if answer is not None:
            self._answer(data, answer)
        if established is not None:
            self._open(established)

    def _answer(self, asked: bytes, answer: bytes) -> None:
        try:
            robot = read(asked, Hello).robot
        except HandshakeError:  # of another version: it cannot be told where it wants to hear
            return
        if not self._possible(robot):
            return
        if robot not in self._doors:
            if len(self._doors) >= MAX_DOORS:
                idle = next(iter(self._doors.keys() - self._robots.keys()))
                self._wire.destroy(self._doors.pop(idle))
            self._doors[robot] = self._wire.handshakes_to(handshake_topic(robot))
        self._doors[robot].publish(handshake_message(answer))

    def _possible(self, robot: str) -> bool:
        """Whether topics can be made of a name that came from the network."""
        topics = packet_topics(robot, self._engine.name, self._engine.session)
        if valid_node_name(robot) and all(valid_topic(topic) for topic in topics):
            return True
        text = f'a robot calls itself {robot[:80]!r}, which is no node name: dropped'
        self._log.warning(text, throttle_duration_sec=10.0)
        return False

    def _open(self, established: Established) -> None:
        """A session was agreed on; it replaces the robot's last one."""
        name, session = established.peer, established.peer_session
        if not self._possible(name):
            return
        if name in self._robots:
            self._end(name, 'began a new session')
        credit = credit_for(self._host, established.host)
        monitor = monitor_for(self._host, established.host)
        connection = Connection(
            receive_limits(self._limits),
            credit,
            established.seal_down,
            established.seal_up,
            monitor.on_sample,
            established.server_salts,
        )
        uplink, downlink = packet_topics(name, self._engine.name, self._engine.session)
        publisher = self._wire.packets_to(downlink, credit.max_chunk_bytes)
        channel = Channel(publisher.publish, connection, f'channel to {name}')
        subscription = self._wire.packets_from(uplink, channel.receive, credit.max_chunk_bytes)

        services = [
            each.serve(channel, name) for each in (self._programs, self._graphs, self._amot)
        ]

        def close() -> None:
            for service in services:
                service.close()
            channel.close(f'robot {name} is gone')
            self._wire.destroy(publisher, subscription)

        exchange, coder = LinkExchange(channel, monitor), LinkCoder(monitor.outgoing)
        robot = _Robot(name, session, channel, exchange, coder, close)
        for stream in (REQUESTS, CANCELS):
            channel.listen(stream, partial(self._on_incoming, robot))
        self._robots[name] = robot
        self._log.info(f'robot {name} connected')

    def _forget(self, name: str, why: str) -> None:
        """A robot is gone."""
        self._handshake.forget(name, self._robots[name].session)
        if name in self._doors:
            self._wire.destroy(self._doors.pop(name))
        self._end(name, why)

    def _end(self, name: str, why: str) -> None:
        """The session of a robot is over; it may have another one already."""
        robot = self._robots.pop(name)
        self._engine.drop(robot.session)
        robot.close()
        self._log.info(f'robot {name} {why}')

    def _on_incoming(self, robot: _Robot, incoming: Incoming) -> None:
        incoming.when_ended(partial(self._on_request, robot))

    def _on_request(self, robot: _Robot, incoming: Incoming) -> None:
        if incoming.state is not State.DONE:
            return  # withdrawn, late or refused: the robot knows
        engine = self._engine
        try:
            request = parse_request(
                incoming.buffer, self._limits, robot.name, robot.session, engine.session
            )
            if request.seq != number_of(incoming.key):
                raise WireError(f'request {request.seq} came as {number_of(incoming.key)}')
        except (WireError, MemoryError) as error:
            reply = Reply(
                engine.name,
                engine.session,
                robot.session,
                number_of(incoming.key),
                Status.ERROR,
                str(error) or 'there is no memory for the request',
            )
            self._send(robot, Request(robot.name, robot.session, engine.session, reply.seq), reply)
            return
        if request.kind == Kind.CANCEL:
            engine.cancel(request.session, request.seq)
            robot.channel.cancel(key_of(REQUESTS, request.seq))
        else:
            engine.submit(request, partial(self._send, robot, request))

    def _send(self, robot: _Robot, request: Request, reply: Reply) -> None:
        """Called in the engine's thread too."""
        try:
            sent = robot.channel.send(
                key_of(REQUESTS, reply.seq),
                frame_reply(reply, robot.coder.of(request.model)).buffers,
                min(request.priority, URGENT_PRIORITY - 1),
            )
        except ValueError as error:  # this number was answered before
            self._log.debug(f'reply {reply.seq} to {robot.name}: {error}')
            return
        if reply.status == Status.OK:
            sent.when_ended(partial(self._on_sent, robot, reply))

    def _on_sent(self, robot: _Robot, reply: Reply, sent: Outgoing) -> None:
        """A robot that refuses a reply (too large for it) learns why there is none."""
        if sent.state is State.REFUSED:
            why = f'the reply did not reach the robot: {sent.why}'
            refusal = replace(reply, status=Status.ERROR, detail=why, outputs={})
            robot.channel.send(key_of(CANCELS, reply.seq), frame_reply(refusal).buffers)
