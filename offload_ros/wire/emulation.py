"""A worse link between this process and its peers than there is, for the demo and for trying
out."""

from __future__ import annotations

from collections.abc import Callable
import threading
import time

from offload_ros.wire.shaper import LinkShape, Shaper

Packets = Callable[[bytes], None]
UP, DOWN = 'up', 'down'  # what this process sends, and what it receives
DIRECTIONS = {'both': (UP, DOWN), UP: (UP,), DOWN: (DOWN,)}


class Emulation:
    """One shape for each direction of every channel of a process; may be changed at any time."""

    def __init__(self) -> None:
        self._shapes = {UP: LinkShape(), DOWN: LinkShape()}
        self._since_s = time.monotonic()
        self._lock = threading.Lock()
        self._shapers: dict[str, list[Shaper]] = {UP: [], DOWN: []}

    def cut(self, way: str) -> bool:
        """Nothing passes this way now, heartbeats and handshakes neither."""
        shape = self._shapes[way]
        return shape.cut or shape.rate_at(time.monotonic() - self._since_s)[0] <= 0.0

    def shape(self, way: str) -> LinkShape:
        """What is emulated now."""
        return self._shapes[way]

    def emulate(self, shape: LinkShape, direction: str = 'both') -> None:
        """Make ``direction`` (of ``DIRECTIONS``) like ``shape``, and the rest as it is."""
        with self._lock:
            self._since_s = time.monotonic()
            for way, shapers in self._shapers.items():
                now = shape if way in DIRECTIONS[direction] else LinkShape()
                self._shapes[way] = now
                for shaper in shapers:
                    shaper.shape = now

    def through(self, way: str, deliver: Packets) -> tuple[Packets, Callable[[], None]]:
        """A function that takes packets to ``deliver`` over the link, and one that ends that.

        Without a shape packets go straight there; the shaper's thread starts with the first shape.
        """
        shaper: Shaper | None = None

        def send(packet: bytes) -> None:
            nonlocal shaper
            # Once there, it stays in the way: packets must not overtake those on the link.
            if shaper is None:
                if self._shapes[way].plain:
                    deliver(packet)
                    return
                with self._lock:
                    # A channel that is opened later is on the same link, wherever its trace is.
                    shaper = Shaper(deliver, self._shapes[way], since_s=self._since_s)
                    self._shapers[way].append(shaper)
            shaper.send(packet)

        def close() -> None:
            if shaper is not None:
                with self._lock:
                    self._shapers[way].remove(shaper)
                shaper.close()

        return send, close
