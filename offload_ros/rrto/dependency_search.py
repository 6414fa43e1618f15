"""Data Dependency Search, Algorithm 3 of RRTO's first paper: the reference for ``search``.

A call depends on another when an output (handle) of that one is among its arguments. An inference
begins at a call that depends on nothing and ends at one that feeds nothing; of the ends only reads
to the host count. The longest span from a start to the end that depends on it is accepted if
repeating it gives the whole log. Any call outside of the repetitions defeats this, so does state
that an inference hands to the next.
"""

from __future__ import annotations

from collections.abc import Sequence

from offload_ros.rrto.sequences import (
    OUTPUT_BITS,
    OUTPUT_MASK,
    Entry,
    External,
    InFrame,
    Kind,
    OperatorSequence,
    Step,
    Wiring,
)


def dependencies(entries: Sequence[Entry]) -> list[tuple[int, ...]]:
    """For each call the indices of the calls that made its arguments; -1: none of the log."""
    made = {entry.number: index for index, entry in enumerate(entries)}
    return [
        tuple(made.get(handle >> OUTPUT_BITS, -1) for handle in entry.references)
        for entry in entries
    ]


def candidates(
    entries: Sequence[Entry], edges: Sequence[tuple[int, ...]]
) -> tuple[list[int], list[int]]:
    """Indices of the calls that depend on nothing, and of the reads that feed nothing."""
    feeds = {source for sources in edges for source in sources}
    starts = [index for index, sources in enumerate(edges) if all(each < 0 for each in sources)]
    ends = [
        index
        for index, entry in enumerate(entries)
        if entry.kind == Kind.GET and index not in feeds
    ]
    return starts, ends


def spans(entries: Sequence[Entry], edges: Sequence[tuple[int, ...]]) -> list[tuple[int, int]]:
    """(start, end) for the last end of the log and the starts it depends on, longest first."""
    starts, ends = candidates(entries, edges)
    if not ends:
        return []
    reached, waiting = {ends[-1]}, [ends[-1]]
    while waiting:
        for source in edges[waiting.pop()]:
            if source >= 0 and source not in reached:
                reached.add(source)
                waiting.append(source)
    return [(start, ends[-1]) for start in starts if start in reached]


def repeats(
    entries: Sequence[Entry], edges: Sequence[tuple[int, ...]], start: int, end: int
) -> bool:
    """Whether the span, repeated at least twice, is the whole log up to its ``end``, in calls and
    in dependencies."""
    period, total = end + 1 - start, len(entries)
    if end != total - 1 or total % period or total < 2 * period:
        return False
    return all(
        _equal(entries, edges, index - period, index) for index in range(total - 1, period - 1, -1)
    )


def _equal(entries: Sequence[Entry], edges: Sequence[tuple[int, ...]], then: int, now: int) -> bool:
    one, other = entries[then], entries[now]
    return (
        one.signature == other.signature
        and one.kind == other.kind
        and len(one.references) == len(other.references)
        and all(
            old == new
            if source < 0
            else source_then >= 0
            and source - source_then == now - then
            and (old ^ new) & OUTPUT_MASK == 0
            for old, new, source_then, source in zip(
                one.references, other.references, edges[then], edges[now], strict=True
            )
        )
    )


def find_sequence(entries: Sequence[Entry]) -> OperatorSequence | None:
    """The sequence that the whole log repeats, or None."""
    edges = dependencies(entries)
    for start, end in spans(entries, edges):
        if repeats(entries, edges, start, end):
            return _sequence(entries, edges, start)
    return None


def _sequence(
    entries: Sequence[Entry], edges: Sequence[tuple[int, ...]], start: int
) -> OperatorSequence:
    steps = []
    for entry, sources in zip(entries[start:], edges[start:], strict=True):
        references = (
            External(handle) if source < 0 else InFrame(source - start, handle & OUTPUT_MASK)
            for handle, source in zip(entry.references, sources, strict=True)
        )
        steps.append(Step(entry.signature, entry.kind, tuple(references)))
    return OperatorSequence(Wiring.of(steps), tuple(entry.number for entry in entries[start:]))
