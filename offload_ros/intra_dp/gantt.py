"""A plan in time, drawn: robot, uplink, server and downlink, as predicted and as measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from offload_ros.graph.profile import Profile, ProfileError
from offload_ros.graph.profile_file import parse_profile
from offload_ros.graph.schedule import Evaluator, Link
from offload_ros.graph.split_plan import Plan
from offload_ros.graph.timeline import Schedule, Task

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LANES = ('robot', 'uplink', 'server', 'downlink')
MAX_BARS = 200_000
LATE_COLOUR = '#d62728'
LABEL_POINTS, CHAR_POINTS = 7.0, 4.2  # size of a label, and about the width of its letters


class Bar(NamedTuple):
    """``depth``: where in the model, 0 (its input) to 1 (its output); below 0: computed late."""

    label: str
    start_ms: float
    end_ms: float
    depth: float


@dataclass(frozen=True)
class Chart:
    """One inference. ``latency_ms`` may be infinite: something never arrives."""

    title: str
    latency_ms: float
    bars: Mapping[str, Sequence[Bar]]


@dataclass(frozen=True)
class Record:
    """What ``intra_dp.record`` wrote: what was measured, and of which plan on which link."""

    measured: Chart
    plan: Plan
    link: Link


def predicted_chart(schedule: Schedule, title: str = 'predicted') -> Chart:
    """Of a schedule by the cost model."""
    profile = schedule.plan.profile
    lanes = (schedule.robot, schedule.uplink, schedule.server, schedule.downlink)
    bars = {
        lane: [
            _bar(profile, task, lane in ('uplink', 'downlink'))
            for task in tasks
            if task.end_s > task.start_s and math.isfinite(task.end_s)
        ]
        for lane, tasks in zip(LANES, lanes, strict=True)
    }
    return Chart(title, 1e3 * schedule.latency_s, bars)


def _bar(profile: Profile, task: Task, is_message: bool) -> Bar:
    operator = profile.operators[task.operator]
    parts = operator.name.split('.')
    name = parts[1] if len(parts) > 2 and parts[0] == 'aten' else operator.name
    label = f'{operator.id} {name}'
    if is_message:
        label = name if operator.is_input else str(operator.id)
    if task.rows is not None:
        label += f' [{task.rows[0]:g}:{task.rows[1]:g}]'
    depth = task.operator / max(1, len(profile) - 1)
    return Bar(label, 1e3 * task.start_s, 1e3 * task.end_s, depth)


def read_record(path: Path) -> Record:
    """``ValueError`` with what is wrong with the file."""
    try:
        document = json.loads(path.read_text(encoding='utf-8'))
        profile = parse_profile(document['profile'])
        bars = {lane: [_read_bar(each) for each in document['bars'][lane]] for lane in LANES}
        if sum(map(len, bars.values())) > MAX_BARS:
            raise ValueError(f'more than {MAX_BARS} bars')
        measured_ms = float(document['measured_ms'])
        title = 'measured'
        if document.get('completed_locally'):
            title += f' (the robot completed it: {document.get("why_local", "")!s:.80})'
        return Record(
            Chart(title, measured_ms, bars),
            Plan.from_document(profile, document['plan']),
            _read_link(document['link']),
        )
    except OSError as error:
        raise ValueError(f'--measured {path}: {error.strerror or error}') from None
    except KeyError as error:
        raise ValueError(f'--measured {path}: it has no {error}') from None
    except (ProfileError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f'--measured {path}: {error}') from None


def _read_bar(values: Any) -> Bar:
    label, start_ms, end_ms, depth = values
    bar = Bar(str(label)[:80], float(start_ms), float(end_ms), min(float(depth), 1.0))
    if not (math.isfinite(bar.start_ms) and bar.start_ms <= bar.end_ms < math.inf):
        raise ValueError(f'a bar from {start_ms} to {end_ms} ms')
    return bar


def _read_link(document: Mapping[str, Any]) -> Link:
    ways = [document[key] for key in ('up_MBps', 'down_MBps')]
    if None in ways:
        raise ValueError('the bandwidth was not known when it was recorded: record another one')
    up, down = (1e6 * float(each) for each in ways)
    round_trip_ms = document.get('round_trip_ms')
    delay_s = Link(up, down).delay_s if round_trip_ms is None else float(round_trip_ms) / 2e3
    return Link(up, down, delay_s, 0.95)


def charts_of_record(record: Record) -> list[Chart]:
    """What the cost model says of the plan on the link, and what was measured."""
    schedule = Evaluator(record.plan.profile).schedule(record.plan, record.link)
    return [predicted_chart(schedule), record.measured]


def draw(charts: Sequence[Chart], path: Path, title: str = '') -> None:
    """Write a picture, the charts one above the other on one time axis; ``ValueError`` for a path
    that cannot be written."""
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot
    from matplotlib.cm import ScalarMappable

    width, height = 15.0, 1.0 + 2.9 * len(charts)
    figure, axes = pyplot.subplots(
        len(charts), 1, figsize=(width, height), sharex=True, squeeze=False, layout='constrained'
    )
    end_ms = max(_end_ms(each) for each in charts)
    points_per_ms = 72.0 * 0.84 * width / max(end_ms, 1e-9)
    colours = matplotlib.colormaps['viridis']
    for axis, chart in zip(axes[:, 0], charts, strict=True):
        _draw_chart(axis, chart, colours, points_per_ms)
    axes[-1, 0].set(xlabel='ms since the input was there', xlim=(0.0, 1.01 * end_ms))
    bar = figure.colorbar(ScalarMappable(cmap=colours), ax=axes, pad=0.01, aspect=35)
    bar.set_ticks([0.0, 1.0], labels=['first\noperator', 'last'])
    if title:
        figure.suptitle(title)
    try:
        figure.savefig(path, dpi=130)
    except (OSError, ValueError) as error:
        raise ValueError(f'--gantt {path}: {error}') from None
    finally:
        pyplot.close(figure)


def _end_ms(chart: Chart) -> float:
    ends = [bar.end_ms for bars in chart.bars.values() for bar in bars]
    if math.isfinite(chart.latency_ms):
        ends.append(chart.latency_ms)
    return max(ends, default=1.0)


def _draw_chart(axis: Axes, chart: Chart, colours: Any, points_per_ms: float) -> None:
    latency = f'{chart.latency_ms:.1f} ms' if math.isfinite(chart.latency_ms) else 'never ends'
    axis.set_title(f'{chart.title}: {latency}', loc='left', fontsize=10)
    for place, lane in enumerate(LANES):
        bars = chart.bars.get(lane, ())
        axis.barh(
            [place] * len(bars),
            [bar.end_ms - bar.start_ms for bar in bars],
            left=[bar.start_ms for bar in bars],
            height=0.72,
            color=[LATE_COLOUR if bar.depth < 0.0 else colours(bar.depth) for bar in bars],
            edgecolor='white',
            linewidth=[0.5 if (b.end_ms - b.start_ms) * points_per_ms > 3.0 else 0.0 for b in bars],
        )
        for bar in _labelled(bars, points_per_ms):
            axis.text(
                (bar.start_ms + bar.end_ms) / 2.0,
                place,
                bar.label,
                ha='center',
                va='center',
                fontsize=LABEL_POINTS,
                color='black' if bar.depth > 0.6 else 'white',
                clip_on=True,
            )
    if math.isfinite(chart.latency_ms):
        axis.axvline(chart.latency_ms, color='black', linestyle='--', linewidth=1.0)
    busy = [_busy_ms(chart.bars.get(lane, ())) for lane in LANES]
    names = [f'{lane}\n{ms:.1f} ms' for lane, ms in zip(LANES, busy, strict=True)]
    axis.set_yticks(range(len(LANES)), labels=names, fontsize=9)
    axis.set_ylim(len(LANES) - 0.5, -0.5)
    axis.grid(axis='x', alpha=0.3)
    axis.set_axisbelow(True)


def _labelled(bars: Sequence[Bar], points_per_ms: float) -> Iterator[Bar]:
    """Those with room for their label, shortened where needed; of neighbours without room of their
    own, the first and the last of a run."""
    run: list[Bar] = []
    for bar in sorted(bars, key=lambda each: each.start_ms):
        if run and bar.start_ms - run[-1].end_ms > 2.0 / points_per_ms:
            run = []
        run.append(bar)
        room = int((bar.end_ms - run[0].start_ms) * points_per_ms / CHAR_POINTS)
        if len(run) > 1:
            own = int((bar.end_ms - bar.start_ms) * points_per_ms / CHAR_POINTS)
            if own >= len(bar.label):  # it has room by itself
                yield bar
                run = []
                continue
        heads = dict.fromkeys((_head(run[0]), _head(bar)))
        label = run[0].label if len(run) == 1 else '..'.join(heads)
        if len(run) == 1 and len(label) > room >= len(_head(bar)) + 1:
            label = _head(bar)
        if len(label) <= room:
            depth = sum(each.depth for each in run) / len(run)
            yield Bar(label, run[0].start_ms, bar.end_ms, depth)
            run = []


def _head(bar: Bar) -> str:
    return bar.label.split(' ')[0]


def _busy_ms(bars: Sequence[Bar]) -> float:
    """How long some bar stands; messages of one direction may overlap as they were measured."""
    total, reached = 0.0, -math.inf
    for bar in sorted(bars, key=lambda each: each.start_ms):
        total += max(0.0, bar.end_ms - max(bar.start_ms, reached))
        reached = max(reached, bar.end_ms)
    return total
