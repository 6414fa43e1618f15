"""A side's items of work in segments that run without a stop, and what stays in memory between."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
import math
from typing import NamedTuple, TypeAlias

from offload_ros.graph.graph import Parameter, Reference
from offload_ros.graph.intervals import Interval
from offload_ros.intra_dp.pieces import Block, Compute, Piece, RowGraph

MAX_PARTS = 32  # of a value, that are looked through whenever it is read
_Moment: TypeAlias = tuple[float, float]  # places of a segment, and of a computation in it


class Item(NamedTuple):
    """One step: pieces (by place) that it waits for, what it computes, pieces that leave then."""

    waits: tuple[int, ...]
    computes: tuple[Compute, ...]
    sends: tuple[int, ...]


class Segment(NamedTuple):
    """When the pieces ``waits`` are there, ``computes`` run; then the pieces ``sends`` leave, and
    the values ``drops`` are not needed any more."""

    waits: tuple[int, ...]
    computes: tuple[Compute | Block, ...]
    sends: tuple[int, ...]
    drops: tuple[Reference, ...]


def segments_of(
    rows: RowGraph,
    pieces: Sequence[Piece],
    items: Sequence[Item],
    first: tuple[int, ...],
    kept: Collection[Reference],
) -> tuple[Segment, ...]:
    """Items are joined up to a wait or a send. ``first`` leaves at once; ``kept`` is not
    dropped."""
    drafts: list[tuple[tuple[int, ...], list[Compute], tuple[int, ...]]] = []
    if first:
        drafts.append(((), [], first))
    open_ = False  # whether the last draft may get more
    for waits, computes, sends in items:
        if waits or not open_:
            drafts.append((waits, list(computes), sends))
        else:
            drafts[-1] = (drafts[-1][0], drafts[-1][1] + list(computes), sends)
        open_ = not sends
    drafts = [each for each in drafts if any(each)]
    last: dict[Reference, int] = {}
    for place, draft in enumerate(drafts):
        for value in _touched(rows, pieces, draft):
            last[value] = place
    drops: list[list[Reference]] = [[] for _ in drafts]
    for value, place in last.items():
        if value not in kept:
            drops[place].append(value)
    return tuple(
        Segment(waits, tuple(computes), sends, tuple(dropped))
        for (waits, computes, sends), dropped in zip(drafts, drops, strict=True)
    )


def with_blocks(
    rows: RowGraph,
    pieces: Sequence[Piece],
    segments: Sequence[Segment],
    kept: Collection[Reference],
) -> tuple[Segment, ...]:
    """Nodes in a row that are computed whole become blocks."""
    last: dict[Reference, _Moment] = dict.fromkeys(kept, (math.inf, math.inf))
    for place, segment in enumerate(segments):
        for within, compute in enumerate(_plain(segment)):
            for read in compute.reads:
                last[read.value] = max(last.get(read.value, (0, 0)), (place, within))
        for sent in segment.sends:
            last[pieces[sent].value] = max(last.get(pieces[sent].value, (0, 0)), (place, math.inf))
    found = []
    for place, segment in enumerate(segments):
        computes: list[Compute | Block] = []
        whole: list[Compute] = []
        for within, compute in enumerate(_plain(segment)):
            if compute.rows is None:
                whole.append(compute)
                continue
            computes += [*_joined(rows, whole, last, (place, within - 1)), compute]
            whole = []
        computes += _joined(rows, whole, last, (place, len(segment.computes) - 1))
        found.append(segment._replace(computes=tuple(computes)))
    return tuple(found)


def _joined(
    rows: RowGraph, computes: Sequence[Compute], last: Mapping[Reference, _Moment], end: _Moment
) -> Sequence[Compute | Block]:
    """``last``: when each value is read last. ``end``: when these computations are over."""
    if len(computes) < 2:
        return computes
    made = [value for compute in computes for value in rows.values(compute.node)]
    own: set[Reference] = set(made)
    reads = {read.value: None for compute in computes for read in compute.reads}
    return [
        Block(
            frozenset(compute.node for compute in computes),
            tuple(value for value in reads if value not in own),
            tuple(value for value in made if last.get(value, end) > end),
        )
    ]


def _plain(segment: Segment) -> list[Compute]:
    return [each for each in segment.computes if isinstance(each, Compute)]


def _touched(
    rows: RowGraph,
    pieces: Sequence[Piece],
    draft: tuple[tuple[int, ...], Sequence[Compute], tuple[int, ...]],
) -> Iterator[Reference]:
    waits, computes, sends = draft
    for place in (*waits, *sends):
        yield pieces[place].value
    for compute in computes:
        yield from rows.values(compute.node)
        for operand in compute.reads:
            if not isinstance(operand.value, Parameter):
                yield operand.value


def read_hulls(
    rows: RowGraph,
    pieces: Sequence[Piece],
    items: Sequence[Item],
    kept: Sequence[Reference],
    inputs: Collection[Reference],
) -> dict[Reference, Interval]:
    """Of each value that is not read as it is made or comes, or that comes in very many parts, the
    rows from first to last: they are to lie in one buffer. ``kept`` values are read whole in the
    end."""
    made: dict[Reference, set[Interval]] = {}
    read: dict[Reference, set[Interval]] = {}
    for waits, computes, sends in items:
        for place in waits:
            made.setdefault(pieces[place].value, set()).add(pieces[place].rows)
        for node, part, reads in computes:
            for value, there in rows.made(node, part or Interval(0, rows.width(node))):
                made.setdefault(value, set()).add(there)
            for operand in reads:
                read.setdefault(operand.value, set()).add(operand.rows)
        for place in sends:
            read.setdefault(pieces[place].value, set()).add(pieces[place].rows)
    for each in kept:
        read.setdefault(each, set()).add(Interval(0, rows.count(each)))
    return {
        value: Interval(min(parts)[0], max(each.stop for each in parts))
        for value, parts in made.items()
        if value not in inputs
        and rows.axis(value) is not None
        and (len(parts) > MAX_PARTS or not _each_in_one(read.get(value, ()), parts))
    }


def _each_in_one(wanted: Iterable[Interval], parts: Collection[Interval]) -> bool:
    """Whether each of ``wanted`` lies within one of ``parts``."""
    ordered = sorted(parts)
    starts = [each.start for each in ordered]
    reach = list(accumulate((each.stop for each in ordered), max))
    return all(
        each.empty or (each.start >= starts[0] and reach[place] >= each.stop)
        for each in wanted
        for place in [bisect_right(starts, each.start) - 1]
    )


def peak_bytes(
    rows: RowGraph,
    pieces: Sequence[Piece],
    segments: Sequence[Segment],
    buffers: Mapping[Reference, Interval],
) -> int:
    """The most that values take at a time."""
    held: dict[Reference, int] = {}
    total = peak = 0
    for segment in segments:
        came = [pieces[place] for place in segment.waits]
        for node, part, _ in _plain(segment):
            whole = part or Interval(0, rows.width(node))
            came += [Piece(each, there) for each, there in rows.made(node, whole)]
        for piece in came:
            value = piece.value
            if value in buffers and value in held:
                continue
            size = rows.nbytes(Piece(value, buffers.get(value, piece.rows)))
            held[value] = held.get(value, 0) + size
            total += size
        peak = max(peak, total)
        for value in segment.drops:
            total -= held.pop(value, 0)
    return peak
