"""Random step plans of a graph, and plans of the shape that a planner makes."""

from __future__ import annotations

from itertools import pairwise
import random

from offload_ros.graph.graph import Value
from offload_ros.graph.intervals import Interval
from offload_ros.graph.steps import Step, Steps
from offload_ros.intra_dp.pieces import RowSet


def operators(rows):
    """Ids that a profile lists, in order."""
    return [node for node in sorted(rows.live) if not rows.is_constant(node)]


def split_plan(rows, borders, halo=0, low_on_robot=True, tiles=1, reverse=False):
    """Steps in the order of the operators, each side's rows of an operator in ``tiles``.

    ``borders``: share of rows of the low side by node. ``halo``: rows that both compute beyond.
    """
    sides = {'robot': [], 'server': []}
    low, high = ('robot', 'server') if low_on_robot else ('server', 'robot')
    for node in operators(rows):
        width = rows.width(node)
        border = round(borders[node] * width)
        if not rows.is_local(node):
            border = width if borders[node] >= 0.5 else 0
            ranges = {low: (0, border), high: (border, width)}
        else:
            ranges = {
                low: (0, min(width, border + halo) if border else 0),
                high: (max(0, border - halo) if border < width else width, width),
            }
        for side, (start, stop) in ranges.items():
            sides[side] += [
                Step(node, *tile)
                for tile in tiled(start, stop, tiles if rows.is_local(node) else 1, reverse)
            ]
    return Steps(tuple(sides['robot']), tuple(sides['server']))


def tiled(start, stop, count, reverse=False):
    """[start, stop) in at most ``count`` parts."""
    points = sorted({start + (stop - start) * part // count for part in range(count + 1)})
    parts = list(pairwise(points))
    return parts[::-1] if reverse else parts


def random_plan(rows, seed):
    """Borders that jump or drift, halos, tiles in either direction."""
    draw = random.Random(seed)
    border = draw.random()
    drift = draw.choice((0.0, 0.05, 0.3, 1.0))
    borders = {}
    for node in operators(rows):
        border = min(1.0, max(0.0, border + drift * draw.uniform(-1, 1)))
        borders[node] = draw.choice((0.0, 1.0)) if draw.random() < 0.05 else border
    return split_plan(
        rows, borders, draw.choice((0, 1, 2, 5)), draw.random() < 0.5, draw.choice((1, 1, 2, 3, 7)),
        draw.random() < 0.5,
    )  # fmt: skip


def streamed(rows, steps, seed):
    """The same steps in another order that both sides can walk: roughly tile by tile through the
    operators, as a line buffer does, or (odd seeds) at random."""
    draw = random.Random(seed)
    left = [(side, step) for side in ('robot', 'server') for step in getattr(steps, side)]
    named = {step.operator for _, step in left}
    depth = draw.choice((0.0, 0.3, 1.0))

    def key(side_and_step):
        operator, start, _ = side_and_step[1]
        random_part = draw.random() if seed % 2 else 0.0
        return start / rows.width(operator) + depth * operator / len(rows.graph.nodes) + random_part

    left = sorted(left, key=key)
    made = {'robot': {}, 'server': {}}
    orders = {'robot': [], 'server': []}
    while left:
        waiting = []
        for side, step in left:
            if not _ready(rows, side, step, made, named):
                waiting.append((side, step))
                continue
            orders[side].append(step)
            for value, there in rows.made(step.operator, Interval(step.start, step.stop)):
                made[side].setdefault(value, RowSet()).add(*there)
        assert len(waiting) < len(left)
        left = waiting
    return Steps(tuple(orders['robot']), tuple(orders['server']))


def _ready(rows, side, step, made, named):
    own, other = made[side], made['server' if side == 'robot' else 'robot']

    def there(value, need):
        if isinstance(value, Value) and value.node not in named:
            return all(there(each.value, each.rows) for each in rows.whole(value.node))
        lacking = own.get(value, RowSet()).lacking(*need) if not need.empty else []
        return not isinstance(value, Value) or all(
            other.get(value, RowSet()).covers(*each) for each in lacking
        )

    whole = not rows.is_local(step.operator) or step.stop - step.start == rows.width(step.operator)
    reads = (
        rows.whole(step.operator)
        if whole
        else rows.part(step.operator, Interval(step.start, step.stop))
    )
    return all(there(each.value, each.rows) for each in reads)
