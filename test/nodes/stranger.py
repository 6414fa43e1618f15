"""Others in the domain: robots and servers without a node of ours, and who listens to what travels.

They speak the protocol directly: well, badly, and by repeating what they heard.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Mapping, Sequence
from functools import partial
import itertools
from pathlib import Path
import threading
from types import SimpleNamespace
from typing import Any

import numpy as np
import rclpy
from rclpy.context import Context
from rclpy.node import Node
from rclpy.qos import QoSProfile
from rclpy.signals import SignalHandlerOptions
from system import Listener, until
import torch

from offload_ros.amot.host import AmotHost
from offload_ros.cuts.host import GraphHost
from offload_ros.msg import Handshake, ServerHeartbeat
from offload_ros.msg import Packet as PacketMessage
from offload_ros.nodes.robot_contacts import RobotContacts
from offload_ros.nodes.server_contacts import ServerContacts
from offload_ros.nodes.topics import (
    HANDSHAKE,
    HEARTBEAT,
    HEARTBEAT_TOPIC,
    handshake_topic,
    packet_topics,
    packets_qos,
)
from offload_ros.nodes.wire_node import runtime_of
from offload_ros.rrto.host import OperatorHost
from offload_ros.wire.channel import Channel, key_of
from offload_ros.wire.client import new_session
from offload_ros.wire.exchange import REQUESTS, Reply, Request
from offload_ros.wire.framing import frame_request, parse_reply
from offload_ros.wire.handshake_keys import Established
from offload_ros.wire.incoming import Incoming, Reassembly, ReceiveLimits, State
from offload_ros.wire.key_file import load_key
from offload_ros.wire.outgoing import Outgoing
from offload_ros.wire.packet import ENCAPSULATION, HEADER, OVERHEAD, Kind, Packet
from offload_ros.wire.tensors import Limits, WireError


def own_node(domain: int, name: str) -> Node:
    """A node of this process with a context of its own; ``name``: fully qualified."""
    context = Context()
    rclpy.init(context=context, domain_id=domain, signal_handler_options=SignalHandlerOptions.NO)
    namespace, _, own = name.rpartition('/')
    return rclpy.create_node(own, context=context, namespace=namespace or None)


class Stranger(ServerContacts):
    """A robot without a manager: every reply is kept, whether it was asked for or not."""

    def __init__(
        self, domain: int, name: str, server: str = '/offload_server', key: Path | None = None
    ) -> None:
        self.replies: list[Reply] = []
        self.salt = 0  # of its packets of the session
        self.heartbeats = 0  # heard, of all servers
        self.server = server
        self._own_node = own_node(domain, name)
        self._own_door = self._own_node.create_publisher(
            Handshake, handshake_topic(server), HANDSHAKE
        )
        super().__init__(
            self._own_node, runtime_of('cpu'), Limits(), 5.0, load_key(key) if key else None
        )

    @property
    def connected(self) -> bool:
        """Whether it has a session with its server."""
        return any(s.name == self.server and s.connected for s in self.directory.alive())

    def connect(self) -> None:
        """Wait for a session with the server."""
        until(lambda: self.connected, f'a session with {self.server}')

    @property
    def channel(self) -> Channel:
        """The channel to the server."""
        return self._peers[self.server].channel

    def ask(self, number: int, inputs: Mapping[str, Any], **fields: Any) -> Outgoing:
        """Send one request; ``fields`` are those of ``Request``."""
        tensors = {
            name: torch.from_numpy(value) if isinstance(value, np.ndarray) else value
            for name, value in inputs.items()
        }
        values = {'model': 'probe', 'budget_s': 60.0, **fields}
        request = Request('', '', '', number, inputs=tensors, **values)
        return self.send(number, frame_request(request).buffers)

    def send(
        self, number: int, buffers: bytes | Sequence[bytes | memoryview], stream: int = REQUESTS
    ) -> Outgoing:
        """Send what may be a request."""
        return self.channel.send(key_of(stream, number), buffers)

    def reply_to(self, number: int, limit_s: float = 30.0) -> Reply:
        """Wait for the reply to one request."""
        return until(
            lambda: next((r for r in list(self.replies) if r.seq == number), None),
            f'a reply to request {number}',
            limit_s,
        )

    def close(self) -> None:
        """Leave, in order; again: nothing."""
        if self._own_node.context.ok():
            super().close()
            self._own_node.destroy_node()
            self._own_node.context.try_shutdown()

    def greet(self, session: str) -> None:
        """Ask for this session of the server, whether it has been heard or not."""
        hello = Handshake(data=array('B', self._handshake.hello(self.server, session)))
        self._own_door.publish(hello)

    def _on_heartbeat(self, message: Any) -> None:
        self.heartbeats += 1
        super()._on_heartbeat(message)

    def _open_peer(self, established: Established) -> None:
        self.salt = established.robot_salts[0]
        super()._open_peer(established)

    def _on_reply(self, peer: tuple[str, str], channel: Channel, incoming: Incoming) -> None:
        incoming.when_ended(partial(self._keep_reply, peer))

    def _keep_reply(self, peer: tuple[str, str], incoming: Incoming) -> None:
        if incoming.state is State.DONE:
            self.replies.append(parse_reply(incoming.buffer, Limits(), *peer, self.client.session))


class Liar(RobotContacts):
    """A server that claims a model and answers each request with what ``lie`` gives for it: a
    ``Reply``, or bytes that may be none."""

    def __init__(
        self, domain: int, name: str, model_hash: str, lie: Callable[[Request], Reply | bytes]
    ) -> None:
        self.asked = 0
        self._lie = lie
        model = SimpleNamespace(name='probe', variant='', hash=model_hash, weights_trained=True)
        engine: Any = SimpleNamespace(
            name=name,
            session=new_session(),
            models=[model],
            queue_length=0,
            queue_limit=32,
            busy_share=lambda: 0.0,
            drop=lambda session: None,
            cancel=lambda session, number: None,
            submit=self._submit,
        )
        self._own_node = own_node(domain, name)
        super().__init__(
            self._own_node,
            engine,
            runtime_of('cpu'),
            'cpu',
            Limits(),
            OperatorHost(),
            GraphHost(1 << 20),
            AmotHost(lambda name, content_hash: None, lambda compute: compute()),
        )

    def _submit(self, request: Request, answer: Callable[[Reply], None]) -> None:
        self.asked += 1
        lie = self._lie(request)
        if isinstance(lie, Reply):
            answer(lie)
        else:
            self._robots[request.robot].channel.send(key_of(REQUESTS, request.seq), lie)

    def close(self) -> None:
        """Leave, in order."""
        super().close()
        self._own_node.destroy_node()
        self._own_node.context.try_shutdown()


class Tap:
    """All messages of one topic as they travelled; may publish them, or others, as they are."""

    def __init__(self, listener: Listener, kind: type, topic: str, qos: QoSProfile) -> None:
        self.recorded: list[bytes] = []
        self._listener = listener
        self._kind, self.topic, self._qos = kind, topic, qos
        self._publisher: Any = None
        listener.node.create_subscription(kind, topic, self.take, qos, raw=True)

    def take(self, received: bytes) -> None:
        """A message came."""
        self.recorded.append(received)

    def publish(self, message: Any) -> None:
        """Say a message (bytes: in its serialised form), whoever may say it here."""
        if self._publisher is None:
            self._publisher = self._listener.publisher(self._kind, self.topic, self._qos)
            own = 1
            until(lambda: self._publisher.get_subscription_count() > own, 'somebody listens')
        self._publisher.publish(message)


class Eavesdropper(Tap):
    """Reads what one session of a server sends to a robot, as anyone in the domain may."""

    def __init__(self, listener: Listener, robot: str, server: str, session: str) -> None:
        self.replies: list[Reply] = []
        self.session = session
        self._peer = (server, session)
        self._reassembly = Reassembly(ReceiveLimits())
        self._counter = itertools.count()
        self._lock = threading.Lock()
        uplink, downlink = packet_topics(robot, server, session)
        self.up = Tap(listener, PacketMessage, uplink, packets_qos(60_000))
        super().__init__(listener, PacketMessage, downlink, packets_qos(60_000))

    def take(self, received: bytes) -> None:
        """A packet to the robot: put the replies together."""
        super().take(received)
        packet = packet_of(received)
        if packet is None or packet.kind != Kind.DATA or packet.key >> 48 != REQUESTS:
            return
        try:
            incoming, new = self._reassembly.data(packet, float(next(self._counter)))
        except WireError:  # a forged one
            return
        if incoming is not None and new:
            incoming.when_ended(self._on_ended)
        ended, self._reassembly.to_tell = self._reassembly.to_tell, []
        for tell in ended:
            tell()

    def _on_ended(self, incoming: Incoming) -> None:
        try:
            reply = parse_reply(incoming.buffer, Limits(), *self._peer, '')
        except WireError:  # sealed, or forged
            return
        self.replies.append(reply)


def packet_of(received: bytes) -> Packet | None:
    """What a packet says, whether it is genuine or not; None when it is too short."""
    if len(received) < OVERHEAD:
        return None
    fields = HEADER.unpack_from(received, len(ENCAPSULATION))
    number, key, offset, total, budget_ms, _, kind, priority, length = fields
    data = memoryview(received)[OVERHEAD : OVERHEAD + length]
    return Packet(number, key, offset, total, budget_ms, kind, priority, data)


def handshakes_of(listener: Listener, node: str) -> Tap:
    """What is said to ``node`` to begin a session."""
    return Tap(listener, Handshake, handshake_topic(node), HANDSHAKE)


def heartbeats_of_all(listener: Listener) -> Tap:
    """What all servers say of themselves."""
    return Tap(listener, ServerHeartbeat, HEARTBEAT_TOPIC, HEARTBEAT)
