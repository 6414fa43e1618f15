"""Two-level Operator Sequence Search: the sequences of operators that a program repeats.

After RRTO (arXiv 2507.21739). The log of one thread is cut into segments that end at a read. Level
1 finds, by hashes of the operators, an earlier segment equal to the last and extends the pair
backwards while the segments before are equal too. Level 2 compares what the operators refer to.
Only the end of the log is looked at, so initialisation and noise before it do not matter.

Which of the rotations of a repeated chain is a unit: it begins at the first segment with an upload
where the repetition begins, and then at each period. Between a read and the next upload's factory
lie leftovers of the last inference, a segment of their own.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator
import itertools
from typing import NamedTuple

import numpy as np

from offload_ros.rrto.segmented_log import CONTENT, CONTEXT, ENDING, OP, SegmentedLog
from offload_ros.rrto.sequences import (
    CARRIED,
    EXTERNAL,
    IN_FRAME,
    OUTPUT_BITS,
    OUTPUT_MASK,
    Array,
    Carried,
    Entry,
    External,
    InFrame,
    Kind,
    OperatorSequence,
    Reference,
    Step,
    Wiring,
)

__all__ = [
    'Carried',
    'Entry',
    'External',
    'InFrame',
    'Kind',
    'OperatorSequence',
    'Reference',
    'SequenceSearch',
    'Step',
    'Wiring',
]

_MAX_KNOWN = 64  # sequences whose steps are kept
_MAX_RUNS = 1024
_BRANCHED = 2  # times that something else followed, of the last times
_MAX_BETWEEN = 64  # earlier segments equal to the last that are looked at for state
_NEVER, _ALWAYS = -1, 1 << 62  # bounds of where a unit may begin


class _Run(NamedTuple):
    """Segments first..last are equal to those a period before; ``anchor``: the first of them that
    holds an upload; ``cut``: it may have begun before what is remembered."""

    first: int
    last: int
    anchor: int | None
    cut: bool


class _Frame(NamedTuple):
    """Where a unit may begin: at best at position ``start``, else at one of the segments
    ``order``; how far before it occurred before; ``cut`` as of the run."""

    start: int
    delta: int
    order: tuple[range, ...] = ()
    cut: bool = False


class SequenceSearch(SegmentedLog):
    """The log of one thread (the last ``max_entries`` calls) and the search in it; a unit has at
    most a quarter of that."""

    def __init__(self, max_entries: int = 1 << 18) -> None:
        super().__init__(max_entries)
        self._runs: dict[int, _Run] = {}  # by period
        self._known: OrderedDict[bytes, Wiring] = OrderedDict()

    def append(self, entry: Entry) -> OperatorSequence | None:
        """Log a call. If a segment ends here (after a read, or before an operator whose result
        shape depends on data): the longest unit that ends with it and has now occurred twice.

        ``ValueError`` for an op number that is not above all before.
        """
        number, signature, references, kind, factory = entry
        self._log(number, signature, references, kind)
        if factory:
            self._factories.add(signature)
        if kind == OP:
            return None
        ended = self._divide(len(self._numbers) - 1, kind)
        return None if ended is None else self._search(ended)

    def _search(self, last: int) -> OperatorSequence | None:
        """The longest unit that ends with segment ``last``."""
        divided: dict[int, int] = {}
        frames = [self._frame(last, last - partner, divided) for partner in self._partners(last)]
        best = self._best((frame for frame in frames if not frame.cut), last)
        for frame in frames:  # the latest is the least likely to have begun long ago
            if best is None and frame.cut:
                best = self._wire(frame, last)
        best = best or self._best(self._tail_frames(last), last)
        return None if best is None else self._sequence(*best, self._segments[last].end)

    def _best(self, frames: Iterable[_Frame], last: int) -> tuple[int, Wiring] | None:
        best: tuple[int, Wiring] | None = None
        for frame in sorted(frames, key=lambda frame: frame.start):
            if best is None or frame.start < best[0]:
                found = self._wire(frame, last)
                if found is not None and (best is None or found[0] < best[0]):
                    best = found
        return best

    def _make_room(self, count: int) -> int:
        dropped = super()._make_room(count)
        if dropped:  # the beginnings of runs are kept, also of forgotten ones: they align units
            self._runs = {
                period: _Run(
                    run.first - dropped,
                    run.last - dropped,
                    None if run.anchor is None else run.anchor - dropped,
                    run.cut,
                )
                for period, run in self._runs.items()
                if run.last >= dropped
            }
        return dropped

    def _partners(self, last: int) -> Iterator[int]:
        """Earlier segments equal to ``last``: those first whose predecessors are equal too, back
        to an upload."""
        alike = [index for index in self._chain(last, CONTEXT) if self._equal(index, last)]
        yield from alike
        for index in self._chain(last, CONTENT):
            if index not in alike and self._equal(index, last):
                yield index

    def _run(self, last: int, period: int) -> _Run:
        """The run of segments equal to those ``period`` before that ends with ``last``."""
        segments, known = self._segments, self._runs.get(period)
        first, anchor = last, last if segments[last].upload else None
        begins, cut = last, False
        while True:
            begins = first if segments[first].begins else begins
            before = first - 1
            if before < period:
                cut = self._forgot
                break
            if not self._equal(before, before - period):
                # Initialisation that no read ends is one segment with the first inference.
                length = segments[before].end - segments[before].start
                if self._common(before, before - period) == length:
                    first, anchor = before, before if segments[before].upload else anchor
                else:
                    cut = self._forgot and before == period  # of that one only the end is known
                break
            if known is not None and known.last == before:
                first, cut = known.first, known.cut
                anchor = anchor if known.anchor is None else known.anchor
                break
            first, anchor = before, before if segments[before].upload else anchor
        if cut and segments[begins].begins:
            anchor = begins
        if len(self._runs) > _MAX_RUNS:
            self._runs.clear()
        self._runs[period] = run = _Run(first, last, anchor, cut)
        return run

    def _frame(self, last: int, period: int, divided: dict[int, int]) -> _Frame:
        """Level 1: where a unit may begin that ends with ``last`` and occurred ``period`` segments
        before; ``divided``: known results of ``_one_inference``."""
        segments = self._segments
        first, _, anchor, cut = self._run(last, period)
        aligned = first if anchor is None else anchor
        frame = aligned + (last - aligned) // period * period
        if frame not in divided:
            divided[frame] = self._one_inference(frame, last)
        start = divided[frame]
        # Leftovers, which this frame may depend on.
        with_leftovers = frame > max(first, last - period + 1)
        with_leftovers = with_leftovers and not self._ends_with_read(frame - 1)
        order = range(start, frame - 1 - with_leftovers, -1), range(start + 1, last + 1)
        delta = segments[last].end - segments[last - period].end
        before = first - 1
        if anchor is None and before >= max(period, last - period + 1):
            # No upload so far: perhaps in what the two segments before have in common.
            end = segments[before].end
            if end - segments[before - period].end == delta:
                begin = end - self._common(before, before - period)
                upload = self._first_upload(begin, end)
                if upload is not None:
                    return _Frame(upload, delta, order, cut)
        return _Frame(segments[start].start, delta, order, cut)

    def _one_inference(self, start: int, last: int) -> int:
        """Where the last inference begins in the chain ``start``..``last``, if it is several.

        That holds for a chain with the same upload segment twice. It is also divided at an upload
        segment that has turned out not to be the only one to follow the segment before it.
        """
        segments = self._segments
        uploads = [index for index in range(start, last + 1) if segments[index].upload]
        for index in uploads:
            if index > start and self._is_branch(index):
                start = index
        contents = {index: segments[index].hashes[CONTENT] for index in uploads if index >= start}
        if start in contents:
            start = max(index for index, content in contents.items() if content == contents[start])
        seen: set[int] = set()
        latest = start
        for index in reversed(contents):
            if index < start:
                break
            if contents[index] in seen:
                return latest
            seen.add(contents[index])
            latest = index
        return start

    def _is_branch(self, index: int) -> bool:
        followers = (before + 1 for before in self._chain(index - 1, CONTEXT))
        return sum(not self._equal(follower, index) for follower in followers) >= _BRANCHED

    def _tail_frames(self, last: int) -> Iterator[_Frame]:
        """Alignments with earlier segments that are equal to ``last`` at the end only: all of
        ``last`` after an initialisation, or both from an upload on."""
        segment = self._segments[last]
        for partner in self._chain(last, ENDING):
            if self._equal(partner, last):
                continue
            common = self._common(partner, last)
            start: int | None = segment.start
            if common < segment.end - segment.start:
                start = self._first_upload(segment.end - common, segment.end)
            if start is not None:
                yield _Frame(start, segment.end - self._segments[partner].end)

    def _wire(self, frame: _Frame, last: int) -> tuple[int, Wiring] | None:
        """Level 2: the first start from which on all references to the end of ``last`` equal those
        ``delta`` before, and the steps.

        A reference is in-frame at the same place in both; or the same handle, from before the
        earlier occurrence; or refers to the earlier occurrence, where it came from before that.
        Each sets bounds for the start: ``lower`` < start <= ``upper``.
        """
        delta = frame.delta
        indices = itertools.chain(*frame.order)
        starts = [frame.start, *(self._segments[index].start for index in indices)]
        begin, end = min(starts), self._segments[last].end
        origin = begin - delta
        if origin < 0 or self._keys[begin:end] != self._keys[origin : end - delta]:
            return None
        offsets = np.array(self._offsets[begin : end + 1], np.int64)
        offsets -= offsets[0]
        earlier = np.array(self._offsets[origin : end - delta + 1], np.int64)
        if not np.array_equal(offsets, earlier - earlier[0]):
            return None
        now, then = (
            np.array(self._references[self._offsets[low] : self._offsets[high]], np.int64)
            for low, high in ((begin, end), (origin, end - delta))
        )
        source, source_then = (self._producers(handles, origin, end) for handles in (now, then))
        same = now == then
        moved = (source - source_then == delta) & (source_then >= 0)
        moved &= (now ^ then) & OUTPUT_MASK == 0
        carried = ~same & ~moved & (source >= 0) & (source < end - delta)
        lower = np.full(len(now), _NEVER)
        np.copyto(lower, source + delta, where=same & (source >= 0))
        np.copyto(lower, source_then + delta, where=carried & (source_then >= 0))
        upper = np.full(len(now), _NEVER)
        np.copyto(upper, _ALWAYS, where=same)
        np.copyto(upper, source, where=moved)
        np.copyto(upper, source + delta, where=carried)
        lower = np.maximum.accumulate(lower[::-1])[::-1]
        upper = np.minimum.accumulate(upper[::-1])[::-1]
        for start in starts:
            index = int(offsets[start - begin])
            if index == len(now):
                break
            if lower[index] < start <= upper[index] and not (
                (~same[index:] & (source[index:] < start)).any()
                and self._passed_over(start, last, delta, same[index:])
            ):
                break
        else:
            return None
        now, source, same = now[index:], source[index:], same[index:]
        in_frame = ~same & (source >= start)
        classes = np.where(same, EXTERNAL, np.where(in_frame, IN_FRAME, CARRIED)).astype(np.int64)
        steps = source - np.where(in_frame, start, start - delta)
        values = np.where(same, now, steps << OUTPUT_BITS | now & OUTPUT_MASK)
        keys = np.array(self._keys[start:end], np.int64)
        return start, Wiring(keys, offsets[start - begin :] - index, classes, values)

    def _passed_over(self, start: int, last: int, delta: int, same: Array) -> bool:
        """Whether what begins at ``start`` occurred once more since ``delta`` before, so that
        state carried from there is not of the occurrence before.

        ``same``: the references to equal handles, which tell it from one with other weights.
        """
        end = self._segments[last].end
        keys = self._keys[start:end]
        now = np.array(self._references[self._offsets[start] : self._offsets[end]], np.int64)
        for index in self._chain(last, CONTENT, _MAX_BETWEEN):
            between = self._segments[index].end
            begin = between - len(keys)
            if begin < end - delta:
                break
            if between <= start and self._keys[begin:between] == keys:
                low, high = self._offsets[begin], self._offsets[between]
                then = np.array(self._references[low:high], np.int64)
                if len(then) == len(now) and (then == now)[same].all():
                    return True
        return False

    def _sequence(self, start: int, wiring: Wiring, end: int) -> OperatorSequence:
        """Equal sequences share their steps."""
        wiring = self._known.pop(wiring.digest, wiring)
        self._known[wiring.digest] = wiring
        if len(self._known) > _MAX_KNOWN:
            self._known.popitem(last=False)
        first, last = self._numbers[start], self._numbers[end - 1]
        contiguous = last - first == end - 1 - start
        numbers = range(first, last + 1) if contiguous else tuple(self._numbers[start:end])
        return OperatorSequence(wiring, numbers)
