"""How long a plan takes: two processors and two links that work at the same time.

The one cost model of this package. Robot and server each compute their parts in execution order;
a message leaves when its rows are computed, and links are FIFO and full duplex. A message occupies
its link for bytes / (utilisation * bandwidth) and arrives ``delay_s`` later, which occupies
nothing. An operator starts once what it needs from the other side has arrived. What a part costs
is in ``graph.part_costs``; outputs end on the robot.

What crosses of a tensor in one direction is one message. All plans of a call are walked together,
as columns of arrays: a search evaluates thousands at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
import math

import numpy as np

from offload_ros.graph.crossings import Crossings, Flags, Halo, Windows
from offload_ros.graph.part_costs import PartCosts
from offload_ros.graph.profile import Floats, Profile, Side
from offload_ros.graph.split_plan import Plan, PlanError, cut_rows
from offload_ros.graph.steps_flow import Reads
from offload_ros.graph.steps_schedule import StepsEvaluator
from offload_ros.graph.timeline import Costs, Schedule, joined, tasks
from offload_ros.policy.power import PowerModel, StateTimes, state_times

BLOCK = 64  # plans walked together: their arrays stay in a core's cache


@dataclass(frozen=True)
class Link:
    """Between robot and server. Bandwidths in bytes/s, of which a transfer reaches ``utilisation``;
    ``delay_s`` one way. With 0 bytes/s nothing ever arrives."""

    uplink_bytes_per_s: float
    downlink_bytes_per_s: float
    delay_s: float = 0.0013
    utilisation: float = 0.9

    def __post_init__(self) -> None:
        for name in ('uplink_bytes_per_s', 'downlink_bytes_per_s', 'delay_s'):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0.0):
                raise ValueError(f'{name} must be a finite number, 0 or more, not {value}')
        if not 0.0 < self.utilisation <= 1.0:
            raise ValueError(f'utilisation must lie in (0, 1], not {self.utilisation}')

    @classmethod
    def of_megabytes_per_s(cls, bandwidth: float) -> Link:
        """The same both ways, 1 MB = 1e6 bytes."""
        return cls(bandwidth * 1e6, bandwidth * 1e6)


@dataclass
class _Walk:
    """Starts and ends of everything, (n, P); ends equal starts where nothing happens."""

    robot_start: Floats
    robot_end: Floats
    server_start: Floats
    server_end: Floats
    up_start: Floats
    up_end: Floats
    down_start: Floats
    down_end: Floats
    at_server: Floats  # arrivals
    at_robot: Floats

    @classmethod
    def empty(cls, operators: int, plans: int) -> _Walk:
        return cls(*(np.zeros((operators, plans)) for _ in range(10)))


class Evaluator:
    """Evaluates plans of one profile. ``halo``: see ``Halo``; layer cuts carry none either way."""

    def __init__(self, profile: Profile, halo: Halo = Halo.EXACT) -> None:
        self.profile = profile
        self.halo = halo
        self._windows = Windows(profile, halo)
        self._edges: list[list[tuple[int, int]]] = [[] for _ in profile.operators]
        pairs = zip(self._windows.producer.tolist(), self._windows.reader.tolist(), strict=True)
        for edge, (producer, reader) in enumerate(pairs):
            self._edges[reader].append((edge, producer))
        self._message_bytes = profile.column('message_bytes')[:, None]
        self._codec_s = {
            (sender, receiver): (
                profile.encode_s(sender)[:, None] / profile.widths[:, None],
                profile.decode_s(receiver)[:, None] / profile.widths[:, None],
            )
            for sender, receiver in (('robot', 'server'), ('server', 'robot'))
        }  # per row
        self._widths = profile.widths[:, None]
        self._parts = {side: PartCosts.of(profile, side) for side in ('robot', 'server')}
        self._outputs = [
            place for place, operator in enumerate(profile.operators) if operator.is_output
        ]

    @cached_property
    def reads(self) -> Reads:
        """Windows, one step at a time."""
        return Reads.of_profile(self.profile, self.halo)

    @cached_property
    def steps(self) -> StepsEvaluator:
        """Of plans with steps."""
        return StepsEvaluator(self.profile, self.reads)

    def schedule(self, plan: Plan, link: Link) -> Schedule:
        """One plan with all that happens when. ``PlanError`` when nobody computes what is needed,
        or steps of both sides wait for each other."""
        if plan.steps is not None:
            return self.steps.schedule(plan, link)
        robot, server = plan.robot[..., None], plan.server[..., None]
        crossings = self._windows.crossings(robot, server)
        for place in np.flatnonzero(crossings.uncovered[:, 0])[:1]:
            operator = self.profile.operators[place]
            raise PlanError(
                f"operator {operator.id} ('{operator.name}'): rows are needed that neither robot "
                f'{plan.robot[place].tolist()} nor server {plan.server[place].tolist()} computes'
            )
        up_bytes, down_bytes = self._amounts(crossings)
        walk, latency = self._walk(robot, server, crossings, [link])
        sent, received = crossings.up_rows[:, 0] > 0, crossings.down_rows[:, 0] > 0
        states = _states(walk, latency)
        return Schedule(
            plan,
            float(latency[0]),
            float(up_bytes.sum()),
            float(down_bytes.sum()),
            states,
            robot=tasks(plan.on_robot, walk.robot_start, walk.robot_end),
            uplink=tasks(sent, walk.up_start, walk.up_end, walk.at_server, up_bytes),
            server=tasks(plan.on_server, walk.server_start, walk.server_end),
            downlink=tasks(received, walk.down_start, walk.down_end, walk.at_robot, down_bytes),
        )

    def costs(
        self,
        robot: Floats,
        server: Floats,
        links: Link | Sequence[Link],
        power: PowerModel | None = None,
    ) -> Costs:
        """Of P plans at once. ``robot``, ``server``: (n, 2, P) rows, as in ``Plan``, not checked;
        plans in which nobody computes what is needed get infinite latency. ``links``: one for all,
        or one for each. Energy only for a ``power`` model: it doubles the work."""
        several = _one_for_each(links, robot.shape[2])
        blocks = [
            self._costs(
                robot[..., block],
                server[..., block],
                self._windows.crossings(robot[..., block], server[..., block]),
                several[block],
                power,
            )
            for block in _blocks(robot.shape[2])
        ]
        return joined(blocks)

    def cut_costs(
        self, on_server: Flags, links: Link | Sequence[Link], power: PowerModel | None = None
    ) -> Costs:
        """Of P layer cuts, ``on_server`` (n, P)."""
        several = _one_for_each(links, on_server.shape[1])
        blocks = [
            self._costs(
                *cut_rows(self.profile, on_server[:, block]),
                self._windows.cut_crossings(on_server[:, block]),
                several[block],
                power,
            )
            for block in _blocks(on_server.shape[1])
        ]
        return joined(blocks)

    def _costs(
        self,
        robot: Floats,
        server: Floats,
        crossings: Crossings,
        links: Sequence[Link],
        power: PowerModel | None,
    ) -> Costs:
        up_bytes, down_bytes = self._amounts(crossings)
        walk, latency = self._walk(robot, server, crossings, links)
        latency[crossings.uncovered.any(axis=0)] = np.inf
        if power is None:
            energy_j = np.full_like(latency, np.nan)
        else:
            energy_j = _states(walk, latency).energy_j(power)
        return Costs(latency, up_bytes.sum(axis=0), down_bytes.sum(axis=0), energy_j)

    def _amounts(self, crossings: Crossings) -> tuple[Floats, Floats]:
        """(n, P) bytes of each message up and down."""
        per_row = self._message_bytes / self._widths
        return crossings.up_rows * per_row, crossings.down_rows * per_row

    def _codec_times(
        self, sender: str, receiver: str, rows: Floats, amounts: Floats
    ) -> tuple[Floats, Floats]:
        """(n, P) seconds to encode and to decode each message of ``rows`` (n, P) rows."""
        sides: tuple[Side, Side] = getattr(self.profile, sender), getattr(self.profile, receiver)
        encode, decode = sides[0].encode, sides[1].decode
        encode_s, decode_s = self._codec_s[sender, receiver]
        return (
            encode.fixed_s + encode.s_per_byte * amounts + encode_s * rows,
            decode.fixed_s + decode.s_per_byte * amounts + decode_s * rows,
        )

    def _durations(self, side: str, rows: Floats) -> Floats:
        """(n, P) seconds of each part."""
        return self._parts[side].seconds((rows[:, 1] - rows[:, 0]) / self._widths)

    def _walk(
        self, robot: Floats, server: Floats, crossings: Crossings, links: Sequence[Link]
    ) -> tuple[_Walk, Floats]:
        """Everything in time, operator by operator, all plans at once; and the latency (P,)."""
        plans = robot.shape[2]
        robot_s, server_s = self._durations('robot', robot), self._durations('server', server)
        up_bytes, down_bytes = self._amounts(crossings)
        delay_s = np.array([link.delay_s for link in links])
        up = _Messages(
            up_bytes,
            crossings.up_rows > 0.0,
            np.array([link.utilisation * link.uplink_bytes_per_s for link in links]),
            delay_s,
            self._codec_times('robot', 'server', crossings.up_rows, up_bytes),
        )
        down = _Messages(
            down_bytes,
            crossings.down_rows > 0.0,
            np.array([link.utilisation * link.downlink_bytes_per_s for link in links]),
            delay_s,
            self._codec_times('server', 'robot', crossings.down_rows, down_bytes),
        )
        waits_up = _any(crossings.server_waits)
        waits_down = _any(crossings.robot_waits)
        walk = _Walk.empty(len(self.profile), plans)
        robot_free, server_free = np.zeros(plans), np.zeros(plans)
        up_free, down_free = np.zeros(plans), np.zeros(plans)
        for place, edges in enumerate(self._edges):
            for edge, producer in edges:
                if waits_down[edge]:
                    _wait(robot_free, walk.at_robot[producer], crossings.robot_waits[edge])
                if waits_up[edge]:
                    _wait(server_free, walk.at_server[producer], crossings.server_waits[edge])
            walk.robot_start[place] = robot_free
            robot_free += robot_s[place]
            walk.robot_end[place] = robot_free
            walk.server_start[place] = server_free
            server_free += server_s[place]
            walk.server_end[place] = server_free
            if up.any[place]:
                up.send(place, robot_free, up_free, walk.up_start, walk.up_end, walk.at_server)
            if down.any[place]:
                down.send(
                    place, server_free, down_free, walk.down_start, walk.down_end, walk.at_robot
                )
        latency = np.zeros(plans)
        for place in self._outputs:
            here = robot[place, 1] > robot[place, 0]
            np.maximum(latency, walk.robot_end[place], out=latency, where=here)
            np.maximum(latency, walk.at_robot[place], out=latency)
        return walk, latency


class _Messages:
    """All messages of one direction: ``amounts`` (n, P) bytes, ``sent`` (n, P) whether there is
    one; ``rate`` and ``delay_s`` (P,) or (1,); ``codec_s``: to encode and to decode each."""

    def __init__(
        self,
        amounts: Floats,
        sent: Flags,
        rate: Floats,
        delay_s: Floats,
        codec_s: tuple[Floats, Floats],
    ) -> None:
        self.any = _any(sent)
        self._sent = sent
        with np.errstate(divide='ignore', invalid='ignore'):
            self._occupied_s = np.where(sent & (amounts > 0.0), amounts / rate, 0.0)
        self._encode_s = codec_s[0]
        self._after_s = delay_s + codec_s[1]

    def send(
        self,
        place: int,
        ready: Floats,
        free: Floats,
        starts: Floats,
        ends: Floats,
        arrivals: Floats,
    ) -> None:
        """Queue the messages of one operator, computed at ``ready`` (P,), on the link that is
        ``free`` (P,) then; ``free`` moves on."""
        sent = self._sent[place]
        np.maximum(free, ready + self._encode_s[place], out=free, where=sent)
        starts[place] = free
        free += self._occupied_s[place]
        ends[place] = free
        np.add(free, self._after_s[place], out=arrivals[place], where=sent)


def _one_for_each(links: Link | Sequence[Link], plans: int) -> list[Link]:
    several = [links] * plans if isinstance(links, Link) else list(links)
    if len(several) != plans:
        raise ValueError(f'{plans} plans need one link or as many, not {len(several)}')
    return several


def _blocks(plans: int) -> list[slice]:
    return [slice(start, start + BLOCK) for start in range(0, plans, BLOCK)]


def _any(flags: Flags) -> list[bool]:
    """Whether a row of ``flags`` (k, P) has one that is set; a list is the quickest to look up."""
    return [bool(each) for each in np.atleast_1d(flags.any(axis=1))]


def _wait(free: Floats, arrival: Floats, waits: Flags) -> None:
    np.maximum(free, arrival, out=free, where=waits)


def _states(walk: _Walk, latency_s: Floats) -> StateTimes:
    """Of the robot. Intervals in which nothing happens have no length."""
    communicating = (
        np.concatenate([walk.up_start, walk.down_start]),
        np.concatenate([walk.up_end, walk.down_end]),
    )
    busy = (communicating[1] > communicating[0]).any(axis=1)
    return state_times(
        (walk.robot_start, walk.robot_end),
        (communicating[0][busy], communicating[1][busy]),
        latency_s,
    )
