"""Which packet numbers came: doubles and replays are told apart, acknowledgements are written."""

from __future__ import annotations

from bisect import bisect_right
import math

from offload_ros.wire.packet import MAX_RANGES

MAX_GAPS = 64  # of more than so many runs the oldest is forgotten


class ReceivedNumbers:
    """A set of numbers, nearly all of them in one run; memory is bounded by ``MAX_GAPS``."""

    def __init__(self) -> None:
        self._ranges: list[tuple[int, int]] = []  # [first, last], in order, apart
        self._floor = 0  # a number below is taken for a double

    def __contains__(self, number: int) -> bool:
        """Whether ``number`` came before, or is too old to tell."""
        position = bisect_right(self._ranges, (number, math.inf))
        return number < self._floor or (position > 0 and self._ranges[position - 1][1] >= number)

    def add(self, number: int) -> bool:
        """Take ``number`` up; False when it came before, or is too old to tell."""
        ranges = self._ranges
        position = bisect_right(ranges, (number, math.inf))
        if number < self._floor or (position and ranges[position - 1][1] >= number):
            return False
        begin, end, first, last = position, position, number, number
        if position and ranges[position - 1][1] == number - 1:
            begin, first = position - 1, ranges[position - 1][0]
        if position < len(ranges) and ranges[position][0] == number + 1:
            end, last = position + 1, ranges[position][1]
        ranges[begin:end] = [(first, last)]
        if len(ranges) > MAX_GAPS:
            # Not joined with the next: what is missing between them must not be acknowledged.
            self._floor = ranges.pop(0)[1] + 1
        return True

    def ranges(self) -> list[tuple[int, int]]:
        """The newest ranges, for an acknowledgement, newest first."""
        return self._ranges[: -MAX_RANGES - 1 : -1]
