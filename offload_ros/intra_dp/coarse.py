"""A shorter graph with almost the same good plans: chains of operators as one.

An operator with a single reader joins it where its own output is no good place to cut: what the
reader makes of it is no larger, or what it reads itself is no larger. Windows of a chain compose,
so a group of operators reads its inputs as one operator would: rows [a, b) of its output need
[a * stride - padding, (b - 1) * stride - padding + kernel) of each. Within a group both sides
compute the halo; ``Coarse.fine`` is the profile in the order of the groups, in which plans found
here become steps of operators, and are evaluated in the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from offload_ros.graph.crossings import Halo
from offload_ros.graph.part_costs import PartCosts
from offload_ros.graph.profile import Profile
from offload_ros.graph.steps_flow import Edge, Placed, Reads


class PartCost(NamedTuple):
    """Seconds of a step of n rows of a group: min(whole, per_step + n * per_row), at least
    ``floor``; with ``fixed`` in the first one: the halo rows inside."""

    whole: float
    fixed: float
    per_step: float
    per_row: float
    floor: float


@dataclass
class Coarse:
    """``reads``: of the groups. ``fine``: the profile, group by group; ``members[g]``: places in it
    [first, last) of group g, whose last one is what others read."""

    reads: Reads
    fine: Profile
    fine_reads: Reads
    members: list[tuple[int, int]]
    robot: list[PartCost]
    server: list[PartCost]
    row_bytes: list[float]

    def __len__(self) -> int:
        return len(self.members)

    def durations_s(self, costs: Sequence[PartCost], steps: Sequence[Placed]) -> list[float]:
        """Of the steps of one side; ``costs``: ``robot`` or ``server``."""
        begun: set[int] = set()
        found = []
        for place, start, stop in steps:
            whole, fixed, per_step, per_row, floor = costs[place]
            seconds = per_step + (stop - start) * per_row
            if place not in begun:
                seconds += fixed
                begun.add(place)
            if seconds > whole or stop - start >= self.reads.width[place]:
                seconds = whole
            found.append(seconds if seconds > floor else floor)
        return found

    def operator_steps(self, steps: Sequence[Placed]) -> list[Placed]:
        """Steps of groups as steps of operators of ``fine``: of those inside a group, the rows that
        its own take and that were not computed before."""
        reads = self.fine_reads
        done: dict[int, tuple[float, float]] = {}
        found: list[Placed] = []
        for group, start, stop in steps:
            first, last = self.members[group]
            need = {last - 1: (start, stop)}
            for place in range(last - 1, first - 1, -1):
                if place not in need:
                    continue
                for producer, low, high in reads.of(place, *need[place]):
                    if producer >= first:
                        a, b = need.get(producer, (low, high))
                        need[producer] = min(a, low), max(b, high)
            for place in range(first, last):
                if place in need:
                    found += _fresh(place, need[place], done)
        return found


def _fresh(
    place: int, need: tuple[float, float], done: dict[int, tuple[float, float]]
) -> list[Placed]:
    """Of the rows that are needed now, those that are not there; ``done`` grows, without gaps."""
    low, high = need
    known = done.get(place)
    if known is None:
        done[place] = need
        return [(place, low, high)]
    a, b = known
    found = []
    if low < a:
        found.append((place, low, a))
    if high > b:
        found.append((place, b, high))
    done[place] = min(a, low), max(b, high)
    return found


def coarse_of(profile: Profile, halo: Halo) -> Coarse:
    """Merge what can be."""
    reads = Reads.of_profile(profile, halo)
    joins = _joins(profile, reads)
    groups: dict[int, list[int]] = {}
    last = list(range(len(profile)))
    for place in range(len(profile) - 1, -1, -1):
        if joins[place]:
            last[place] = last[profile.consumers[place][0]]
        groups.setdefault(last[place], []).append(place)
    ordered = [sorted(groups[each]) for each in sorted(groups)]
    order = [place for group in ordered for place in group]
    fine = replace(profile, operators=tuple(profile.operators[each] for each in order))
    fine_reads = Reads.of_profile(fine, halo)
    members, first = [], 0
    for group in ordered:
        members.append((first, first + len(group)))
        first += len(group)
    group_of = [number for number, (a, b) in enumerate(members) for _ in range(a, b)]
    merged = [_Group(fine_reads, *each) for each in members]
    finals = [last - 1 for _, last in members]
    coarse_reads = Reads(
        reads.exact,
        [fine_reads.width[each] for each in finals],
        [each.local for each in merged],
        [fine_reads.is_input[each] for each in finals],
        [fine_reads.is_output[each] for each in finals],
        [each.edges(group_of) for each in merged],
    )
    row_bytes = fine.column('message_bytes') / fine.widths
    parts = [(each, each.lines_of) for each in (PartCosts.of(fine, s) for s in ('robot', 'server'))]
    return Coarse(
        coarse_reads,
        fine,
        fine_reads,
        members,
        [each.cost(*parts[0]) for each in merged],
        [each.cost(*parts[1]) for each in merged],
        [float(row_bytes[each]) for each in finals],
    )


def _joins(profile: Profile, reads: Reads) -> list[bool]:
    """Of each operator, whether it joins its reader.

    Where both have halos, a border between them may pay, unless its rows are much larger."""
    size = profile.column('message_bytes').tolist()
    joins = [False] * len(profile)
    halo = [False] * len(profile)  # of the group so far
    for place, operator in enumerate(profile.operators):
        for edge in reads.edges[place]:
            halo[place] |= edge.kernel > edge.stride or (
                joins[edge.producer] and halo[edge.producer]
            )
        readers = profile.consumers[place]
        if len(readers) != 1 or operator.is_input or operator.is_output:
            continue
        reader = readers[0]
        edge = next(each for each in reads.edges[reader] if each.producer == place)
        alike = reads.split[place] == reads.split[reader] and edge.local == reads.split[place]
        least = min(size[reader], sum(size[each] for each in profile.producers[place]))
        factor = 2.0 if halo[place] and edge.kernel > edge.stride else 1.0
        joins[place] = alike and factor * least <= size[place]
    return joins


class _Group:
    """Operators [first, last) of ``reads``; the windows of the last one's rows on all of them."""

    def __init__(self, reads: Reads, first: int, last: int) -> None:
        self._reads, self._first, self._last = reads, first, last
        self.local = reads.split[last - 1]
        # Of n rows of the last operator: (n - 1) * stride + kernel of each of the group.
        self.window: dict[int, tuple[float, float, float]] = {last - 1: (1.0, 1.0, 0.0)}
        for place in range(last - 1, first - 1, -1):
            for edge in reads.edges[place]:
                if edge.producer >= first:
                    self.window[edge.producer] = self._beyond(place, edge)

    def _beyond(self, place: int, edge: Edge) -> tuple[float, float, float]:
        """(kernel, stride, padding) of the last operator's rows on the producer of ``edge``."""
        kernel, stride, padding = self.window[place]
        if not self._reads.exact:
            return stride * edge.ratio, stride * edge.ratio, 0.0
        return (
            (kernel - 1.0) * edge.stride + edge.kernel,
            stride * edge.stride,
            padding * edge.stride + edge.padding,
        )

    def edges(self, group_of: Sequence[int]) -> list[Edge]:
        """To other groups."""
        width = self._reads.width
        found = []
        for place in range(self._first, self._last):
            for edge in self._reads.edges[place]:
                if edge.producer < self._first:
                    window = self._beyond(place, edge)
                    ratio = edge.width / width[self._last - 1]
                    target = group_of[edge.producer]
                    local = edge.local and self.local
                    found.append(Edge(target, local, *window, ratio, edge.width))
        return list(dict.fromkeys(found))

    def cost(self, costs: PartCosts, lines: Sequence[tuple[float, float]]) -> PartCost:
        """On one side; ``lines``: through the parts of each operator."""
        width = self._reads.width
        places = range(self._first, self._last)
        whole = sum(max(float(costs.whole[each]), float(costs.floor[each])) for each in places)
        floor = sum(float(costs.floor[each]) for each in places)
        if not self.local:
            return PartCost(whole, 0.0, 0.0, whole / width[self._last - 1], floor)
        fixed = per_step = per_row = 0.0
        for each in places:
            kernel, stride, _ = self.window[each]
            any_part, all_rows = lines[each]
            per_step += any_part
            per_row += all_rows / width[each] * stride
            fixed += all_rows / width[each] * (kernel - stride)
        return PartCost(whole, fixed, per_step, per_row, floor)
