"""What the demo prints: the live table, and at the end the summary of its phases and of the
whole."""

from __future__ import annotations

from collections.abc import Sequence
import math
from typing import Any

import numpy as np
from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from offload_ros.nodes.demo_script import (
    DISTANCE_M,
    KEPT_M,
    MODELS,
    OFFLOADED,
    ROBOT,
    Phase,
    Record,
    Row,
    kept,
    mistakes,
    switched_s,
)
from offload_ros.nodes.status_report import number

PARTS = ('robot_ms', 'uplink_ms', 'server_ms', 'downlink_ms')


def live_table(
    status: Any, following: Any, record: Record, true_mbps: float, now_s: float, phase: str
) -> RenderableType:
    """The state now. ``status``, ``following``: the last ``OffloadStatus`` and ``FollowStatus`` or
    None; ``true_mbps``: of the link, 0: dead."""
    table = Table(title=f'offload_ros demo, {now_s:.0f} s: {phase}')
    for heading in ('model', 'runs on', 'rate', 'robot+up+server+down', 'up/down', 'energy'):
        table.add_column(heading, justify='left' if heading in ('model', 'runs on') else 'right')
    table.add_column('fallbacks', justify='right')
    models = status.models if status is not None else []
    for each in models:
        rows = record.rows.get(each.model, [])
        last = rows[-1] if rows else None
        times = '+'.join(number(getattr(each, part)) for part in PARTS)
        table.add_row(
            each.model,
            each.strategy_used or '-',
            f'{each.rate_hz:.1f} Hz',
            f'{times} = {number(each.total_ms)} ms',
            f'{_bytes(last.bytes_up)}/{_bytes(last.bytes_down)}' if last else '-',
            f'{number(each.energy_j, 2)} J',
            str(each.fallbacks),
        )
    lines = [Text(_link(record, true_mbps))]
    if following is not None:
        lines.append(Text(f'follower: {following.mode}, person {_metres(following.distance_m)}'))
    lines += [
        Text(f'why {each.model} runs on {each.strategy_used}: {each.reason}', style='yellow')
        for each in models
        if each.reason
    ]
    lines += [Text(f'{at_s:5.1f} s  {what}', style='dim') for at_s, what in record.events[-4:]]
    if record.factors:
        lines.append(Text(f'simulation at {record.factors[-1][1]:.2f} of real time', style='dim'))
    return Group(table, *lines)


def summary_table(record: Record, phases: Sequence[Phase]) -> Table:
    """What each model did in each phase."""
    # Narrow enough for a terminal of 80 columns.
    table = Table(
        title='p50, p95: latency in ms; J: each; after: so long after its cause it changed',
        box=box.SIMPLE_HEAD,
        padding=0,
        pad_edge=False,
    )
    headings = (
        'phase', 'model', 'results', 'Hz', 'server', 'robot', 'p50', 'p95', 'J', 'after', 'run',
    )  # fmt: skip
    for heading in headings:
        words = heading in ('phase', 'model')
        table.add_column(heading, justify='left' if words else 'right', no_wrap=True)
    before: Phase | None = None
    for phase in phases:
        wrong = mistakes(record, phase)
        for model in MODELS:
            rows = [row for row in record.rows[model] if phase.begin_s <= row.at_s < phase.end_s]
            totals = [1000.0 * row.total_s for row in rows]
            after_s = switched_s(record, phase, before, model)
            table.add_row(
                phase.name if model == MODELS[0] else '',
                model,
                str(len(rows)),
                f'{len(rows) / (phase.end_s - phase.begin_s):.1f}',
                _share(sum(row.used in OFFLOADED for row in rows), len(rows)),
                _share(sum(row.used in ROBOT for row in rows), len(rows)),
                *(f'{np.percentile(totals, q):.0f}' if totals else '-' for q in (50, 95)),
                number(_mean_j(rows), 2),
                f'{after_s:.1f} s' if math.isfinite(after_s) else '',
                '' if model != MODELS[0] else '[red]wrong' if wrong else '[green]right',
            )
        before = phase
    return table


def totals_of(record: Record) -> list[str]:
    """A line for each model, and one for the robot."""
    lines = []
    for model in MODELS:
        rows = record.rows[model]
        count, late = len(rows), sum(row.late for row in rows)
        energy_j = sum(row.energy_j for row in rows if math.isfinite(row.energy_j))
        by = ', '.join(
            f'{_share(sum(row.used == used for row in rows), count)} {used or "error"} '
            f'({number(_mean_j([row for row in rows if row.used == used]), 2)} J each)'
            for used in sorted({row.used for row in rows}, reverse=True)
        )
        lines.append(
            f'{model}: {count} results, {record.missing(model)} missing between first and last, '
            f'{late} late; {energy_j:.0f} J; {by}'
        )
    share, mean_m = kept(record.places)
    follows = _share(sum(mode == 'following' for mode in record.modes), len(record.modes))
    lines.append(
        f'robot: followed {follows} of the time, {_percent(share)} within {KEPT_M:g} m of '
        f'{DISTANCE_M:g} m; on average {_metres(mean_m)} from the person'
    )
    return lines


def _link(record: Record, true_mbps: float) -> str:
    last = record.estimates[-1] if record.estimates else None
    believed = 'the manager has no server'
    if last is not None and math.isfinite(last.mbps):
        low, high = number(last.low_mbps), number(last.high_mbps)
        believed = f'the manager estimates {number(last.mbps)} ({low} to {high})'
    return f'link: {number(true_mbps)} Mbit/s, {believed}'


def _mean_j(rows: Sequence[Row]) -> float:
    values = [row.energy_j for row in rows if math.isfinite(row.energy_j)]
    return sum(values) / len(values) if values else math.nan


def _metres(value: float) -> str:
    return f'{number(value, 2)} m'


def _percent(share: float) -> str:
    return f'{number(100.0 * share)} %'


def _share(count: int, of: int) -> str:
    return f'{100 * count / of:.0f} %' if of else '-'


def _bytes(count: int) -> str:
    return f'{count / 1000:.1f} kB' if count else '0'
