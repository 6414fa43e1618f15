"""How long a plan with steps takes: both lists walked in time, with both directions of the link.

The rules are those of ``graph.steps`` and ``graph.schedule``: a step starts when the one before it
has ended and what it waits for has arrived; a message is encoded when its step has ended, occupies
the link for bytes / (utilisation * bandwidth) and arrives ``delay_s`` and its decoding later.

A step costs what a part of its rows does (``graph.part_costs``). So an operator in several steps
pays a floor for each, and what is measured of parts does not go through zero: many thin tiles are
dear on a machine where they are. Without either, steps add up to the time of their rows together.

Messages take a side's processor from its computing (``Side.handling``): one that a step waits for
delays it, unless the side had nothing to do before it came; one that leaves delays the step after.
A step that has waited takes ``Side.resume_s`` longer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
import math
from typing import TYPE_CHECKING

import numpy as np

from offload_ros.graph.handled import handled, inputs_of
from offload_ros.graph.part_costs import PartCosts
from offload_ros.graph.profile import Profile, Side, TransferCost
from offload_ros.graph.split_plan import Plan, PlanError
from offload_ros.graph.steps import Step
from offload_ros.graph.steps_flow import Flow, FlowError, Message, Placed, Reads, Walk, flow_of
from offload_ros.graph.timeline import Schedule, Task
from offload_ros.policy.power import state_times

if TYPE_CHECKING:
    from offload_ros.graph.schedule import Link


@dataclass(frozen=True)
class _Rate:
    """Of one direction of a link."""

    s_per_byte: float
    delay_s: float
    encode_s: Sequence[float]  # of each message
    decode_s: Sequence[float]


class _Queue:
    """Messages of one direction in time: first in, first out, in the order in which they are ready;
    of those that are ready together, the one that is read first."""

    def __init__(self, messages: Sequence[Message], sizes: Sequence[float], rate: _Rate) -> None:
        self.start_s = [math.nan] * len(messages)
        self.end_s = [math.nan] * len(messages)
        self.arrival_s: list[float | None] = [None] * len(messages)
        self._messages, self._sizes, self._rate = messages, sizes, rate
        self._ready: list[int] = []
        self._ready_s = 0.0
        self._free_s = 0.0

    def add(self, message: int, ready_s: float) -> None:
        """Computed at ``ready_s``, which never falls."""
        if ready_s > self._ready_s:
            self.send()
            self._ready_s = ready_s
        self._ready.append(message)

    def send(self) -> None:
        """What is ready."""
        if len(self._ready) > 1:
            self._ready.sort(key=lambda each: (self._messages[each].reader, each))
        rate = self._rate
        for each in self._ready:
            size = self._sizes[each]
            start_s = max(self._free_s, self._ready_s + rate.encode_s[each])
            self._free_s = start_s + (rate.s_per_byte * size if size else 0.0)
            self.start_s[each], self.end_s[each] = start_s, self._free_s
            self.arrival_s[each] = self._free_s + rate.delay_s + rate.decode_s[each]
        self._ready.clear()


class _Machine:
    """One side in time."""

    def __init__(
        self,
        walk: Walk,
        durations_s: Sequence[float],
        handled_s: Sequence[float],
        resume_s: float,
        incoming: _Queue,
        outgoing: _Queue,
    ) -> None:
        self._walk, self._durations_s = walk, durations_s
        self._handled_s, self._resume_s = handled_s, resume_s
        self._incoming, self._outgoing = incoming, outgoing
        self.start_s: list[float] = []
        self.end_s: list[float] = []
        self._free_s = 0.0

    @property
    def place(self) -> int:
        """The step that comes next."""
        return len(self.end_s)

    def advance(self) -> bool:
        """Take steps until one waits for what is not yet sent; False when none could be taken."""
        began = self.place
        walk, arrivals = self._walk, self._incoming.arrival_s
        for step in range(began, len(walk.steps)):
            ready_s = start_s = self._free_s + self._handled_s[step]
            for message in walk.waits[step]:
                arrival_s = arrivals[message]
                if arrival_s is None:
                    self._incoming.send()
                    arrival_s = arrivals[message]
                    if arrival_s is None:
                        return step > began
                if arrival_s > start_s:
                    start_s = arrival_s
            self.start_s.append(start_s)
            self._free_s = start_s + self._durations_s[step]
            if start_s > ready_s:
                self._free_s += self._resume_s
            self.end_s.append(self._free_s)
            message = walk.sends[step]  # type: ignore[assignment]
            if message is not None:
                self._outgoing.add(message, self._free_s)
        return self.place > began

    @property
    def done(self) -> bool:
        """All steps are taken."""
        return self.place == len(self._walk.steps)


class StepsEvaluator:
    """Of plans with steps, of one profile. Raises ``PlanError`` where steps do not fit."""

    def __init__(self, profile: Profile, reads: Reads) -> None:
        self.profile, self._reads = profile, reads
        self._row_bytes = (profile.column('message_bytes') / profile.widths).tolist()
        self._codec_s = {
            (side, kind): (profile.column(f'{side}_{kind}_s') / profile.widths).tolist()
            for side in ('robot', 'server')
            for kind in ('encode', 'decode')
        }  # per row
        self._parts = {side: PartCosts.of(profile, side) for side in ('robot', 'server')}

    def schedule(self, plan: Plan, link: Link) -> Schedule:
        """``plan``, which has steps, in time."""
        assert plan.steps is not None
        robot, server = self._placed(plan.steps.robot), self._placed(plan.steps.server)
        try:
            flow = flow_of(self._reads, robot, server)
        except FlowError as error:
            raise self._plan_error(error.place, error.rule) from None
        timed = self._timed(flow, link)
        latency_s = timed.latency_s
        robot_tasks = _tasks(robot, timed.robot)
        server_tasks = _tasks(server, timed.server)
        uplink = _messages(flow.up, timed.up, timed.up_sizes)
        downlink = _messages(flow.down, timed.down, timed.down_sizes)
        busy = [each for each in (*uplink, *downlink) if each.end_s > each.start_s]
        states = state_times(_columns(robot_tasks), _columns(busy), np.array([latency_s]))
        return Schedule(
            plan,
            latency_s,
            sum(timed.up_sizes),
            sum(timed.down_sizes),
            states,
            robot_tasks,
            uplink,
            server_tasks,
            downlink,
        )

    def durations_s(self, side: str, steps: Sequence[Placed]) -> list[float]:
        """Seconds of each step on ``side``."""
        width = self._reads.width
        shares = [(stop - start) / width[place] for place, start, stop in steps]
        return self._parts[side].of_steps([place for place, _, _ in steps], shares)

    def sizes(self, messages: Sequence[Message]) -> list[float]:
        """Bytes of each."""
        row_bytes = self._row_bytes
        return [row_bytes[each.place] * (each.stop - each.start) for each in messages]

    def codec_s(
        self, side: str, kind: str, messages: Sequence[Message], sizes: Sequence[float]
    ) -> list[float]:
        """Seconds in which ``side`` encodes or decodes (``kind``) each message of so many bytes."""
        cost: TransferCost = getattr(getattr(self.profile, side), kind)
        of_row = self._codec_s[side, kind]
        return [
            cost.fixed_s + cost.s_per_byte * size + of_row[each.place] * (each.stop - each.start)
            for each, size in zip(messages, sizes, strict=True)
        ]

    def _timed(self, flow: Flow, link: Link) -> _Timed:
        up_sizes, down_sizes = self.sizes(flow.up), self.sizes(flow.down)
        up_s, down_s = (
            1.0 / (link.utilisation * each) if each else math.inf
            for each in (link.uplink_bytes_per_s, link.downlink_bytes_per_s)
        )
        up_codecs = (
            self.codec_s('robot', 'encode', flow.up, up_sizes),
            self.codec_s('server', 'decode', flow.up, up_sizes),
        )
        down_codecs = (
            self.codec_s('server', 'encode', flow.down, down_sizes),
            self.codec_s('robot', 'decode', flow.down, down_sizes),
        )
        up = _Queue(flow.up, up_sizes, _Rate(up_s, link.delay_s, *up_codecs))
        down = _Queue(flow.down, down_sizes, _Rate(down_s, link.delay_s, *down_codecs))
        machines = (
            self._machine('robot', flow, (down, down_sizes), (up, up_sizes)),
            self._machine('server', flow, (up, up_sizes), (down, down_sizes)),
        )
        for message, each in enumerate(flow.up):
            if each.step < 0:
                up.add(message, 0.0)
        while any(each.advance() for each in machines):
            pass
        for machine, name in zip(machines, ('robot', 'server'), strict=True):
            if not machine.done:
                place = getattr(flow, name).steps[machine.place][0]
                raise self._plan_error(place, 'both sides wait for each other here')
        up.send()
        down.send()
        latency_s = max(
            (
                *(each or 0.0 for each in (down.arrival_s[m] for m in flow.result_waits)),
                *(machines[0].end_s[step] for step in flow.result_steps),
            ),
            default=0.0,
        )
        return _Timed(latency_s, *machines, up, down, up_sizes, down_sizes)

    def _machine(
        self,
        side: str,
        flow: Flow,
        incoming: tuple[_Queue, Sequence[float]],
        outgoing: tuple[_Queue, Sequence[float]],
    ) -> _Machine:
        """Queues with the sizes of their messages."""
        walk: Walk = getattr(flow, side)
        own: Side = getattr(self.profile, side)
        at_once = inputs_of(flow.up) if side == 'robot' else 0
        handled_s = handled(walk, own.handling, incoming[1], outgoing[1], at_once)
        durations_s = self.durations_s(side, walk.steps)
        return _Machine(walk, durations_s, handled_s, own.resume_s, incoming[0], outgoing[0])

    def _placed(self, steps: Sequence[Step]) -> list[Placed]:
        positions = self.profile.positions
        try:
            return [(positions[each.operator], each.start, each.stop) for each in steps]
        except KeyError as error:
            raise PlanError(f'the profile has no operator {error}') from None

    def _plan_error(self, place: int, rule: str) -> PlanError:
        operator = self.profile.operators[place]
        return PlanError(f"operator {operator.id} ('{operator.name}'): {rule}")


@dataclass
class _Timed:
    latency_s: float
    robot: _Machine
    server: _Machine
    up: _Queue
    down: _Queue
    up_sizes: list[float]
    down_sizes: list[float]


def _tasks(steps: Sequence[Placed], machine: _Machine) -> tuple[Task, ...]:
    return tuple(
        Task(place, machine.start_s[index], machine.end_s[index], rows=(start, stop))
        for index, (place, start, stop) in enumerate(steps)
    )


def _messages(
    messages: Sequence[Message], queue: _Queue, sizes: Sequence[float]
) -> tuple[Task, ...]:
    """In the order of sending."""
    found = [
        Task(
            each.place,
            queue.start_s[index],
            queue.end_s[index],
            queue.arrival_s[index] or 0.0,
            sizes[index],
            (each.start, each.stop),
        )
        for index, each in enumerate(messages)
    ]
    return tuple(sorted(found, key=lambda each: each.start_s))


def _columns(tasks: Sequence[Task]) -> tuple[np.ndarray, np.ndarray]:
    """Starts and ends, (k, 1)."""
    return (
        np.array([each.start_s for each in tasks]).reshape(-1, 1),
        np.array([each.end_s for each in tasks]).reshape(-1, 1),
    )
