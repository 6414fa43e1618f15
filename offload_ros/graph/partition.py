"""Who computes which indices of every operator, and what then has to cross between the parts.

The index sets of Intra-DP, section 3: each part (robot, server, ...) owns a contiguous interval of
every local operator, the intervals of an operator cover it without overlap and may be empty. A
barrier is computed by one part. What a part needs beyond what it owns, a halo or more, it computes
itself up to ``halo_rows`` and gets from the owners beyond.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from offload_ros.graph.classify import SplitGraph
from offload_ros.graph.graph import GraphError, Input, Reference, Value
from offload_ros.graph.intervals import NOTHING, WHOLE, Interval, Need, hull
from offload_ros.graph.local import Kind
from offload_ros.graph.slices import needed_hull


@dataclass(frozen=True)
class Partition:
    """``shares``: of a local operator, by node id, the interval that each part owns.

    ``owners``: the part that computes all of a node, for barriers and where wanted for others.
    ``halo_rows``: by node id, how many indices on each side of its own a part computes itself if
    it needs them; 0 (all of the halo is exchanged) for a node that is not in it. ``inputs``: the
    part that has an input, 0 for those not in it. ``outputs``: the part that wants the results.
    """

    parts: int
    shares: Mapping[int, tuple[Interval, ...]]
    owners: Mapping[int, int]
    halo_rows: Mapping[int, int] = field(default_factory=dict)
    inputs: Mapping[str, int] = field(default_factory=dict)
    outputs: int = 0

    def validate(self, split: SplitGraph) -> None:
        """``ValueError`` unless every node has its owners and their intervals cover it once."""
        parts = [*self.owners.values(), *self.inputs.values(), self.outputs]
        if self.parts < 1 or not all(0 <= part < self.parts for part in parts):
            raise ValueError(f'parts are numbered from 0 to {self.parts - 1}, not {max(parts)}')
        if any(rows < 0 for rows in self.halo_rows.values()):
            raise ValueError('halo_rows are numbers of indices: 0 or more')
        for node in split.graph.nodes:
            if split.kinds[node.id] is Kind.CONSTANT or node.id in self.owners:
                continue
            operator = split.operators.get(node.id)
            if operator is None:
                raise ValueError(
                    f'node {node.id} ({node.operator}) is a barrier: name the part that computes '
                    'it in owners'
                )
            self._check_shares(node.id, operator.extent)

    def _check_shares(self, node: int, extent: int) -> None:
        shares = self.shares.get(node)
        if shares is None or len(shares) != self.parts:
            raise ValueError(f'node {node} needs one share for each of the {self.parts} parts')
        place = 0
        for share in sorted(share for share in shares if not share.empty):
            if share.start != place:
                break
            place = share.stop
        else:
            if place == extent:
                return
        raise ValueError(
            f'the shares of node {node} have to cover its {extent} indices once: '
            f'{[tuple(share) for share in shares]}'
        )


def shares_at(points: Sequence[int], extent: int) -> tuple[Interval, ...]:
    """The shares that ascending cut ``points`` make of ``[0, extent)``; the first part has the low
    indices."""
    bounds = [0, *points, extent]
    if sorted(bounds) != bounds:
        raise ValueError(f'cut points have to ascend within 0 and {extent}: {list(points)}')
    return tuple(Interval(*each) for each in pairwise(bounds))


@dataclass(frozen=True)
class Transfer:
    """Indices of a value that one part computes and another needs; ``WHOLE`` without split axis.

    ``bytes``: of the elements; None where the run decides how many there are.
    """

    value: Reference
    source: int
    destination: int
    interval: Need
    bytes: int | None


@dataclass(frozen=True)
class Flow:
    """What a partition makes every part compute, need and send.

    ``computed``: by node id and part the interval it computes, ``WHOLE`` for a barrier; nodes that
    nobody needs are computed by nobody. ``needed``: by value and part the hull of what its own
    operators read, and of the results where it wants them. ``transfers``: in the order in which the
    values are made.
    """

    computed: Mapping[int, tuple[Need, ...]]
    needed: Mapping[Reference, tuple[Need, ...]]
    transfers: tuple[Transfer, ...]

    def bytes_between(self, source: int, destination: int) -> int:
        """Bytes of all transfers from one part to another; ``GraphError`` where one is unknown."""
        total = 0
        for each in self.transfers:
            if (each.source, each.destination) != (source, destination):
                continue
            if each.bytes is None:
                raise GraphError(f'the size of {each.value} is known only when it is there')
            total += each.bytes
        return total


def needed_intervals(split: SplitGraph, partition: Partition) -> Flow:
    """Goes backward from the results: what each part computes and needs, and what crosses.

    A part computes of what it owns only the hull of what it and others need. ``ValueError`` for a
    partition that does not fit the graph.
    """
    partition.validate(split)
    return _Backward(split, partition).flow()


class _Backward:
    def __init__(self, split: SplitGraph, partition: Partition) -> None:
        self.split = split
        self.partition = partition
        self.needed: dict[Reference, list[Need]] = {}
        self.computed: dict[int, tuple[Need, ...]] = {}
        self.transfers: list[Transfer] = []

    def flow(self) -> Flow:
        for reference in self.split.graph.outputs.values():
            if not self.split.is_constant(reference):
                self.need(reference, self.partition.outputs, WHOLE)
        for node in reversed(self.split.graph.nodes):
            if self.split.kinds[node.id] is Kind.CONSTANT:
                continue
            values = [Value(node.id, output) for output in range(len(node.outputs))]
            wanted = [value for value in values if value in self.needed]
            if node.id in self.partition.owners:
                computed = self.by_one(node.id, wanted)
            else:
                computed = self.by_all(node.id, wanted)
            self.computed[node.id] = computed
            self.pass_on(node.id, computed)
        for name in self.split.graph.inputs:
            if Input(name) in self.needed:
                self.send_from(Input(name), self.partition.inputs.get(name, 0))
        transfers = sorted(self.transfers, key=_order)
        needed = {reference: tuple(each) for reference, each in self.needed.items()}
        return Flow(self.computed, needed, tuple(transfers))

    def need(self, reference: Reference, part: int, need: Need) -> None:
        """``part`` needs more of a value than was known."""
        needs = self.needed.setdefault(reference, [NOTHING] * self.partition.parts)
        needs[part] = needed_hull((needs[part], need), self.split.extent(reference))

    def pass_on(self, node: int, computed: Iterable[Need]) -> None:
        """What is computed of a node needs of those before it."""
        for part, interval in enumerate(computed):
            if interval is WHOLE or not interval.empty:
                whole = None if interval is WHOLE else interval
                for reference, need in self.split.needs(node, whole):
                    self.need(reference, part, need)

    def by_one(self, node: int, wanted: Sequence[Reference]) -> tuple[Need, ...]:
        """One part computes all that is needed, and sends the others theirs."""
        owner = self.partition.owners[node]
        for value in wanted:
            self.send_from(value, owner)
        computed: list[Need] = [NOTHING] * self.partition.parts
        if wanted and node in self.split.operators:
            computed[owner] = hull(self.interval(value, part) for value, part in self.pairs(wanted))
        elif wanted:
            computed[owner] = WHOLE
        return tuple(computed)

    def pairs(self, values: Sequence[Reference]) -> Iterable[tuple[Reference, int]]:
        return ((value, part) for value in values for part in range(self.partition.parts))

    def interval(self, value: Reference, part: int) -> Interval:
        """What a part needs of a value with split axis."""
        need = self.needed[value][part]
        assert need is not WHOLE
        return need

    def by_all(self, node: int, wanted: Sequence[Reference]) -> tuple[Need, ...]:
        """Each part computes of its own share, and of the halo as far as it may, what is needed."""
        shares = self.partition.shares[node]
        rows = self.partition.halo_rows.get(node, 0)
        parts = range(self.partition.parts)
        computed = [
            hull(self.interval(value, part) for value in wanted).intersect(
                shares[part].widened(rows)
            )
            for part in parts
        ]
        served: list[list[Interval]] = [[each] for each in computed]
        for value, part in self.pairs(wanted):
            for lacking in self.interval(value, part).without(computed[part]):
                for source in parts:
                    piece = lacking.intersect(shares[source])
                    if source != part and not piece.empty:
                        served[source].append(piece)
                        self.send(value, source, part, piece)
        return tuple(hull(pieces) for pieces in served)

    def send_from(self, value: Reference, owner: int) -> None:
        """All that the other parts need of a value that one part has."""
        for part, need in enumerate(self.needed[value]):
            if part != owner and (need is WHOLE or not need.empty):
                self.send(value, owner, part, need)

    def send(self, value: Reference, source: int, destination: int, need: Need) -> None:
        size: int | None = None
        if self.split.graph.spec_of(value).is_static:
            count = 1 if need is WHOLE else need.length
            size = count * self.split.index_bytes(value)
        self.transfers.append(Transfer(value, source, destination, need, size))


def _order(transfer: Transfer) -> tuple[int, int, int, int]:
    node, output = (
        (transfer.value.node, transfer.value.output)
        if isinstance(transfer.value, Value)
        else (-1, 0)
    )
    return node, output, transfer.source, transfer.destination
