"""Index intervals, and how an interval of an operator's output maps to one of its argument.

All intervals are half open. A relation belongs to one tensor argument of one operator: ``needs`` is
the exact interval along ``axis`` of the argument that an interval of the output reads, clipped to
the argument. What padding supplies is not in it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Final, Literal, NamedTuple, Protocol, TypeAlias


class Interval(NamedTuple):
    """Indices ``start`` to ``stop - 1``; every interval with ``stop <= start`` is empty."""

    start: int
    stop: int

    @property
    def length(self) -> int:
        """How many indices."""
        return max(0, self.stop - self.start)

    @property
    def empty(self) -> bool:
        """Whether there is no index in it."""
        return self.stop <= self.start

    def intersect(self, other: Interval) -> Interval:
        """The common indices; ``NOTHING`` if there are none."""
        start, stop = max(self.start, other.start), min(self.stop, other.stop)
        return Interval(start, stop) if start < stop else NOTHING

    def covers(self, other: Interval) -> bool:
        """Whether every index of ``other`` is in it."""
        return other.empty or (self.start <= other.start and other.stop <= self.stop)

    def widened(self, rows: int) -> Interval:
        """With ``rows`` more on both sides; the empty interval stays empty."""
        return NOTHING if self.empty else Interval(self.start - rows, self.stop + rows)

    def without(self, other: Interval) -> tuple[Interval, ...]:
        """What of it is not in ``other``: none, one or two intervals, ascending."""
        if self.empty:
            return ()
        if self.intersect(other).empty:
            return (self,)
        pieces = Interval(self.start, other.start), Interval(other.stop, self.stop)
        return tuple(piece for piece in pieces if not piece.empty)


NOTHING: Final = Interval(0, 0)


class Whole(Enum):
    """The type of ``WHOLE``: all of an argument is needed."""

    WHOLE = 'whole'


WHOLE: Final = Whole.WHOLE
Need: TypeAlias = 'Interval | Literal[Whole.WHOLE]'


def hull(intervals: Iterable[Interval]) -> Interval:
    """The smallest interval that covers all of them; ``NOTHING`` for none."""
    filled = [each for each in intervals if not each.empty]
    if not filled:
        return NOTHING
    return Interval(min(each.start for each in filled), max(each.stop for each in filled))


def clipped(start: int, stop: int, extent: int) -> Interval:
    """``[start, stop)`` within ``[0, extent)``; ``NOTHING`` where they do not meet."""
    return Interval(start, stop).intersect(Interval(0, extent))


class Relation(Protocol):
    """How output intervals map to intervals of one argument."""

    @property
    def axis(self) -> int:
        """The argument's axis, counted from 0."""

    def needs(self, output: Interval) -> Interval:
        """The argument's indices that the non-empty interval ``output`` reads."""


@dataclass(frozen=True)
class Same:
    """The output's index is the argument's."""

    axis: int

    def needs(self, output: Interval) -> Interval:
        return output


@dataclass(frozen=True)
class Broadcast:
    """The argument has extent 1 here and is repeated."""

    axis: int

    def needs(self, output: Interval) -> Interval:
        return Interval(0, 1)


@dataclass(frozen=True)
class Window:
    """Output i reads i·stride − before + dilation·(0 … kernel−1): convolution, pools, slices."""

    axis: int
    extent: int
    kernel: int = 1
    stride: int = 1
    before: int = 0
    dilation: int = 1

    def span(self, output: Interval) -> Interval:
        """What it reads with the padding, which lies below 0 and from ``extent`` on."""
        reach = self.dilation * (self.kernel - 1) + 1
        return Interval(
            output.start * self.stride - self.before,
            (output.stop - 1) * self.stride - self.before + reach,
        )

    def needs(self, output: Interval) -> Interval:
        span = self.span(output)
        if not self.gaps(span):
            return clipped(*span, self.extent)
        # Taps lie apart: the first and the last that meet the argument are not at its ends.
        taps = [
            index
            for start in range(span.start, span.start + output.length * self.stride, self.stride)
            for index in range(start, start + self.dilation * self.kernel, self.dilation)
            if 0 <= index < self.extent
        ]
        return Interval(min(taps), max(taps) + 1) if taps else NOTHING

    def gaps(self, span: Interval) -> bool:
        """Whether the clipped ``span`` may begin or end between two taps."""
        return (span.start < 0 or span.stop > self.extent) and (
            self.dilation > 1 or self.stride > self.kernel
        )


@dataclass(frozen=True)
class TransposedWindow:
    """Input i adds to the outputs i·stride − before + dilation·(0 … kernel−1)."""

    axis: int
    extent: int
    kernel: int
    stride: int
    before: int
    dilation: int

    def needs(self, output: Interval) -> Interval:
        reach = self.dilation * (self.kernel - 1)
        first = -((reach - output.start - self.before) // self.stride)
        last = (output.stop - 1 + self.before) // self.stride
        span = clipped(first, last + 1, self.extent)
        if self.dilation == 1 and self.kernel >= self.stride:
            return span
        # With gaps between the taps the inputs at the ends may miss the interval.
        start, stop = span
        while start < stop and not self.adds(start, output):
            start += 1
        while start < stop and not self.adds(stop - 1, output):
            stop -= 1
        return Interval(start, stop) if start < stop else NOTHING

    def adds(self, index: int, output: Interval) -> bool:
        """Whether input ``index`` adds to any of the outputs."""
        first = index * self.stride - self.before
        tap = max(0, -((first - output.start) // self.dilation))
        return tap < self.kernel and first + tap * self.dilation < output.stop


@dataclass(frozen=True)
class Regrouped:
    """Row-major reshape: one row of the argument holds ``inner`` elements, of the output ``outer``
    (per index of the axes before). Also what depth-to-space does to an axis."""

    axis: int
    inner: int
    outer: int

    def needs(self, output: Interval) -> Interval:
        return Interval(
            output.start * self.outer // self.inner, -(-output.stop * self.outer // self.inner)
        )


@dataclass(frozen=True)
class Indexed:
    """Output i reads the argument's ``low[i]`` to ``high[i]``, both included: resampling, irregular
    windows, reflections."""

    axis: int
    low: tuple[int, ...]
    high: tuple[int, ...]

    def needs(self, output: Interval) -> Interval:
        return Interval(
            min(self.low[output.start : output.stop]),
            max(self.high[output.start : output.stop]) + 1,
        )


class AffineWindow(NamedTuple):
    """``[a, b)`` needs at most ⌊a·stride − padding⌋ to ⌈(b−1)·stride − padding + kernel⌉, clipped:
    the form of a profile's operators. Up-sampling by 2 has stride 0.5."""

    kernel: float
    stride: float
    padding: float


def affine_window(relation: Relation, outputs: int, extent: int) -> AffineWindow:
    """The smallest affine window that covers what each of ``outputs`` needs of ``extent`` indices.

    Exact for windows, slices and element-wise operators; what follows another rule (resampling by
    a broken factor, reflections) may get a little more than it needs.
    """
    if isinstance(relation, Window):
        reach = relation.dilation * (relation.kernel - 1) + 1
        return AffineWindow(reach, relation.stride, relation.before)
    if isinstance(relation, Same):
        return AffineWindow(1, 1, 0)
    stride = extent / outputs
    needs = [(index, relation.needs(Interval(index, index + 1))) for index in range(outputs)]
    ends = [(index * stride, each) for index, each in needs if not each.empty]
    padding = max((place - each.start for place, each in ends), default=0.0)
    kernel = max((each.stop - place + padding for place, each in ends), default=1.0)
    return AffineWindow(kernel, stride, padding)
