"""The log of one thread's operators, cut into segments that end at a read.

A segment ends after a read, and before an operator whose result shape depends on data, which is a
segment of its own. It is cut once more before the factory of the first upload: what lies before are
leftovers of the last inference. Segments are found by hashes of their operators.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from offload_ros.rrto.sequences import (
    CARRIED,
    IN_FRAME,
    KIND_BITS,
    KIND_MASK,
    OUTPUT_BITS,
    OUTPUT_MASK,
    Array,
    Entry,
    Kind,
    OperatorSequence,
)

OP, IN, GET, DYN = (int(kind) for kind in Kind)
CONTEXT, CONTENT, ENDING = range(3)  # the hashes of a segment
_MAX_CHAIN = 8  # earlier segments with the same hash that are looked at
_TAIL = 3  # operators in the hash of an ending


def _array(numbers: Sequence[int]) -> Array:
    if isinstance(numbers, range):
        return np.arange(numbers.start, numbers.stop, numbers.step, dtype=np.int64)
    return np.array(numbers, np.int64)


@dataclass(slots=True)
class Segment:
    """Positions [start, end) of the log.

    ``barrier``: no unit contains it; ``begins``: a known unit began here. ``hashes``: of the
    segments from the nearest with an upload to this one, of this one, of its last operators;
    ``before``: for each of them the latest earlier segment with the same.
    """

    start: int
    end: int
    upload: bool
    barrier: bool
    begins: bool
    hashes: tuple[int, int, int]
    before: tuple[int, ...] = ()


class SegmentedLog:
    """The last ``max_entries`` calls."""

    def __init__(self, max_entries: int = 1 << 18) -> None:
        if max_entries < 16:
            raise ValueError(f'max_entries is {max_entries}: at least 16 are needed')
        self._max_entries = max_entries
        self._numbers = array('q')
        self._keys = array('q')
        self._references = array('q')
        self._offsets = array('q', [0])
        self._factories: set[int] = set()  # signatures
        self._last_number = -1
        self._open = 0  # where the segment begins that has not ended yet
        self._has_upload = False
        self._begun = -1  # where a known unit began last
        self._forgot = False  # something, already
        self._segments: list[Segment] = []
        self._tables: tuple[dict[int, int], ...] = ({}, {}, {})  # hash to the latest segment

    @property
    def size(self) -> int:
        """How many calls are remembered."""
        return len(self._numbers)

    def extend(self, entries: Iterable[Entry]) -> None:
        """Log the calls of an occurrence of a known unit, without searching."""
        self._begun = len(self._numbers)
        for number, signature, references, kind, factory in entries:
            self._log(number, signature, references, kind)
            if factory:
                self._factories.add(signature)
            if kind != OP:
                self._divide(len(self._numbers) - 1, kind)

    def repeat(
        self, sequence: OperatorSequence, numbers: Sequence[int], previous: Sequence[int]
    ) -> None:
        """Log an occurrence of ``sequence``, or its first ``len(numbers)`` steps, without
        searching: as ``extend``, but fast.

        ``numbers``: op numbers of the steps, increasing; ``previous``: those of the occurrence
        before, which carried references are resolved with.
        """
        wiring, count = sequence.wiring, len(numbers)
        if count > len(wiring.keys) or len(previous) < len(wiring.keys):
            raise ValueError(
                f'{count} and {len(previous)} op numbers for {len(wiring.keys)} steps: give at'
                ' most one per step, and one for each step of the occurrence before'
            )
        if not count:
            return
        new = _array(numbers)
        if new[0] <= self._last_number or (np.diff(new) <= 0).any():
            raise ValueError(f'op numbers must increase, from above {self._last_number}')
        self._make_room(count)
        offsets = wiring.offsets[: count + 1]
        classes, references = wiring.classes[: offsets[-1]], wiring.values[: offsets[-1]].copy()
        for kind, base in ((IN_FRAME, new), (CARRIED, _array(previous))):
            chosen = classes == kind
            value = references[chosen]
            references[chosen] = base[value >> OUTPUT_BITS] << OUTPUT_BITS | value & OUTPUT_MASK
        self._begun = begin = len(self._numbers)
        self._numbers.frombytes(new.tobytes())
        self._keys.frombytes(wiring.keys[:count].tobytes())
        self._offsets.frombytes((offsets[1:] + len(self._references)).tobytes())
        self._references.frombytes(references.tobytes())
        self._last_number = int(new[-1])
        kinds = wiring.keys[:count] & KIND_MASK
        for step in np.flatnonzero(kinds != OP).tolist():
            self._divide(begin + step, int(kinds[step]))

    def _log(self, number: int, signature: int, references: tuple[int, ...], kind: int) -> None:
        if number <= self._last_number:
            raise ValueError(f'op number {number} after {self._last_number}: they must increase')
        if len(self._numbers) >= self._max_entries:
            self._make_room(1)
        self._last_number = number
        self._numbers.append(number)
        self._keys.append(signature << KIND_BITS | kind)
        if references:
            self._references.extend(references)
        self._offsets.append(len(self._references))

    def _divide(self, position: int, kind: int) -> int | None:
        """End what the entry at ``position`` ends; the index of the segment if it may end a
        unit."""
        if kind == GET:
            self._close(position + 1)
            return len(self._segments) - 1
        if kind == DYN:
            ended = position > self._open
            if ended:
                self._close(position)
            self._close(position + 1, barrier=True)
            return len(self._segments) - 2 if ended else None
        if not self._has_upload:
            start = self._upload_start(position, self._open)
            if start > self._open:
                self._close(start)
            self._has_upload = True
        return None

    def _upload_start(self, position: int, floor: int) -> int:
        """Position of the factory, not before ``floor``, of the tensor uploaded to, or of the
        upload."""
        start = position
        for reference in self._references[self._offsets[position] : self._offsets[position + 1]]:
            number = reference >> OUTPUT_BITS
            at = bisect_left(self._numbers, number, floor, position)
            if self._numbers[at] == number and self._keys[at] >> KIND_BITS in self._factories:
                start = min(start, at)
        return start

    def _close(self, end: int, barrier: bool = False) -> None:
        start, upload = self._open, self._has_upload
        content = hash(self._keys[start:end].tobytes())
        context = content
        if not upload and self._segments:
            context = hash((self._segments[-1].hashes[CONTEXT], content))
        ending = hash(self._keys[max(start, end - _TAIL) : end].tobytes())
        hashes = (context, content, ending)
        self._add(Segment(start, end, upload, barrier, start == self._begun, hashes))
        self._open, self._has_upload = end, False

    def _add(self, segment: Segment) -> None:
        index, hashes = len(self._segments), segment.hashes
        pairs = tuple(zip(self._tables, hashes, strict=True))
        segment.before = tuple(table.get(key, -1) for table, key in pairs)
        for table, key in pairs:
            table[key] = index
        self._segments.append(segment)

    def _make_room(self, count: int) -> int:
        """Forget the older half, if there is no room for ``count`` entries more; how many
        segments."""
        cut = len(self._numbers) - self._max_entries // 2
        if len(self._numbers) + count <= self._max_entries or cut <= 0:
            return 0
        first = self._offsets[cut]
        del self._numbers[:cut], self._keys[:cut], self._references[:first]
        offsets = np.array(self._offsets[cut:], np.int64) - first
        self._offsets = array('q', offsets.tobytes())
        self._open, self._begun = max(self._open - cut, 0), self._begun - cut
        self._forgot = True
        kept = [segment for segment in self._segments if segment.end > cut]
        dropped = len(self._segments) - len(kept)
        self._segments = []
        for table in self._tables:
            table.clear()
        for segment in kept:
            segment.start, segment.end = max(segment.start - cut, 0), segment.end - cut
            self._add(segment)
        return dropped

    def _equal(self, one: int, other: int) -> bool:
        a, b = self._segments[one], self._segments[other]
        return (
            a.hashes[CONTENT] == b.hashes[CONTENT]
            and a.end - a.start == b.end - b.start
            and not a.barrier
            and not b.barrier
        )

    def _common(self, one: int, other: int) -> int:
        """How many operators two segments have in common at their ends."""
        a, b = self._segments[one], self._segments[other]
        if a.barrier or b.barrier:
            return 0
        count = min(a.end - a.start, b.end - b.start)
        differ = np.flatnonzero(
            np.array(self._keys[a.end - count : a.end], np.int64)
            != np.array(self._keys[b.end - count : b.end], np.int64)
        )
        return count - int(differ[-1]) - 1 if len(differ) else count

    def _chain(self, index: int, table: int, limit: int = _MAX_CHAIN) -> Iterator[int]:
        """Earlier segments with the same hash, the latest first."""
        for _ in range(limit):
            index = self._segments[index].before[table]
            if index < 0:
                return
            yield index

    def _ends_with_read(self, index: int) -> bool:
        return self._keys[self._segments[index].end - 1] & KIND_MASK == GET

    def _first_upload(self, begin: int, end: int) -> int | None:
        """Where the first upload in [begin, end) starts, with its factory if that is there."""
        kinds = np.array(self._keys[begin:end], np.int64) & KIND_MASK
        uploads = np.flatnonzero(kinds == IN)
        return self._upload_start(begin + int(uploads[0]), begin) if len(uploads) else None

    def _producers(self, handles: Array, origin: int, end: int) -> Array:
        """Positions of the operators that made ``handles``, -1 outside [origin, end)."""
        wanted = handles >> OUTPUT_BITS
        first, count = self._numbers[origin], end - origin
        if self._numbers[end - 1] - first == count - 1:  # no other thread took a number
            places = wanted - first
            inside = (places >= 0) & (places < count)
        else:
            numbers = np.array(self._numbers[origin:end], np.int64)
            places = np.searchsorted(numbers, wanted)
            inside = numbers[np.minimum(places, count - 1)] == wanted
        return np.where(inside, places + origin, -1)
