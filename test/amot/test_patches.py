"""Patches of an image, and the sample that both ends draw alike."""

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest
import torch

from offload_ros.amot.patches import count_of, cut, images_of, patches_of, sample

SEEDS = st.integers(0, 2**32 - 1)


@given(SEEDS, st.integers(1, 200), st.data())
def test_a_sample_is_the_same_again_ascending_and_without_repetition(seed, total, data):
    count = data.draw(st.integers(1, total))
    found = sample(seed, count, total)
    assert np.array_equal(found, sample(seed, count, total))
    assert len(found) == count and (np.diff(found) > 0).all()
    assert found[0] >= 0 and found[-1] < total


def splitmix64(state):
    """The published generator, in whole numbers of Python."""
    top = 2**64 - 1
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & top
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & top
    return state ^ (state >> 31)


@given(SEEDS, st.integers(1, 200))
def test_robots_and_servers_of_any_version_draw_alike(seed, total):
    drawn = [
        splitmix64((seed + (index + 1) * 0x9E3779B97F4A7C15) % 2**64) for index in range(total)
    ]
    wanted = sorted(sorted(range(total), key=drawn.__getitem__)[: (total + 1) // 2])
    assert sample(seed, (total + 1) // 2, total).tolist() == wanted


def test_every_patch_is_drawn_equally_often():
    draws = np.concatenate([sample(seed, 16, 64) for seed in range(4000)])
    counts = np.bincount(draws, minlength=64)
    # Each patch is drawn 1000 times on average, with a deviation of 27.
    assert abs(counts - 1000).max() < 5 * 27.4


@pytest.mark.parametrize('ratio', [0.0, -0.1, 1.01, float('nan')])
def test_a_share_that_is_none_is_refused(ratio):
    with pytest.raises(ValueError, match='share'):
        count_of(ratio, 64)


def test_a_share_is_never_exceeded():
    assert [count_of(ratio, 64) for ratio in (0.001, 0.3, 0.5, 1.0)] == [1, 19, 32, 64]
    assert count_of(0.29, 100) == 29  # although 0.29 * 100 is a little less


@pytest.mark.parametrize(('seed', 'count', 'total'), [(0, 0, 9), (0, 10, 9)])
def test_a_sample_of_none_or_too_many_is_refused(seed, count, total):
    with pytest.raises(ValueError, match='1 to 9'):
        sample(seed, count, total)


@given(st.integers(1, 4), st.integers(1, 3), st.integers(0, 1000))
def test_patches_and_images_are_each_others_inverse(side, patch_px, seed):
    generator = torch.Generator().manual_seed(seed)
    edge = side * patch_px
    images = torch.randint(0, 256, (2, edge, edge, 3), dtype=torch.uint8, generator=generator)
    patches = patches_of(images, patch_px)
    assert torch.equal(images_of(patches, patch_px), images)
    positions = sample(seed, 1 + seed % side**2, side**2)
    for image, whole in zip(images.numpy(), patches.numpy(), strict=True):
        taken = cut(image, patch_px, positions)
        assert np.array_equal(taken, whole[positions])
        row, column = divmod(int(positions[0]), side)
        block = image[row * patch_px :, column * patch_px :][:patch_px, :patch_px]
        assert np.array_equal(taken[0], block.ravel())
