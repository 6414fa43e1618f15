"""What the robot does: resize, sample, and never send more than the budget has."""

from dataclasses import replace
import random

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest
import torch

from offload_ros.amot.fit import Geometry
from offload_ros.amot.messages import MORE_HEAD_BYTES, SAMPLE_HEAD_BYTES
from offload_ros.amot.options import AmotOptions
from offload_ros.amot.patches import cut, sample
from offload_ros.amot.robot_side import SAVED_IMAGES, BudgetSpent, Sampler, Seeds, as_seen, raw
from offload_ros.models.config import Preprocess
from offload_ros.models.preprocess import ImagePreprocess
from offload_ros.wire.codecs import DELTA_ZSTD, encode

from ..draws import examples

GEOMETRY = Geometry(128, 16, 31)
OPTIONS = AmotOptions('folder')
IMAGE = np.random.default_rng(1).integers(0, 256, (128, 128, 3), dtype=np.uint8)


def smooth_code(data):
    """As a link coder where coding pays."""
    return DELTA_ZSTD, encode(data.reshape(-1), DELTA_ZSTD, 1, 3)


def test_an_image_of_the_networks_size_is_not_copied():
    image = torch.from_numpy(IMAGE)
    assert as_seen(image, 128).__array_interface__['data'] == IMAGE.__array_interface__['data']


@pytest.mark.parametrize('size', [(240, 320), (100, 90), (128, 64)])
def test_another_image_is_resized_as_the_whole_one_is(size):
    image = torch.randint(0, 256, (*size, 3), dtype=torch.uint8)
    whole = ImagePreprocess(Preprocess(resize=(128, 128)))(image)[0].permute(1, 2, 0) * 255.0
    seen = torch.from_numpy(as_seen(image, 128))
    assert seen.dtype == torch.uint8 and seen.shape == (128, 128, 3)
    # Rounded after each of two passes, so up to one level beside.
    assert (seen.float() - whole).abs().max() <= 1.01
    assert (seen.float() - whole).abs().mean() < 0.4


@pytest.mark.parametrize(
    'image',
    [
        torch.zeros((4, 4), dtype=torch.uint8),
        torch.zeros((4, 4, 1), dtype=torch.uint8),
        torch.zeros((4, 4, 3)),
        torch.zeros((0, 4, 3), dtype=torch.uint8),
    ],
)
def test_what_is_no_image_is_refused(image):
    with pytest.raises(ValueError, match='an image'):
        as_seen(image, 128)


def test_seeds_differ_between_frames_and_lives():
    one, other = Seeds(b'a'), Seeds(b'b')
    assert len({one.of(seq) for seq in range(2000)}) > 1990
    assert all(0 <= one.of(seq) < 1 << 32 for seq in range(50))
    assert [one.of(seq) for seq in range(9)] == [Seeds(b'a').of(seq) for seq in range(9)]
    assert [one.of(seq) for seq in range(9)] != [other.of(seq) for seq in range(9)]


def test_the_first_round_is_the_sample_that_the_seed_tells():
    first, positions = Sampler(GEOMETRY, 'ab' * 32).first(IMAGE, 7, OPTIONS, 0.5)
    assert first.count == len(positions) == 19  # floor(0.3 * 64)
    np.testing.assert_array_equal(positions, sample(first.seed, 19, 64))
    assert bytes(first.data) == cut(IMAGE, 16, positions).tobytes()
    assert (first.fixed, first.confidence, first.adaptive, first.weighted) == (6, 0.8, True, True)
    left = 0.4 * 64 * 768 - SAMPLE_HEAD_BYTES - 19 * 768 - MORE_HEAD_BYTES
    assert first.granted == pytest.approx(left / 768)
    assert first.limit == int(left // 768) == 6


def test_what_is_saved_may_be_spent_later_up_to_a_bound():
    sampler = Sampler(GEOMETRY, 'ab' * 32)
    limits = [sampler.first(IMAGE, seq, OPTIONS, 0.5)[0].limit for seq in range(60)]
    assert limits[:4] == [6, 13, 19, 26]
    first_bytes = 19 * 768 + SAMPLE_HEAD_BYTES
    most = (SAVED_IMAGES * 64 * 768 - first_bytes - MORE_HEAD_BYTES) // 768
    assert limits[-1] == most


def test_a_sample_shrinks_to_the_budget_and_none_is_sent_where_it_has_no_room():
    sampler = Sampler(GEOMETRY, 'ab' * 32)
    first, _ = sampler.first(IMAGE, 1, replace(OPTIONS, traffic_budget=0.1), 0.5)
    assert first.count == 6 and first.fixed == 0 and first.limit == 0
    small = replace(OPTIONS, traffic_budget=0.01)
    sampler = Sampler(GEOMETRY, 'ab' * 32)
    with pytest.raises(BudgetSpent, match=r'amot\.traffic_budget'):
        sampler.first(IMAGE, 1, small, 0.5)
    # What it brought is kept: the second image has room for one patch.
    assert sampler.first(IMAGE, 2, small, 0.5)[0].count == 1


@pytest.mark.parametrize(
    ('wanted', 'text'),
    [
        (lambda have, free: free[:7], '7 patches are wanted, 6 were offered'),
        (lambda have, free: have[:1], 'that are not missing'),
        (lambda have, free: [64], 'that are not missing'),
    ],
)
def test_a_server_gets_no_more_than_it_may_want(wanted, text):
    sampler = Sampler(GEOMETRY, 'ab' * 32)
    first, have = sampler.first(IMAGE, 1, OPTIONS, 0.5)
    free = np.setdiff1d(np.arange(64), have)
    level = sampler.traffic.level_bytes
    with pytest.raises(ValueError, match=text):
        sampler.more(IMAGE, first, have, np.array(wanted(have, free), np.uint16))
    assert sampler.traffic.level_bytes == level


def test_the_second_round_is_what_was_wanted_in_that_order():
    sampler = Sampler(GEOMETRY, 'ab' * 32)
    first, have = sampler.first(IMAGE, 1, OPTIONS, 0.5)
    wanted = np.setdiff1d(np.arange(64), have)[[5, 0, 3]].astype(np.uint16)
    _, data = sampler.more(IMAGE, first, have, wanted)
    assert bytes(data) == cut(IMAGE, 16, wanted.astype(np.int64)).tobytes()


def test_what_coding_saves_is_granted_to_later_images():
    flat = np.full((128, 128, 3), 90, np.uint8)
    plain, coded = Sampler(GEOMETRY, 'ab' * 32), Sampler(GEOMETRY, 'ab' * 32)
    for sampler, code in ((plain, raw), (coded, smooth_code)):
        first, have = sampler.first(flat, 1, OPTIONS, 0.5, code)
        free = np.setdiff1d(np.arange(64), have)[:5].astype(np.uint16)
        sampler.more(flat, first, have, free, code)
    granted = [each.first(flat, 2, OPTIONS, 0.5, raw)[0].granted for each in (plain, coded)]
    assert granted[1] - granted[0] == pytest.approx(5.0, abs=0.1)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=examples(40, 1000))
def test_no_stream_takes_more_than_its_budget(seed):
    """Whatever the knobs do and the server wants: bytes with all heads, after each message."""
    sampler = Sampler(GEOMETRY, 'ab' * 32)
    brought = sent = 0.0
    chance = random.Random(seed)
    for seq in range(15):
        budget = chance.choice((0.01, 0.05, 0.2, 0.4, 0.8, 1.0))
        ratio = chance.choice((0.01, 0.1, 0.3, 1.0))
        share, coded = chance.random(), chance.random() < 0.5  # of what is offered
        options = replace(OPTIONS, traffic_budget=budget, first_ratio=ratio)
        code = smooth_code if coded else raw
        brought += budget * GEOMETRY.image_bytes
        try:
            first, have = sampler.first(IMAGE, seq, options, 0.5, code)
        except BudgetSpent:
            continue
        sent += SAMPLE_HEAD_BYTES + len(first.data)
        assert sent <= brought + 1e-6
        free = np.setdiff1d(np.arange(64), have)
        count = int(min(first.limit, len(free)) * share)
        if count:
            _, data = sampler.more(IMAGE, first, have, free[:count].astype(np.uint16), code)
            sent += MORE_HEAD_BYTES + len(data)
        assert sent <= brought + 1e-6
        assert sampler.traffic.level_bytes <= brought - sent + 1e-6
