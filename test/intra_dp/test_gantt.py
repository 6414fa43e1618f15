"""Charts of plans in time: every bar of the schedule, and of a record, is drawn where it was."""

import json
import math

from matplotlib import pyplot
import numpy as np
import pytest

from offload_ros.baselines.problem import Subject
from offload_ros.graph import plan as plan_command
from offload_ros.graph.profile_file import profile_document
from offload_ros.graph.schedule import Link
from offload_ros.graph.split_plan import Plan
from offload_ros.intra_dp import gantt
from offload_ros.intra_dp.gantt import (
    LANES,
    Bar,
    Chart,
    charts_of_record,
    draw,
    predicted_chart,
    read_record,
)

from .test_control import DATA, subject

FILE = DATA / 'VGG19_BN.json'


def schedule(share=0.5, bandwidth=8e6):
    profile = subject('VGG19_BN').profile
    plan = Plan.shares(profile, [share if place < 30 else 0.0 for place in range(len(profile))])
    return Subject(profile).evaluator.schedule(plan, Link(bandwidth, bandwidth))


def drawn(monkeypatch, charts, path):
    """{(chart, lane): [(start, width)]} of the bars in the picture."""
    kept = []
    monkeypatch.setattr(pyplot, 'close', kept.append)
    draw(charts, path, 'a title')
    figure = kept[0]
    found = {}
    for number, axis in enumerate(figure.axes[: len(charts)]):
        for patch in axis.patches:
            lane = LANES[round(patch.get_y() + patch.get_height() / 2)]
            found.setdefault((number, lane), []).append((patch.get_x(), patch.get_width()))
    monkeypatch.undo()
    pyplot.close(figure)
    return found


def test_every_task_of_a_schedule_is_a_bar_at_its_time(monkeypatch, tmp_path):
    made = schedule()
    found = drawn(monkeypatch, [predicted_chart(made)], tmp_path / 'plan.png')
    for lane in LANES:
        want = [
            (1e3 * task.start_s, 1e3 * (task.end_s - task.start_s))
            for task in getattr(made, lane)
            if task.end_s > task.start_s
        ]
        assert want
        np.testing.assert_allclose(sorted(found[0, lane]), sorted(want), atol=1e-9, err_msg=lane)
    assert (tmp_path / 'plan.png').read_bytes()[:4] == b'\x89PNG'


def record(**changes):
    made = schedule()
    document = {
        'measured_ms': 80.0, 'completed_locally': 0, 'why_local': '', 'predicted_ms': 75.0,
        'link': {'up_MBps': 8.0, 'down_MBps': 8.0, 'round_trip_ms': 2.6},
        'bars': {lane: [[f'{lane} 1', 10.0, 20.0, 0.5]] for lane in LANES},
        'plan': made.plan.document(), 'profile': profile_document(made.plan.profile),
    }  # fmt: skip
    return {**document, **changes}


def test_a_record_is_drawn_below_what_is_predicted_of_its_plan(monkeypatch, tmp_path):
    file = tmp_path / 'run.json'
    file.write_text(json.dumps(record()))
    charts = charts_of_record(read_record(file))
    made = schedule()
    assert [chart.title for chart in charts] == ['predicted', 'measured']
    assert charts[0].latency_ms == pytest.approx(1e3 * made.latency_s, rel=0.1)  # another overhead
    assert charts[1].latency_ms == 80.0
    found = drawn(monkeypatch, charts, tmp_path / 'run.png')
    assert all(found[1, lane] == [(10.0, 10.0)] for lane in LANES)
    assert len(found[0, 'robot']) > 10
    assert plan_command.main(['--measured', str(file), '--gantt', str(tmp_path / 'x.png')]) == 0
    assert (tmp_path / 'x.png').stat().st_size > 10_000


def test_the_plan_command_draws_one_bandwidth(tmp_path, capsys):
    options = ['--profile', str(FILE), '--method', 'layer_cut', '--gantt', str(tmp_path / 'p.png')]
    assert plan_command.main([*options, '--bandwidth-MBps', '16']) == 0
    assert (tmp_path / 'p.png').stat().st_size > 10_000
    assert plan_command.main([*options, '--bandwidth-MBps', '8,16']) == 2
    assert 'one bandwidth' in capsys.readouterr().err
    options[-1] = str(tmp_path / 'no' / 'p.png')
    assert plan_command.main([*options, '--bandwidth-MBps', '16']) == 2
    assert '--gantt' in capsys.readouterr().err
    assert plan_command.main(['--measured', 'x.json']) == 2
    assert plan_command.main(['--method', 'dsccs']) == 2
    assert '--profile is needed' in capsys.readouterr().err


@pytest.mark.parametrize(
    ('change', 'text'),
    [
        ({'bars': {lane: [['x', 'NaN', 1.0, 0.0]] for lane in LANES}}, 'a bar from'),
        ({'bars': {lane: [['x', 2.0, 1.0, 0.0]] for lane in LANES}}, 'a bar from'),
        ({'bars': {lane: [[1.0]] for lane in LANES}}, 'not enough values'),
        ({'bars': {}}, "no 'robot'"),
        ({'link': {'up_MBps': None, 'down_MBps': 1.0}}, 'was not known'),
        ({'plan': {'schema': 1}}, 'on no side'),
        ({'profile': []}, 'profile'),
    ],
)
def test_a_record_that_is_none_gets_one_clear_line(tmp_path, capsys, change, text):
    file = tmp_path / 'run.json'
    file.write_text(json.dumps(record(**change)))
    assert plan_command.main(['--measured', str(file), '--gantt', str(tmp_path / 'x.png')]) == 2
    error = capsys.readouterr().err
    assert text in error and 'run.json' in error and error.count('\n') == 1
    for content in ('', '[]', '{}'):
        file.write_text(content)
        with pytest.raises(ValueError, match=r'--measured .*run\.json: '):
            read_record(file)
    with pytest.raises(ValueError, match='No such file'):
        read_record(tmp_path / 'none.json')


def test_what_never_ends_and_what_is_late_can_be_drawn(monkeypatch, tmp_path):
    bars = {'robot': [Bar('1 relu', 0.0, 1.0, 0.1), Bar('2 operators, late', 5.0, 9.0, -1.0)]}
    found = drawn(monkeypatch, [Chart('measured', math.inf, bars)], tmp_path / 'plan.png')
    assert found == {(0, 'robot'): [(0.0, 1.0), (5.0, 4.0)]}


def test_labels_stand_only_where_they_fit():
    bars = [Bar(f'{place} conv', float(place), place + 0.9, 0.5) for place in range(100)]
    assert [each.label for each in gantt._labelled(bars, 100.0)] == [b.label for b in bars]
    some = list(gantt._labelled(bars, 10.0))
    assert 0 < len(some) < len(bars)
    for bar in some:
        assert len(bar.label) * gantt.CHAR_POINTS <= (bar.end_ms - bar.start_ms) * 10.0 + 1e-9
    assert any('..' in each.label for each in gantt._labelled(bars, 3.0))
    assert not list(gantt._labelled(bars, 0.01))
