"""What happened when in one inference, on the robot and on the server: for charts and to learn."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
import enum
from typing import Any, NamedTuple

import numpy as np

from offload_ros.wire.errors import WireError

MAX_EVENTS = 200_000


class Kind(enum.IntEnum):
    """What an event is of."""

    COMPUTE = 0  # a segment; from start to stop
    SEND = 1  # a piece: when it was ready to leave, and (on the robot) when it was acknowledged
    RECEIVE = 2  # a piece: when it had arrived whole
    COMPLETE = 3  # rows that the robot computed itself, late; number: how many operators
    NODE = 4  # an operator of a segment, in its order; number: its id


class Event(NamedTuple):
    """``number``: of a segment, or the place of a piece or of a value that crosses. Seconds since
    the run began there."""

    kind: Kind
    number: int
    start_s: float
    stop_s: float


@dataclass(frozen=True)
class Timeline:
    """Events of both sides, in seconds since the robot began.

    Clocks are not compared: the server's times are moved so that pieces arrive after they left,
    with equal room both ways.
    """

    robot: tuple[Event, ...]
    server: tuple[Event, ...]

    def document(self) -> dict[str, list[list[Any]]]:
        """JSON form: lists of [kind, index, start ms, stop ms]."""
        return {
            side: [
                [each.kind.name.lower(), each.number, _ms(each.start_s), _ms(each.stop_s)]
                for each in events
            ]
            for side, events in (('robot', self.robot), ('server', self.server))
        }


def events_to_bytes(events: Iterable[Event]) -> bytes:
    """(n, 4) int32, little endian: kind, index, start and stop in microseconds."""
    rows = [(e.kind, e.number, round(e.start_s * 1e6), round(e.stop_s * 1e6)) for e in events]
    return np.array(rows, '<i8').clip(-(1 << 31), (1 << 31) - 1).astype('<i4').tobytes()


def events_from_bytes(data: bytes) -> tuple[Event, ...]:
    """The inverse; ``WireError``."""
    if len(data) % 16 or len(data) // 16 > MAX_EVENTS:
        raise WireError(f'{len(data)} bytes are no timeline')
    try:
        return tuple(
            Event(Kind(kind), index, start * 1e-6, stop * 1e-6)
            for kind, index, start, stop in np.frombuffer(data, '<i4').reshape(-1, 4).tolist()
        )
    except ValueError:
        raise WireError('a timeline with an event that nobody knows') from None


def events_of_nodes(start_s: float, node_s: Mapping[int, float]) -> list[Event]:
    """One after the other from ``start_s`` on, each as long as it took by itself."""
    events = []
    for node, seconds in node_s.items():
        events.append(Event(Kind.NODE, node, start_s, start_s + seconds))
        start_s += seconds
    return events


def joined(robot: Iterable[Event], server: Iterable[Event], asked_s: float = 0.0) -> Timeline:
    """``asked_s``: when the robot had sent its first message, which began the run there."""
    robot, server = tuple(robot), tuple(server)
    left = {each.number: each.start_s for each in robot if each.kind is Kind.SEND}
    came = {each.number: each.stop_s for each in robot if each.kind is Kind.RECEIVE}
    least, most = asked_s, float('inf')
    for each in server:
        if each.kind is Kind.RECEIVE and each.number in left:
            least = max(least, left[each.number] - each.stop_s)
        if each.kind is Kind.SEND and each.number in came:
            most = min(most, came[each.number] - each.start_s)
    offset_s = (least + most) / 2.0 if least < most < float('inf') else least
    moved = tuple(
        each._replace(start_s=each.start_s + offset_s, stop_s=each.stop_s + offset_s)
        for each in server
    )
    return Timeline(robot, moved)


def _ms(seconds: float) -> float:
    return round(seconds * 1e3, 3)
