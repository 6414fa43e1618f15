"""The recorded bandwidth of ``benchmarks/data/intra_dp/trace_indoors.json``, replayed in the
testbed, with every method seeing only what its own link monitor estimates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
import json
import os
from pathlib import Path
import statistics
from typing import Any

from benchmarks.ends import Asked
from benchmarks.testbed import Testbed, Trace

TRACE = Path(__file__).parent / 'data' / 'intra_dp' / 'trace_indoors.json'
WAYS = ('device', 'server', 'dsccs', 'spso_ga', 'intra_dp')
LEAD_S = 1.5  # before each slice, of the trace as well: estimates settle
START_S = 810.0  # half a minute like the mean of the recording, then a seventh of it


@dataclass(frozen=True)
class Stretch:
    """``seconds`` of the recording from ``start_s`` on, its rates multiplied by ``scale``, for
    ``network``. ``slices``: in how many parts methods take turns."""

    network: str
    scale: float
    seconds: float
    start_s: float = START_S
    slices: int = 4

    @property
    def key(self) -> str:
        """In the JSON file."""
        scaled = '' if self.scale == 1.0 else f', rates x {self.scale:g}'
        return f'{self.network}, {self.seconds:g} s{scaled}'

    def trace(self, start_s: float, seconds: float) -> Trace:
        """``seconds`` from ``start_s`` of the recording on; before its beginning its first rate."""
        document = json.loads(TRACE.read_text())
        step_s, rates = float(document['dt_s']), document['bw_MBps']
        count = round(seconds / step_s)
        first = round(start_s / step_s)
        times = [step_s * place for place in range(count)]
        picked = [rates[max(0, first + place) % len(rates)] for place in range(count)]
        return Trace(tuple(times), tuple(8.0 * self.scale * each for each in picked))

    @property
    def whole(self) -> Trace:
        """All of it."""
        return self.trace(self.start_s, self.seconds)


def measure_stretch(
    bed: Testbed, robot: Asked, stretch: Stretch, ways: Sequence[str]
) -> dict[str, Any]:
    """All ``ways`` take turns over the same slices of the stretch, in changing order."""
    trace = stretch.whole
    lowest, highest = min(trace.mbit), max(trace.mbit)
    planning_s = {
        way: robot(
            'prepare_way', model=stretch.network, way=way, low_mbit=lowest, high_mbit=2 * highest
        )
        for way in ways
    }
    slice_s = stretch.seconds / stretch.slices
    found: dict[str, list[dict[str, Any]]] = {way: [] for way in ways}
    loads = []
    for place in range(stretch.slices):
        turns = [*ways[place % len(ways) :], *ways[: place % len(ways)]]
        start_s = stretch.start_s + place * slice_s
        for way in turns:
            bed.replay(stretch.trace(start_s - LEAD_S, LEAD_S + slice_s + 30.0))
            ran = robot('replay', model=stretch.network, way=way, lead_s=LEAD_S, span_s=slice_s)
            bed.stop_replay()
            found[way].append(ran)
            loads.append(os.getloadavg()[0])
    return {
        'network': stretch.network,
        'scale': stretch.scale,
        'seconds': stretch.seconds,
        'start_s': stretch.start_s,
        'slices': stretch.slices,
        'mean_mbit': round(trace.mean_mbit, 2),
        'lowest_mbit': round(lowest, 2),
        'highest_mbit': round(highest, 2),
        'planning_s': {way: round(each, 2) for way, each in planning_s.items()},
        'load_average': round(max(loads), 2),
        'ways': found,
        'rates': rates_of(trace),
    }


def rates_of(trace: Trace) -> list[float]:
    """Mbit/s, for the picture."""
    return [round(each, 3) for each in trace.mbit]


def frames_of(slices: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Of all slices."""
    return [frame for each in slices for frame in each['frames']]


def mean_rate_mbit(found: Mapping[str, Any]) -> float:
    """Of a measured stretch."""
    return statistics.mean(found['rates'])
