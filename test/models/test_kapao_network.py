"""KAPAO's networks have the published sizes, names and values."""

from functools import cache
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from offload_ros.models.kapao_network import SIZES, KapaoNetwork
from offload_ros.models.kapao_weights import parameter_count

from .kapao_networks import state_of

DATA = Path(__file__).parent.parent / 'data'
COUNTS = {
    's': (12_559_980, 12_545_740),
    'm': (35_755_404, 35_727_996),
    'l': (77_047_852, 77_003_244),
}


def parameters(network):
    return sum(each.numel() for each in network.parameters())


@cache
def formula_network():
    """KAPAO-S with the weights of the formula; not fused."""
    network = KapaoNetwork(SIZES['s']).eval().requires_grad_(False)
    network.load_state_dict(state_of(network))
    return network


@cache
def oracle():
    """(input in [0, 1], output of the published network)."""
    with np.load(DATA / 'kapao_s.npz') as file:
        image = torch.from_numpy(file['input']).float() / 255
        return image, torch.from_numpy(file['output'])


def far(found, wanted):
    """Largest difference, of the maximum."""
    assert found.shape == wanted.shape
    return float((found - wanted).abs().max() / wanted.abs().max())


@pytest.mark.parametrize('size', COUNTS)
def test_counts_of_parameters_are_the_published_ones(size):
    with torch.device('meta'):
        whole, fused = (KapaoNetwork(SIZES[size], fused=fused) for fused in (False, True))
    assert (parameters(whole), parameters(fused)) == COUNTS[size]
    # What the import counts by names is the same.
    for network in (whole, fused):
        shapes = {name: tuple(each.shape) for name, each in network.state_dict().items()}
        assert parameter_count(shapes) == parameters(network)


def test_names_and_shapes_are_the_published_ones():
    with torch.device('meta'):
        state = KapaoNetwork(SIZES['s']).state_dict()
    published = json.loads((DATA / 'kapao_s_state.json').read_text())
    assert {name: list(each.shape) for name, each in state.items()} == published


def test_values_are_those_of_the_published_network():
    network, (image, wanted) = formula_network(), oracle()
    found = network.candidates(network(image))
    assert far(found, wanted) < 1e-5
    # Boxes, scores and keypoints each, whose magnitudes differ much.
    for part in (slice(0, 4), slice(4, 23), slice(23, 57)):
        assert far(found[..., part], wanted[..., part]) < 1e-4


def test_folded_batch_norms_give_the_published_values():
    image, wanted = oracle()
    network = KapaoNetwork(SIZES['s'])
    network.load_state_dict(formula_network().state_dict())
    network.fuse()
    assert parameters(network) == COUNTS['s'][1]
    assert not any('.bn.' in name for name in network.state_dict())
    assert far(network.candidates(network(image)), wanted) < 1e-5
    again = KapaoNetwork(SIZES['s'], fused=True).eval()
    again.load_state_dict(network.state_dict())
    assert torch.equal(again(image)[3], network(image)[3])


def test_the_small_size_is_the_same_network_at_a_quarter_of_the_image():
    network = KapaoNetwork(SIZES['t']).eval()
    assert parameters(network) <= 1_500_000
    assert [type(each) for each in network.modules()] == [
        type(each) for each in formula_network().modules()
    ]
    with torch.no_grad():
        maps = network(torch.zeros(2, 3, 256, 320))
        assert [tuple(each.shape) for each in maps] == [
            (2, 171, 256 // stride, 320 // stride) for stride in (8, 16, 32, 64)
        ]
        assert network.candidates(maps).shape == (2, 3 * (32 * 40 + 16 * 20 + 8 * 10 + 4 * 5), 57)
    anchors = network.detect.anchor_grid.reshape(4, 3, 2)
    assert torch.equal(anchors * 4, formula_network().detect.anchor_grid.reshape(4, 3, 2))


def test_candidates_are_decoded_as_the_paper_says():
    torch.manual_seed(0)
    network = KapaoNetwork(SIZES['t']).eval()
    sides = [(4, 6), (2, 3), (1, 2), (1, 1)]
    maps = [torch.randn(1, 171, *side) for side in sides]
    found, place = network.candidates(maps)[0], 0
    for level, (stride, (height, width)) in enumerate(zip((8, 16, 32, 64), sides, strict=True)):
        raw = maps[level].sigmoid().reshape(3, 57, height, width)
        for anchor in range(3):
            wide, high = network.detect.anchor_grid[level, 0, anchor, 0, 0].tolist()
            for row in range(height):
                for column in range(width):
                    s = raw[anchor, :, row, column].tolist()
                    wanted = [
                        (2 * s[0] - 0.5 + column) * stride,
                        (2 * s[1] - 0.5 + row) * stride,
                        (2 * s[2]) ** 2 * wide,
                        (2 * s[3]) ** 2 * high,
                        *s[4:23],
                    ]
                    for point in range(17):
                        wanted.append((4 * s[23 + 2 * point] - 2) * wide + column * stride)
                        wanted.append((4 * s[24 + 2 * point] - 2) * high + row * stride)
                    torch.testing.assert_close(
                        found[place], torch.tensor(wanted), rtol=1e-5, atol=1e-4
                    )
                    place += 1
    assert place == len(found)


def test_candidates_below_the_floor_keep_nothing_but_their_place():
    network, (image, _) = formula_network(), oracle()
    maps = network(image)
    whole, thin = network.candidates(maps), network.candidates(maps, floor=0.5)
    above = whole[..., 4] > 0.5
    assert 0.05 < float(above.float().mean()) < 0.95
    assert torch.equal(thin[above], whole[above])
    assert not thin[~above][:, 4:23].any() and not thin[~above][:, 2:4].any()


def test_anchors_of_loaded_weights_decide():
    network = KapaoNetwork(SIZES['t']).eval()
    state = network.state_dict()
    state['model.33.anchor_grid'] = state['model.33.anchor_grid'] * 2
    maps = [torch.zeros(1, 171, 1, 1)] * 4
    before = network.candidates(maps)
    network.load_state_dict(state)
    after = network.candidates(maps)
    assert torch.equal(after[..., 2:4], 2 * before[..., 2:4])
    assert torch.equal(after[..., :2], before[..., :2])


def test_it_learns_and_its_first_scores_are_low():
    torch.manual_seed(1)
    network = KapaoNetwork(SIZES['t'])
    image = torch.rand(1, 3, 64, 64)
    network.eval()
    with torch.no_grad():
        scores = network.candidates(network(image))[..., 4]
    assert float(scores.max()) < 0.1
    network.train()
    sum(each.sigmoid().mean() for each in network(torch.rand(2, 3, 128, 128))).backward()
    assert all(each.grad is not None for each in network.parameters())
