"""Scenes, metrics and training of the small SCONet."""

import numpy as np
import pytest
import torch

from offload_ros.models.errors import ModelError
from offload_ros.navigation.voxels import unpacked
from offload_ros.training.sconet import scenes
from offload_ros.training.sconet.evaluate import probabilities, restored
from offload_ros.training.sconet.metrics import BINS, Scores, recall_at, threshold_at
from offload_ros.training.sconet.scenes import (
    FLOOR,
    GRID,
    OBJECT,
    PLANES,
    STRUCTURE,
    UNKNOWN,
    labels_of,
    scenes_of,
)
from offload_ros.training.sconet.train import Parts, main


@pytest.fixture(scope='module')
def planes():
    return scenes_of('train', 700_123, 3)


def test_scenes_hold_what_is_there_and_what_was_seen_of_it(planes):
    again = scenes_of('train', 700_123, 3)
    other = scenes_of('train', 700_124, 1)
    assert all(np.array_equal(planes[name], again[name]) for name in PLANES)
    assert not np.array_equal(planes['object'][0], other['object'][0])
    for at in range(3):
        grids = {name: unpacked(planes[name][at], GRID.shape) > 0 for name in PLANES}
        labels = labels_of({name: planes[name][at] for name in PLANES})
        there = (labels == FLOOR) | (labels == STRUCTURE) | (labels == OBJECT)
        seen = grids['seen']
        # What a lidar sees is there; noise may put a point beside a surface.
        assert (seen & there).sum() > 0.93 * seen.sum()
        above = there.copy()
        above[:, 0] = False
        assert 0.1 < (seen & above).sum() / above.sum() < 0.8
        assert ((labels == UNKNOWN) == ~grids['room']).all()
        assert {FLOOR, STRUCTURE, OBJECT} <= set(np.unique(labels))
        # The robot stands on free floor in the middle of the grid.
        assert not above[63:65, :, 63:65].any()


def test_test_rooms_are_none_of_training():
    assert set(scenes.FIRST_SEED) == set(scenes.WORLDS) == set(scenes.SPLITS)
    ranges = [
        range(scenes.FIRST_SEED[each], scenes.FIRST_SEED[each] + scenes.WORLDS[each])
        for each in scenes.SPLITS
    ]
    assert len(set().union(*map(set, ranges))) == sum(map(len, ranges))


def test_scores_of_a_grid_counted_by_hand():
    shape = (6, 4, 6)
    seen, occupied = np.zeros(shape, bool), np.zeros(shape, bool)
    occupied[0, 0, :4] = True
    seen[0, 0, 0] = True  # right
    seen[5, 3, 5] = True  # where nothing is
    probability = np.zeros(shape, np.float32)
    probability[0, 0, 1] = 0.9  # right, beside
    probability[0, 0, 3] = 0.7  # right, hidden
    probability[3, 0, 0] = 0.6  # wrong, hidden
    counted = np.ones(shape, bool)
    counted[2] = False
    scores = Scores()
    scores.add(seen, occupied, counted, probability, 0.5)
    figures = scores.figures()
    assert figures['iou_seen'] == pytest.approx(1 / 5)
    assert figures['iou_completed'] == pytest.approx(3 / 6)
    assert (figures['occupied_beside'], figures['occupied_hidden']) == (1, 2)
    assert figures['recall_beside'] == pytest.approx(1.0)
    assert figures['recall_hidden'] == pytest.approx(0.5)
    assert figures['recall'] == pytest.approx(2 / 3)
    assert 0.6 < figures['threshold'] <= 0.7


def test_recall_where_the_precision_is_never_reached_is_nothing():
    counts = np.zeros((2, BINS), np.int64)
    counts[0, 900], counts[1, 900] = 5, 5
    assert recall_at(counts) == 0.0
    assert threshold_at(counts) == 1.0
    assert recall_at(counts, 0.5) == 1.0


def test_parts_are_cut_turned_and_the_same_again(planes):
    parts = Parts(planes, 32)
    one = parts.draw(3, torch.Generator().manual_seed(5))
    other = parts.draw(3, torch.Generator().manual_seed(5))
    assert torch.equal(one[0], other[0])
    assert torch.equal(one[1], other[1])
    seen, labels = one
    assert seen.shape == labels.shape == (3, 32, GRID.height, 32)
    assert set(labels.unique().tolist()) <= {0, 1, 2, 3, UNKNOWN}
    # Input and labels are turned alike: what was seen is there.
    assert ((labels[seen > 0] > 0) & (labels[seen > 0] != UNKNOWN)).float().mean() > 0.9


def test_training_writes_weights_that_whole_grids_take(tmp_path, planes, monkeypatch, capsys):
    np.savez(tmp_path / 'train.npz', **planes)
    command = ['train', str(tmp_path / 'work'), '--data', str(tmp_path), '--threads', '1']
    monkeypatch.setattr('sys.argv', [*command, '--steps', '3', '--batch', '1'])
    main()
    assert 'sconet_small.safetensors' in capsys.readouterr().out
    network = restored(tmp_path / 'work' / 'sconet_small.safetensors')
    seen = unpacked(planes['seen'][0], GRID.shape)
    found = probabilities(network, seen)
    assert found.shape == GRID.shape
    assert 0 <= found.min() <= found.max() <= 1


def test_missing_data_and_other_weights_are_said_in_a_line(tmp_path, monkeypatch):
    monkeypatch.setattr('sys.argv', ['train', str(tmp_path), '--data', str(tmp_path)])
    with pytest.raises(SystemExit, match=r'train\.npz is missing: python -m'):
        main()
    (tmp_path / 'no.safetensors').write_bytes(b'no')
    with pytest.raises(ModelError, match='cannot be read'):
        restored(tmp_path / 'no.safetensors')
