"""Steps: a plan whose sides compute a few rows at a time, so that sending and computing overlap.

Each side has one list and takes it in order. A step computes rows of one operator's output and
waits until the rows that it reads are there. This is the whole of a streaming plan; what crosses
the link follows from it, by the same rules for the cost model and for the machines:

- A side has the rows that earlier steps of its own computed; the robot has the model's inputs.
  Whatever else a step reads comes from the other side, which must compute it in some step. The
  outputs of the model are read by the robot, whole, in the end.
- Of the rows that a step computes, those that the other side reads and lacks leave when the step
  has ended, in one message per value (the hull of what is read of them by all its later steps).
  Rows of an input leave at once, in one message per step that reads them, in the order of these
  steps, without what an earlier message brought.
- Each direction of the link is first in, first out in the order in which messages are ready;
  among equals the one that is read first.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
import math
from typing import Any, NamedTuple

MAX_STEPS = 1 << 17  # of both sides together, read from outside


class StepsError(ValueError):
    """A list of steps that cannot be one; the text says why."""


class Step(NamedTuple):
    """Rows [start, stop) of the output of ``operator`` (its id), along its split axis.

    Whole numbers but in the cost model without halos, which knows fractions of a row."""

    operator: int
    start: float
    stop: float


@dataclass(frozen=True)
class Steps:
    """What each side computes, in order. A row may be computed by both, to save a transfer."""

    robot: tuple[Step, ...]
    server: tuple[Step, ...]

    def document(self) -> dict[str, list[list[float]]]:
        """JSON form: lists of [operator, start, stop]."""
        return {
            side: [[each.operator, _plain(each.start), _plain(each.stop)] for each in steps]
            for side, steps in (('robot', self.robot), ('server', self.server))
        }

    @classmethod
    def from_document(cls, document: Any) -> Steps:
        """The inverse of ``document``; ``StepsError``. Ids and rows are checked by who knows the
        operators."""
        if not isinstance(document, Mapping) or not {'robot', 'server'} <= set(document):
            raise StepsError("steps must be an object with 'robot' and 'server'")
        sides = [document['robot'], document['server']]
        if not all(isinstance(side, list) for side in sides):
            raise StepsError('the steps of a side must be a list')
        if sum(map(len, sides)) > MAX_STEPS:
            raise StepsError(f'{sum(map(len, sides))} steps, {MAX_STEPS} are allowed')
        return cls(*(tuple(map(_step, side)) for side in sides))


def hulls(steps: Iterable[Step]) -> dict[int, tuple[float, float]]:
    """Of each operator, the rows from the first to the last that any step computes."""
    found: dict[int, tuple[float, float]] = {}
    for operator, start, stop in steps:
        first, last = found.get(operator, (math.inf, -math.inf))
        found[operator] = min(first, start), max(last, stop)
    return found


def _step(three: Any) -> Step:
    numbers = isinstance(three, (list, tuple)) and len(three) == 3
    if not numbers or not all(
        isinstance(each, (int, float)) and not isinstance(each, bool) and math.isfinite(each)
        for each in three
    ):
        raise StepsError(f'a step must be [operator, start, stop], not {three!r:.80}')
    operator, start, stop = three
    if operator != int(operator) or not 0 <= start < stop:
        raise StepsError(f'a step computes rows of an operator, not {three!r:.80}')
    return Step(int(operator), start, stop)


def _plain(value: float) -> float:
    return int(value) if float(value).is_integer() else float(value)
