"""A worse link between this process and its peers than there is, for the demo and for trying
out."""

from __future__ import annotations

from collections.abc import Callable
import threading

from offload_ros.wire.shaper import LinkShape, Shaper

Packets = Callable[[bytes], None]


class Emulation:
    """One shape for both directions of every channel of a process; may be changed at any time."""

    def __init__(self) -> None:
        self._shape = LinkShape()
        self._lock = threading.Lock()
        self._shapers: list[Shaper] = []

    @property
    def cut(self) -> bool:
        """Nothing passes now, heartbeats and handshakes neither."""
        return self._shape.cut

    @property
    def shape(self) -> LinkShape:
        """What is emulated now."""
        return self._shape

    @shape.setter
    def shape(self, shape: LinkShape) -> None:
        with self._lock:
            self._shape = shape
            for shaper in self._shapers:
                shaper.shape = shape

    def through(self, deliver: Packets) -> tuple[Packets, Callable[[], None]]:
        """A function that takes packets to ``deliver`` over the link, and one that ends that.

        Without a shape packets go straight there; the shaper's thread starts with the first shape.
        """
        shaper: Shaper | None = None

        def send(packet: bytes) -> None:
            nonlocal shaper
            # Once there, it stays in the way: packets must not overtake those on the link.
            if shaper is None:
                if self._shape.plain:
                    deliver(packet)
                    return
                with self._lock:
                    shaper = Shaper(deliver, self._shape)
                    self._shapers.append(shaper)
            shaper.send(packet)

        def close() -> None:
            if shaper is not None:
                with self._lock:
                    self._shapers.remove(shaper)
                shaper.close()

        return send, close
