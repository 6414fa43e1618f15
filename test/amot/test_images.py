"""Images that the simulated rooms give."""

import numpy as np

from offload_ros.amot import images
from offload_ros.amot.dataset import load_split


def test_a_world_gives_the_same_labelled_images_again():
    one, other = images.of_world(7, 4), images.of_world(7, 4)
    assert np.array_equal(one.images, other.images) and np.array_equal(one.parts, other.parts)
    assert one.images.shape == (4, 128, 128, 3) and one.hard.tolist() == [False, True, False, True]
    assert one.images.std() > 20.0
    for label, parts in zip(one.labels, one.parts, strict=True):
        assert label + 1 in parts  # what the image is of is seen in some patch
    easy = [(parts == label + 1).sum() for label, parts in zip(one.labels, one.parts, strict=True)]
    assert min(easy[::2]) >= 4


def test_generation_goes_on_where_it_was_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(images, 'VIEWS', {'train': 2, 'calibration': 2, 'test': 2})
    drawn = []
    original = images.of_world

    def of_world(seed, count):
        drawn.append(seed)
        if len(drawn) == 2:
            raise KeyboardInterrupt
        return original(seed, count)

    monkeypatch.setattr(images, 'of_world', of_world)
    counts = {'train': 3, 'test': 2}
    try:
        images.generate(tmp_path, counts)
    except KeyboardInterrupt:
        images.generate(tmp_path, counts)
    first, last = images.FIRST_SEED['train'], images.FIRST_SEED['test']
    assert drawn == [first, first + 1, first + 1, last]
    split, labels = load_split(tmp_path, 'train', 128)
    assert len(split) == 3 and labels == images.LABELS and len(labels) == 31
    images.generate(tmp_path, counts)
    assert len(drawn) == 4  # all was there
