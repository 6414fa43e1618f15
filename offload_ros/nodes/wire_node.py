"""A hidden node with a thread of its own for everything between robot and server.

Packets and heartbeats must not wait until the owner's executor has converted an image.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
import threading
from typing import Any

import rclpy
from rclpy.clock import Clock, ClockType  # type: ignore[attr-defined]  # where Humble has it
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.publisher import Publisher
from rclpy.subscription import Subscription
import torch

from offload_ros.cuts import sender
from offload_ros.models.model import runtime_description
from offload_ros.msg import Handshake, Packet
from offload_ros.nodes.packet_reader import PacketReader
from offload_ros.nodes.topics import HANDSHAKE, packets_qos
from offload_ros.rrto.channel_link import MAX_PIECE_BYTES, MAX_TRANSFERS, ROOM_BYTES
from offload_ros.wire.handshake_messages import Runtime
from offload_ros.wire.incoming import ReceiveLimits
from offload_ros.wire.tensors import Limits

HEADER_ROOM_BYTES = 1 << 20
REQUESTS = 64  # under way at once
SPIN_S = 0.5  # how long the thread may not notice that it should end


class WireNode:
    """Topics and timers of ``owner`` whose callbacks run in the wire's thread; so does
    ``on_shutdown``, when somebody else has shut the context down."""

    def __init__(self, owner: Node, on_shutdown: Callable[[], None] = lambda: None) -> None:
        self._on_shutdown = on_shutdown
        self.node = _hidden_node(owner, 'wire')
        self._packet_node = _hidden_node(owner, 'packets')
        self._reader = PacketReader(self._packet_node)
        self._log = owner.get_logger()
        self._steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._executor = SingleThreadedExecutor(context=owner.context)
        self._executor.add_node(self.node)
        self._closed = False
        self._thread = threading.Thread(target=self._spin, name='wire', daemon=True)

    def start(self) -> None:
        """From now on callbacks are called."""
        self._thread.start()

    def soon(self, call: Callable[[], Any]) -> None:
        """Run ``call`` in the wire's thread."""
        self._executor.create_task(call)

    def subscribe(
        self, kind: type, topic: str, call: Callable[[Any], None], qos: Any
    ) -> Subscription:
        """A subscription."""
        return self.node.create_subscription(kind, topic, call, qos)

    def packets_from(
        self, topic: str, receive: Callable[[bytes], None], max_packet_bytes: int
    ) -> Subscription:
        """Packets in their serialised form, in the reader's thread."""
        return self._reader.add(topic, receive, max_packet_bytes)

    def packets_to(self, topic: str, max_packet_bytes: int) -> Publisher:
        """A publisher that takes packets in their serialised form."""
        return self.node.create_publisher(Packet, topic, packets_qos(max_packet_bytes))

    def handshakes_to(self, topic: str) -> Publisher:
        """A publisher of ``Handshake``."""
        return self.node.create_publisher(Handshake, topic, HANDSHAKE)

    def every(self, period_s: float, call: Callable[[], None]) -> None:
        """Call in real time, also when a simulation's clock stands still."""
        self.node.create_timer(period_s, call, clock=self._steady)

    def destroy(self, *entities: Any) -> None:
        """Publishers, and subscriptions of ``packets_from``."""
        for entity in entities:
            if isinstance(entity, Publisher):
                self.node.destroy_publisher(entity)
            else:
                self._reader.remove(entity)

    def stop(self) -> None:
        """No callback is called any more, nor running when this returns."""
        self._closed = True
        if self._thread.is_alive():
            self._executor.create_task(lambda: None)  # wakes it
            self._thread.join(10.0)

    def close(self) -> None:
        """End the threads, then all topics."""
        self.stop()
        self._reader.close()
        self._packet_node.destroy_node()
        self._executor.shutdown()
        self.node.destroy_node()

    def _spin(self) -> None:
        while not self._closed:
            try:
                self._executor.spin_once(timeout_sec=SPIN_S)
            except ExternalShutdownException:
                self._on_shutdown()
                return
            except Exception as error:  # one bad callback must not end the robot's contact
                text = f'in the contact with the other side: {type(error).__name__}: {error}'
                self._log.error(text)


def _hidden_node(owner: Node, purpose: str) -> Node:
    """Named after ``owner``; the underscore keeps it out of lists."""
    return rclpy.create_node(
        f'_{owner.get_name()}_{purpose}',
        context=owner.context,
        namespace=owner.get_namespace(),
        use_global_arguments=False,  # the launch file's remapping of a name is for the owner
        enable_rosout=False,
        start_parameter_services=False,
        parameter_overrides=[Parameter('start_type_description_service', value=False)],
    )


def handshake_message(data: bytes) -> Handshake:
    """A message with ``data``."""
    return Handshake(data=array('B', data))


def runtime_of(device: str) -> Runtime:
    """What this process computes with on ``device``, for the handshake."""
    return Runtime(torch.__version__, torch.get_num_threads(), runtime_description(device))


def receive_limits(limits: Limits) -> ReceiveLimits:
    """Of a channel between robot and server: requests or replies within ``limits``, and beside
    them the operators of a program and the values of cuts."""
    largest = limits.total_bytes + HEADER_ROOM_BYTES
    return ReceiveLimits(
        total_bytes=largest + ROOM_BYTES + sender.ROOM_BYTES,
        transfers=REQUESTS + MAX_TRANSFERS + sender.ROOM_TRANSFERS,
        transfer_bytes=max(largest, MAX_PIECE_BYTES),
    )
