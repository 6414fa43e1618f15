"""Public models as programs for CUDA, their text unchanged, on the offloaded device."""

import os
from pathlib import Path
import subprocess
import sys

import pytest
import torch

from . import runner

transformers = pytest.importorskip('transformers')

INFERENCES = 8
LONGER = {'gpt2_stops': 32}
NAMES = runner.names()
# All others are replayed whole from the third inference on.
OTHERS = {
    'detr': 'picks boxes by a mask: two results of unknown shape',
    'distilbert': 'sentences of two lengths in turn: a pair of inferences repeats',
    'gpt2_lengths': 'each prompt has another length: no operator has the shapes it had before',
    'gpt2_stops': 'texts of random length: where one ends, the sequence branches',
}
if int(transformers.__version__.partition('.')[0]) < 5:
    OTHERS |= dict.fromkeys(['t5', 'whisper'], 'older code picks beams and words by masks')
ONE_MESSAGE = (
    'convnext deit depth_anything dinov2 mobilenet_v2 qwen2 regnet resnet segformer swin vit '
    'wav2vec2 yolos'
).split()
WHOLE = [name for name in NAMES if name not in OTHERS]


def start(folder: Path, mode: str) -> tuple[subprocess.Popen, Path]:
    """Start all programs in a process of their own."""
    out = folder / f'{mode}.pt'
    environment = {**os.environ, 'OMP_NUM_THREADS': '1'}
    command = [sys.executable, runner.__file__, '--mode', mode, '--out', str(out)]
    command += [f'{name}:{LONGER.get(name, INFERENCES)}' for name in NAMES]
    return subprocess.Popen(command, env=environment), out


def finish(process: subprocess.Popen, out: Path) -> dict:
    """What the programs gave, by name."""
    assert process.wait(timeout=300) == 0
    return torch.load(out, weights_only=False)  # written by the process that we started


@pytest.fixture(scope='module')
def outcomes(tmp_path_factory):
    """Results on the CPU and replayed."""
    folder = tmp_path_factory.mktemp('families')
    started = {mode: start(folder, mode) for mode in ('plain', 'replay')}
    return {mode: finish(*each) for mode, each in started.items()}


def check_equal(found: dict, expected: dict) -> None:
    """Every inference gave the same bits."""
    assert 'error' not in expected, expected['error']
    assert 'error' not in found, found['error']
    pairs = zip(found['results'], expected['results'], strict=True)
    equal = [runner.same(one, other) for one, other in pairs]
    assert all(equal), equal
    assert len(equal) == len(found['rows']) >= INFERENCES


@pytest.mark.parametrize('name', NAMES)
def test_replayed_model_gives_the_bits_that_it_gives_on_the_cpu(outcomes, name):
    check_equal(outcomes['replay'][name], outcomes['plain'][name])


@pytest.mark.parametrize('name', WHOLE)
def test_whole_inference_is_replayed_from_the_third_on(outcomes, name):
    second, *later = outcomes['replay'][name]['rows'][1:]
    assert second['replayed'] == 0 and second['of_unknown_shape'] == 0
    for row in later:
        assert row['replayed'] == row['operators'] == second['operators']
        assert row['aborts'] == 0
        assert row['blocking'] <= second['reads']


@pytest.mark.parametrize('name', ONE_MESSAGE)
def test_inference_that_uploads_at_its_start_only_is_one_message(outcomes, name):
    for row in outcomes['replay'][name]['rows'][3:]:
        assert row['messages'] == 1
        assert row['control_bytes'] <= 300


@pytest.mark.parametrize('name', WHOLE)
def test_replay_needs_few_control_bytes(outcomes, name):
    rows = outcomes['replay'][name]['rows'][3:]
    assert all(row['control_bytes'] <= 300 * row['messages'] for row in rows)


def test_all_is_replayed_up_to_the_first_result_of_unknown_shape(outcomes):
    second, *later = outcomes['replay']['detr']['rows'][1:]
    assert second['of_unknown_shape'] == 2
    for row in later:
        assert row['of_unknown_shape'] == 2
        assert row['operators'] - row['replayed'] == 4  # two of them, and the reads of both
        assert row['blocking'] <= second['blocking']


def test_inputs_of_two_shapes_in_turn_are_replayed_as_a_pair(outcomes):
    later = outcomes['replay']['distilbert']['rows'][4:]
    assert sum(row['operators'] for row in later) > 0
    assert sum(row['operators'] for row in later) == sum(row['replayed'] for row in later)
    assert sum(row['aborts'] for row in later) == 0


def test_texts_of_a_length_that_came_three_times_are_replayed(outcomes):
    rows = outcomes['replay']['gpt2_stops']['rows']
    lengths = [len(text[0]) for text in outcomes['replay']['gpt2_stops']['results']]
    known = [n for n in range(len(rows)) if lengths[:n].count(lengths[n]) >= 3]
    assert len({lengths[n] for n in known}) >= 3  # they do end differently
    for number in known:
        assert rows[number]['replayed'] == rows[number]['operators']
        assert rows[number]['aborts'] == 0


def test_shapes_that_never_repeat_run_operator_by_operator_without_an_abort(outcomes):
    for row in outcomes['replay']['gpt2_lengths']['rows'][2:]:
        assert row['replayed'] < row['operators'] / 10
        assert row['aborts'] == 0
        assert row['blocking'] < row['operators'] / 4  # results' metadata is known for the others


def test_programs_know_nothing_of_offloading():
    for name in NAMES:
        text = (runner.PROGRAMS / f'{name}.py').read_text()
        assert 'cuda' in text
        assert 'offload' not in text and 'rrto' not in text


@pytest.mark.long
@pytest.mark.parametrize('mode', ['rpc', 'pipelined'])
def test_every_model_gives_the_same_bits_in_each_mode(tmp_path, outcomes, mode):
    found = finish(*start(tmp_path, mode))
    for name in NAMES:
        check_equal(found[name], outcomes['plain'][name])
        rows = found[name]['rows'][1:]
        for row in rows:
            assert row['replayed'] == 0
            assert mode == 'pipelined' or row['blocking'] >= row['operators']
