"""Calibration: shares of images by confidence that are first right at an option."""

import json

import numpy as np
import pytest
import torch

from offload_ros.amot import calibrate, networks
from offload_ros.amot.allocation import read_all
from offload_ros.amot.bundle import BundleError, save_second_pass
from offload_ros.amot.dataset import Split, write_split

LABELS = ['box', 'chair', 'plant']


def test_shares_are_of_images_that_are_first_right_at_an_option():
    confidences = np.array([0.1, 0.2, 0.3, 0.9])
    right = np.array([[0, 1, 0], [0, 0, 1], [0, 0, 0], [1, 1, 1]], bool)
    found = calibrate.distributions_of(0.3, (0, 3, 6), (0.0, 0.8, 1.0), confidences, right)
    np.testing.assert_allclose(found.p, [[0, 1 / 3, 1 / 3], [1, 0, 0]])
    np.testing.assert_allclose(found.correct, [[0, 1 / 3, 1 / 3], [1, 1, 1]])
    assert found.counts == (3, 1)


def test_intervals_below_the_limit_have_equally_many_images():
    confidences = np.random.default_rng(0).beta(3, 2, 2000)
    edges = calibrate.edges_of(confidences, 0.8)
    assert 0.8 in edges and len(edges) == calibrate.INTERVALS + 3
    below = np.histogram(confidences, edges)[0][: calibrate.INTERVALS]
    assert below.min() > 0.9 * below.max()
    # Too few images for that many intervals, or none.
    assert len(calibrate.edges_of(confidences[:70], 0.8)) == 4
    assert calibrate.edges_of(np.full(50, 0.95), 0.8) == (0.0, 0.8, 0.9, 1.0)


def test_options_end_where_no_patch_is_missing():
    assert calibrate.options_of(64, 19) == (0, 3, 6, 10, 13, 16, 19, 22, 26)
    assert calibrate.options_of(64, 51) == (0, 3, 6, 10, 13)
    assert calibrate.options_of(64, 64) == (0,)


@pytest.fixture
def folder(tmp_path):
    torch.manual_seed(5)
    size = networks.VitSize(32, 1, 2)
    classifier = networks.vit_classifier(size, 64, 16, LABELS)
    classifier.save_pretrained(tmp_path / 'networks' / 'classifier')
    networks.vit_mae(size, size, 64, 16).save_pretrained(tmp_path / 'networks' / 'mae')
    second = networks.SecondPass(classifier.config, layers=1)
    save_second_pass(second, tmp_path / 'networks' / 'second_pass')
    rng = np.random.default_rng(1)
    split = Split(
        rng.integers(0, 256, (24, 64, 64, 3)).astype(np.uint8),
        rng.integers(0, 3, 24).astype(np.uint8),
        np.zeros(24, bool),
        np.zeros((24, 16), np.uint8),
    )
    write_split(tmp_path / 'data', 'calibration', [split], 24, LABELS)
    return tmp_path


def test_calibration_is_written_beside_the_networks_and_repeats(folder):
    first = calibrate.calibrate(folder / 'networks', folder / 'data', (0.25, 0.5), runs=2)
    path = folder / 'networks' / calibrate.FILE
    kept = read_all(path)
    assert [each.first_ratio for each in kept] == [0.25, 0.5]
    assert kept[0].options == (0, 1, 2, 3, 4, 5, 6)
    assert sum(kept[0].counts) == 48
    before = path.read_text()
    calibrate.calibrate(folder / 'networks', folder / 'data', (0.25, 0.5), runs=2)
    assert path.read_text() == before
    shown = calibrate.table_of(first)
    assert shown.row_count == 2 and len(shown.columns) == 1 + len(first[0].options)


def test_calibration_says_what_is_missing(folder):
    (folder / 'data' / 'labels.json').write_text(json.dumps(['a', 'b', 'c']))
    with pytest.raises(ValueError, match='other classes'):
        calibrate.calibrate(folder / 'networks', folder / 'data', (0.25,))
    for file in (folder / 'networks' / 'second_pass').iterdir():
        file.unlink()
    (folder / 'networks' / 'second_pass').rmdir()
    with pytest.raises(BundleError, match='no second_pass'):
        calibrate.calibrate(folder / 'networks', folder / 'data', (0.25,))
