"""Takes packets off their topics in a thread of its own.

As ``rclpy.wait_for_message`` does it, with a wait set instead of an executor: measured, an executor
adds 0.2 ms to each packet, and wakes anew for each packet of a burst.
"""

from __future__ import annotations

from collections.abc import Callable
import contextlib
from dataclasses import dataclass
import threading
import time
from typing import Any

from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.node import Node
from rclpy.subscription import Subscription

from offload_ros.msg import Packet
from offload_ros.nodes.topics import packets_qos

WAIT_NS = 500_000_000
BURST = 64  # packets of one topic before another one has its turn


@dataclass(frozen=True)
class _Source:
    subscription: Subscription
    receive: Callable[[bytes], None]


class PacketReader:
    """``node`` belongs to it: it must not be in an executor."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._log = node.get_logger()
        self._changed = node.create_guard_condition(lambda: None)
        self._lock = threading.Lock()
        self._sources: tuple[_Source, ...] = ()
        self._ended: list[Subscription] = []
        self._closed = False
        self._thread = threading.Thread(target=self._read, name='packets', daemon=True)
        self._thread.start()

    def add(
        self, topic: str, receive: Callable[[bytes], None], max_packet_bytes: int
    ) -> Subscription:
        """Call ``receive`` with each packet of ``topic``, serialised, in the reader's thread."""
        subscription = self._node.create_subscription(
            Packet, topic, lambda _: None, packets_qos(max_packet_bytes), raw=True
        )
        with self._lock:
            self._sources += (_Source(subscription, receive),)
        self._changed.trigger()
        return subscription

    def remove(self, subscription: Subscription) -> None:
        """End a subscription; the thread may just be calling its ``receive`` for the last time."""
        with self._lock:
            self._sources = tuple(
                each for each in self._sources if each.subscription is not subscription
            )
            self._ended.append(subscription)
        self._changed.trigger()

    def close(self) -> None:
        """End the thread; the node is the caller's to destroy."""
        self._closed = True
        self._changed.trigger()
        self._thread.join(10.0)

    def _read(self) -> None:
        context = self._node.context
        while not self._closed and context.ok():
            try:
                for source in self._ready():
                    self._take(source)
            except Exception as error:
                if self._closed or not context.ok():  # shut down meanwhile
                    return
                self._log.error(f'packets cannot be read: {type(error).__name__}: {error}')
                time.sleep(WAIT_NS / 1e9)

    def _ready(self) -> list[_Source]:
        """Wait; the sources that have packets."""
        with self._lock:
            sources, ended, self._ended = self._sources, self._ended, []
        for subscription in ended:
            self._node.destroy_subscription(subscription)
        context: Any = self._node.context.handle
        wait_set = rclpy_implementation.WaitSet(len(sources), 1, 0, 0, 0, 0, context)
        wait_set.clear_entities()
        for source in sources:
            wait_set.add_subscription(source.subscription.handle)
        wait_set.add_guard_condition(self._changed.handle)
        wait_set.wait(WAIT_NS)
        ready = wait_set.get_ready_entities('subscription')
        return [each for each in sources if each.subscription.handle.pointer in ready]

    def _take(self, source: _Source) -> None:
        handle: Any = source.subscription.handle
        for _ in range(BURST):
            taken = handle.take_message(Packet, True)
            if taken is None:
                return
            try:
                source.receive(taken[0])
            except Exception as error:  # one packet must not end the robot's contact
                text = f'a packet could not be taken up: {type(error).__name__}: {error}'
                with contextlib.suppress(Exception):
                    self._log.error(text, throttle_duration_sec=5.0)
