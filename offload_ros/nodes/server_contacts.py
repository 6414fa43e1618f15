"""The robot's contact with servers: who is alive, sessions with them, a channel to each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
import time
from typing import Any

from rclpy.node import Node
from rclpy.publisher import Publisher

from offload_ros.msg import Handshake, LinkStatus, ServerHeartbeat
from offload_ros.nodes.messages import (
    heartbeat_fields,
    link_status_message,
    message_to_server_state,
)
from offload_ros.nodes.topics import (
    CHANNEL_SILENT_S,
    HANDSHAKE,
    HEARTBEAT,
    HEARTBEAT_S,
    HEARTBEAT_TOPIC,
    OPENING_PING_S,
    handshake_topic,
    packet_topics,
    valid_node_name,
    valid_topic,
)
from offload_ros.nodes.wire_node import WireNode, handshake_message, receive_limits
from offload_ros.strategy import LinkState
from offload_ros.wire.channel import Channel, key_of, number_of
from offload_ros.wire.client import OffloadClient, new_session
from offload_ros.wire.coding import LinkCoder
from offload_ros.wire.connection import Connection
from offload_ros.wire.directory import MAX_SERVERS, ServerDirectory, ServerState
from offload_ros.wire.emulation import DOWN, UP, Emulation
from offload_ros.wire.exchange import CANCELS, REQUESTS, Kind, Request
from offload_ros.wire.framing import frame_request, parse_reply
from offload_ros.wire.handshake import RobotHandshake
from offload_ros.wire.handshake_keys import Established
from offload_ros.wire.handshake_messages import (
    HandshakeError,
    HandshakeRefused,
    Runtime,
    Welcome,
    read,
)
from offload_ros.wire.heartbeat_proof import Freshness, HeartbeatGuard, HeartbeatProof
from offload_ros.wire.host import credit_for, host_token, monitor_for
from offload_ros.wire.incoming import Incoming, State
from offload_ros.wire.key_file import PresharedKey
from offload_ros.wire.link_exchange import TICK_S, LinkExchange
from offload_ros.wire.outgoing import URGENT_PRIORITY, Outgoing
from offload_ros.wire.tensors import Limits, WireError

WATCH_S = HEARTBEAT_S / 4


@dataclass
class _Peer:
    """The channel to one session of one server."""

    name: str
    session: str
    channel: Channel
    exchange: LinkExchange
    coder: LinkCoder
    close: Callable[[], None]
    packets: int = 0  # that had come when it was looked at last
    heard_s: float = field(default_factory=time.monotonic)
    pinged_s: float = 0.0


class ServerContacts:
    """Topics, sessions and channels around ``ServerDirectory`` and ``OffloadClient``.

    Callbacks run in the thread of the ``WireNode``; ``transmit`` is called by any.
    """

    def __init__(
        self,
        node: Node,
        runtime: Runtime,
        limits: Limits,
        lost_after_s: float,
        key: PresharedKey | None = None,
    ) -> None:
        self.directory = ServerDirectory(lost_after_s)
        robot = node.get_fully_qualified_name()
        self.client = OffloadClient(robot, new_session(), self.directory, self.transmit)
        self.client.link_state = self.link_state
        self.client.channel_to = self.channel_to
        self.emulation = Emulation()
        self.refused = ''  # why a server that is there cannot be used
        self._log = node.get_logger()
        self._limits = limits
        self._host = host_token()
        credit_for('', '')  # a wrong limit in the environment shows now
        self._handshake = RobotHandshake(robot, self.client.session, runtime, key, self._host)
        self._proof = HeartbeatProof(key) if key else None
        self._guard = HeartbeatGuard()
        self._peers: dict[str, _Peer] = {}  # by server name
        self._doors: dict[str, Publisher] = {}  # server name -> its handshake topic
        self._hello_s: dict[str, float] = {}
        self._hearsay: dict[str, ServerState] = {}  # what servers of unproven sessions said last
        self._ready: set[tuple[str, str]] = set()  # servers and sessions that were announced
        self._watched_s = time.monotonic()
        self._wire = WireNode(node, self._on_shutdown)
        self._wire.subscribe(Handshake, handshake_topic(robot), self._on_handshake, HANDSHAKE)
        self._wire.subscribe(ServerHeartbeat, HEARTBEAT_TOPIC, self._on_heartbeat, HEARTBEAT)
        self._wire.every(WATCH_S, self._watch)
        self._wire.start()

    def transmit(self, server: ServerState, request: Request) -> int:
        """Send a request on the channel to ``server``; how many bytes of tensors travel.

        Called from the pipelines' threads too.
        """
        peer = self._peers.get(server.name)
        if peer is None or peer.session != server.session:
            self.client.cancel(request.seq, f'server {server.name} is lost')
            return 0
        if request.kind == Kind.CANCEL:
            peer.channel.cancel(key_of(REQUESTS, request.seq))
            framed = frame_request(request)
            peer.channel.send(key_of(CANCELS, request.seq), framed.buffers, URGENT_PRIORITY)
            return 0
        framed = frame_request(request, peer.coder.of(request.model))
        sent = peer.channel.send(
            key_of(REQUESTS, request.seq),
            framed.buffers,
            min(request.priority, URGENT_PRIORITY - 1),
            time.monotonic() + request.budget_s,
        )
        sent.when_ended(partial(self._on_sent, request.seq))
        return framed.tensor_bytes

    def link_state(self, server: str) -> LinkState:
        """What is known of the link to a server; nothing while there is no channel."""
        peer = self._peers.get(server)
        return peer.exchange.state() if peer is not None else LinkState()

    def channel_to(self, server: str) -> Channel | None:
        """The open channel to a server that has answered on it."""
        peer = self._peers.get(server)
        return peer.channel if peer is not None and peer.packets else None

    def links(self) -> list[LinkStatus]:
        """The link to each connected server, for the status message."""
        return [
            link_status_message(self.client.robot, peer.name, peer.exchange.state())
            for peer in list(self._peers.values())
        ]

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
        """End all sessions and the wire's thread; calls that still wait end with the reason."""
        self._wire.stop()
        for state in self.directory.alive():
            self.directory.leave(state.name, state.session)
        for name in list(self._peers):
            self._drop_peer(name)
        self._wire.close()

    def _on_shutdown(self) -> None:
        """Nothing is heard any more: who waits for a server must not wait for ever."""
        for peer in list(self._peers.values()):
            peer.channel.close('ROS was shut down in this process (Ctrl-C?)')

    def _on_sent(self, seq: int, sent: Outgoing) -> None:
        if sent.state not in (State.DONE, State.CANCELLED):
            self.client.cancel(seq, f'the request did not reach the server: {sent.why}')

    def _on_reply(self, peer: tuple[str, str], channel: Channel, incoming: Incoming) -> None:
        seq = number_of(incoming.key)
        if not self.client.waits_for(seq):  # stale: its frame was answered otherwise
            channel.refuse(incoming.key)
            return
        incoming.when_ended(partial(self._on_reply_ended, peer))

    def _on_reply_ended(self, peer: tuple[str, str], incoming: Incoming) -> None:
        seq = number_of(incoming.key)
        if incoming.state is not State.DONE:
            self.client.cancel(seq, f'the reply of server {peer[0]} broke off: {incoming.why}')
            return
        try:
            reply = parse_reply(incoming.buffer, self._limits, *peer, self.client.session)
        except WireError as error:
            self.client.cancel(seq, f'server {peer[0]} sent a bad reply: {error}')
            return
        self.client.on_reply(reply)

    def _watch(self) -> None:
        """Notice silent servers, ping the others."""
        now = time.monotonic()
        pause_s, self._watched_s = now - self._watched_s, now
        if pause_s > HEARTBEAT_S:  # this thread was held up: servers are heard again after this
            self.directory.excuse(pause_s)
        for name in self.directory.expire():
            self._log.warning(f'server {name} is lost: this robot computes by itself')
        for name in set(self._peers) - self.directory.names():
            self._close_peer(name)  # lost, or it made room for another one
        for name in set(self._doors) - self.directory.names():
            if now - self._hello_s.get(name, 0.0) > 1.0:
                self._hello_s.pop(name, None)
                self._hearsay.pop(name, None)
                self._wire.destroy(self._doors.pop(name))
        for peer in list(self._peers.values()):
            self._keep(peer, now)

    def _keep(self, peer: _Peer, now: float) -> None:
        packets = peer.channel.counters.packets_in
        if packets != peer.packets:
            if peer.packets == 0:
                self._handshake.settle(peer.name, peer.session)
                self.directory.connect(peer.name, peer.session)
                self._log.info(f'server {peer.name} is ready')
            peer.packets, peer.heard_s = packets, now
        elif now - peer.heard_s > CHANNEL_SILENT_S:
            # It beats but does not answer: it has forgotten this session.
            self._close_peer(peer.name)
            self.directory.disconnect(peer.name, peer.session, 'does not answer')
            return
        if now - peer.pinged_s > (TICK_S if peer.packets else OPENING_PING_S):
            peer.pinged_s = now
            if peer.packets:
                peer.exchange.tick()
            else:
                peer.channel.ping()

    def _on_heartbeat(self, message: Any) -> None:
        if self.emulation.cut(DOWN):
            return
        if not valid_node_name(message.server) or not valid_topic(
            packet_topics(self.client.robot, message.server, message.session)[0]
        ):
            self._log.warning(
                f'a heartbeat names the server {message.server[:80]!r}, session '
                f'{message.session[:80]!r}, of which no topic can be made: dropped',
                throttle_duration_sec=10.0,
            )
            return
        name, session = message.server, message.session
        fresh = self._judge(message)
        if fresh is Freshness.STALE:
            return
        if fresh is Freshness.FRESH and message.closing:
            if self.directory.leave(name, session):
                self._log.warning(f'server {name} ends: this robot computes by itself')
                self._close_peer(name)
            return
        peer = self._peers.get(name)
        known = peer is not None and peer.session == session
        state = message_to_server_state(message)
        if fresh is Freshness.FRESH:
            self._take_up(state, known)
        elif name in self._hearsay or len(self._hearsay) < MAX_SERVERS:
            self._hearsay[name] = state  # may be a record: believed when its session was proven
        if not known or not peer.packets:  # type: ignore[union-attr]
            self._greet(name, session)

    def _judge(self, message: Any) -> Freshness:
        """Whether this is the server's own word of now."""
        if self._proof is None:
            return Freshness.FRESH
        if not self._proof.check(heartbeat_fields(message), message.counter, message.proof):
            self.refused = (
                f'a heartbeat of {message.server} is not proven by this key: dropped (give robot '
                'and server the same key file)'
            )
            self._log.warning(self.refused, throttle_duration_sec=10.0)
            return Freshness.STALE
        return self._guard.take(message.server, message.session, message.counter)

    def _take_up(self, state: ServerState, known: bool) -> None:
        """A server says this now."""
        if self.directory.heard(state):
            if not known:
                self._close_peer(state.name)
            self._log.info(
                f'server {state.name} is there ({state.device}, models: {", ".join(state.models)})'
            )
        elif not self.directory.holds(state.name, state.session) and state.name in self._peers:
            self._log.error(
                f'two servers are named {state.name}: start one of them with another name '
                '(server.launch.py name:=...)',
                throttle_duration_sec=5.0,
            )

    def _greet(self, name: str, session: str) -> None:
        """Ask for a session; with every heartbeat until the channel works."""
        unproven = self._proof is not None and name in self._hearsay
        if not unproven and not self.directory.holds(name, session):
            return
        try:
            hello = self._handshake.hello(name, session)
        except ValueError:  # its session is none
            return
        if name not in self._doors:
            self._doors[name] = self._wire.handshakes_to(handshake_topic(name))
        self._hello_s[name] = time.monotonic()
        self._say(self._doors[name], hello)

    def _on_handshake(self, message: Any) -> None:
        if self.emulation.cut(DOWN):
            return
        data = message.data.tobytes()
        try:
            confirm, established = self._handshake.on_welcome(data)
        except HandshakeRefused as error:
            self.refused = str(error)
            self._log.error(self.refused, throttle_duration_sec=10.0)
            return
        except HandshakeError as error:
            self._log.debug(f'a handshake is dropped: {error}')
            return
        if established is not None:
            self._open_peer(established)
        door = self._doors.get(read(data, Welcome).server) if confirm else None
        if confirm and door is not None:
            self._say(door, confirm)

    def _say(self, door: Publisher, handshake: bytes) -> None:
        if not self.emulation.cut(UP):
            door.publish(handshake_message(handshake))

    def _open_peer(self, established: Established) -> None:
        """A session was agreed on: its topics and its channel."""
        name, session = established.peer, established.peer_session
        self._drop_peer(name)
        self._guard.open(name, session, established.heartbeat)
        said = self._hearsay.pop(name, None)
        if said is not None and said.session == session:
            self._take_up(said, known=True)
        credit = credit_for(self._host, established.host)
        monitor = monitor_for(self._host, established.host)
        connection = Connection(
            receive_limits(self._limits),
            credit,
            established.seal_up,
            established.seal_down,
            monitor.on_sample,
            established.robot_salts,
        )
        uplink, downlink = packet_topics(self.client.robot, name, session)
        publisher = self._wire.packets_to(uplink, credit.max_chunk_bytes)
        send, end_up = self.emulation.through(UP, publisher.publish)
        channel = Channel(send, connection, f'channel to {name}')
        receive, end_down = self.emulation.through(DOWN, channel.receive)
        subscription = self._wire.packets_from(downlink, receive, credit.max_chunk_bytes)

        def close() -> None:
            channel.close(f'server {name} is lost')
            end_up()
            end_down()
            self._wire.destroy(publisher, subscription)

        for stream in (REQUESTS, CANCELS):  # CANCELS: of a reply that this robot refused
            channel.listen(stream, partial(self._on_reply, (name, session), channel))
        exchange, coder = LinkExchange(channel, monitor), LinkCoder(monitor.outgoing)
        self._peers[name] = _Peer(name, session, channel, exchange, coder, close)

    def _drop_peer(self, name: str) -> None:
        peer = self._peers.pop(name, None)
        if peer is not None:
            peer.close()

    def _close_peer(self, name: str) -> None:
        """Its session is over: the next heartbeat begins another one."""
        peer = self._peers.get(name)
        self._drop_peer(name)
        if peer is not None:
            self._handshake.forget(name, peer.session)
            self._guard.close(name, peer.session)
