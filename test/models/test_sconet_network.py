"""SCONet has the published names, sizes and values."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from offload_ros.models.sconet_network import CrissCross, Grid, ScoNetwork

from .kapao_networks import state_of

DATA = Path(__file__).parent.parent / 'data'
SMALL = Grid(48, 16, 40)


@pytest.mark.parametrize(
    ('file', 'attention', 'count'), [('agrnav', True, 646_043), ('intradp', False, 839_499)]
)
def test_names_shapes_and_counts_are_the_published_ones(file, attention, count):
    with torch.device('meta'):
        network = ScoNetwork(attention=attention)
    published = json.loads((DATA / f'sconet_{file}_state.json').read_text())
    assert {k: list(v.shape) for k, v in network.state_dict().items()} == published
    assert sum(each.numel() for each in network.parameters()) == count


def test_values_are_those_of_the_published_network():
    cells = np.arange(256 * 32 * 256, dtype=np.uint64)
    occupied = ((cells * 2654435761 % 2**32) >> 16) % 16 == 0
    network = ScoNetwork().eval().requires_grad_(False)
    network.load_state_dict(state_of(network))
    with torch.inference_mode():
        logits = network(torch.from_numpy(occupied.reshape(1, 256, 32, 256)).float())
    with np.load(DATA / 'sconet_agrnav.npz') as oracle:
        index, wanted, labels = (oracle[name] for name in ('logits_index', 'logits', 'labels'))
    largest = np.abs(wanted).max()
    assert np.abs(logits.flatten()[index].numpy() - wanted).max() <= 1e-5 * largest
    best = logits.topk(2, dim=1).values
    tied = (best[:, 0] - best[:, 1] <= 1e-4 * largest).numpy()
    same = logits.argmax(1).numpy() == labels
    assert (same | tied).all() and same.mean() > 0.9999


def test_a_cell_looks_at_its_row_and_column_once():
    torch.manual_seed(0)
    layer = CrissCross(16).eval()
    torch.nn.init.constant_(layer.gamma, 0.7)
    x = torch.randn(2, 16, 5, 7)
    with torch.inference_mode():
        query, key, value = layer.query_conv(x), layer.key_conv(x), layer.value_conv(x)
        for b, h, w in ((0, 0, 0), (1, 4, 6), (0, 2, 3)):
            cells = [(r, w) for r in range(5) if r != h] + [(h, c) for c in range(7)]
            score = torch.stack([query[b, :, h, w] @ key[b, :, r, c] for r, c in cells])
            seen = sum(
                weight * value[b, :, r, c]
                for weight, (r, c) in zip(score.softmax(0), cells, strict=True)
            )
            torch.testing.assert_close(layer(x)[b, :, h, w], 0.7 * seen + x[b, :, h, w])


@pytest.mark.parametrize('attention', [True, False])
def test_other_grids_and_classes_work(attention):
    torch.manual_seed(1)
    network = ScoNetwork(SMALL, attention, classes=2).eval()
    with torch.inference_mode():
        logits = network((torch.rand(3, 48, 16, 40) < 0.1).float())
    assert logits.shape == (3, 2, 48, 16, 40) and bool(logits.isfinite().all())


def test_grids_that_do_not_halve_thrice_are_refused():
    with pytest.raises(ValueError, match='depth of a grid must be a multiple of 8, not 100'):
        Grid(128, 16, 100)
    with pytest.raises(ValueError, match='height'):
        Grid(128, 0, 128)
