"""Candidates of the planner: decisions per group of operators, and what they cost.

A ``Stream`` says who computes which rows (``regions``) and in which tiles (``tiles``). ``Streams``
times it on the coarse graph, which takes about a millisecond, and makes it a plan of operators.
"""

from __future__ import annotations

from collections.abc import Sequence
import math
from typing import NamedTuple

import numpy as np

from offload_ros.baselines.problem import Objective, Problem, Subject
from offload_ros.graph.handled import handled, inputs_of
from offload_ros.graph.schedule import Link
from offload_ros.graph.split_plan import Plan
from offload_ros.graph.steps import Step, Steps
from offload_ros.graph.steps_flow import Flow, FlowError, flow_of
from offload_ros.intra_dp.coarse import Coarse, coarse_of
from offload_ros.intra_dp.pace import Lane, Pace, walk
from offload_ros.intra_dp.regions import regions_of
from offload_ros.intra_dp.tiles import Segment, steps_of
from offload_ros.policy.power import PowerModel, state_times

MOST_STEPS = 4000  # of operators, on a side: more are dear to keep, to check and to launch


class Stream(NamedTuple):
    """Per group of the coarse graph: ``modes`` and ``borders`` (see ``regions_of``); ``robot``,
    ``server``: segments of groups in tiles."""

    modes: tuple[int, ...]
    borders: tuple[float, ...]
    robot: tuple[Segment, ...]
    server: tuple[Segment, ...]


class Amounts(NamedTuple):
    """What a stream keeps busy: seconds of both sides, bytes both ways."""

    robot_s: float
    server_s: float
    up_bytes: float
    down_bytes: float


class _Codec(NamedTuple):
    """What coding takes one way: of each message, and of a row of each group."""

    encode_s: float
    decode_s: float
    encode_row_s: list[float]
    decode_row_s: list[float]


class Streams:
    """Of one profile."""

    def __init__(self, subject: Subject) -> None:
        self.profile = subject.profile
        self.coarse = coarse_of(subject.profile, subject.halo)
        self._subject = subject
        self._work = [
            _parts([each.whole for each in side])
            for side in (self.coarse.robot, self.coarse.server)
        ]
        self.spent = 0  # about how many windows were looked at: a clock that is always the same
        self._effort = [2 + len(edges) for edges in self.coarse.reads.edges]
        self._codecs = (
            _codec(self.coarse, 'robot', 'server'),
            _codec(self.coarse, 'server', 'robot'),
        )
        self._group_size = [last - first for first, last in self.coarse.members]

    def flow(self, stream: Stream) -> Flow:
        """On the coarse graph; ``FlowError``."""
        reads = self.coarse.reads
        regions = regions_of(reads, stream.modes, stream.borders)
        robot = steps_of(reads, regions.robot, stream.robot, self._work[0])
        server = steps_of(reads, regions.server, stream.server, self._work[1])
        effort = self._effort
        self.spent += len(effort) + sum(
            effort[each[0]] for side in (robot, server) for each in side
        )
        return flow_of(reads, robot, server)

    def latency_s(self, stream: Stream, link: Link) -> float:
        """On the coarse graph."""
        return self.rank(stream, Problem(self._subject, link))

    def rank(self, stream: Stream, problem: Problem) -> float:
        """By the objective, on the coarse graph; infinite where the sides wait for each other."""
        try:
            flow = self.flow(stream)
        except FlowError:
            return math.inf
        for side in (flow.robot, flow.server):
            if sum(self._group_size[each[0]] for each in side.steps) > MOST_STEPS:
                return math.inf
        return self.rank_flow(flow, problem)

    def rank_flow(self, flow: Flow, problem: Problem) -> float:
        """The same of steps of groups."""
        robot, server = self._paces(flow)
        up, down = self._messages(flow, problem.link)
        latency_s = walk(flow, robot, server, up, down)
        if problem.objective is Objective.LATENCY:
            return latency_s
        energy_j = _energy_j(problem.power, latency_s, robot, (up, down))
        return problem.rank_one(latency_s, energy_j)

    def _paces(self, flow: Flow) -> tuple[Pace, Pace]:
        coarse = self.coarse
        costs = coarse.fine.robot, coarse.fine.server
        durations_s = (
            coarse.durations_s(coarse.robot, flow.robot.steps),
            coarse.durations_s(coarse.server, flow.server.steps),
        )
        row_bytes = coarse.row_bytes
        up, down = (
            [row_bytes[each.place] * (each.stop - each.start) for each in messages]
            for messages in (flow.up, flow.down)
        )
        robot_s = handled(flow.robot, costs[0].handling, down, up, inputs_of(flow.up))
        server_s = handled(flow.server, costs[1].handling, up, down)
        return (
            Pace(flow.robot, durations_s[0], robot_s, costs[0].resume_s),
            Pace(flow.server, durations_s[1], server_s, costs[1].resume_s),
        )

    def _messages(self, flow: Flow, link: Link) -> tuple[Lane, Lane]:
        lanes = []
        for messages, rate, codec in (
            (flow.up, link.uplink_bytes_per_s, self._codecs[0]),
            (flow.down, link.downlink_bytes_per_s, self._codecs[1]),
        ):
            s_per_byte = 1.0 / (link.utilisation * rate) if rate else math.inf
            row_s = [s_per_byte * each if each else 0.0 for each in self.coarse.row_bytes]
            late_s = link.delay_s + codec.decode_s
            rows = [(each.place, each.stop - each.start) for each in messages]
            lanes.append(
                Lane(
                    [row_s[place] * count for place, count in rows],
                    [codec.encode_s + codec.encode_row_s[place] * count for place, count in rows],
                    [late_s + codec.decode_row_s[place] * count for place, count in rows],
                )
            )
        return lanes[0], lanes[1]

    def amounts(self, modes: Sequence[int], borders: Sequence[float]) -> Amounts:
        """Of decisions without tiles; ``FlowError``."""
        coarse = self.coarse
        flow = self.flow(Stream(tuple(modes), tuple(borders), (), ()))
        row_bytes = coarse.row_bytes
        return Amounts(
            sum(coarse.durations_s(coarse.robot, flow.robot.steps)),
            sum(coarse.durations_s(coarse.server, flow.server.steps)),
            sum(row_bytes[each.place] * (each.stop - each.start) for each in flow.up),
            sum(row_bytes[each.place] * (each.stop - each.start) for each in flow.down),
        )

    def plan(self, stream: Stream) -> Plan:
        """Of the operators; ``FlowError`` as ``flow``."""
        flow = self.flow(stream)
        ids = [operator.id for operator in self.coarse.fine.operators]
        sides = [
            tuple(Step(ids[place], a, b) for place, a, b in self.coarse.operator_steps(walk.steps))
            for walk in (flow.robot, flow.server)
        ]
        return Plan.of_steps(self.profile, Steps(*sides))


def _codec(coarse: Coarse, sender: str, receiver: str) -> _Codec:
    fine, finals = coarse.fine, [last - 1 for _, last in coarse.members]
    encode, decode = getattr(fine, sender).encode, getattr(fine, receiver).decode
    row_bytes = np.array(coarse.row_bytes)
    encode_row_s = (fine.encode_s(sender) / fine.widths)[finals] + encode.s_per_byte * row_bytes
    decode_row_s = (fine.decode_s(receiver) / fine.widths)[finals] + decode.s_per_byte * row_bytes
    return _Codec(encode.fixed_s, decode.fixed_s, encode_row_s.tolist(), decode_row_s.tolist())


def _parts(work: Sequence[float]) -> list[float]:
    whole = sum(work)
    return [each / whole if whole else 0.0 for each in work]


def _energy_j(power: PowerModel, latency_s: float, robot: Pace, lanes: tuple[Lane, Lane]) -> float:
    computing = [
        (end - took, end) for end, took in zip(robot.ends, robot.durations_s, strict=False)
    ]
    talking = [each for lane in lanes for each in lane.intervals()]
    columns = []
    for part in (computing, talking):
        pairs = np.array(part or [(0.0, 0.0)])
        columns.append((pairs[:, :1], pairs[:, 1:]))
    states = state_times(columns[0], columns[1], np.array([latency_s]))
    return float(states.energy_j(power)[0])
