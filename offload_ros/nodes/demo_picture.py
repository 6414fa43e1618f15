"""The demo as one picture: link, strategies, latency, rate and energy over time, and the ways of
robot and person in the room."""

from __future__ import annotations

from collections.abc import Sequence
import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from offload_ros.nodes.demo_script import (
    DISTANCE_M,
    FOLLOWED,
    KEPT_M,
    MODELS,
    OFFLOADED,
    ROBOT,
    THIN_MBPS,
    Phase,
    Record,
    rate_mbps,
)
from offload_ros.nodes.tracker_messages import BONES
from offload_ros.wire.trace import Trace

SERVER, DEVICE, ERROR = '#2a6fbb', '#e07b24', '#c62828'
PERSON, INK, FAINT = '#2e8b57', '#333333', '#d8d8d8'
MARKERS = {'kapao': 'o', 'agrnav': 'D'}
TITLES = {'kapao': 'people (kapao)', 'agrnav': 'scene (agrnav)'}
WINDOW_S = 2.0  # over which a rate is counted; agrnav's over three frames
SURE = 0.3  # a keypoint's confidence
Polygon = npt.NDArray[np.float64]


def save_picture(
    record: Record,
    phases: Sequence[Phase],
    trace: Trace,
    room: Sequence[Polygon],
    seen: tuple[npt.NDArray[np.uint8] | None, npt.NDArray[np.float32] | None],
    path: Path,
) -> None:
    """``room``: (K, 2) polygons of walls and objects, in metres; ``seen``: a picture of the robot's
    camera and the (N, 17, 3) poses of people in it, or None."""
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot

    style: Any = {
        'font.size': 9, 'axes.edgecolor': '#888888', 'axes.labelcolor': INK, 'axes.linewidth': 0.7,
        'axes.spines.top': False, 'axes.spines.right': False, 'xtick.color': INK,
        'ytick.color': INK, 'legend.frameon': False, 'axes.titlesize': 9,
    }  # fmt: skip
    with pyplot.rc_context(style):
        figure = pyplot.figure(figsize=(13, 8.6), layout='constrained')
        halves: Any = figure.subfigures(1, 2, width_ratios=(2.05, 1.0))
        left, right = halves
        rows = left.subplots(6, 1, sharex=True, height_ratios=(1.25, 0.5, 1.15, 1.15, 0.85, 1.0))
        end_s = phases[-1].end_s
        _link(rows[0], record, trace, end_s)
        _strategies(rows[1], record, phases)
        for axis, model in zip(rows[2:4], MODELS, strict=True):
            _latency(axis, record, model)
        _rates(rows[4], record, end_s)
        _energy(rows[5], record, end_s)
        _phases(rows, phases)
        rows[-1].set_xlim(0.0, end_s)
        rows[-1].set_xlabel('time (s)')
        left.align_ylabels(rows)
        plan, distance, camera = right.subplots(3, 1, height_ratios=(2.3, 0.8, 1.9))
        _ways(plan, record, phases, room)
        _distance(distance, record, end_s)
        _phases([distance], phases, named=False)
        _camera(camera, *seen)
        figure.savefig(path, dpi=110)
        pyplot.close(figure)


def colour_of(used: str) -> str:
    """The one colour of where something was computed."""
    return SERVER if used in OFFLOADED else DEVICE if used in ROBOT else ERROR


def _link(axis: Any, record: Record, trace: Trace, end_s: float) -> None:
    times = np.arange(0.0, end_s, 0.1)
    true = np.array([rate_mbps(trace, each) for each in times])
    axis.fill_between(times, true, step='post', color=FAINT, linewidth=0)
    axis.plot(times, true, drawstyle='steps-post', color='#999999', linewidth=0.8, label='link')
    known = [each for each in record.estimates if math.isfinite(each.mbps) and each.at_s < end_s]
    at, mbps = [each.at_s for each in known], np.array([each.mbps for each in known])
    if known:
        ends = np.array([(each.low_mbps, each.high_mbps) for each in known]).T
        spread = np.abs(ends - mbps)
        axis.errorbar(at, mbps, spread, fmt='.', color=INK, ms=4, elinewidth=0.7,
                      label='as estimated, 10 to 90 %')  # fmt: skip
    axis.set_yscale('symlog', linthresh=THIN_MBPS)
    axis.set_ylim(0.0, 1500.0)
    axis.set_yticks([0, 1, 10, 100, 1000], ['0', '1', '10', '100', '1000'])
    axis.minorticks_off()
    axis.set_ylabel('link\n(Mbit/s)')
    axis.legend(loc='upper right', ncols=2, fontsize=8, borderaxespad=0.0)


def _strategies(axis: Any, record: Record, phases: Sequence[Phase]) -> None:
    """A bar for each model: where its results were computed."""
    for height, model in enumerate(reversed(MODELS)):
        rows = record.rows[model]
        ends = [*(row.at_s for row in rows[1:]), phases[-1].end_s]
        for row, until_s in zip(rows, ends, strict=False):  # without results, one end is left
            axis.barh(height, until_s - row.at_s, left=row.at_s, height=0.55,
                      color=colour_of(row.used), linewidth=0)  # fmt: skip
    axis.set_yticks(range(len(MODELS)), reversed(MODELS))
    axis.tick_params(axis='y', length=0)
    axis.set_ylim(-0.5, len(MODELS) - 0.5)
    axis.set_ylabel('runs on')


def _latency(axis: Any, record: Record, model: str) -> None:
    for colour, name in ((SERVER, 'on the server'), (DEVICE, 'on the robot'), (ERROR, 'error')):
        rows = [row for row in record.rows[model] if colour_of(row.used) == colour]
        if rows:
            axis.plot([row.at_s for row in rows], [1000.0 * row.total_s for row in rows],
                      MARKERS[model], color=colour, ms=2.4 if model == FOLLOWED else 4.0, mew=0,
                      label=name)  # fmt: skip
    axis.set_yscale('log')
    totals = [1000.0 * row.total_s for row in record.rows[model]] or [1.0]
    axis.set_ylim(0.7 * min(totals), 4.0 * max(totals))  # room for the legend
    axis.set_yticks([10, 30, 100, 300, 1000, 3000], ['10', '30', '100', '300', '1000', '3000'])
    axis.set_ylim(0.7 * min(totals), 4.0 * max(totals))
    axis.minorticks_off()
    axis.set_ylabel(f'{TITLES[model]}\nlatency (ms)')
    if model == FOLLOWED and record.rows[model]:
        axis.legend(loc='upper right', ncols=3, fontsize=8, markerscale=2, borderaxespad=0.0)


def _rates(axis: Any, record: Record, end_s: float) -> None:
    for model, line in zip(MODELS, ('-', '--'), strict=True):
        window_s = WINDOW_S if model == FOLLOWED else 3.0 * WINDOW_S
        at = np.array([row.at_s for row in record.rows[model]])
        times = np.arange(0.0, end_s, 0.25)
        count = np.searchsorted(at, times) - np.searchsorted(at, times - window_s)
        axis.plot(times, count / np.clip(times, 0.5, window_s), line, color=INK, linewidth=1.1,
                  label=model)  # fmt: skip
    axis.set_ylim(0.0, 14.0)
    axis.set_yticks([0, 5, 10])
    axis.set_ylabel('results\n(1/s)')
    axis.legend(loc='upper right', ncols=2, fontsize=8, borderaxespad=0.0)


def _energy(axis: Any, record: Record, end_s: float) -> None:
    """Of the robot for all inferences so far."""
    for model, line in zip(MODELS, ('-', '--'), strict=True):
        rows = [row for row in record.rows[model] if row.at_s < end_s]
        rows = [row for row in rows if math.isfinite(row.energy_j)]
        at = [0.0, *(row.at_s for row in rows), end_s]
        spent = np.cumsum([0.0, *(row.energy_j for row in rows), 0.0])
        axis.plot(at, spent, line, color=INK, linewidth=1.1, label=model)
    axis.set_ylim(bottom=0.0)
    axis.set_ylabel("robot's energy\nso far (J)")
    axis.legend(loc='upper left', ncols=2, fontsize=8, borderaxespad=0.0)


def _phases(axes: Sequence[Any], phases: Sequence[Phase], named: bool = True) -> None:
    for axis in axes:
        for phase in phases[1:]:
            axis.axvline(phase.begin_s, color='#aaaaaa', linewidth=0.8, zorder=0)
    for phase in phases if named else ():
        middle_s = (phase.begin_s + phase.end_s) / 2.0
        axes[0].annotate(
            phase.name.replace(' ', '\n'), (middle_s, 1.0), xycoords=('data', 'axes fraction'),
            xytext=(0, 3), textcoords='offset points', ha='center', va='bottom', fontsize=9,
            color=INK,
        )  # fmt: skip


def _ways(axis: Any, record: Record, phases: Sequence[Phase], room: Sequence[Polygon]) -> None:
    """The room from above; the robot's way in the colour of where people were looked for."""
    from matplotlib.collections import LineCollection, PolyCollection

    axis.add_collection(
        PolyCollection(list(room), facecolor=FAINT, edgecolor='#b5b5b5', linewidth=0.5)
    )
    places = [each for each in record.places if each.at_s <= phases[-1].end_s]
    if len(places) > 1:
        robot = np.array([each.robot for each in places])
        person = np.array([each.person for each in places])
        axis.plot(*person.T, color=PERSON, linewidth=1.2, label='person')
        at = np.array([row.at_s for row in record.rows[FOLLOWED]])
        used = [row.used for row in record.rows[FOLLOWED]]
        newest = [max(0, int(np.searchsorted(at, each.at_s)) - 1) for each in places[1:]]
        colours = [colour_of(used[each]) if used else ERROR for each in newest]
        steps = np.stack([robot[:-1], robot[1:]], axis=1)
        axis.add_collection(LineCollection(list(steps), colors=colours, linewidths=1.8))
        for colour, name in ((SERVER, 'robot, by the server'), (DEVICE, 'robot, by itself')):
            axis.plot([], [], color=colour, linewidth=1.8, label=name)
        for way, colour in ((person, PERSON), (robot, INK)):
            axis.plot(*way[0], 'o', color='white', mec=colour, ms=6)
            axis.plot(*way[-1], 'o', color=colour, ms=6)
        axis.plot([], [], 'o', color='white', mec=INK, ms=6, label='begin')
        axis.plot([], [], 'o', color=INK, ms=6, label='end')
        axis.legend(loc='lower center', bbox_to_anchor=(0.5, 1.0), ncols=3, fontsize=8)
    axis.set_aspect('equal')
    axis.autoscale_view()
    axis.set_xlabel('x (m)')
    axis.set_ylabel('y (m)')


def _distance(axis: Any, record: Record, end_s: float) -> None:
    axis.axhspan(DISTANCE_M - KEPT_M, DISTANCE_M + KEPT_M, color='#e3f1e8', linewidth=0)
    places = [each for each in record.places if each.at_s <= end_s]
    axis.plot([each.at_s for each in places], [each.apart_m for each in places], color=PERSON,
              linewidth=1.1)  # fmt: skip
    axis.set_xlim(0.0, end_s)
    axis.set_ylim(0.0, max([4.0, *(each.apart_m + 0.2 for each in places)]))
    axis.set_xlabel('time (s)')
    axis.set_ylabel('from robot to\nperson (m)')


def _camera(
    axis: Any, view: npt.NDArray[np.uint8] | None, poses: npt.NDArray[np.float32] | None
) -> None:
    """What the robot saw, and the people that were found in it."""
    axis.axis('off')
    if view is None or poses is None:
        return
    axis.imshow(view)
    for pose in poses:
        sure = pose[:, 2] > SURE
        for one, other in BONES:
            if sure[one] and sure[other]:
                axis.plot(*pose[[one, other], :2].T, color='#3cdc3c', linewidth=1.6)
        axis.plot(*pose[sure, :2].T, 'o', color='white', ms=2.5, mew=0)
    axis.set_title("the robot's camera, and who was found in it", color=INK)
