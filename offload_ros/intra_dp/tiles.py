"""Rows of each operator as steps: segments of operators that are walked tile by tile.

Two orders, in both of which nothing is computed twice. On demand: tile t brings the operators that
others outside the segment read up to a share of their rows, and every operator before them exactly
the rows that this takes (a line buffer); results leave early. Eager: tile t is a share of the
inputs' rows, and every operator computes whatever has become computable; after the last rows have
arrived little is left to do.
"""

from __future__ import annotations

from collections.abc import Sequence
import math
from typing import NamedTuple

from offload_ros.graph.steps_flow import Placed, Reads

Rows = tuple[float, float]


class Segment(NamedTuple):
    """Operators at places [first, last) in ``shares`` tiles: rising shares that end with 1.
    ``descending``: from the last rows to the first. ``grain``: of eager tiles, the least part of
    the whole work of a side that is worth a step."""

    first: int
    last: int
    shares: tuple[float, ...]
    descending: bool = False
    eager: bool = False
    grain: float = 0.0


def even(count: int) -> tuple[float, ...]:
    """Shares of ``count`` tiles of one size."""
    return (*((each + 1) / count for each in range(count - 1)), 1.0)


def steps_of(
    reads: Reads,
    rows: Sequence[Rows],
    segments: Sequence[Segment],
    work: Sequence[float] | None = None,
) -> list[Placed]:
    """``segments``: in order, disjoint; operators outside are computed at once. ``work``: of each
    operator, as a part of the whole, for grains."""
    steps: list[Placed] = []
    done = 0
    for segment in segments:
        _at_once(rows, done, segment.first, steps)
        if len(segment.shares) == 1:
            _at_once(rows, segment.first, segment.last, steps)
        elif segment.eager:
            _eager(reads, rows, segment, work, steps)
        else:
            _on_demand(reads, rows, segment, steps)
        done = segment.last
    _at_once(rows, done, len(rows), steps)
    return steps


def _at_once(rows: Sequence[Rows], first: int, last: int, steps: list[Placed]) -> None:
    for place in range(first, last):
        start, stop = rows[place]
        if stop > start:
            steps.append((place, start, stop))


def _active(rows: Sequence[Rows], segment: Segment) -> list[int]:
    return [each for each in range(segment.first, segment.last) if rows[each][1] > rows[each][0]]


def _emit(
    place: int, new: float, reached: dict[int, float], descending: bool, steps: list[Placed]
) -> None:
    old = reached[place]
    if new != old:
        steps.append((place, new, old) if descending else (place, old, new))
        reached[place] = new


def _on_demand(reads: Reads, rows: Sequence[Rows], segment: Segment, steps: list[Placed]) -> None:
    active, descending = _active(rows, segment), segment.descending
    reached = {place: rows[place][1] if descending else rows[place][0] for place in active}
    for share in segment.shares[:-1]:
        target = _targets(reads, rows, segment, active, reached, share)
        for place in active:
            if place in target:
                _emit(place, target[place], reached, descending, steps)
    for place in active:
        _emit(place, rows[place][0 if descending else 1], reached, descending, steps)


def _targets(
    reads: Reads,
    rows: Sequence[Rows],
    segment: Segment,
    active: Sequence[int],
    reached: dict[int, float],
    share: float,
) -> dict[int, float]:
    """Up to which row each operator comes in the tile that ends with ``share``."""
    descending = segment.descending
    inner = reads.inner(segment.first, segment.last)
    better = min if descending else max
    target: dict[int, float] = {}
    for place in reversed(active):
        start, stop = rows[place]
        aim = target.get(place)
        if not reads.split[place]:
            if aim is None:
                continue  # nobody reads it yet
            aim = start if descending else stop
        elif aim is None or place not in inner:
            amount = _round(reads, share * (stop - start))
            own = stop - amount if descending else start + amount
            aim = own if aim is None else better(aim, own)
        aim = better(aim, reached[place])
        aim = target[place] = max(start, aim) if descending else min(stop, aim)
        low, high = (aim, stop) if descending else (start, aim)
        if high <= low:
            continue
        for producer, first, last in reads.of(place, low, high):
            if producer in reached:
                edge = first if descending else last
                known = target.get(producer)
                target[producer] = edge if known is None else better(known, edge)
    return target


def _eager(
    reads: Reads,
    rows: Sequence[Rows],
    segment: Segment,
    work: Sequence[float] | None,
    steps: list[Placed],
) -> None:
    active, descending = _active(rows, segment), segment.descending
    reached = {place: rows[place][1] if descending else rows[place][0] for place in active}
    inputs = _input_rows(reads, rows, active)
    producers = {place: [edge.producer for edge in reads.edges[place]] for place in active}
    grains = {}
    for place in active:
        part = work[place] / reads.width[place] if work and work[place] else 0.0
        grains[place] = segment.grain / part if part else (math.inf if segment.grain else 0.0)
    there = dict(reached)
    for share in segment.shares[:-1]:
        fresh = set()
        for place, (start, stop) in inputs.items():
            amount = _round(reads, share * (stop - start))
            there[place] = stop - amount if descending else start + amount
            fresh.add(place)
        for place in active:
            # A list of tens of operators of which few have anything new to read.
            if fresh.isdisjoint(producers[place]):
                continue
            start, stop = rows[place]
            old = reached[place]
            if old == (start if descending else stop):
                continue
            aim = _computable(reads, place, rows, inputs, there, descending)
            if descending:
                worth = aim < old and (old - aim >= grains[place] or aim == start)
            else:
                worth = aim > old and (aim - old >= grains[place] or aim == stop)
            if worth:
                _emit(place, aim, reached, descending, steps)
                there[place] = aim
                fresh.add(place)
    for place in active:
        _emit(place, rows[place][0 if descending else 1], reached, descending, steps)


def _input_rows(reads: Reads, rows: Sequence[Rows], active: Sequence[int]) -> dict[int, Rows]:
    """Of the model's inputs, what the operators read."""
    found: dict[int, Rows] = {}
    for place in active:
        for producer, first, last in reads.of(place, *rows[place]):
            if reads.is_input[producer]:
                low, high = found.get(producer, (first, last))
                found[producer] = min(low, first), max(high, last)
    return found


def _computable(
    reads: Reads,
    place: int,
    rows: Sequence[Rows],
    inputs: dict[int, Rows],
    there: dict[int, float],
    descending: bool,
) -> float:
    """Up to which row, with what is there of the operators of this side."""
    start, stop = rows[place]
    aim = start if descending else stop
    exact = reads.exact
    for producer, local, kernel, stride, padding, ratio, _ in reads.edges[place]:
        have = there.get(producer)
        if have is None or have == (inputs.get(producer) or rows[producer])[0 if descending else 1]:
            continue  # all of it is there
        if not local:
            return stop if descending else start
        # The first or last row whose window ends at ``have``.
        if descending:
            bound = math.ceil((have + padding) / stride) if exact else have / ratio
            aim = bound if bound > aim else aim
        else:
            bound = math.floor((have - kernel + padding) / stride) + 1 if exact else have / ratio
            aim = bound if bound < aim else aim
    return float(min(max(aim, start), stop))


def _round(reads: Reads, amount: float) -> float:
    return float(int(amount + 0.5)) if reads.exact else amount
