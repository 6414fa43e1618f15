"""What the demo shows: the live table, the summary of its phases, and one picture of the whole
run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
import math
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

COLOURS = {'server': 'tab:blue', 'device': 'tab:orange', '': 'tab:red'}


@dataclass(frozen=True)
class Row:
    """One result as the demo heard it. ``at_s``: since the demo's start, steady clock."""

    at_s: float
    seq: int
    used: str
    requested: str
    fallback: bool
    error: str
    total_s: float
    label: str
    bytes_up: int
    bytes_down: int


@dataclass
class Phase:
    """A part of the demo in which one strategy is right.

    ``settle_s``: after its begin, until the change must be seen. A phase of ``length_s`` None lasts
    until the server answers. ``begin_s`` and ``end_s`` are noted as it is played.
    """

    name: str
    expected: str
    length_s: float | None
    settle_s: float
    begin_s: float = math.nan
    end_s: float = math.nan


@dataclass
class Record:
    """All that was heard."""

    rows: list[Row] = field(default_factory=list)
    events: list[tuple[float, str]] = field(default_factory=list)
    real_time_factors: list[float] = field(default_factory=list)
    frame: np.ndarray | None = None
    frame_label: str = ''
    accepted: int = 0
    results: int = 0


def live_table(status: Any, record: Record, now_s: float, phase: str) -> RenderableType:
    """The state now; ``status``: the last ``OffloadStatus`` or None."""
    table = Table(title=f'offload_ros demo, {now_s:.0f} s: {phase}')
    for heading in (
        'model',
        'strategy',
        'rate',
        'robot+uplink+server+downlink',
        'up/down',
        'drops',
    ):
        table.add_column(heading, justify='left' if heading in ('model', 'strategy') else 'right')
    table.add_column('fallbacks', justify='right')
    last = record.rows[-1] if record.rows else None
    for model in status.models if status is not None else []:
        used = model.strategy_used or '-'
        parts = (model.robot_ms, model.uplink_ms, model.server_ms, model.downlink_ms)
        table.add_row(
            model.model,
            used
            if used == model.strategy_requested
            else f'{used} (not {model.strategy_requested})',
            f'{model.rate_hz:.1f} Hz',
            '+'.join(_number(part) for part in parts) + f' = {_number(model.total_ms)} ms',
            f'{_bytes(last.bytes_up)}/{_bytes(last.bytes_down)}' if last else '-',
            str(model.dropped),
            str(model.fallbacks),
        )
    lines = [Text(f'sees: {last.label}', style='bold')] if last else []
    for model in status.models if status is not None else []:
        if model.reason:
            lines.append(Text(f'why {model.strategy_used}: {model.reason}', style='yellow'))
    lines += [Text(f'{at_s:5.1f} s  {what}', style='dim') for at_s, what in record.events[-4:]]
    if record.real_time_factors:
        factor = record.real_time_factors[-1]
        lines.append(Text(f'simulation at {factor:.2f} of real time', style='dim'))
    return Group(table, *lines)


def summary_table(record: Record, phases: Sequence[Phase]) -> Table:
    """What happened in each phase."""
    table = Table(title='summary')
    for heading in ('phase', 'results', 'Hz', 'server', 'device', 'p50 ms', 'p95 ms', 'run'):
        table.add_column(heading, justify='left' if heading == 'phase' else 'right', no_wrap=True)
    for phase in phases:
        rows = [row for row in record.rows if phase.begin_s <= row.at_s < phase.end_s]
        totals = [1000 * row.total_s for row in rows]
        table.add_row(
            phase.name,
            str(len(rows)),
            f'{len(rows) / (phase.end_s - phase.begin_s):.1f}',
            _share(sum(row.used == 'server' for row in rows), len(rows)),
            _share(sum(row.used == 'device' for row in rows), len(rows)),
            *(f'{np.percentile(totals, q):.1f}' if totals else '-' for q in (50, 95)),
            '[red]wrong' if mistakes(record, phase) else '[green]right',
        )
    return table


def mistakes(record: Record, phase: Phase) -> list[str]:
    """What went wrong in a phase after its settling time; at most 2 % of results may be
    fallbacks."""
    settled_s = phase.begin_s + phase.settle_s
    rows = [row for row in record.rows if settled_s <= row.at_s < phase.end_s]
    found = []
    if not rows:
        found.append('no results')
    other = sum(row.used != phase.expected for row in rows)
    if other > 0.02 * len(rows):
        found.append(f'{other} of {len(rows)} results not by {phase.expected}')
    errors = [row.error for row in rows if row.error]
    if errors:
        found.append(errors[0])
    return found


def save_picture(record: Record, phases: Sequence[Phase], path: Path) -> None:
    """Latency of every result, coloured by strategy, beside what the robot saw last."""
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot

    figure, (timeline, camera) = pyplot.subplots(
        1, 2, figsize=(13, 4.5), width_ratios=(3, 1), constrained_layout=True
    )
    end_s = phases[-1].end_s
    for used, colour in COLOURS.items():
        rows = [row for row in record.rows if row.used == used and row.at_s < end_s]
        if rows:
            times, totals = [row.at_s for row in rows], [1000 * row.total_s for row in rows]
            timeline.plot(times, totals, '.', color=colour, label=used or 'error')
    top = timeline.get_ylim()[1]
    for phase in phases:
        timeline.axvline(phase.begin_s, color='0.8', linewidth=1, zorder=0)
        timeline.text(phase.begin_s, top, f' {phase.name}', va='bottom', fontsize=8, color='0.3')
    timeline.set_xlabel('time (s)')
    timeline.set_ylabel('frame received to result published (ms)')
    timeline.set_ylim(bottom=0)
    timeline.legend(loc='upper right')
    if record.frame is not None:
        camera.imshow(record.frame)
    camera.set_title(f"the robot's camera: {record.frame_label}", fontsize=10)
    camera.axis('off')
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _number(value: float) -> str:
    return '-' if math.isnan(value) else f'{value:.1f}'


def _share(count: int, of: int) -> str:
    return f'{100 * count / of:.0f} %' if of else '-'


def _bytes(count: int) -> str:
    return f'{count / 1000:.1f} kB' if count else '0'
