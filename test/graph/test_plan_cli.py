"""The plan command: figures of the measured profiles, its output, its errors."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
import json
from pathlib import Path
import subprocess
import sys
import time

import pytest

from offload_ros.graph import methods
from offload_ros.graph.methods import (
    UnknownMethod,
    find_method,
    method_names,
    quick_method_names,
    register_method,
)
from offload_ros.graph.plan import main
from offload_ros.graph.profile import Coding
from offload_ros.graph.profile_file import parse_profile, read_profile, write_profile
from offload_ros.graph.schedule import Evaluator, Link
from offload_ros.graph.split_plan import Plan

from .random_profiles import DATA, NAMES

# Best layer cut, ms, at 2, 4, 8, 12 and 16 MB/s: what the profiles were published to give.
BEST_MS = {
    'kapao': (394, 394, 280, 195, 152),
    'VGG19_BN': (88, 88, 88, 64, 50),
    'DenseNet121': (76, 76, 67, 57, 53),
}
CUTS = ['device', 'server', 'dsccs', 'mcop', 'spso_ga', 'layer_cut']
KEYS = ['bandwidth_MBps', 'method', 'latency_ms', 'energy_J', 'uplink_bytes', 'downlink_bytes']


def planned(capsys, name, *arguments):
    """Rows of ``plan --json``."""
    assert main(['--profile', str(DATA / f'{name}.json'), '--json', *arguments]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


@pytest.mark.parametrize('name', NAMES)
def test_best_layer_cuts_are_within_three_percent_of_the_published_ones(name, capsys):
    names = CUTS if name != 'kapao' else ['device', 'server', 'dsccs', 'layer_cut']
    asked = names
    rows = [
        row
        for method in asked
        for row in planned(capsys, name, '--bandwidth-MBps', '2,4,8,12,16', '--method', method)
    ]
    assert [list(row) for row in rows] == [[*KEYS, 'plan']] * len(rows)
    profile = read_profile(DATA / f'{name}.json')
    for bandwidth, best_ms in zip((2, 4, 8, 12, 16), BEST_MS[name], strict=True):
        found = {row['method']: row for row in rows if row['bandwidth_MBps'] == bandwidth}
        assert list(found) == names
        for method in ('layer_cut', 'dsccs'):
            assert found[method]['latency_ms'] == pytest.approx(best_ms, rel=0.03)
        for row in found.values():
            assert found['layer_cut']['latency_ms'] <= row['latency_ms']
            plan = Plan.from_document(profile, row['plan'])
            schedule = Evaluator(profile).schedule(plan, Link.of_megabytes_per_s(bandwidth))
            assert row['latency_ms'] == pytest.approx(1e3 * schedule.latency_s, abs=1e-5)
            assert row['uplink_bytes'] == round(schedule.uplink_bytes)


def test_floors_raise_the_figures_of_a_network_bound_by_launches(capsys):
    arguments = ('--bandwidth-MBps', '8', '--method', 'device')
    (plain,) = planned(capsys, 'DenseNet121', *arguments)
    (floored,) = planned(capsys, 'DenseNet121', *arguments, '--floor-ms', '0.2,0.04')
    profile = read_profile(DATA / 'DenseNet121.json')
    times = profile.column('robot_s')
    expected_s = sum(max(each, 0.0002) for each in times[1:-1])  # neither _start nor _end
    assert plain['latency_ms'] == pytest.approx(76.0)
    # The first convolution reads 0 on both sides in the log: nothing says that it launches.
    assert floored['latency_ms'] == pytest.approx(1e3 * (expected_s - 0.0002 * (times[1] == 0)))


def test_energy_objective_keeps_the_deadline_and_saves_energy(capsys):
    cases = [('VGG19_BN', each) for each in ('dsccs', 'mcop', 'spso_ga', 'layer_cut')]
    for name, method in [*cases, ('DenseNet121', 'dsccs')]:
        arguments = ('--bandwidth-MBps', '4', '--method', method)
        (fast,) = planned(capsys, name, *arguments)
        (frugal,) = planned(capsys, name, *arguments, '--objective', 'energy')
        (tight,) = planned(capsys, name, *arguments, '--objective', 'energy', '--deadline', '0.09')
        assert frugal['energy_J'] <= fast['energy_J']
        assert frugal['energy_J'] <= tight['energy_J'] + 1e-9
        assert frugal['latency_ms'] <= 1000 and tight['latency_ms'] <= 90
    arguments = ('--bandwidth-MBps', '4', '--method', 'dsccs', '--objective', 'energy')
    (impossible,) = planned(capsys, 'DenseNet121', *arguments, '--deadline', '0.001')
    assert impossible['latency_ms'] == pytest.approx(76.0)  # the fastest that there is


def test_no_bandwidth_at_all_leaves_the_robot_alone(capsys):
    for row in planned(capsys, 'VGG19_BN', '--bandwidth-MBps', '0'):
        if row['method'] == 'server':
            assert row['latency_ms'] is None and row['energy_J'] is None
        else:
            assert row['latency_ms'] == pytest.approx(88.3)


def test_table_and_picture_show_every_method(tmp_path, capsys):
    picture = tmp_path / 'plan.png'
    arguments = ['--profile', str(DATA / 'VGG19_BN.json'), '--bandwidth-MBps', '8,16']
    assert main([*arguments, '--plot', str(picture)]) == 0
    text = capsys.readouterr().out
    for name in quick_method_names():
        assert text.count(f'│ {name} ') == 2
    assert '88.3' in text and 'all on the server' in text
    assert picture.read_bytes().startswith(b'\x89PNG')


@pytest.mark.parametrize(
    ('arguments', 'text'),
    [
        (['--profile', '/nowhere.json', '--bandwidth-MBps', '2'], 'No such file'),
        (['--bandwidth-MBps', '2,x'], "separated by commas, not '2,x'"),
        (['--bandwidth-MBps', '-1'], '0 or more, not -1.0'),
        (['--bandwidth-MBps', 'nan'], '0 or more, not nan'),
        (['--bandwidth-MBps', '2', '--method', 'magic'], "there is no method 'magic'; there are"),
        (['--bandwidth-MBps', '2', '--floor-ms', '0.2'], '--floor-ms takes two times'),
        (['--bandwidth-MBps', '2', '--floor-ms', 'a,b'], '--floor-ms takes two times'),
        (['--bandwidth-MBps', '2', '--deadline', '0'], '--deadline takes seconds above 0'),
        (['--bandwidth-MBps', '2', '--plot', '/nowhere/x.png'], '--plot /nowhere/x.png'),
        (['--bandwidth-MBps', '2', '--plot', 'x.docx'], '--plot x.docx'),
    ],
)
def test_mistakes_are_one_clear_line(arguments, text, capsys):
    given = [f'--profile={DATA / "VGG19_BN.json"}', *arguments]
    if '--method' not in arguments:
        given += ['--method', 'device']
    given = [each.replace('-1', '=-1') if each == '-1' else each for each in given]
    if '=-1' in given:
        given = [given[0], '--bandwidth-MBps=-1']
    assert main(given) == 2
    error = capsys.readouterr().err
    assert text in error and error.startswith('plan: ') and error.count('\n') == 1


def test_command_runs_as_a_module_and_stops_quietly_when_nobody_reads():
    command = [sys.executable, '-m', 'offload_ros.graph.plan', '--method', 'device', '--json']
    command += ['--profile', str(DATA / 'VGG19_BN.json')]
    command += ['--bandwidth-MBps', ','.join(map(str, range(1, 2000)))]
    running = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert running.stdout and running.stderr
    assert json.loads(running.stdout.readline())['method'] == 'device'
    running.stdout.close()
    assert running.wait(60) == 0
    assert running.stderr.read() == ''


def test_codecs_of_a_profile_are_planned_with_unless_told_otherwise(tmp_path, capsys):
    document = json.loads((DATA / 'VGG19_BN.json').read_text())
    profile = parse_profile(document)
    first, *rest = profile.operators
    small = Coding('zstd', first.output_bytes // 10, 1e-4, 1e-4, 1e-4, 1e-4)
    path = tmp_path / 'coded.json'
    write_profile(replace(profile, operators=(replace(first, codings=(small,)), *rest)), path)
    asked = ['--profile', str(path), '--json', '--bandwidth-MBps', '2', '--method', 'server']
    rows = []
    for more in ([], ['--no-codecs']):
        assert main([*asked, *more]) == 0
        rows.append(json.loads(capsys.readouterr().out))
    assert rows[0]['uplink_bytes'] == first.output_bytes // 10
    assert rows[1]['uplink_bytes'] == first.output_bytes
    assert rows[0]['latency_ms'] < 0.5 * rows[1]['latency_ms']
    (row,) = planned(capsys, 'VGG19_BN', '--bandwidth-MBps', '2', '--method', 'server')
    assert row == rows[1]


def test_another_method_can_be_registered(monkeypatch):
    monkeypatch.setattr(methods, '_METHODS', dict(methods._METHODS))
    monkeypatch.setattr(methods, '_ALIASES', dict(methods._ALIASES))
    register_method('mine', lambda: methods.device, 'my')
    assert find_method('my') == find_method('mine') == ('mine', methods.device)
    assert method_names()[-1] == 'mine'
    with pytest.raises(ValueError, match='registered twice'):
        register_method('my', lambda: methods.device)
    with pytest.raises(UnknownMethod, match='there is no method'):
        find_method('yours')


def test_fifty_bandwidths_of_a_large_network_take_seconds(capsys):
    began_s = time.process_time()
    bandwidths = ','.join(map(str, range(1, 51)))
    rows = planned(capsys, 'kapao', '--bandwidth-MBps', bandwidths, '--method', 'dsccs')
    assert len(rows) == 50
    latencies = [row['latency_ms'] for row in rows]
    assert all(after <= before * 1.001 for before, after in pairwise(latencies))
    assert time.process_time() - began_s < 15.0  # 1.5 s on an idle core


def test_a_sweep_by_several_processes_gives_every_row_in_order(capsys):
    bandwidths = [0, 4, 8, 12]
    asked = ','.join(map(str, bandwidths))
    rows = planned(capsys, 'VGG19_BN', '--bandwidth-MBps', asked, '--method', 'intra_dp')
    assert [row['bandwidth_MBps'] for row in rows] == bandwidths
    latencies = [row['latency_ms'] for row in rows]
    assert latencies[0] == pytest.approx(88.3)
    assert all(right <= 1.02 * left for left, right in pairwise(latencies))
    profile = read_profile(DATA / 'VGG19_BN.json')
    for row in rows:
        plan = Plan.from_document(profile, row['plan'])
        link = Link.of_megabytes_per_s(row['bandwidth_MBps'])
        schedule = Evaluator(profile).schedule(plan, link)
        assert 1e3 * schedule.latency_s == pytest.approx(row['latency_ms'])


def test_the_weighted_objective_takes_a_weight_between_0_and_1(capsys):
    arguments = ['--bandwidth-MBps', '8', '--method', 'layer_cut', '--objective', 'weighted']
    (fast,) = planned(capsys, 'VGG19_BN', *arguments, '--weight', '1')
    (frugal,) = planned(capsys, 'VGG19_BN', *arguments, '--weight', '0')
    assert fast['latency_ms'] <= frugal['latency_ms']
    assert frugal['energy_J'] < fast['energy_J']
    profile = ['--profile', str(DATA / 'VGG19_BN.json')]
    assert main([*profile, *arguments, '--weight', '2']) == 2
    assert 'a number from 0 to 1' in capsys.readouterr().err
