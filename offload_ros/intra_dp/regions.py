"""Which rows each side computes, from a few decisions: read backward from the model's outputs.

Rows are numbered so that the robot has the low ones. An operator's readers on either side tell
which rows that side reads of it. Its mode says who computes them:

- ``OWN``: each side all that it reads. Halos are computed twice and nothing crosses.
- ``SERVER_LEADS``: the server all that it reads, the robot the others. Between two such operators
  the server's part shrinks by the halo, and only the robot waits for rows: the server never does.
- ``ROBOT_LEADS``: the other way round.
- ``MEET``: of the rows that both read, each side computes half and sends it.
- ``SPLIT``: rows below a border by the robot, the others by the server. Halos cross both ways.

Whatever is read is computed somewhere by construction. A layer cut is a split at 0 or at the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import NamedTuple

from offload_ros.graph.steps_flow import Reads

NONE = (0.0, 0.0)
_FAR = 1e15


class Mode(IntEnum):
    """See the module."""

    OWN = 0
    SERVER_LEADS = 1
    ROBOT_LEADS = 2
    MEET = 3
    SPLIT = 4


class Regions(NamedTuple):
    """Rows [from, to) by operator."""

    robot: list[tuple[float, float]]
    server: list[tuple[float, float]]


def regions_of(reads: Reads, modes: Sequence[int], borders: Sequence[float]) -> Regions:
    """``modes``: one per operator; ``borders``: the share of its rows below the border, of a
    ``SPLIT`` one; a barrier goes to the robot from 0.5 on, whatever the mode."""
    count = len(reads.width)
    low_r, high_r = [_FAR] * count, [-_FAR] * count
    low_s, high_s = [_FAR] * count, [-_FAR] * count
    for place in reads.outputs:
        low_r[place], high_r[place] = 0.0, reads.width[place]
    robot, server = [NONE] * count, [NONE] * count
    of, is_input, split, exact = reads.of, reads.is_input, reads.split, reads.exact
    for place in range(count - 1, -1, -1):
        if is_input[place]:
            continue
        rl, rh, sl, sh = low_r[place], high_r[place], low_s[place], high_s[place]
        if rh <= rl and sh <= sl:
            continue  # nobody reads it
        width, mode = reads.width[place], modes[place]
        if not split[place] and mode != Mode.OWN:
            here, there = (0.0, width), NONE
            if borders[place] < 0.5:
                here, there = there, here
        elif mode == Mode.OWN:
            if not split[place]:
                rl, rh = (0.0, width) if rh > rl else NONE
                sl, sh = (0.0, width) if sh > sl else NONE
            here = (rl, rh) if rh > rl else NONE
            there = (sl, sh) if sh > sl else NONE
        else:
            low, high = (rl if rl < sl else sl), (rh if rh > sh else sh)
            if mode == Mode.SERVER_LEADS:
                border = sl if sh > sl else high
            elif mode == Mode.ROBOT_LEADS:
                border = rh if rh > rl else low
            elif mode == Mode.MEET:
                border = high if sh <= sl else low if rh <= rl else (sl + rh) / 2.0
                if exact:
                    border = float(int(border + 0.5))
                border = min(max(border, low), high)
            else:
                border = borders[place] * width
                if exact:
                    border = float(int(border + 0.5))
                border = min(max(border, low), high)
            here = (low, border) if border > low else NONE
            there = (border, high) if high > border else NONE
        if here[1] > here[0]:
            robot[place] = here
            for producer, first, last in of(place, *here):
                if first < low_r[producer]:
                    low_r[producer] = first
                if last > high_r[producer]:
                    high_r[producer] = last
        if there[1] > there[0]:
            server[place] = there
            for producer, first, last in of(place, *there):
                if first < low_s[producer]:
                    low_s[producer] = first
                if last > high_s[producer]:
                    high_s[producer] = last
    return Regions(robot, server)
