"""Two lists of steps walked in time, with nothing kept but what a search asks for.

The rules are those of ``graph.steps_schedule``, which is exact and tells everything; this one takes
a tenth of the time. Messages that are ready at the same moment leave in the order of their steps.
"""

from __future__ import annotations

from collections.abc import Sequence
import math

from offload_ros.graph.steps_flow import Flow, Walk


class Lane:
    """One direction: of each message, seconds on the link (``occupied_s``), before it
    (``encode_s``) and after it (``after_s``)."""

    def __init__(
        self, occupied_s: Sequence[float], encode_s: Sequence[float], after_s: Sequence[float]
    ) -> None:
        self.occupied_s, self.encode_s, self.after_s = occupied_s, encode_s, after_s
        self.arrivals: list[float | None] = [None] * len(occupied_s)
        self.free_s = 0.0

    def send(self, message: int, ready_s: float) -> None:
        """Computed at ``ready_s``."""
        ready_s += self.encode_s[message]
        if ready_s > self.free_s:
            self.free_s = ready_s
        self.free_s += self.occupied_s[message]
        self.arrivals[message] = self.free_s + self.after_s[message]

    def intervals(self) -> list[tuple[float, float]]:
        """Starts and ends on the link of what was sent."""
        return [
            (at - after - occupied, at - after)
            for at, after, occupied in zip(
                self.arrivals, self.after_s, self.occupied_s, strict=True
            )
            if at is not None and math.isfinite(at)
        ]


class Pace:
    """One side: how long its steps take, and when those that are done have ended (``ends``).
    ``handled_s``: before each step (``graph.handled``); ``resume_s``: after a wait."""

    def __init__(
        self,
        walk: Walk,
        durations_s: Sequence[float],
        handled_s: Sequence[float],
        resume_s: float = 0.0,
    ) -> None:
        self.walk, self.durations_s = walk, durations_s
        self.handled_s, self.resume_s = handled_s, resume_s
        self.ends: list[float] = []

    def advance(self, incoming: Lane, outgoing: Lane) -> bool:
        """Go on until a message is missing; whether any step was done."""
        waits, sends, durations_s = self.walk.waits, self.walk.sends, self.durations_s
        handled_s, resume_s = self.handled_s, self.resume_s
        arrivals, ends = incoming.arrivals, self.ends
        began = len(ends)
        now_s = ends[-1] if ends else 0.0
        for step in range(began, len(durations_s)):
            now_s += handled_s[step]
            if waits[step]:
                ready_s = now_s
                for message in waits[step]:
                    arrival_s = arrivals[message]
                    if arrival_s is None:
                        return step > began
                    if arrival_s > now_s:
                        now_s = arrival_s
                if now_s > ready_s:
                    now_s += resume_s
            now_s += durations_s[step]
            ends.append(now_s)
            leaving = sends[step]
            if leaving is not None:
                outgoing.send(leaving, now_s)
        return len(ends) > began

    @property
    def done(self) -> bool:
        """All steps."""
        return len(self.ends) == len(self.durations_s)


def walk(flow: Flow, robot: Pace, server: Pace, up: Lane, down: Lane) -> float:
    """Latency in s; infinite when both sides wait for each other."""
    for message, each in enumerate(flow.up):
        if each.step >= 0:
            break
        up.send(message, 0.0)
    moved = True
    while moved:
        moved = robot.advance(down, up)
        moved = server.advance(up, down) or moved
    if not (robot.done and server.done):
        return math.inf
    latency_s = max((robot.ends[step] for step in flow.result_steps), default=0.0)
    for message in flow.result_waits:
        arrival_s = down.arrivals[message]
        if arrival_s is not None and arrival_s > latency_s:
            latency_s = arrival_s
    return latency_s
