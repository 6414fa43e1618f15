"""What happened when in one inference, as a file: the plan, the link, and both machines' times."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
import json
import logging
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from offload_ros.graph.graph import Graph, Value
from offload_ros.graph.profile_file import profile_document
from offload_ros.graph.split_plan import Plan
from offload_ros.intra_dp.pieces import Block, Compute
from offload_ros.intra_dp.run_timeline import Event, Kind, Timeline
from offload_ros.strategy import LinkState

if TYPE_CHECKING:
    from offload_ros.cuts.cut import Cut
    from offload_ros.cuts.ran import Ran
    from offload_ros.intra_dp.lower import Work

log = logging.getLogger(__name__)
RECORD_SCHEMA = 1
Bar: TypeAlias = 'list[Any]'  # label, start ms, end ms, depth
Bars: TypeAlias = 'dict[str, list[Bar]]'


@dataclass(frozen=True)
class Recorded:
    """One inference as it was. ``predicted_s``: NaN where nothing was predicted. ``bars``: by lane
    (robot, uplink, server, downlink), lists of [label, start ms, end ms, depth] from the
    inference's beginning on the robot; ``depth``: where in the model, 0 to 1, -1 for what the robot
    computed as it came too late. A message has its link from when it was ready and the one before
    had arrived until it has arrived."""

    plan: Plan
    state: LinkState
    predicted_s: float
    measured_s: float
    bars: Bars
    completed_locally: int = 0
    why_local: str = ''

    @classmethod
    def of_steps(
        cls, plan: Plan, state: LinkState, predicted_s: float, work: Work, ran: Ran
    ) -> Recorded:
        """Of a plan by steps: a bar for each segment, as only when it had run was measured."""
        assert ran.timeline is not None

        def computed(side: str, event: Event) -> list[Bar]:
            own = work.robot if side == 'robot' else work.server
            computes = own.segments[event.number].computes
            return [_computed(work, computes, event.start_s, event.stop_s)]

        bars = _bars(ran.timeline, computed, partial(_piece, work))
        return cls(
            plan, state, predicted_s, ran.total_s, bars, ran.completed_locally, ran.why_local
        )

    @classmethod
    def of_cut(
        cls, plan: Plan, state: LinkState, predicted_s: float, cut: Cut, ran: Ran
    ) -> Recorded:
        """Of a layer cut: a bar for each operator."""
        assert ran.timeline is not None
        nodes = {
            side: {each.number: each for each in events if each.kind is Kind.NODE}
            for side, events in (('robot', ran.timeline.robot), ('server', ran.timeline.server))
        }

        def computed(side: str, event: Event) -> list[Bar]:
            segment = (cut.robot if side == 'robot' else cut.server)[event.number]
            own = [nodes[side][node] for node in segment.nodes if node in nodes[side]]
            return _operators(cut.graph, own, event)

        bars = _bars(ran.timeline, computed, partial(_crossing, cut))
        return cls(plan, state, predicted_s, ran.total_s, bars)

    def document(self) -> dict[str, Any]:
        """JSON form."""
        state, alone = self.state, not self.plan.on_server.any()
        known = [state.up_bytes_per_s * 1e-6, state.down_bytes_per_s * 1e-6]
        up, down = (0.0 if alone and math.isnan(each) else _finite(each) for each in known)
        return {
            'schema': RECORD_SCHEMA,
            'model': self.plan.profile.model,
            'link': {
                'up_MBps': up,
                'down_MBps': down,
                'round_trip_ms': _finite(state.round_trip_s * 1e3),
            },
            'predicted_ms': _finite(1e3 * self.predicted_s),
            'measured_ms': _ms(self.measured_s),
            'completed_locally': self.completed_locally,
            'why_local': self.why_local,
            'bars': self.bars,
            'plan': self.plan.document(),
            'profile': profile_document(self.plan.profile),
        }

    def write(self, path: Path) -> None:
        """Best effort: an inference does not fail because a file cannot be written."""
        try:
            path.write_text(json.dumps(self.document()) + '\n', encoding='utf-8')
        except OSError as error:
            log.warning('%s is not written: %s', path, error.strerror or error)
        else:
            log.info('what happened in one inference is in %s', path)


def _bars(
    timeline: Timeline,
    computed: Callable[[str, Event], list[Bar]],
    message: Callable[[int, float, float], Bar],
) -> Bars:
    """``computed``: of a segment of a side; ``message``: of what crosses, by its place."""
    bars: Bars = {'robot': [], 'uplink': [], 'server': [], 'downlink': []}
    for side, events, other, out in (
        ('robot', timeline.robot, timeline.server, 'uplink'),
        ('server', timeline.server, timeline.robot, 'downlink'),
    ):
        arrived = {place: stop_s for kind, place, _, stop_s in other if kind is Kind.RECEIVE}
        free_s = 0.0
        for event in events:
            kind, place, start_s, stop_s = event
            if kind is Kind.COMPUTE:
                bars[side] += computed(side, event)
            elif kind is Kind.COMPLETE:
                bars[side].append([f'{place} operators, late', _ms(start_s), _ms(stop_s), -1.0])
            elif kind is Kind.SEND:
                end_s = max(start_s, arrived.get(place, stop_s))
                bars[out].append(message(place, min(max(start_s, free_s), end_s), end_s))
                free_s = max(free_s, end_s)
    return bars


def _operators(graph: Graph, own: Sequence[Event], segment: Event) -> list[Bar]:
    """Of a segment, one after the other. They were timed one by one; what is around them (and a
    paced machine's waiting) is spread over them."""
    total_s = sum(each.stop_s - each.start_s for each in own)
    if not total_s > 0.0:
        return [['', _ms(segment.start_s), _ms(segment.stop_s), 0.0]]
    factor = (segment.stop_s - segment.start_s) / total_s
    found, start_s = [], segment.start_s
    for each in own:
        stop_s = start_s + factor * (each.stop_s - each.start_s)
        label = f'{each.number} {short_name(graph.nodes[each.number].operator)}'
        depth = round(each.number / len(graph.nodes), 4)
        found.append([label, _ms(start_s), _ms(stop_s), depth])
        start_s = stop_s
    return found


def _crossing(cut: Cut, place: int, start_s: float, stop_s: float) -> Bar:
    value = cut.crossings[place]
    node = value.node if isinstance(value, Value) else None
    name = str(node) if isinstance(value, Value) else getattr(value, 'name', 'input')
    depth = 0.0 if node is None else round(node / len(cut.graph.nodes), 4)
    return [name, _ms(start_s), _ms(stop_s), depth]


def nodes_of(compute: Compute | Block) -> list[int]:
    """In the order of the graph."""
    return sorted(compute.nodes) if isinstance(compute, Block) else [compute.node]


def _computed(
    work: Work, computes: Iterable[Compute | Block], start_s: float, stop_s: float
) -> Bar:
    """Of one segment: what is measured is when all of its operators had run."""
    nodes = [node for each in computes for node in nodes_of(each)]
    names = [short_name(work.rows.graph.nodes[node].operator) for node in nodes]
    label = f'{nodes[0]} {names[0]}' if nodes else ''
    if len(nodes) > 1:
        label += f' to {nodes[-1]} {names[-1]}'
    depth = sum(nodes) / max(1, len(nodes)) / len(work.rows.graph.nodes)
    return [label, _ms(start_s), _ms(stop_s), round(depth, 4)]


def _piece(work: Work, place: int, start_s: float, stop_s: float) -> Bar:
    value, rows = work.pieces[place]
    node = value.node if isinstance(value, Value) else None
    name = str(node) if isinstance(value, Value) else getattr(value, 'name', 'input')
    depth = 0.0 if node is None else node / len(work.rows.graph.nodes)
    return [f'{name} [{rows.start}:{rows.stop}]', _ms(start_s), _ms(stop_s), round(depth, 4)]


def _ms(seconds: float) -> float:
    return round(1e3 * seconds, 3)


def short_name(operator: str) -> str:
    """'aten.relu.default' as 'relu'."""
    parts = operator.split('.')
    return parts[1] if len(parts) > 1 and parts[0] == 'aten' else operator


def _finite(value: float) -> float | None:
    return round(value, 3) if math.isfinite(value) else None
