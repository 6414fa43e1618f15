"""What crosses the link when two lists of steps are walked: the messages of ``graph.steps``.

Which messages there are, and which steps wait for which, follows from the steps alone; only
afterwards is anything timed (``graph.steps_schedule``). A search evaluates many plans: everything
here is scalar Python over tables that are made once per profile.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
import math
from typing import NamedTuple

from offload_ros.graph.crossings import Halo, windows_fit
from offload_ros.graph.profile import Profile

Rows = tuple[float, float]
Placed = tuple[int, float, float]  # a step by the operator's place, not its id
LEAST_ROWS = 1e-6  # less is a rounding error of proportional ranges
MEMORY = 100_000  # what steps read, kept: a search asks for the same ones again and again
AT_ONCE = -1  # the step after which rows of an input leave


class FlowError(ValueError):
    """Steps that cannot be walked. ``place``: of the operator; ``rule``: what is wrong."""

    def __init__(self, place: int, rule: str) -> None:
        super().__init__(f'operator at place {place}: {rule}')
        self.place, self.rule = place, rule


class Message(NamedTuple):
    """Rows of the output of the operator at ``place`` that leave after ``step`` of their sender.
    ``reader``: the first step of the other side that reads them."""

    place: int
    start: float
    stop: float
    step: int
    reader: int


class Edge(NamedTuple):
    """Window of a reader on one of its producers. ``local``: its rows follow from the window."""

    producer: int
    local: bool
    kernel: float
    stride: float
    padding: float
    ratio: float  # rows of the producer for each of the reader's
    width: float  # of the producer


@dataclass
class Reads:
    """Which rows a step reads: the windows of ``crossings.Windows``, one step at a time. One entry
    per operator, in execution order; ``edges``: to its producers; ``exact``: with halos."""

    exact: bool
    width: list[float]
    split: list[bool]
    is_input: list[bool]
    is_output: list[bool]
    edges: list[list[Edge]]
    _inner: dict[tuple[int, int], frozenset[int]] = field(default_factory=dict)
    _known: dict[Placed, list[tuple[int, float, float]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.outputs = [place for place, each in enumerate(self.is_output) if each]
        self.last_reader = [-1] * len(self.width)
        for place, edges in enumerate(self.edges):
            for edge in edges:
                self.last_reader[edge.producer] = place

    @classmethod
    def of_profile(cls, profile: Profile, halo: Halo) -> Reads:
        """Of its operators."""
        exact = halo is Halo.EXACT
        operators = profile.operators
        edges: list[list[Edge]] = []
        for own, producers in zip(operators, profile.producers, strict=True):
            edges.append([])
            for each in producers:
                read, made = operators[each].width, own.width
                local = own.split and (not exact or windows_fit(read, made, own))
                window = own.kernel, own.stride, own.padding
                edges[-1].append(Edge(each, local, *window, read / made, float(read)))
        return cls(
            exact,
            [float(each.width) for each in operators],
            [each.split for each in operators],
            [each.is_input for each in operators],
            [each.is_output for each in operators],
            edges,
        )

    def inner(self, first: int, last: int) -> frozenset[int]:
        """Of the places [first, last): those that only others of them read."""
        found = self._inner.get((first, last))
        if found is None:
            found = frozenset(
                place
                for place in range(first, last)
                if 0 <= self.last_reader[place] < last and not self.is_output[place]
            )
            self._inner[first, last] = found
        return found

    def of(self, place: int, start: float, stop: float) -> list[tuple[int, float, float]]:
        """(producer, first, last) rows that rows [start, stop) of the operator at ``place`` need.

        The whole operator reads its whole inputs, also rows that a stride leaves out."""
        key = place, start, stop
        known = self._known.get(key)
        if known is None:
            if len(self._known) >= MEMORY:
                self._known.clear()
            known = self._known[key] = self._find(place, start, stop)
        return known

    def _find(self, place: int, start: float, stop: float) -> list[tuple[int, float, float]]:
        whole = stop - start >= self.width[place]
        found = []
        for producer, local, kernel, stride, padding, ratio, width in self.edges[place]:
            if whole or not local:
                found.append((producer, 0.0, width))
                continue
            if self.exact:
                first = float(math.floor(start * stride - padding))
                last = float(math.ceil((stop - 1.0) * stride + (kernel - padding)))
            else:
                first, last = start * ratio, stop * ratio
            first = first if first > 0.0 else 0.0
            last = last if last < width else width
            if last > first:
                found.append((producer, first, last))
        return found


@dataclass
class Walk:
    """One side's part: ``waits[i]``: messages (places in the incoming list) that step i needs;
    ``sends[i]``: the outgoing message that leaves after it, or None."""

    steps: Sequence[Placed]
    waits: list[list[int]] = field(default_factory=list)
    sends: list[int | None] = field(default_factory=list)


@dataclass
class Flow:
    """``up``, ``down``: messages, inputs first. ``result_waits``: messages down that hold rows of
    the model's outputs; ``result_steps``: the robot's steps that compute the others."""

    robot: Walk
    server: Walk
    up: list[Message]
    down: list[Message]
    result_waits: list[int]
    result_steps: list[int]


class _Need(NamedTuple):
    """Rows of ``place`` that step ``reader`` reads and its side lacks."""

    reader: int
    place: int
    start: float
    stop: float


def flow_of(reads: Reads, robot: Sequence[Placed], server: Sequence[Placed]) -> Flow:
    """Of steps by place. ``FlowError`` when rows are read that the other side never computes, or
    a step is none: rows beyond the operator's, parts of a barrier, an input."""
    own = {'robot': _computed(reads, robot), 'server': _computed(reads, server)}
    robot_needs = _missing(reads, robot, on_robot=True)
    server_needs = _missing(reads, server, on_robot=False)
    end = len(robot)
    result_steps: set[int] = set()
    for place in reads.outputs:
        have = [(a, b) for a, b, _ in own['robot'].get(place, ())]
        result_steps.update(step for _, _, step in own['robot'].get(place, ()))
        if not reads.is_input[place]:
            robot_needs += [
                _Need(end, place, a, b) for a, b in _without((0.0, reads.width[place]), have)
            ]
    inputs = [need for need in server_needs if reads.is_input[need.place]]
    others = [need for need in server_needs if not reads.is_input[need.place]]
    up, server_waits = _input_messages(inputs, len(server))
    up, server_waits, robot_sends = _messages(reads, others, own['robot'], up, server_waits)
    down, robot_waits, server_sends = _messages(
        reads, robot_needs, own['server'], [], [[] for _ in range(end + 1)]
    )
    return Flow(
        Walk(robot, robot_waits[:end], [robot_sends.get(step) for step in range(end)]),
        Walk(server, server_waits, [server_sends.get(step) for step in range(len(server))]),
        up,
        down,
        robot_waits[end],
        sorted(result_steps),
    )


def _computed(reads: Reads, steps: Sequence[Placed]) -> dict[int, list[tuple[float, float, int]]]:
    """Of each operator: rows and the step that computes them first."""
    found: dict[int, list[tuple[float, float, int]]] = {}
    for index, (place, start, stop) in enumerate(steps):
        width = reads.width[place]
        if reads.is_input[place]:
            raise FlowError(place, 'it is an input of the model, no step computes it')
        if not 0.0 <= start < stop <= width:
            raise FlowError(place, f'it has rows 0 to {width:g}, not {start:g} to {stop:g}')
        if not reads.split[place] and stop - start < width:
            raise FlowError(place, 'it is a barrier: a step computes it whole')
        known = found.setdefault(place, [])
        if not known:
            known.append((start, stop, index))
            continue
        fresh = _without((start, stop), [(a, b) for a, b, _ in known])
        known += [(a, b, index) for a, b in fresh]
    return found


def _missing(reads: Reads, steps: Sequence[Placed], on_robot: bool) -> list[_Need]:
    """What each step reads beyond what its own side computed before."""
    have: dict[int, list[Rows]] = {}
    found = []
    for index, (place, start, stop) in enumerate(steps):
        for producer, first, last in reads.of(place, start, stop):
            if on_robot and reads.is_input[producer]:
                continue
            known = have.get(producer)
            if known is None:
                found.append(_Need(index, producer, first, last))
                continue
            for a, b in _without((first, last), known):
                found.append(_Need(index, producer, a, b))
        known = have.get(place)
        if known is None:
            have[place] = [(start, stop)]
        else:
            _insert(known, start, stop)
    return found


def _input_messages(needs: Iterable[_Need], steps: int) -> tuple[list[Message], list[list[int]]]:
    """Messages of inputs, one per step and input that brings something new; and waits by step."""
    messages: list[Message] = []
    waits: list[list[int]] = [[] for _ in range(steps)]
    of_place: dict[int, list[int]] = {}
    brought: dict[int, list[Rows]] = {}
    for reader, place, start, stop in needs:
        rest = _without((start, stop), brought.setdefault(place, []))
        mine = of_place.setdefault(place, [])
        waits[reader] += [
            each
            for each in mine
            if _overlap(messages[each].start, messages[each].stop, start, stop) > LEAST_ROWS
        ]
        if rest:
            mine.append(len(messages))
            waits[reader].append(len(messages))
            messages.append(Message(place, rest[0][0], rest[-1][1], AT_ONCE, reader))
            _insert(brought[place], rest[0][0], rest[-1][1])
    return messages, waits


def _messages(
    reads: Reads,
    needs: Iterable[_Need],
    computed: dict[int, list[tuple[float, float, int]]],
    messages: list[Message],
    waits: list[list[int]],
) -> tuple[list[Message], list[list[int]], dict[int, int]]:
    """``messages`` and ``waits`` with those that steps of the sender bring; and the message of
    each such step."""
    content: dict[int, tuple[float, float, int]] = {}
    of_place: dict[int, int] = {}
    readers: dict[int, list[int]] = {}
    for reader, place, start, stop in needs:
        covered = 0.0
        for a, b, step in computed.get(place, ()):
            low, high = (a if a > start else start), (b if b < stop else stop)
            if high - low <= LEAST_ROWS:
                continue
            covered += high - low
            old = content.get(step)
            if old is None:
                content[step] = (low, high, reader)
                of_place[step] = place
            elif low < old[0] or high > old[1]:
                content[step] = (min(low, old[0]), max(high, old[1]), min(reader, old[2]))
            readers.setdefault(step, []).append(reader)
        if covered < stop - start - LEAST_ROWS:
            raise FlowError(
                place, f'rows {start:g} to {stop:g} are needed that nobody computes in time'
            )
    sends = {}
    for step in sorted(content):
        low, high, reader = content[step]
        for each in readers[step]:
            waits[each].append(len(messages))
        sends[step] = len(messages)
        messages.append(Message(of_place[step], low, high, step, reader))
    return messages, waits, sends


def _overlap(a: float, b: float, start: float, stop: float) -> float:
    return min(b, stop) - max(a, start)


def _without(rows: Rows, known: Sequence[Rows]) -> list[Rows]:
    """Of ``rows``, the intervals outside ``known``, in order."""
    if len(known) == 1:  # almost always
        start, stop = rows
        first, last = known[0]
        if first - LEAST_ROWS <= start and stop <= last + LEAST_ROWS:
            return []
        if stop <= first or start >= last:
            return [rows]
        left = [(start, first)] if first - start > LEAST_ROWS else []
        return [*left, (last, stop)] if stop - last > LEAST_ROWS else left
    rest = [rows]
    for first, last in known:
        cut: list[Rows] = []
        for start, stop in rest:
            if stop <= first or start >= last:
                cut.append((start, stop))
                continue
            if first - start > LEAST_ROWS:
                cut.append((start, first))
            if stop - last > LEAST_ROWS:
                cut.append((last, stop))
        rest = cut
    return [each for each in rest if each[1] - each[0] > LEAST_ROWS]


def _insert(known: list[Rows], start: float, stop: float) -> None:
    """Add rows to disjoint intervals; those that touch become one."""
    if len(known) == 1:
        first, last = known[0]
        if start <= last + LEAST_ROWS and stop >= first - LEAST_ROWS:
            known[0] = (start if start < first else first, stop if stop > last else last)
            return
    kept: list[Rows] = []
    for first, last in known:
        if start <= last + LEAST_ROWS and stop >= first - LEAST_ROWS:
            start, stop = min(start, first), max(stop, last)
        else:
            kept.append((first, last))
    kept.append((start, stop))
    kept.sort()
    known[:] = kept
