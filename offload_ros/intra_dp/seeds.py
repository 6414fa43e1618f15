"""First candidates: one border, at every good place to hand over, with every way to treat halos.

Up to a place in the order of the groups both sides work; there the rows are split at a border, and
after it one side goes on alone. A place is good where little crosses. For each, several borders and
modes; what a candidate keeps busy (``Amounts``) is found once per profile, and bounds its latency
from below at any bandwidth. The most promising ones are timed, with several tilings.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from offload_ros.graph.schedule import Link
from offload_ros.graph.steps_flow import FlowError
from offload_ros.intra_dp.regions import Mode
from offload_ros.intra_dp.streams import Amounts, Stream, Streams
from offload_ros.intra_dp.tiles import Segment, even

PLACES = 14
BORDERS = tuple(each / 10 for each in range(11))
MODES = (Mode.OWN, Mode.MEET, Mode.SERVER_LEADS)
# Tiles, direction (descending) and eagerness of the server, then tiles and direction of the robot.
TILINGS = (
    (12, False, True, 1, False),
    (12, False, True, 4, False),
    (12, True, True, 4, False),
    (8, True, False, 4, True),
    (8, False, False, 4, False),
    (8, True, False, 4, False),
)
GRAIN = 1 / 150  # of the server's work
TIMED = 14
_SUM_WEIGHT = 0.05  # what does not overlap


class Seed(NamedTuple):
    """Decisions without tiles; the tiles end after group ``place``."""

    modes: tuple[int, ...]
    borders: tuple[float, ...]
    place: int
    amounts: Amounts

    def least_s(self, link: Link) -> float:
        """A guess that ranks: what is busiest, and a little of the rest."""
        robot_s, server_s, up, down = self.amounts
        times = [
            robot_s,
            server_s,
            _seconds(up, link.utilisation * link.uplink_bytes_per_s),
            _seconds(down, link.utilisation * link.downlink_bytes_per_s),
        ]
        return max(times) + _SUM_WEIGHT * sum(times)

    def streams(self) -> Iterator[Stream]:
        """With each tiling."""
        last = self.place + 1
        for tiles, descending, eager, robot_tiles, robot_descending in TILINGS:
            end = len(self.modes) if eager else last
            yield Stream(
                self.modes,
                self.borders,
                (Segment(0, last, even(robot_tiles), robot_descending),),
                (Segment(0, end, even(tiles), descending, eager, GRAIN),),
            )


def seeds_of(streams: Streams) -> list[Seed]:
    """Of a profile; each differs from the others in what it keeps busy."""
    reads = streams.coarse.reads
    count = len(streams.coarse)
    found: dict[Amounts, Seed] = {}
    for place in _places(streams):
        frontier = [each for each in range(place + 1) if reads.last_reader[each] > place]
        for border in BORDERS:
            for tail in (0.0, 1.0):
                for mode in MODES:
                    modes, borders = [int(mode)] * count, [border] * count
                    for each in frontier:
                        modes[each] = Mode.SPLIT
                    for each in range(place + 1, count):
                        modes[each], borders[each] = Mode.SPLIT, tail
                    try:
                        amounts = streams.amounts(modes, borders)
                    except FlowError:
                        continue
                    seed = Seed(tuple(modes), tuple(borders), place, amounts)
                    found.setdefault(amounts, seed)
    return list(found.values())


def best_streams(seeds: list[Seed], link: Link) -> list[Stream]:
    """Worth timing at ``link``."""
    ranked = sorted(seeds, key=lambda seed: seed.least_s(link))
    return [stream for seed in ranked[:TIMED] for stream in seed.streams()]


def _places(streams: Streams) -> list[int]:
    """Where the least crosses, of equal parts of the robot's work."""
    coarse = streams.coarse
    reads = coarse.reads
    total = sum(each.whole for each in coarse.robot) or 1.0
    best: dict[int, tuple[float, int]] = {}
    done = 0.0
    for place in range(len(coarse)):
        done += coarse.robot[place].whole
        crossing = sum(
            coarse.row_bytes[each] * reads.width[each]
            for each in range(place + 1)
            if reads.last_reader[each] > place or (reads.is_output[each])
        )
        if all(not reads.split[e] for e in range(place + 1) if reads.last_reader[e] > place):
            continue
        part = min(int(PLACES * done / total), PLACES - 1)
        best[part] = min(best.get(part, (float('inf'), 0)), (crossing, place))
    return sorted(place for _, place in best.values())


def _seconds(amount: float, rate: float) -> float:
    return amount / rate if rate > 0.0 else (float('inf') if amount > 0.0 else 0.0)
