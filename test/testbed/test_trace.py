"""Traces: what a file must be like, and that the generated ones have the papers' statistics."""

from pathlib import Path
from random import Random

import numpy as np
import pytest

from benchmarks.testbed import Settings, Trace, bridge, indoors, link, outdoors
from offload_ros.wire.shaper import LinkShape

RECORDED = Path(__file__).resolve().parents[2] / 'benchmarks' / 'data' / 'indoors_recorded.csv'


def read(tmp_path, text):
    file = tmp_path / 'trace.csv'
    file.write_text(text)
    return Trace.read(file)


@pytest.mark.parametrize('text', ['0,93\n0.5,20\n', '# a note\ntime_s,mbit\n0,93\n0.5, 20\n\n'])
def test_a_file_is_read(tmp_path, text):
    trace = read(tmp_path, text)
    assert trace == Trace((0.0, 0.5), (93.0, 20.0))
    assert (trace.duration_s, trace.mean_mbit) == (1.0, 56.5)


def test_the_mean_is_one_over_time():
    assert Trace((0.0, 3.0, 4.0), (10.0, 50.0, 50.0)).mean_mbit == pytest.approx(26.0)


@pytest.mark.parametrize(
    ('text', 'reason'),
    [
        ('', 'at least one row'),
        ('time_s,mbit\n', 'at least one row'),
        ('0,93\n0,20\n', r'row 2: time 0.0 s does not come after 0.0 s'),
        ('1,93\n0.5,20\n', 'row 2: time 0.5 s does not come after'),
        ('0,-1\n', 'row 1: a rate must be 0 Mbit/s or more'),
        ('0,nan\n', 'row 1: a rate'),
        ('inf,1\n', 'row 1: time inf'),
        ('0,1\nx,2\n', "row 2: two numbers are needed.*'x,2'"),
        ('0,1\n1\n', 'row 2: two numbers'),
        ('0,1\n1,2,3\n', 'row 2: two numbers'),
        ('0,93\n\x00,1\n', 'row 2|NUL'),
    ],
)
def test_a_wrong_file_is_refused_with_its_name_and_row(tmp_path, text, reason):
    with pytest.raises(ValueError, match=f'trace.csv is not usable: .*(?:{reason})'):
        read(tmp_path, text)


def test_a_file_that_is_no_text_is_refused(tmp_path):
    (tmp_path / 'trace.csv').write_bytes(b'\xff\xfe\x00\x01')
    with pytest.raises(ValueError, match=r'trace.csv is not usable'):
        Trace.read(tmp_path / 'trace.csv')


@pytest.mark.parametrize(('generate', 'mean'), [(indoors, 93.0), (outdoors, 73.0)])
@pytest.mark.parametrize('seed', range(5))
def test_generated_traces_have_the_papers_mean_and_step(generate, mean, seed):
    trace = generate(seed)
    assert np.diff(trace.times_s) == pytest.approx(0.1)
    assert trace.duration_s == pytest.approx(300.0)
    assert trace.mean_mbit == pytest.approx(mean, rel=1e-3)
    assert generate(seed) == trace != generate(seed + 1)


@pytest.mark.parametrize('seed', range(5))
def test_only_outdoors_drops_to_almost_nothing(seed):
    inside, outside = np.array(indoors(seed).mbit), np.array(outdoors(seed).mbit)
    assert inside.min() > 5.0
    low = outside < 2.0
    drops = np.count_nonzero(np.diff(low.astype(int)) == 1)
    assert 15 <= drops <= 45 and 0.03 < low.mean() < 0.15


def test_the_indoor_generator_varies_like_the_recording():
    recorded = np.array(Trace.read(RECORDED).mbit)[:600]
    generated = np.array([indoors(seed).mbit[::5] for seed in range(20)])
    spreads = generated.std(axis=1) / generated.mean(axis=1)
    assert spreads.mean() == pytest.approx(recorded.std() / recorded.mean(), rel=0.1)

    def correlation(rates, lag):
        return np.corrcoef(rates[:-lag], rates[lag:])[0, 1]

    for lag in (1, 10, 20):  # 0.5, 5 and 10 s
        mean = np.mean([correlation(rates, lag) for rates in generated])
        assert mean == pytest.approx(correlation(recorded, lag), abs=0.12)


@pytest.mark.parametrize('loss', [0.005, 0.2])
def test_losses_are_independent_and_repeat_with_the_seed(loss):
    gaps = [bridge.frames_to_next_loss(loss, Random(3)) for _ in range(2)]
    assert gaps[0] == gaps[1]
    random = Random(3)
    passed = np.array([bridge.frames_to_next_loss(loss, random) for _ in range(20_000)])
    assert 1 / (1 + passed.mean()) == pytest.approx(loss, rel=0.03)
    assert np.mean(passed == 0) == pytest.approx(loss, rel=0.25)
    assert bridge.frames_to_next_loss(0.0, random) == float('inf')


def test_shaping_counts_frames_so_that_the_payload_has_the_rate():
    words = link.shaping('air', 100.0, 312_000).split()
    rate = int(words[words.index('rate') + 1].removesuffix('bit'))
    assert rate * 1448 / 1514 == pytest.approx(100e6)
    assert 'rate 104558bit' in link.shaping('air', 0.0, 312_000)  # the lowest there is


@pytest.mark.parametrize(
    'wrong',
    [
        {'mbit': -1.0},
        {'up_mbit': float('nan')},
        {'down_mbit': float('inf')},
        {'rtt_s': -0.1},
        {'loss': 1.0},
        {'queue_bytes': 100},
        {'robot_slowdown': 0.5},
        {'server_speed': 0.0},
    ],
)
def test_settings_out_of_range_are_refused(wrong):
    name = next(iter(wrong))
    with pytest.raises(ValueError, match='a rate must be' if 'mbit' in name else name):
        Settings(**wrong)


def test_a_trace_is_what_the_shaper_takes():
    trace = Trace((3.0, 3.5, 4.5), (8.0, 0.0, 80.0))
    assert trace.steps() == [(0.0, 1e6), (0.5, 0.0), (1.5, 1e7)]
    shape = LinkShape(trace=trace.steps())
    assert shape.rate_at(0.25) == (1e6, 0.25)
    assert shape.rate_at(trace.duration_s + 0.6) == (0.0, pytest.approx(0.9))
    assert LinkShape(trace=Trace((7.0,), (8.0,)).steps()).rate_at(123.4)[0] == 1e6
