"""What A-MOT is compared with: bytes are kept, and nothing is worse than it has to be."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from offload_ros.amot import baselines, coded_patches, networks
from offload_ros.amot.baselines import holes
from offload_ros.amot.baselines import split as splits
from offload_ros.amot.baselines.common import classify, tuned
from offload_ros.amot.baselines.resized import edge_within, shrunk
from offload_ros.amot.bundle import random_bundle
from offload_ros.amot.coded_patches import CodedError, Ladder
from offload_ros.amot.dataset import Split
from offload_ros.amot.evaluate import HEADER_BYTES, Images
from offload_ros.amot.networks import embed, encode

RAW = 64 * 64 * 3


def pictures(count, seed=0):
    """Smooth colours with a disc: what codecs are made for."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:64, :64] / 63
    found = []
    for _ in range(count):
        slope = rng.uniform(-60, 60, (2, 3))
        image = rng.uniform(90, 160, 3) + rows[..., None] * slope[0] + columns[..., None] * slope[1]
        y, x, radius = rng.uniform(0.3, 0.7), rng.uniform(0.3, 0.7), rng.uniform(0.1, 0.25)
        image[np.hypot(rows - y, columns - x) < radius] = rng.uniform(0, 255, 3)
        found.append(np.clip(image + rng.normal(0, 2, image.shape), 0, 255))
    return np.stack(found).astype(np.uint8)


@pytest.fixture(scope='module')
def nets():
    torch.manual_seed(3)
    size = networks.VitSize(32, 2, 2)
    labels = [f'c{i}' for i in range(5)]
    classifier = networks.vit_classifier(size, 64, 16, labels)
    with torch.no_grad():
        classifier.classifier.weight.mul_(14)
    bundle = random_bundle(classifier, networks.vit_mae(size, networks.VitSize(32, 1, 2), 64, 16))
    return baselines.Networks(bundle, networks.vit_classifier(size, 64, 16, labels).eval())


@pytest.fixture(scope='module')
def images(nets):
    """Labels are what the classifier says of the whole image: losses are the method's own."""
    shown = pictures(24)
    rng = np.random.default_rng(1)
    labels = classify(nets.bundle, shown).astype(np.uint8)
    parts = rng.integers(0, 4, (24, 16)).astype(np.uint8)
    return Images.of(Split(shown, labels, np.zeros(24, bool), parts), 16)


def all_methods(nets, images):
    return [
        baselines.NoReconstruction(nets, dropped=False),
        baselines.NoReconstruction(nets, dropped=True),
        baselines.DetectorFilter(nets, oracle=False),
        baselines.DetectorFilter(nets, oracle=True),
        baselines.LowThenRegions(nets),
        baselines.Upsampled(nets),
        baselines.SplitNetwork('po', nets, images, 0, False),
        baselines.SplitNetwork('mbc', nets, images, 1, True),
        baselines.CodedImage(nets, 'jpeg'),
        baselines.CodedImage(nets, 'webp'),
        baselines.CodedRegions(nets),
        baselines.CodedAmot(nets, 'webp'),
        baselines.CodedAmot(nets, 'jpeg'),
    ]


@pytest.mark.parametrize('share', [0.2, 0.4, 1.0])
def test_no_method_takes_more_bytes_than_it_may(nets, images, share):
    limit = int(share * RAW)
    for method in all_methods(nets, images):
        for choice in method.choices(limit):
            found = method(images, limit, choice, run=0)
            assert found.labels.shape == (24,) and found.sent.shape == (24,)
            assert 0 < found.sent.mean() <= limit, (method.name, choice)
            if method.name not in ('amot_webp', 'amot_jpeg'):  # whose mean counts
                assert found.sent.max() <= limit, (method.name, choice)


def test_methods_that_can_be_exact_are_with_enough_bytes(nets, images):
    exact = {'isr', 'sdt', 'mbc', 'po', 'df', 'jpeg', 'webp'}
    for method in all_methods(nets, images):
        if method.name in exact:
            limit = RAW + 200
            found = method(images, limit, tuned(method, images, limit), run=0)
            right = (found.labels == images.labels).mean()
            assert right >= (1.0 if method.name in ('isr', 'sdt', 'df') else 0.9), method.name


def test_raw_image_is_the_classifier_itself_and_a_header_more(nets, images):
    found = baselines.Raw(nets)(images, 0, 'whole', 0)
    assert (found.labels == images.labels).all()
    assert set(found.sent) == {RAW + HEADER_BYTES}


def test_holes_are_filled_or_left_out(nets, images):
    positions = torch.tensor([[0, 3, 9]]).expand(24, -1)
    black = holes.answers_with(nets, images, positions, 'black')
    shown = np.zeros_like(images.split.images)
    for at in (0, 3, 9):
        rows, columns = slice(at // 4 * 16, at // 4 * 16 + 16), slice(at % 4 * 16, at % 4 * 16 + 16)
        shown[:, rows, columns] = images.split.images[:, rows, columns]
    assert (black == classify(nets.bundle, shown)).all()
    dropped = holes.answers_with(nets, images, positions, 'dropped')
    model = nets.dropped
    with torch.inference_mode():
        known = nets.bundle.normalise(images.patches[:, [0, 3, 9]].float())
        tokens, _ = encode(model.vit, embed(model.vit, known, positions))
        assert (dropped == model.classifier(tokens[:, 0]).argmax(-1).numpy()).all()


def test_a_folder_without_the_dropping_classifier_says_so(nets, images):
    alone = baselines.Networks(nets.bundle)
    with pytest.raises(ValueError, match='no classifier_dropped'):
        baselines.NoReconstruction(alone, dropped=True)(images, 4000, 'dropped', 0)


def test_filter_sends_what_stands_out_and_the_oracle_the_middle_object_first():
    image = np.full((1, 64, 64, 3), 100, np.uint8)
    image[0, 16:32, 32:48] = (250, 20, 20)
    patches = Images.of(
        Split(image, np.zeros(1, np.uint8), np.zeros(1, bool), np.zeros((1, 0), np.uint8)), 16
    ).patches
    assert holes.contrast(patches)[0].argmax() == 6
    weights = holes.middle_weights(16, 0.7)
    parts = np.zeros((1, 16), np.uint8)
    parts[0, [0, 4]] = 1  # at the edge
    parts[0, [5, 6]] = 2  # in the middle
    order = np.argsort(-holes.object_worth(parts, weights)[0], kind='stable')
    assert set(order[:2]) == {5, 6} and set(order[2:4]) == {0, 4}
    with pytest.raises(ValueError, match='no oracle'):
        holes.object_worth(np.zeros((1, 0), np.uint8), weights)


def test_fewer_pixels_fit_the_bytes_and_all_of_them_change_nothing():
    assert edge_within(HEADER_BYTES + 3 * 40 * 40, 64) == 40
    assert edge_within(HEADER_BYTES + 3 * 40 * 40 - 1, 64) == 39
    assert edge_within(10**6, 64) == 64
    shown = pictures(2)
    assert (shrunk(shown, 64, 'cubic') == shown).all()
    error = [
        np.abs(shrunk(shown, edge, 'lanczos').astype(int) - shown).mean() for edge in (8, 16, 48)
    ]
    assert error == sorted(error, reverse=True)


def test_split_bits_go_where_values_differ_most():
    bits = splits.bits_for(np.array([8.0, 4.0, 1.0, 0.001]), 6)
    assert bits.tolist() == [3, 2, 1, 0] or bits.tolist() == [4, 2, 0, 0]
    assert splits.bits_for(np.ones(3), 10_000).tolist() == [splits.MOST_BITS] * 3


def test_split_values_are_the_nearer_the_more_bits_they_have():
    torch.manual_seed(0)
    values = torch.randn(4000, 3) * torch.tensor([5.0, 1.0, 0.2])
    deviations = np.array([5.0, 1.0, 0.2])
    errors = []
    for bits in (0, 1, 2, 4, 8, 12):
        seen = splits.quantised(values, deviations, np.full(3, bits))
        errors.append(float(((seen - values) / torch.from_numpy(deviations)).square().mean()))
    assert errors[0] == pytest.approx(1.0, abs=0.1)  # of what is not sent, the mean is left
    # The least error of a uniform quantiser of normal values: 0.363 with a bit, 0.119 with two.
    assert errors[1] == pytest.approx(0.363, abs=0.02)
    assert errors[2] == pytest.approx(0.119, abs=0.02)
    assert all(after < before / 4 for before, after in pairwise(errors[2:]))


def test_compressed_split_needs_fewer_bytes_than_the_layer_itself(nets, images):
    for method in all_methods(nets, images):
        if method.name in ('po', 'mbc'):
            assert method.choices(HEADER_BYTES + 1) == ()
            assert method.robot_macs > 0
            few = method(images, 700, 'bits by deviation', 0)
            assert few.sent.max() <= 700


def test_coded_image_is_the_best_that_fits():
    shown = pictures(1, seed=4)[0]
    ladder = Ladder(shown, 'webp')
    for limit in (120, 300, 900, 5000):
        coded = ladder.within(limit)
        assert coded is not None and len(coded.data) <= limit
        better = [each for each in coded_patches.QUALITIES if each > coded.quality]
        if better:
            assert len(ladder.at(coded.scale, better[0])) > limit
    assert coded_patches.code_within(shown, 10, 'jpeg') is None
    # Where not even the worst quality of all fits, fewer pixels do.
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    least = len(coded_patches.encode(noise, 'jpeg', 1))
    assert coded_patches.code_within(noise, least, 'jpeg').data
    assert coded_patches.code_within(noise, least - 1, 'jpeg').scale < 1.0


@pytest.mark.parametrize('codec', ['jpeg', 'webp'])
@pytest.mark.parametrize('count', [1, 2, 5, 12, 16])
def test_patches_travel_as_a_mosaic(images, codec, count):
    patches = images.patches[0, :count].numpy()
    whole = coded_patches.mosaic(patches, 16)
    assert (coded_patches.patches_in(whole, count, 16) == patches).all()
    data = coded_patches.code_patches(patches, 16, 20_000, codec)
    seen = coded_patches.decode_patches(data, count, 16)
    assert seen.shape == patches.shape
    assert np.abs(seen.astype(int) - patches).mean() < 4


@pytest.mark.parametrize('codec', ['jpeg', 'webp'])
def test_coded_data_of_another_size_or_damaged_is_refused(codec):
    data = coded_patches.encode(pictures(1)[0], codec, 80)
    assert coded_patches.dimensions(data) == (64, 64)
    assert coded_patches.decode(data, 64, 64).shape == (64, 64, 3)
    for broken, height in ((data, 32), (data[:20], 64), (b'', 64), (b'RIFF' + data, 64)):
        with pytest.raises(CodedError):
            coded_patches.decode(broken, height, 64)


def test_unknown_codec_is_refused():
    with pytest.raises(ValueError, match='jpeg, webp'):
        coded_patches.encode(pictures(1)[0], 'gif', 50)


def test_the_best_choice_on_calibration_is_taken(nets, images):
    method = baselines.LowThenRegions(nets)
    answers = {}
    best = tuned(method, images, 6000, answers)
    assert answers[best] == max(answers.values())
    assert tuned(baselines.SplitNetwork('po', nets, images, 0, False), images, 5) is None
