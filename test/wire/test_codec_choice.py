"""A codec is used only where it pays, and finding out costs next to nothing."""

import math
import threading

import cv2
import numpy as np
import pytest

from offload_ros.wire.codec_choice import ChoicePolicy, CodecChooser, Measured, sample_of
from offload_ros.wire.codecs import (
    BITS,
    BITS_ZSTD,
    CODECS,
    DELTA_ZSTD,
    LZ4,
    SHUFFLE_ZSTD,
    ZSTD,
    decode,
)
from offload_ros.wire.tensors import RAW

MBIT = 1e6 / 8  # bytes/s
SIZE = 1_000_000
DATA = np.zeros(SIZE, np.uint8)


class Bench:
    """Stands for measuring: what each codec would make of the data, and what measuring takes."""

    def __init__(self, clock, **figures):
        self.clock = clock
        self.figures = {}
        self.calls = []
        self.samples = []
        for name, (ratio, encode_mb_per_s, decode_mb_per_s) in figures.items():
            self.set(name, ratio, encode_mb_per_s, decode_mb_per_s)

    def set(self, name, ratio, encode_mb_per_s, decode_mb_per_s):
        code = next(c for c, codec in CODECS.items() if codec.name.replace('+', '_') == name)
        self.figures[code] = Measured(1 / ratio, 1e-6 / encode_mb_per_s, 1e-6 / decode_mb_per_s)

    def __call__(self, code, sample, itemsize, channels):
        figures = self.figures.get(code, Measured(1.0, 1e-9, 1e-9))
        self.calls.append(code)
        self.samples.append(sample)
        self.clock.now_s += sample.size * (figures.encode_s_per_byte + figures.decode_s_per_byte)
        return figures


def settled(chooser, mbps, data=DATA, itemsize=1, frames=8):
    """Return the choice after some frames."""
    for _ in range(frames):
        code = chooser.choose('x', data, itemsize, mbps * MBIT)
    return code


def chooser_with(clock, policy=None, **figures):
    bench = Bench(clock, **figures)
    return CodecChooser(policy, clock, bench), bench


def test_the_fastest_of_encoding_transfer_and_decoding_is_chosen(clock):
    figures = {'zstd': (4.0, 400, 1000), 'lz4': (2.0, 2000, 5000)}
    slow, fast, local = (
        settled(chooser_with(clock, **figures)[0], mbps) for mbps in (20, 2500, 40_000)
    )
    assert (slow, fast, local) == (ZSTD, LZ4, RAW)


def test_a_codec_must_win_by_the_margin(clock):
    # 80 ms raw; with ratio r, 80 ms / r and 2 ms for coding.
    assert settled(chooser_with(clock, zstd=(1.10, 1000, 1000))[0], 100) == RAW
    assert settled(chooser_with(clock, zstd=(1.20, 1000, 1000))[0], 100) == ZSTD


def test_a_slow_receiver_counts(clock):
    figures = {'zstd': (4.0, 500, 500)}
    chooser, _ = chooser_with(clock, **figures)
    assert settled(chooser, 450) == ZSTD  # 17.8 ms raw, 4.4 + 2 + 2 coded
    for _ in range(20):
        chooser.observe_decode('x', ZSTD, SIZE, 0.014)
    assert settled(chooser, 450) == RAW
    assert settled(chooser, 20) == ZSTD


@pytest.mark.parametrize('bandwidth', [math.nan, math.inf, 0.0, -1.0])
def test_without_a_bandwidth_nothing_is_tried(clock, bandwidth):
    chooser, bench = chooser_with(clock, zstd=(100.0, 5000, 5000))
    assert chooser.choose('x', DATA, 1, bandwidth) == RAW
    assert not bench.calls


def test_opaque_tiny_and_fast_transfers_are_not_tried(clock):
    chooser, bench = chooser_with(clock, zstd=(100.0, 5000, 5000))
    assert chooser.choose('jpeg', DATA, 1, MBIT, opaque=True) == RAW
    assert chooser.choose('tiny', DATA[:4000], 1, MBIT) == RAW
    assert chooser.choose('near', DATA, 1, 5e9) == RAW
    assert chooser.choose('empty', b'', 1, MBIT) == RAW
    assert not bench.calls


def test_a_change_of_bandwidth_needs_no_new_trial(clock):
    chooser, bench = chooser_with(clock, zstd=(4.0, 400, 1000), lz4=(2.0, 2000, 5000))
    assert settled(chooser, 20) == ZSTD
    tried = len(bench.calls)
    assert settled(chooser, 2500) == LZ4
    assert settled(chooser, 40_000) == RAW
    assert settled(chooser, 20) == ZSTD
    assert len(bench.calls) == tried


def test_every_candidate_is_tried_once_and_again_after_the_period(clock):
    chooser, bench = chooser_with(clock)
    settled(chooser, 20)
    assert sorted(bench.calls) == sorted({ZSTD, BITS_ZSTD, DELTA_ZSTD, LZ4, BITS})
    clock.now_s += 9.0
    settled(chooser, 20)
    assert len(bench.calls) == 5
    clock.now_s += 2.0
    settled(chooser, 20)
    assert len(bench.calls) == 10


def test_wide_values_have_candidates_of_their_own(clock):
    chooser, bench = chooser_with(clock)
    settled(chooser, 20, itemsize=4)
    assert set(bench.calls) == {ZSTD, SHUFFLE_ZSTD, LZ4}


@pytest.mark.parametrize('mbps', [0.5, 5, 93, 450, 5000])
@pytest.mark.parametrize('mb_per_s', [60, 300, 5000])
def test_no_frame_waits_longer_than_the_budget(clock, mbps, mb_per_s):
    names = ('zstd', 'bits_zstd', 'delta_zstd', 'lz4', 'bits')
    chooser, bench = chooser_with(clock, **dict.fromkeys(names, (2.0, 2 * mb_per_s, 2 * mb_per_s)))
    budget_s = max(1e-3, 0.02 * SIZE / (mbps * MBIT))
    for _ in range(40):
        began_s = clock.now_s
        chooser.choose('x', DATA, 1, mbps * MBIT)
        assert clock.now_s - began_s <= budget_s * 1.001
        clock.now_s += 0.1
    assert len(set(bench.calls)) == 5  # and yet all were tried


def test_whole_frames_correct_what_a_sample_promised(clock):
    chooser, _ = chooser_with(clock, zstd=(4.0, 500, 1000))
    assert settled(chooser, 20) == ZSTD
    for _ in range(6):
        chooser.observe('x', ZSTD, SIZE, int(0.99 * SIZE), 2e-3)
    assert settled(chooser, 20) == RAW


def test_one_preempted_frame_changes_nothing_and_lasting_slowness_does(clock):
    chooser, _ = chooser_with(clock, zstd=(3.0, 500, 1000))
    assert settled(chooser, 93) == ZSTD
    chooser.observe('x', ZSTD, SIZE, SIZE // 3, 5.0)
    assert settled(chooser, 93) == ZSTD
    for _ in range(12):
        chooser.observe('x', ZSTD, SIZE, SIZE // 3, 0.1)
    assert settled(chooser, 93) == RAW


def test_drift_of_the_data_brings_new_trials_before_the_period(clock):
    chooser, bench = chooser_with(clock, zstd=(4.0, 500, 1000))
    assert settled(chooser, 20) == ZSTD
    chooser.observe('x', ZSTD, SIZE, SIZE // 4, 2e-3)
    clock.now_s += 2.0
    bench.set('delta_zstd', 5.0, 500, 1000)
    assert settled(chooser, 20) == ZSTD  # nothing has moved yet
    chooser.observe('x', ZSTD, SIZE, SIZE // 2, 2e-3)
    assert settled(chooser, 20) == DELTA_ZSTD


def test_codecs_that_are_about_equal_do_not_alternate(clock):
    chooser, bench = chooser_with(clock, zstd=(3.0, 500, 1000), delta_zstd=(2.9, 500, 1000))
    assert settled(chooser, 20) == ZSTD
    bench.set('delta_zstd', 3.05, 500, 1000)
    clock.now_s += 11.0
    assert settled(chooser, 20) == ZSTD
    bench.set('delta_zstd', 4.0, 500, 1000)
    clock.now_s += 11.0
    assert settled(chooser, 20) == DELTA_ZSTD


def test_tensors_are_apart(clock):
    chooser, bench = chooser_with(clock, zstd=(4.0, 500, 1000))
    assert settled(chooser, 20) == ZSTD
    bench.set('zstd', 1.0, 500, 1000)
    for _ in range(8):
        code = chooser.choose(('other', 'up', 'x'), DATA, 1, 20 * MBIT)
    assert code == RAW
    assert chooser.choose('x', DATA, 1, 20 * MBIT) == ZSTD


def noise_image():
    """Return an image (240, 320, 3) uint8 with gradients and noise."""
    y, x = np.mgrid[:240, :320]
    noise = np.random.default_rng(0).integers(0, 5, (240, 320, 1))
    return (np.stack([x // 2, y // 2, (x + y) // 4], -1) + noise).astype(np.uint8)


def binary_grid():
    return (np.random.default_rng(0).random(500_000) < 0.01).astype(np.uint8)


def jpeg():
    noise = np.random.default_rng(0).integers(0, 256, (240, 320, 3), dtype=np.uint8)
    return cv2.imencode('.jpg', noise)[1].reshape(-1)


@pytest.mark.parametrize(
    ('make', 'itemsize', 'channels', 'mbps', 'wanted'),
    [
        (noise_image, 1, 3, 20, {DELTA_ZSTD}),
        (binary_grid, 1, 1, 5, {BITS_ZSTD}),
        (jpeg, 1, 1, 5, {RAW}),
        (noise_image, 1, 3, 60_000, {RAW}),
        (lambda: np.sin(np.linspace(0, 9, 90_000)).astype(np.float32), 4, 1, 20, {SHUFFLE_ZSTD}),
        (lambda: np.random.default_rng(0).random(90_000).view(np.uint8), 1, 1, 20, {RAW}),
    ],
)
def test_measured_on_this_machine_the_fitting_codec_is_used(make, itemsize, channels, mbps, wanted):
    data = np.ascontiguousarray(make()).reshape(-1).view(np.uint8)
    chooser = CodecChooser()
    for _ in range(12):
        code, coded = chooser.encode('x', data, itemsize, mbps * MBIT, channels)
        assert decode(coded, code, itemsize, data.size).tobytes() == data.tobytes()
    assert code in wanted
    assert code == RAW or len(coded) < data.size


def test_a_grid_that_stops_being_binary_still_arrives():
    grid = binary_grid()
    chooser = CodecChooser()
    for _ in range(12):
        code, _ = chooser.encode('x', grid, 1, 5 * MBIT)
    assert code == BITS_ZSTD
    grid[123_456] = 2
    for _ in range(3):
        code, coded = chooser.encode('x', grid, 1, 5 * MBIT)
        assert decode(coded, code, 1, grid.size).tobytes() == grid.tobytes()
    assert code not in (BITS, BITS_ZSTD)


def test_what_did_not_shrink_travels_raw(clock):
    noise = np.random.default_rng(0).integers(0, 256, SIZE, dtype=np.uint8)
    chooser, _ = chooser_with(clock, lz4=(4.0, 5000, 5000))
    assert settled(chooser, 20, noise) == LZ4
    code, coded = chooser.encode('x', noise, 1, 20 * MBIT)
    assert code == RAW
    assert coded == noise.data


def test_sample_is_spread_over_the_data_in_whole_values():
    data = np.arange(3 * 100_000, dtype=np.uint32)
    sample = sample_of(data.view(np.uint8), 64 << 10, 12).view(np.uint32).reshape(-1, 3)
    assert (np.diff(sample, axis=1) == 1).all()
    assert (sample[:, 0] % 3 == 0).all()
    assert 60_000 < sample.nbytes <= 65_536
    assert sample[0, 0] == 0
    assert sample[-1, 2] == data[-1]
    assert sample_of(data.view(np.uint8), 10**9, 12).size == data.nbytes


def test_threads_share_a_chooser():
    chooser, image, failures = CodecChooser(), noise_image().reshape(-1), []

    def work(index):
        for _ in range(30):
            code, coded = chooser.encode(index % 2, image, 1, 20 * MBIT, 3)
            if decode(coded, code, 1, image.size).tobytes() != image.tobytes():
                failures.append(index)

    threads = [threading.Thread(target=work, args=[index]) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert set(chooser.measured(0)) == {ZSTD, BITS_ZSTD, DELTA_ZSTD, LZ4, BITS}


@pytest.mark.parametrize(
    ('wrong', 'says'),
    [
        ({'margin': 1.0}, 'margin'),
        ({'budget_s': math.nan}, 'budget_s'),
        ({'trial_period_s': 0.5}, 'trial_period_s'),
        ({'min_sample_bytes': 0}, 'sizes'),
    ],
)
def test_policy_says_which_value_is_wrong(wrong, says):
    with pytest.raises(ValueError, match=says):
        ChoicePolicy(**wrong)
