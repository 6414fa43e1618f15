"""What strategies that send an inference whole expect of the next one, by the last ones."""

from __future__ import annotations

import math

from offload_ros.robot.window import Window
from offload_ros.strategy import LinkState, Prediction


class RoundTrips:
    """Bytes and times of whole inferences; safe between threads."""

    def __init__(self) -> None:
        self._total_s = Window()
        self._server_s = Window(20)  # queue and computing: it follows the load
        self._computing_s = Window(20)
        self._up = Window()
        self._down = Window()

    def add(
        self, total_s: float, server_s: float, computing_s: float, bytes_up: int, bytes_down: int
    ) -> None:
        """Take up one, from sending to the reply; ``server_s``: of it on the server."""
        self._total_s.add(total_s)
        self._server_s.add(server_s)
        self._computing_s.add(computing_s)
        self._up.add(float(bytes_up))
        self._down.add(float(bytes_down))

    def predict(self, state: LinkState) -> Prediction:
        """By the bytes, on the link as it is; where that was not measured, as the last ones."""
        total_s, server_s, computing_s, up, down = (
            each.percentile(50)
            for each in (self._total_s, self._server_s, self._computing_s, self._up, self._down)
        )
        if not math.isfinite(total_s):
            return Prediction()
        up_s, down_s = up / state.up_bytes_per_s, down / state.down_bytes_per_s
        on_link_s = up_s + down_s + state.round_trip_s
        if not math.isfinite(on_link_s):
            up_s = down_s = max(0.0, total_s - server_s) / 2
            on_link_s = up_s + down_s
        return Prediction(
            latency_s=on_link_s + server_s,
            uplink_busy_s=up_s,
            server_busy_s=computing_s,
            downlink_busy_s=down_s,
            bytes_up=up,
        )
