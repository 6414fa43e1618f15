"""What must cross the link: rows that one side needs and only the other one computes."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
import math

import numpy as np
from numpy.typing import NDArray

from offload_ros.graph.profile import Floats, Profile, ProfiledOperator

Flags = NDArray[np.bool_]
_LEAST_ROWS = 1e-6  # less is a rounding error of proportional ranges, not a message
_FAR = 1e15  # beyond every row; infinities would make differences that are not numbers


class Halo(Enum):
    """Which input rows a range of output rows needs.

    ``EXACT``: all that its window covers; a tensor whose rows do not follow from the window (a
    broadcast operand, a reshaped one) is needed whole. ``NONE``: the proportional range, the cost
    model of the Intra-DP authors, which changes values at a cut.
    """

    EXACT = 'exact'
    NONE = 'none'


@dataclass(frozen=True)
class Crossings:
    """Of P plans. ``up_rows``, ``down_rows``: (n, P) rows of each output that cross, in one message
    per direction. ``server_waits``, ``robot_waits``: (edges, P) whether the reader on that side
    needs rows of the message. ``uncovered``: (n, P) rows are needed that nobody computes.
    """

    up_rows: Floats
    down_rows: Floats
    server_waits: Flags
    robot_waits: Flags
    uncovered: Flags


def windows_fit(read: float, made: float, operator: ProfiledOperator) -> bool:
    """Whether rows follow from the window, because the whole output does, ``made`` rows of ``read``
    ones: floor((w + 2p - k) / s) + 1."""
    stride = operator.stride
    whole = math.floor((read + 2.0 * operator.padding - operator.kernel) / stride) + 1.0
    return whole == made or (stride < 1.0 and read == made * stride)


class Windows:
    """The edges (producer, reader) of a profile, sorted by producer, and their windows."""

    def __init__(self, profile: Profile, halo: Halo) -> None:
        pairs = [
            (producer, reader)
            for reader, producers in enumerate(profile.producers)
            for producer in producers
        ]
        pairs.sort()
        self.producer = np.array([pair[0] for pair in pairs], dtype=int)
        self.reader = np.array([pair[1] for pair in pairs], dtype=int)
        self._width = profile.widths[:, None]
        self._halo = halo
        kernel, stride, padding = (
            profile.column(name)[self.reader] for name in ('kernel', 'stride', 'padding')
        )
        read, made = profile.widths[self.producer], profile.widths[self.reader]
        self._kernel, self._padding = kernel[:, None], padding[:, None]
        self._stride, self._ratio = stride[:, None], (read / made)[:, None]
        fits = np.array(
            [
                windows_fit(read[edge], made[edge], profile.operators[reader])
                for edge, (_, reader) in enumerate(pairs)
            ],
            dtype=bool,
        )
        split = np.array([operator.split for operator in profile.operators], dtype=bool)
        local = split[self.reader]
        self._local = (local & fits if halo is Halo.EXACT else local)[:, None]
        self._read_width = read[:, None]
        self._output = np.array([operator.is_output for operator in profile.operators], dtype=bool)
        # np.ufunc.reduceat over runs of equal producers.
        self._runs = np.flatnonzero(np.r_[True, np.diff(self.producer) > 0]) if pairs else None

    def needs(self, rows: Floats) -> tuple[Floats, Floats]:
        """(edges, P) rows [from, to) of its producer that each reader needs for its own output
        ``rows`` (n, 2, P); [_FAR, -_FAR) where it computes nothing."""
        length = rows[:, 1] - rows[:, 0]
        start = rows[self.reader, 0]
        stop = rows[self.reader, 1]
        # The whole operator reads its whole inputs, also rows that a stride leaves out.
        whole = (length >= self._width)[self.reader] | ~self._local
        if self._halo is Halo.EXACT:
            first = np.floor(start * self._stride - self._padding)
            last = np.ceil((stop - 1.0) * self._stride + (self._kernel - self._padding))
        else:
            first, last = start * self._ratio, stop * self._ratio
        np.maximum(first, 0.0, out=first)
        np.copyto(first, 0.0, where=whole)
        np.minimum(last, self._read_width, out=last)
        np.copyto(last, self._read_width, where=whole)
        nothing = (length <= 0.0)[self.reader] | (last <= first)
        np.copyto(first, _FAR, where=nothing)
        np.copyto(last, -_FAR, where=nothing)
        return first, last

    def cut_crossings(self, on_server: Flags) -> Crossings:
        """The same of P layer cuts, ``on_server`` (n, P), without looking at rows."""
        producer_there, reader_there = on_server[self.producer], on_server[self.reader]
        server_waits = reader_there & ~producer_there
        robot_waits = producer_there & ~reader_there
        up, down = np.zeros_like(on_server), np.zeros_like(on_server)
        if self._runs is not None:
            places = self.producer[self._runs]
            up[places] = np.logical_or.reduceat(server_waits, self._runs, axis=0)
            down[places] = np.logical_or.reduceat(robot_waits, self._runs, axis=0)
        down |= on_server & self._output[:, None]
        return Crossings(
            np.where(up, self._width, 0.0),
            np.where(down, self._width, 0.0),
            server_waits,
            robot_waits,
            np.zeros_like(on_server),
        )

    def crossings(self, robot: Floats, server: Floats) -> Crossings:
        """Of P plans, ``robot`` and ``server`` (n, 2, P) rows that each side computes."""
        up_rows, server_waits, up_uncovered = self._missing(server, robot, False)
        down_rows, robot_waits, down_uncovered = self._missing(robot, server, True)
        uncovered = up_uncovered | down_uncovered
        return Crossings(up_rows, down_rows, server_waits, robot_waits, uncovered)

    def _missing(self, own: Floats, other: Floats, final: bool) -> tuple[Floats, Flags, Flags]:
        """Rows of each output that a side which computes ``own`` lacks; ``final``: it must hold
        the outputs of the model."""
        need_first = np.full((len(self._width), own.shape[2]), _FAR)
        need_last = -need_first
        first, last = self.needs(own)
        if self._runs is not None:
            places = self.producer[self._runs]
            need_first[places] = np.minimum.reduceat(first, self._runs, axis=0)
            need_last[places] = np.maximum.reduceat(last, self._runs, axis=0)
        if final:
            need_first[self._output] = 0.0
            need_last[self._output] = self._width[self._output]
        # Whatever is needed lies left of the rows of a side that computes none.
        none = own[:, 1] <= own[:, 0]
        own_first = np.where(none, _FAR, own[:, 0])
        own_last = np.where(none, _FAR, own[:, 1])
        left_end = np.minimum(need_last, own_first)
        right_start = np.maximum(need_first, own_last)
        left, right = left_end - need_first, need_last - right_start
        lacks_left, lacks_right = left > _LEAST_ROWS, right > _LEAST_ROWS
        have_first, have_last = other[:, 0] - _LEAST_ROWS, other[:, 1] + _LEAST_ROWS
        uncovered = (lacks_left & ((need_first < have_first) | (left_end > have_last))) | (
            lacks_right & ((right_start < have_first) | (need_last > have_last))
        )
        rows = np.where(lacks_left, left, 0.0) + np.where(lacks_right, right, 0.0)
        waits = first < (own_first - _LEAST_ROWS)[self.producer]
        waits |= last > (own_last + _LEAST_ROWS)[self.producer]
        return rows, waits, uncovered
