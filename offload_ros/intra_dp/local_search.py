"""Local search over streams: annealing with moves that change one decision, or a run of them.

Moves: the mode of a run of groups; a border of its own for a group, or a row more or less for one,
or for all that share it; everything after a group to one side; how many tiles, over which groups,
in which direction. Equal seeds give equal plans.
"""

from __future__ import annotations

from collections.abc import Callable
import math
import random

from offload_ros.graph.steps_flow import Reads
from offload_ros.intra_dp.regions import Mode
from offload_ros.intra_dp.streams import Stream
from offload_ros.intra_dp.tiles import Segment, even

Rank = Callable[[Stream], float]
RELATIVE = (Mode.OWN, Mode.SERVER_LEADS, Mode.ROBOT_LEADS, Mode.MEET)
SERVER_TILES, ROBOT_TILES = (1, 4, 8, 12, 16), (1, 2, 3, 4, 6, 8)
GRAINS = (0.0, 1 / 1600, 1 / 800, 1 / 400, 1 / 200, 1 / 100)
MOST_ROUNDS = 1000
WARMTH = 0.008  # of the best rank: the temperature at the beginning
TWICE = 0.3  # chance of two moves at once


def anneal(
    reads: Reads,
    start: Stream,
    rank_of: Rank,
    progress: Callable[[], float],
    chance: random.Random,
) -> tuple[float, Stream]:
    """The best stream met, and its rank; smaller is better. ``progress``: it ends at 1."""
    moves = _Moves(reads, chance)
    present, present_rank = start, rank_of(start)
    best, best_rank = present, present_rank
    for _ in range(MOST_ROUNDS):
        part = progress()
        if part >= 1.0:
            break
        other = moves.any(present)
        if chance.random() < TWICE:
            other = moves.any(other)
        if other == present:
            continue
        rank = rank_of(other)
        warmth = WARMTH * best_rank * (1.0 - part)
        if rank < present_rank or (
            math.isfinite(rank)
            and warmth > 0.0
            and chance.random() < math.exp(min(0.0, (present_rank - rank) / warmth))
        ):
            present, present_rank = other, rank
            if rank < best_rank:
                best, best_rank = other, rank
    return best_rank, best


class _Moves:
    def __init__(self, reads: Reads, chance: random.Random) -> None:
        self._reads, self._chance = reads, chance
        self._count = len(reads.width)
        self._run = 1.0 / max(3.0, self._count / 12.0)
        self._kinds = (
            *[self._modes] * 8,
            *[self._border] * 2,
            *[self._shift] * 4,
            self._rest,
            *[self._server_tiles] * 3,
            *[self._robot_tiles] * 3,
        )

    def any(self, stream: Stream) -> Stream:
        return self._chance.choice(self._kinds)(stream)

    def _span(self) -> tuple[int, int]:
        chance = self._chance
        first = chance.randrange(self._count)
        return first, min(self._count, first + 1 + int(chance.expovariate(self._run)))

    def _modes(self, stream: Stream) -> Stream:
        first, last = self._span()
        mode = int(self._chance.choice(RELATIVE))
        modes = (*stream.modes[:first], *[mode] * (last - first), *stream.modes[last:])
        return stream._replace(modes=modes)

    def _border(self, stream: Stream) -> Stream:
        first, last = self._span()
        if self._chance.random() < 0.5:
            last = first + 1
        share = self._chance.random()
        modes = (*stream.modes[:first], *[int(Mode.SPLIT)] * (last - first), *stream.modes[last:])
        borders = (*stream.borders[:first], *[share] * (last - first), *stream.borders[last:])
        return stream._replace(modes=modes, borders=borders)

    def _shift(self, stream: Stream) -> Stream:
        chance, width = self._chance, self._reads.width
        split = [
            place
            for place, mode in enumerate(stream.modes)
            if mode == Mode.SPLIT and 0.0 < stream.borders[place] < 1.0
        ] or [place for place, mode in enumerate(stream.modes) if mode == Mode.SPLIT]
        if not split:
            return stream
        place = chance.choice(split)
        old = stream.borders[place]
        step = chance.choice((-2, -1, 1, 2)) / min(width[place], 60.0)
        new = min(1.0, max(0.0, old + step))
        together = chance.random() < 0.5
        borders = tuple(
            new if each == place or (together and border == old) else border
            for each, border in enumerate(stream.borders)
        )
        return stream._replace(borders=borders)

    def _rest(self, stream: Stream) -> Stream:
        first = self._chance.randrange(self._count)
        side = float(self._chance.random() < 0.5)
        rest = self._count - first
        return stream._replace(
            modes=(*stream.modes[:first], *[int(Mode.SPLIT)] * rest),
            borders=(*stream.borders[:first], *[side] * rest),
        )

    def _server_tiles(self, stream: Stream) -> Stream:
        return stream._replace(server=self._segment(stream.server, SERVER_TILES, True))

    def _robot_tiles(self, stream: Stream) -> Stream:
        return stream._replace(robot=self._segment(stream.robot, ROBOT_TILES, False))

    def _segment(
        self, present: tuple[Segment, ...], tiles: tuple[int, ...], from_input: bool
    ) -> tuple[Segment, ...]:
        """One segment with something else about it."""
        chance = self._chance
        segment = present[0] if present else Segment(0, self._count, (1.0,))
        kind = chance.randrange(6)
        if kind == 0:
            return (segment._replace(shares=even(chance.choice(tiles))),)
        if kind == 1:
            return (segment._replace(descending=not segment.descending),)
        if kind == 2:
            return (segment._replace(last=chance.randrange(segment.first + 1, self._count + 1)),)
        if kind == 3:
            return (segment._replace(eager=not segment.eager),)
        if kind == 4:
            return (segment._replace(grain=chance.choice(GRAINS)),)
        if from_input:
            return (segment._replace(shares=_tapered(len(segment.shares))),)
        return (segment._replace(first=chance.randrange(segment.last)),)


def _tapered(count: int) -> tuple[float, ...]:
    """Tiles that become smaller: little is left to do when the last rows have arrived."""
    sizes = [count - each for each in range(count)]
    total = sum(sizes)
    shares, done = [], 0
    for size in sizes[:-1]:
        done += size
        shares.append(done / total)
    return (*shares, 1.0)
