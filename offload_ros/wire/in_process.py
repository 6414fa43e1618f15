"""Two channels joined in one process: for tests, and for use without ROS."""

from __future__ import annotations

from collections.abc import Callable

from offload_ros.wire.channel import Channel
from offload_ros.wire.connection import Connection
from offload_ros.wire.shaper import LinkShape, Shaper


class InProcessLink:
    """``robot`` and ``server``: two channels with a shaped link for each direction between them."""

    def __init__(
        self,
        up: LinkShape | None = None,
        down: LinkShape | None = None,
        connection: Callable[[], Connection] = Connection,
        seed: int = 0,
    ) -> None:
        self.up = Shaper(self._to_server, up, seed, 'uplink')
        self.down = Shaper(self._to_robot, down, seed + 1, 'downlink')
        self.robot = Channel(self.up.send, connection(), 'robot')
        self.server = Channel(self.down.send, connection(), 'server')

    def _to_server(self, packet: bytes) -> None:
        self.server.receive(packet)

    def _to_robot(self, packet: bytes) -> None:
        self.robot.receive(packet)

    def __enter__(self) -> InProcessLink:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End all four threads."""
        for part in (self.robot, self.server, self.up, self.down):
            part.close()
