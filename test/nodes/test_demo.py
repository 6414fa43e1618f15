"""The demo's script, its judgement and its picture; and the whole of it, which judges itself."""

from __future__ import annotations

from dataclasses import replace
import math
from pathlib import Path

import cv2
from matplotlib.colors import to_rgb
import numpy as np
import pytest
from rich.console import Console
from system import Process, new_domain

from offload_ros.nodes.demo_picture import DEVICE, SERVER, save_picture
from offload_ros.nodes.demo_report import live_table, summary_table, totals_of
from offload_ros.nodes.demo_script import (
    FRAMES,
    GOOD_MBPS,
    MODELS,
    THIN_MBPS,
    Estimate,
    Phase,
    Place,
    Record,
    Row,
    fade_s,
    judgement,
    kept,
    link_trace,
    mistakes,
    phases_of,
    rate_mbps,
    switched_s,
)
from offload_ros.wire.shaper import LinkShape
from offload_ros.wire.trace import Trace

DURATION_S = 80.0
START_S = 9.0  # of the server, when it is started again


def played() -> list[Phase]:
    """The phases as they were played when everything went well."""
    phases, end_s = phases_of(DURATION_S), 0.0
    for phase in phases:
        phase.begin_s = end_s
        end_s = phase.end_s = end_s + (phase.length_s or START_S)
    return phases


def right(phases: list[Phase], late_s: float = 0.3) -> Record:
    """What is heard where each strategy changes ``late_s`` after its cause."""
    record = Record()
    for model in MODELS:
        used = 'server'
        for seq in range(round(phases[-1].end_s * FRAMES[model])):
            at_s = (seq + 0.5) / FRAMES[model]
            phase = next(each for each in phases if at_s < each.end_s)
            if at_s - phase.begin_s >= late_s:
                used = 'device' if 'device' in phase.expected[model] else 'server'
            took_s, energy_j = (0.08, 1.0) if used == 'device' else (0.04, 0.2)
            record.rows[model].append(Row(at_s, seq + 7, used, took_s, energy_j))
    return record


def test_only_a_machine_that_is_too_busy_is_an_excuse() -> None:
    phases = played()
    record = right(phases)
    assert judgement(record, phases)[0].startswith('the simulation ran at nan')
    record.factors = [(t + 0.5, 1.0) for t in range(round(phases[-1].end_s))]
    assert judgement(record, phases) == []
    back = next(phase for phase in phases if phase.name == 'link back')
    changed(record, 'kapao', back.begin_s, back.end_s, used='device')
    (wrong,) = judgement(record, phases)
    assert wrong.startswith('link back: ') and 'too busy' not in wrong
    slow = [(t, 0.9 if back.begin_s <= t < back.end_s else f) for t, f in record.factors]
    record.factors = slow
    (wrong,) = judgement(record, phases)
    assert wrong.endswith('(the simulation ran at 0.90 of real time: this machine is too busy)')
    record.factors = [(t, 0.9) for t, _ in slow]
    assert len(judgement(record, phases)) == 2
    del record.rows['agrnav'][10]
    assert '1 results of agrnav are missing' in judgement(record, phases)


def all_mistakes(record: Record, phases: list[Phase]) -> dict[str, list[str]]:
    found = {phase.name: mistakes(record, phase) for phase in phases}
    return {name: texts for name, texts in found.items() if texts}


def changed(record: Record, model: str, begin_s: float, end_s: float, **values: object) -> None:
    """Give the results between two times other values."""
    record.rows[model] = [
        replace(row, **values) if begin_s <= row.at_s < end_s else row for row in record.rows[model]
    ]


def test_a_manager_that_changes_in_time_makes_no_mistake() -> None:
    phases = played()
    record = right(phases)
    assert all_mistakes(record, phases) == {}
    assert [record.missing(model) for model in MODELS] == [0, 0]
    for before, phase in zip([None, *phases], phases, strict=False):
        for model in MODELS:
            after_s = switched_s(record, phase, before, model)
            changes = before is not None and before.expected[model] != phase.expected[model]
            assert math.isfinite(after_s) == changes
            assert not changes or 0.3 <= after_s <= 0.3 + 1.0 / FRAMES[model]


@pytest.mark.parametrize('stays', ['server', 'device'])
def test_a_manager_that_stays_where_it_is_is_wrong_wherever_another_is_right(stays: str) -> None:
    phases = played()
    record = right(phases)
    for model in MODELS:
        changed(record, model, 0.0, math.inf, used=stays)
    wrong = all_mistakes(record, phases)
    others = {phase.name for phase in phases if any(stays not in phase.expected[m] for m in MODELS)}
    assert set(wrong) == others
    assert others  # some phase needs another


def test_changes_that_come_late_errors_and_silence_are_mistakes() -> None:
    phases = played()
    back = next(phase for phase in phases if phase.name == 'link back')
    late = right(phases, late_s=back.settle_s + 2.0)
    assert 'results of kapao not by' in all_mistakes(late, phases)['link back'][0]
    failing = right(phases)
    changed(failing, 'agrnav', back.begin_s + 5.0, back.end_s, used='', error='it broke')
    assert 'agrnav: it broke' in all_mistakes(failing, phases)['link back']
    silent = right(phases)
    silent.rows['kapao'] = [
        row for row in silent.rows['kapao'] if not back.begin_s <= row.at_s < back.end_s
    ]
    assert all_mistakes(silent, phases) == {'link back': ['no results of kapao']}
    assert silent.missing('kapao') == round(10.0 * (back.end_s - back.begin_s))


def test_frames_from_before_the_change_do_not_count() -> None:
    phases = played()
    dead = next(phase for phase in phases if phase.name == 'link dead')
    record = right(phases)
    # A frame that was on its way when the link died: its answer came long after.
    begin_s = dead.begin_s + dead.settle_s
    changed(record, 'kapao', begin_s, begin_s + 3.0, used='server', total_s=4.0)
    assert all_mistakes(record, phases) == {}


@pytest.mark.parametrize('duration_s', [20.0, DURATION_S, 300.0])
def test_the_link_is_what_the_phases_say(duration_s: float, tmp_path: Path) -> None:
    trace = link_trace(duration_s, seed=3)
    trace.write(tmp_path / 'link.csv')
    read = Trace.read(tmp_path / 'link.csv')
    np.testing.assert_allclose(read.mbit, trace.mbit, rtol=1e-5)
    shape = LinkShape(trace=read.steps())  # as the manager takes it
    good, fades, dead, back, *_ = phases_of(duration_s)
    begin_s = 0.0
    for phase, low, high in (
        (good, 0.5 * GOOD_MBPS, 2.0 * GOOD_MBPS),
        (fades, 0.5 * THIN_MBPS, 2.0 * THIN_MBPS),
        (dead, 0.0, 0.0),
        (back, 0.5 * GOOD_MBPS, 2.0 * GOOD_MBPS),
    ):
        assert phase.length_s is not None
        settled_s = begin_s + (fade_s(duration_s) if phase is fades else 0.0)
        begin_s += phase.length_s
        for at_s in np.arange(settled_s + 0.21, begin_s - 0.21, 0.1):
            mbps = rate_mbps(read, float(at_s))
            assert low <= mbps <= high, (phase.name, at_s)
            assert shape.rate_at(float(at_s))[0] == pytest.approx(mbps * 1e6 / 8)
    # However long the server takes to start, the link stays good.
    assert shape.rate_at(begin_s + 900.0)[0] >= 0.5 * GOOD_MBPS * 1e6 / 8


def test_following_is_judged_by_the_true_distance() -> None:
    places = [Place(0.1 * i, (0.0, 0.0), (2.5 if i < 6 else 4.0, 0.0)) for i in range(10)]
    share, mean_m = kept(places)
    assert (share, mean_m) == (pytest.approx(0.6), pytest.approx(3.1))
    assert all(math.isnan(each) for each in kept([]))


def pixels_of(picture: np.ndarray, colour: str) -> int:
    near = np.abs(picture.astype(float) - 255.0 * np.array(to_rgb(colour))) < 12.0
    return int(near.all(axis=2).sum())


def test_report_and_picture_show_where_it_ran(tmp_path: Path) -> None:
    phases = played()
    mixed, alone, nothing = right(phases), right(phases), Record()
    for model in MODELS:
        changed(alone, model, 0.0, math.inf, used='device')
    mixed.estimates = [Estimate(t + 0.5, 100.0, 80.0, 130.0) for t in range(60)]
    mixed.places = [
        Place(0.1 * i, (math.cos(0.01 * i), 0.0), (math.cos(0.01 * i), 2.5)) for i in range(800)
    ]
    mixed.modes = ['following'] * 3 + ['lost']
    room = [np.array([(-2.0, -2.0), (3.0, -2.0), (3.0, -1.8), (-2.0, -1.8)])]
    view = np.zeros((24, 32, 3), np.uint8)
    poses = np.full((1, 17, 3), 8.0, np.float32)
    blue, orange = {}, {}
    for name, record in (('mixed', mixed), ('alone', alone), ('nothing', nothing)):
        path = tmp_path / f'{name}.png'
        seen = (view, poses) if name == 'mixed' else (None, None)
        save_picture(record, phases, link_trace(DURATION_S, 0), room, seen, path)
        picture = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
        blue[name], orange[name] = pixels_of(picture, SERVER), pixels_of(picture, DEVICE)
    assert blue['mixed'] > 1000 and orange['mixed'] > 1000
    assert orange['alone'] > orange['mixed'] and blue['alone'] == blue['nothing']
    console = Console(width=80, record=True)
    console.print(live_table(None, None, mixed, 120.0, 12.0, 'good link'))
    console.print(summary_table(mixed, phases))
    for line in totals_of(mixed):
        console.print(line)
    text = ' '.join(console.export_text().split())
    assert 'link: 120 Mbit/s, the manager estimates 100 (80 to 130)' in text
    assert text.count('right') == len(phases) and 'wrong' not in text
    assert '…' not in text  # nothing is cut off in a terminal of 80 columns
    assert 'followed 75 % of the time, 100 % within 0.5 m of 2.5 m' in text
    Console(width=80).print(summary_table(nothing, phases))


def test_demo_plays_its_script(tmp_path: Path) -> None:
    """The demo judges itself: strategies by phase and model, no missing result, real-time factor.

    What the machine has no time for shows nothing: it is tried again.
    """
    for attempt in range(3):
        out = tmp_path / f'out{attempt}'
        command = ('ros2', 'run', 'offload_ros', 'demo', '--duration', '30', '--output', str(out))
        process = Process(new_domain(), *command)
        status = process.ended(240.0)
        logs = ''.join(log.read_text() for log in out.glob('*.log'))
        assert 'Traceback' not in logs + process.output
        text = ' '.join(process.output.split())  # lines are broken as on a terminal
        wrong = text.split('not as it should be: ')[1:]
        assert status == bool(wrong), process.output + logs
        if not wrong:
            break
    assert all('this machine is too busy' in each for each in wrong), process.output + logs
    assert 'simulation: ' in text
    picture = cv2.imread(str(out / 'demo.png'))
    assert picture is not None
    assert picture.std() > 5.0
