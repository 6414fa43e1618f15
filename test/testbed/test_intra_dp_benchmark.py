"""The benchmark of Intra-DP: its networks, its figures, and going on where it was stopped."""

import json
import math

import pytest
import torch

from benchmarks import intra_dp, intra_dp_report
from benchmarks.intra_dp_cells import Cell
from benchmarks.intra_dp_networks import build
from benchmarks.intra_dp_trace import TRACE, Stretch
from offload_ros.graph.capture import capture
from offload_ros.graph.classify import classify
from offload_ros.graph.local import Kind


def run(total_s, robot_s=0.0, up=1000, down=500):
    return {
        'total_s': total_s,
        'robot_s': robot_s,
        'server_s': 0.01,
        'up': up,
        'down': down,
        'completed_locally': 0,
        'agreement': 'bits',
    }


def plan(predicted_s):
    return {
        'predicted_s': predicted_s,
        'predicted_with_later_passes_s': predicted_s,
        'busy_s': {'robot': 0.01, 'server': 0.01},
        'messages': [1, 1],
        'steps': None,
        'kind': 'cut',
    }


def cell(ours, best, server):
    """Of three plans: ours, layer_cut's and the server's, with their runs."""
    runs = {'intra_dp': ours, 'layer_cut': best, 'server': server}
    return {
        'network': 'VGG19',
        'mbit': 8.0,
        'server_speed': 1.0,
        'coded': False,
        'chosen': {'server': 'server', 'layer_cut': 'layer_cut', 'intra_dp': 'intra_dp'},
        'without_plan': {},
        'runs': runs,
        'load_average': 0.1,
        'robot_whole_s': 0.2,
        'server_whole_s': 0.04,
        'plans': {name: plan(0.1) for name in runs},
    }


def test_a_ratio_is_that_of_runs_in_the_same_round():
    # Rounds get slower and slower: the ratio of the medians would be that of other rounds.
    best = [run(0.1 * place) for place in range(1, 8)]
    ours = [run(0.08 * place) for place in range(1, 8)]
    ours[0] = None  # did not run in the first round
    figures = intra_dp_report.case_figures(cell(ours, best, [run(9.0)] * 7))
    assert figures['best_baseline'] == 'layer_cut'
    assert figures['pairs'] == 6
    assert not figures['in_crossover_region']  # nothing is known of the robot alone
    assert figures['ratio_to_best_baseline'] == pytest.approx(0.8)
    assert figures['ratio_to_best_baseline_95'] == pytest.approx([0.8, 0.8])


def test_runs_without_a_result_are_counted_and_not_averaged():
    ours = [run(0.08), {'failed': 'the server is gone'}, run(0.1)]
    figures = intra_dp_report.case_figures(cell(ours, [run(0.1)] * 3, [run(0.2)] * 3))
    mine = figures['methods']['intra_dp']
    assert mine['failures'] == ['the server is gone']
    assert (mine['runs'], mine['mean_ms'], figures['pairs']) == (2, 90.0, 2)


def test_methods_with_the_same_plan_are_exactly_equal():
    found = cell([], [run(0.1), run(0.3), run(0.2)], [run(1.0)] * 3)
    found['chosen']['intra_dp'] = 'layer_cut'
    figures = intra_dp_report.case_figures(found)
    assert figures['ratio_to_best_baseline'] == 1.0
    assert figures['methods']['intra_dp']['same_plan_as'] == ['layer_cut', 'intra_dp']


def test_energy_counts_each_moment_once():
    # 0.2 s on a link of 8 Mbit/s, of which 0.1 s computing and 20 kB: 0.02 s sending or receiving.
    joules = intra_dp_report.energy_j(run(0.2, 0.1, 15_000, 5_000), 8.0)
    assert joules == pytest.approx(13.35 * 0.1 + 4.25 * 0.02 + 4.04 * 0.08)
    # More than the time that is left: overlapped with computing, which wins.
    assert intra_dp_report.energy_j(run(0.2, 0.2, 10**6), 8.0) == pytest.approx(13.35 * 0.2)


def test_what_misses_a_target_is_named():
    slow = intra_dp_report.case_figures(
        cell([run(0.2)] * 5, [run(0.1)] * 5, [run(0.12, up=0, down=0)] * 5)
    )
    content = {'cases': {'here': slow}, 'traces': {}}
    found = intra_dp_report.targets(content)
    missed = {target for target, each in found.items() if not each['met']}
    assert any('best baseline' in each for each in missed)
    assert any('predicted over measured' in each for each in missed)
    assert any('in the crossover region' in each for each in missed)
    nothing = intra_dp_report.targets({'cases': {}, 'traces': {}})
    assert all(each['met'] is None for each in nothing.values())


def test_finished_cells_are_not_measured_again(tmp_path):
    path, settings = tmp_path / 'x.work.json', intra_dp.QUICK
    work = intra_dp.Work(path, settings, redo=False)
    key = Cell('VGG19', 8).key
    work.keep('cells', key, cell([run(0.1)], [run(0.1)], [run(0.2)]))
    again = intra_dp.Work(path, settings, redo=False)
    assert again.parts == work.parts
    assert json.dumps(intra_dp.content_of(again)['cases'][key])
    assert not intra_dp.Work(path, settings, redo=True).parts['cells']
    assert not intra_dp.Work(path, intra_dp.Settings(), redo=False).parts['cells']


def test_every_cell_has_a_key_of_its_own():
    wanted = intra_dp.wanted_parts(intra_dp.Settings(), '', ['cells', 'fallbacks', 'traces'])
    keys = [(kind, key) for _, kind, key, _ in wanted]
    assert len(set(keys)) == len(keys) >= 13 + 4 + 2


def test_a_stretch_follows_the_recording():
    stretch = Stretch('VGG19', 0.5, 10.0, start_s=1.0)
    recorded = json.loads(TRACE.read_text())['bw_MBps']
    assert stretch.whole.mbit[:3] == tuple(4.0 * each for each in recorded[2:5])
    assert stretch.whole.duration_s == pytest.approx(10.0)
    early = stretch.trace(-2.0, 4.0)
    assert early.mbit[:5] == (4.0 * recorded[0],) * 5
    assert math.isclose(early.mbit[5], 4.0 * recorded[1])


def test_labels_may_differ_only_where_two_classes_are_as_good():
    subject = build('SCONet')
    wanted = subject.reference()
    (labels,) = wanted.values()
    assert subject.agreement({'output': labels.clone()}, wanted) == 'bits'
    wrong = labels.clone()
    wrong[: 2 * 5] = (wrong[: 2 * 5] + 1) % 8
    assert 'differ' in subject.agreement({'output': wrong}, wanted)
    assert 'not' in subject.agreement({'output': labels[:-1]}, wanted)


def test_the_volume_can_be_split_everywhere():
    subject = build('SCONet')
    graph, _ = capture(subject.network, dict(subject.inputs), 'SCONet', method='trace')
    assert not classify(graph).counts.get(Kind.BARRIER)
    assert all(each.dtype == torch.uint8 for each in graph.inputs.values())
