"""From the steps of a plan to two lists of work: waits, computations, sends and drops.

What crosses follows from the steps by the rules in ``graph.steps``, with the graph's exact needs.
Robot and server lower the same steps of the same graph to the same pieces: a piece is named by its
place among them.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
import hashlib
from typing import Literal

from offload_ros.graph.graph import Input, Parameter, Reference, TensorSpec, Value
from offload_ros.graph.intervals import NOTHING, Interval, hull
from offload_ros.graph.split_plan import PlanError
from offload_ros.graph.steps import Step, Steps
from offload_ros.intra_dp.lower_steps import MAX_STEPS, steps_bytes
from offload_ros.intra_dp.pieces import Compute, Operand, Piece, RowGraph, RowSet
from offload_ros.intra_dp.segments import (
    Item,
    Segment,
    peak_bytes,
    read_hulls,
    segments_of,
    with_blocks,
)

Machine = Literal['robot', 'server']
MAX_PIECES = 1 << 16  # a piece's place has 16 bits on the wire


@dataclass(frozen=True)
class SideWork:
    """One side's part: ``segments`` in order, ``buffers`` (``Held``), and the most memory that
    values take at a time (0 for those of unknown extents). ``rows``: by node, what it computes."""

    segments: tuple[Segment, ...]
    buffers: Mapping[Reference, Interval]
    peak_bytes: int
    rows: Mapping[int, int]


@dataclass(frozen=True, eq=False)
class Work:
    """A lowered plan. ``pieces``: the first ``up`` of them go to the server, the others come from
    it. ``key``: names the steps and what they were lowered to."""

    rows: RowGraph = field(repr=False)
    steps: Steps = field(repr=False)
    pieces: tuple[Piece, ...]
    up: int
    robot: SideWork
    server: SideWork
    key: str

    @property
    def counts(self) -> tuple[int, int]:
        """Nodes of which the robot computes some rows, and the server."""
        return len(self.robot.rows), len(self.server.rows)

    def piece_spec(self, place: int) -> TensorSpec:
        """Of the tensor that crosses with this place."""
        return self.rows.spec(self.pieces[place])

    @property
    def bytes_each_way(self) -> tuple[int, int]:
        """Of all pieces up and down, not coded; unknown extents count nothing."""
        sizes = [0, 0]
        for place, piece in enumerate(self.pieces):
            sizes[place >= self.up] += self.rows.nbytes(piece)
        return sizes[0], sizes[1]


def lower(rows: RowGraph, steps: Steps) -> Work:
    """The work of both sides. ``PlanError`` for steps that the graph cannot be computed by."""
    if len(steps.robot) + len(steps.server) > MAX_STEPS:
        raise PlanError(f'{len(steps.robot) + len(steps.server)} steps, {MAX_STEPS} are allowed')
    computed = _Computed(rows, steps)
    robot = _Reading(computed, 'robot', steps.robot)
    server = _Reading(computed, 'server', steps.server)
    pieces = _Pieces(rows, {'robot': robot, 'server': server})
    if len(pieces.up) + len(pieces.down) > MAX_PIECES:
        raise PlanError(
            f'{len(pieces.up) + len(pieces.down)} pieces cross, {MAX_PIECES} are allowed'
        )
    robot_items, server_items = pieces.items('robot'), pieces.items('server')
    _check_waits(robot_items, server_items)
    crossing = (*pieces.up, *pieces.down)
    first = tuple(range(pieces.of_inputs))
    return Work(
        rows,
        steps,
        crossing,
        len(pieces.up),
        _side(rows, crossing, robot_items, first, rows.outputs),
        _side(rows, crossing, server_items, (), ()),
        _key(steps, crossing),
    )


class _Computed:
    """Which rows each side computes in all; ``PlanError`` for steps that no graph has."""

    def __init__(self, rows: RowGraph, steps: Steps) -> None:
        self.rows = rows
        self.named = {each.operator for each in (*steps.robot, *steps.server)}
        self.by: dict[Machine, dict[Reference, RowSet]] = {
            'robot': self._made(steps.robot),
            'server': self._made(steps.server),
        }

    def is_free(self, node: int) -> bool:
        """Whether whoever reads it computes it: no step names it, and it costs nothing."""
        if node in self.named:
            return False
        return self.rows.is_constant(node) or self.rows.is_view(node)

    def _made(self, steps: Iterable[Step]) -> dict[Reference, RowSet]:
        values: dict[Reference, RowSet] = {}
        for step in steps:
            node, rows = self._checked(step)
            for value, there in self.rows.made(node, rows):
                values.setdefault(value, RowSet()).add(*there)
        return values

    def _checked(self, step: Step) -> tuple[int, Interval]:
        node, start, stop = step
        if node not in self.rows.live or self.rows.is_constant(node):
            raise PlanError(f'a step computes {node}, which is no operator that an output needs')
        if start != int(start) or stop != int(stop):
            raise PlanError(f'operator {node}: a plan that is run has whole rows, not {step}')
        rows, width = Interval(int(start), int(stop)), self.rows.width(node)
        if not 0 <= rows.start < rows.stop <= width:
            raise PlanError(f'operator {node} has {width} rows, a step computes {tuple(rows)}')
        if rows.length < width and not self.rows.is_local(node):
            raise PlanError(f'operator {node} is a barrier: one side computes it whole')
        return node, rows


@dataclass
class _Draft:
    """A step with what is computed for it (views, constants), and what comes from elsewhere."""

    computes: list[Compute] = field(default_factory=list)
    foreign: list[tuple[Reference, Interval]] = field(default_factory=list)
    node: int | None = None
    rows: Interval = NOTHING


class _Reading:
    """One side's steps in order: what each reads, and which of it the side lacks then."""

    def __init__(self, computed: _Computed, side: Machine, steps: Iterable[Step]) -> None:
        self.rows, self.computed = computed.rows, computed
        self.side = side
        other: Machine = 'server' if side == 'robot' else 'robot'
        self.other = computed.by[other]
        self.own: dict[Reference, RowSet] = {}
        self.done: dict[int, RowSet] = {}
        self.drafts: list[_Draft] = []
        self.wanted: dict[Reference, RowSet] = {}  # of the other side's operators
        if side == 'robot':
            for name in self.rows.graph.inputs:
                self._got(Input(name), Interval(0, self.rows.count(Input(name))))
        for step in steps:
            self._add(step.operator, Interval(int(step.start), int(step.stop)))
        if side == 'robot':
            self.drafts.append(_Draft())
            for value in self.rows.outputs:
                self._read(Operand(value, Interval(0, self.rows.count(value))))

    def _add(self, node: int, rows: Interval) -> None:
        """What a side has computed it does not compute again: no plan is more work than the whole
        graph on each side."""
        self.drafts.append(_Draft(node=node, rows=rows))
        done = self.done.setdefault(node, RowSet())
        for lacking in done.lacking(*rows):
            self._compute(node, lacking)
            done.add(*lacking)
            for value, there in self.rows.made(node, lacking):
                self._got(value, there)

    def _compute(self, node: int, rows: Interval) -> None:
        """Where all rows are computed, all of what is read is taken if somebody has it: then the
        kernel of the whole model runs, and the bits are its own."""
        draft = self.drafts[-1]
        whole = rows.length == self.rows.width(node) or not self.rows.is_local(node)
        reads = self.rows.whole(node) if whole else self.rows.part(node, rows)
        if whole and self.rows.is_local(node) and not all(map(self._is_there, reads)):
            whole, reads = False, self.rows.part(node, rows)
        for operand in reads:
            self._read(operand)
        draft.computes.append(Compute(node, None if whole else rows, reads))

    def _read(self, operand: Operand) -> None:
        value, rows, _ = operand
        if isinstance(value, Parameter):
            return
        for lacking in self._lacking(value, rows):
            if isinstance(value, Value) and self.computed.is_free(value.node):
                self._free(value.node, lacking)
            elif isinstance(value, Input) or self._comes(value, lacking):
                self.drafts[-1].foreign.append((value, lacking))
                self.wanted.setdefault(value, RowSet()).add(*lacking)
            else:
                raise PlanError(
                    f'rows {tuple(lacking)} of operator {value.node} are needed on the '
                    f'{self.side} before anybody computes them'
                )

    def _free(self, node: int, rows: Interval) -> None:
        """Compute what no step names, here and now."""
        if not self.rows.is_local(node):
            rows = Interval(0, self.rows.width(node))
        self._compute(node, rows)
        for value, there in self.rows.made(node, rows):
            self._got(value, there)

    def _got(self, value: Reference, rows: Interval) -> None:
        self.own.setdefault(value, RowSet()).add(*rows)

    def _lacking(self, value: Reference, rows: Interval) -> list[Interval]:
        own = self.own.get(value)
        return [rows] * (not rows.empty) if own is None else own.lacking(*rows)

    def _comes(self, value: Reference, rows: Interval) -> bool:
        made = self.other.get(value)
        return made is not None and made.covers(*rows)

    def _is_there(self, operand: Operand) -> bool:
        """Whether all that is read is here or comes."""
        value = operand.value
        if not isinstance(value, Value):
            return True
        if self.computed.is_free(value.node):
            return all(
                isinstance(each.value, Parameter) or self._is_there(each)
                for each in self.rows.whole(value.node)
            )
        return all(self._comes(value, each) for each in self._lacking(value, operand.rows))


class _Pieces:
    """What crosses: by the rules of ``graph.steps``."""

    def __init__(self, rows: RowGraph, sides: Mapping[Machine, _Reading]) -> None:
        self.rows, self.sides = rows, sides
        self.up: list[Piece] = []
        self.down: list[Piece] = []
        # By the side that sends: after which draft which places leave; where rows come from.
        self.leaving: dict[Machine, dict[int, list[int]]] = {'robot': {}, 'server': {}}
        self.sources: dict[Machine, dict[Reference, list[tuple[Interval, int]]]] = {
            'robot': {}, 'server': {},
        }  # fmt: skip
        self._of_inputs()
        self.of_inputs = len(self.up)
        self._of_steps('robot', 'server', self.up)
        self._of_steps('server', 'robot', self.down)

    def _of_inputs(self) -> None:
        """In the order in which the server reads them, without what came before."""
        brought: dict[Reference, RowSet] = {}
        for draft in self.sides['server'].drafts:
            for value, rows in draft.foreign:
                if isinstance(value, Input):
                    there = brought.setdefault(value, RowSet())
                    for lacking in there.lacking(*rows):
                        self._add('robot', self.up, value, lacking, [lacking])
                        there.add(*lacking)

    def _of_steps(self, side: Machine, reader: Machine, crossing: list[Piece]) -> None:
        wanted = self.sides[reader].wanted
        sent: dict[Reference, RowSet] = {}
        for place, draft in enumerate(self.sides[side].drafts):
            if draft.node is None:
                continue
            for value, rows in self.rows.made(draft.node, draft.rows):
                if value not in wanted:
                    continue
                before = sent.setdefault(value, RowSet())
                fresh = [
                    each for read in wanted[value].common(*rows) for each in before.lacking(*read)
                ]
                if fresh:
                    leaving = self.leaving[side].setdefault(place, [])
                    leaving.append(len(crossing))
                    self._add(side, crossing, value, hull(fresh), fresh)
                    for each in fresh:
                        before.add(*each)

    def _add(
        self,
        side: Machine,
        crossing: list[Piece],
        value: Reference,
        rows: Interval,
        fresh: Sequence[Interval],
    ) -> None:
        sources = self.sources[side].setdefault(value, [])
        sources.extend((each, len(crossing)) for each in fresh)
        crossing.append(Piece(value, rows))

    def items(self, side: Machine) -> list[Item]:
        """Each draft of a side with the places that it waits for and sends."""
        other: Machine = 'server' if side == 'robot' else 'robot'
        offset = len(self.up) if side == 'robot' else 0
        sources = {value: sorted(each) for value, each in self.sources[other].items()}
        own_offset = 0 if side == 'robot' else len(self.up)
        arrived: set[int] = set()
        items = []
        for place, draft in enumerate(self.sides[side].drafts):
            waits: dict[int, None] = {}
            for value, lacking in draft.foreign:
                for source in _bringing(sources.get(value, []), lacking):
                    if source not in arrived:
                        waits[source + offset] = None
                        arrived.add(source)
            sends = [each + own_offset for each in self.leaving[side].get(place, ())]
            items.append(Item(tuple(waits), tuple(draft.computes), tuple(sends)))
        return items


def _bringing(sources: list[tuple[Interval, int]], rows: Interval) -> Iterator[int]:
    """``sources``: disjoint intervals, ascending, with who brings them."""
    place = max(0, bisect_right(sources, (Interval(rows.start, rows.start), -1)) - 1)
    while place < len(sources) and sources[place][0].start < rows.stop:
        if sources[place][0].stop > rows.start:
            yield sources[place][1]
        place += 1


def _check_waits(robot: Sequence[Item], server: Sequence[Item]) -> None:
    """``PlanError`` unless both lists can be walked to their ends."""
    places = [0, 0]
    arrived = {each for item in server for each in item.waits}
    arrived -= {each for item in robot for each in item.sends}  # the model's inputs
    moved = True
    while moved:
        moved = False
        for side, items in enumerate((robot, server)):
            while places[side] < len(items) and arrived.issuperset(items[places[side]].waits):
                arrived.update(items[places[side]].sends)
                places[side] += 1
                moved = True
    if places != [len(robot), len(server)]:
        stuck = [
            f'{side} in step {place}'
            for side, place, items in zip(('robot', 'server'), places, (robot, server), strict=True)
            if place < len(items)
        ]
        raise PlanError(f'robot and server wait for each other: {", ".join(stuck)}')


def _side(
    rows: RowGraph,
    pieces: Sequence[Piece],
    items: Sequence[Item],
    first: tuple[int, ...],
    kept: Sequence[Reference],
) -> SideWork:
    """``first``: pieces that are sent at once. ``kept``: values that are read in the end."""
    inputs = tuple(map(Input, rows.graph.inputs)) if kept else ()
    buffers = read_hulls(rows, pieces, items, kept, inputs)
    segments = segments_of(rows, pieces, items, first, {*kept, *inputs})
    counts: dict[int, int] = {}
    for item in items:
        for node, part, _ in item.computes:
            if not rows.is_constant(node):
                count = rows.width(node) if part is None else part.length
                counts[node] = counts.get(node, 0) + count
    peak = peak_bytes(rows, pieces, segments, buffers)
    return SideWork(with_blocks(rows, pieces, segments, kept), buffers, peak, counts)


def _key(steps: Steps, pieces: Iterable[Piece]) -> str:
    """SHA-256 of the steps and the pieces: machines that lower them otherwise do not agree."""
    digest = hashlib.sha256(f'{len(steps.robot)} {len(steps.server)}\n'.encode())
    digest.update(steps_bytes(steps))
    digest.update('\n'.join(map(_text, pieces)).encode())
    return digest.hexdigest()


def _text(piece: Piece) -> str:
    value, rows = piece
    name = f'{value.node}.{value.output}' if isinstance(value, Value) else value.name
    return f'{name} {rows.start} {rows.stop}'
