"""A plan as the controller sees it: what it takes at each bandwidth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from offload_ros.graph.profile import Floats

DEVICE, SERVER, CUT, SPLIT = FAMILIES = ('device', 'server', 'cut', 'split')
LEAST_BYTES_PER_S = 1e3  # slower links count as this


@dataclass(frozen=True, eq=False)
class Curve:
    """Latency (s) of one plan over bandwidths up (bytes/s, ascending), those down in proportion.
    Of the robot's energy (J) there are such curves, too.

    Between points linear in 1/bandwidth, as transfers are; below the first as between the first
    two, above the last constant.
    """

    bytes_per_s: Floats
    latency_s: Floats

    def __post_init__(self) -> None:
        if len(self.bytes_per_s) != len(self.latency_s) or not len(self.bytes_per_s):
            raise ValueError('a curve needs as many latencies as bandwidths, one or more')
        if not (np.diff(self.bytes_per_s) > 0.0).all() or not self.bytes_per_s[0] > 0.0:
            raise ValueError('bandwidths of a curve must ascend from above 0')

    def __call__(self, bytes_per_s: Floats) -> Floats:
        slowness = 1.0 / self.bytes_per_s[::-1]
        latency_s = self.latency_s[::-1]
        wanted = 1.0 / np.maximum(bytes_per_s, LEAST_BYTES_PER_S)
        found = np.interp(wanted, slowness, latency_s)
        if len(slowness) > 1:
            slope = (latency_s[-1] - latency_s[-2]) / (slowness[-1] - slowness[-2])
            found = found + np.maximum(wanted - slowness[-1], 0.0) * max(0.0, slope)
        return np.asarray(found)


@dataclass(frozen=True, eq=False)
class Candidate:
    """``family``: one of ``FAMILIES``. ``key`` names the plan for whoever runs it. ``energy``:
    needed for goals that count it."""

    key: object
    family: str
    curve: Curve
    energy: Curve | None = None

    def __post_init__(self) -> None:
        if self.family not in FAMILIES:
            raise ValueError(f"family '{self.family}' is none of {', '.join(FAMILIES)}")
