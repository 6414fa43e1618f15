"""Both rounds for a set of images: bytes as they are sent, answers as the networks give them."""

import json

import numpy as np
import pytest
import torch

from benchmarks import amot as amot_benchmark
from benchmarks import amot_cost, amot_report
from offload_ros.amot import networks
from offload_ros.amot.allocation import Distributions
from offload_ros.amot.baselines import Answers
from offload_ros.amot.bundle import random_bundle
from offload_ros.amot.dataset import Split
from offload_ros.amot.evaluate import (
    Images,
    Wire,
    adaptive,
    even,
    fixed,
    run_first,
    run_second,
    run_whole,
    samples,
    seed_of,
)
from offload_ros.amot.inference import first_pass, missing_by_attention, second_pass
from offload_ros.amot.messages import (
    More,
    Sample,
    Wanted,
    answer_to_buffers,
    asked_to_buffers,
    bytes_in,
)
from offload_ros.amot.patches import cut, sample

WIRE = Wire(64, 768)


@pytest.fixture(scope='module')
def bundle():
    torch.manual_seed(3)
    size = networks.VitSize(32, 2, 2)
    classifier = networks.vit_classifier(size, 64, 16, [f'c{i}' for i in range(5)])
    with torch.no_grad():
        classifier.classifier.weight.mul_(14)  # so that answers differ
    return random_bundle(classifier, networks.vit_mae(size, networks.VitSize(32, 1, 2), 64, 16))


@pytest.fixture(scope='module')
def images():
    rng = np.random.default_rng(4)
    rooms = rng.integers(0, 256, (37, 1, 1, 3)) + rng.integers(-40, 40, (37, 64, 64, 3))
    split = Split(
        np.clip(rooms, 0, 255).astype(np.uint8),
        rng.integers(0, 5, 37).astype(np.uint8),
        rng.random(37) < 0.5,
        rng.integers(0, 6, (37, 16)).astype(np.uint8),
    )
    return Images.of(split, 16)


def test_bytes_count_headers_seed_and_positions():
    assert WIRE.raw_bytes == 49_152
    patches = [np.zeros((count, 768), np.uint8).data.cast('B') for count in (19, 3)]
    sample = Sample('00' * 32, 1, 19, 0, 0, 0.0, 0.8, 1.0, data=patches[0])
    assert WIRE.first_bytes(19) == bytes_in(asked_to_buffers(sample))
    assert WIRE.second_bytes(0) == 0
    wanted = answer_to_buffers(Wanted(np.arange(3, dtype=np.uint16), 0.5))
    more = asked_to_buffers(More(1, 3, data=patches[1]))
    assert WIRE.second_bytes(3) == bytes_in(wanted) + bytes_in(more)
    # A robot that chooses says which: a list of three, or a bit for each patch.
    assert WIRE.chosen_bytes(3) == WIRE.first_bytes(3) + 3
    assert WIRE.chosen_bytes(20) == WIRE.first_bytes(20) + 8
    assert WIRE.most(int(0.4 * 49_152), WIRE.first_bytes) == 25
    assert WIRE.most(49_152, WIRE.first_bytes) == 63  # no room for a header
    assert WIRE.most(-5, WIRE.first_bytes) == 0


def test_first_round_of_many_images_is_that_of_each(bundle, images):
    rounds = run_first(bundle, images, 5, run=2)
    for index in (0, 36):
        at = sample(seed_of(2, index), 5, 16)
        assert rounds.positions[index].tolist() == at.tolist()
        sent = torch.from_numpy(cut(images.split.images[index], 16, at))
        alone = first_pass(bundle, sent[None], torch.from_numpy(at)[None])
        torch.testing.assert_close(rounds.first.probabilities[index], alone.probabilities[0])


def test_second_rounds_answer_for_those_who_get_patches_only(bundle, images):
    rounds = run_first(bundle, images, 5, run=0)
    counts = np.zeros(37, np.int64)
    counts[[3, 8]], counts[20] = 2, 6
    labels = run_second(bundle, images, rounds, counts)
    others = np.flatnonzero(counts == 0)
    assert (labels[others] == rounds.labels[others]).all()
    for index in (3, 8, 20):
        one = slice(index, index + 1)
        first = rounds.first
        wanted = missing_by_attention(
            first.attention[one], rounds.positions[one], int(counts[index])
        )
        found = second_pass(
            bundle, first.embeddings[one], images.patches[one][:, wanted[0]], wanted
        )
        assert labels[index] == int(found.argmax())


def test_another_second_pass_leaves_the_bundle_as_it_is(bundle, images):
    rounds = run_first(bundle, images, 5, run=0)
    other = networks.SecondPass(bundle.classifier.config, layers=1, only_new=True).eval()
    kept = bundle.second
    ours = run_second(bundle, images, rounds, np.full(37, 4))
    its = run_second(bundle, images, rounds, np.full(37, 4), other)
    assert bundle.second is kept
    assert (ours != its).any()


def test_whole_images_are_classified_as_the_classifier_does(bundle, images):
    found = run_whole(bundle, images).probabilities
    pixels = torch.from_numpy(images.split.images[:3]).permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(each)[:, None, None] for each in networks.IMAGENET)
    with torch.no_grad():
        wanted = bundle.classifier((pixels - mean) / std).logits.softmax(-1)
    torch.testing.assert_close(found[:3], wanted, rtol=1e-4, atol=1e-5)


def table():
    p = np.array([[0.2, 0.3, 0.2], [0.6, 0.2, 0.1], [0.95, 0.0, 0.0]])
    return Distributions(0.3, (0.0, 0.4, 0.8, 1.0), (0, 3, 6), p, (10, 10, 10))


@pytest.mark.parametrize('weighted', [True, False])
@pytest.mark.parametrize('share', [0.32, 0.4, 0.55, 1.0])
def test_adaptive_rounds_keep_the_mean_of_bytes(bundle, images, share, weighted):
    rounds = run_first(bundle, images, 5, run=1)
    limit = share * images.wire.raw_bytes
    found = adaptive(rounds, table(), images.wire, limit, 0.8, weighted)
    sent = found.sent(images.wire, 5)
    assert sent.mean() <= limit
    assert not found.counts[rounds.confidence >= 0.8].any()
    assert set(found.counts) <= {0, 3, 6}
    assert share < 0.5 or found.counts.any()
    if share == 1.0:
        assert (found.counts[rounds.confidence < 0.8] == 6).all()


def test_even_rounds_keep_the_mean_of_bytes_and_fixed_ones_their_number(bundle, images):
    rounds = run_first(bundle, images, 5, run=1)
    asked = rounds.confidence < 0.8
    limit = 0.5 * images.wire.raw_bytes
    shared = even(rounds, images.wire, limit, 0.8)
    assert 0 < shared.sent(images.wire, 5).mean() <= limit
    assert len(set(shared.counts[asked])) == 1
    more = even(rounds, images.wire, limit + asked.mean() * 1000, 0.8)
    assert more.counts.max() > shared.counts.max()
    assert (fixed(rounds, images.wire, 3, 0.8).counts == np.where(asked, 3, 0)).all()
    # There are no more patches than those that are missing.
    assert fixed(rounds, images.wire, 60, 1.1).counts.max() == 11


def test_samples_differ_by_image_and_by_run():
    drawn = [tuple(row.tolist()) for run in (0, 1) for row in samples(run, 5, 64, 50)]
    assert len(set(drawn)) > 95
    assert torch.equal(samples(1, 5, 64, 50), samples(1, 5, 64, 50))


def test_some_images_are_spread_over_the_split(images):
    few = images.some(4)
    assert few.labels.tolist() == images.labels[[0, 12, 24, 36]].tolist()
    assert torch.equal(few.patches[1], images.patches[12])
    assert few.split.hard.tolist() == images.split.hard[[0, 12, 24, 36]].tolist()


# ---- the benchmark's own figures


def test_paper_sized_networks_cost_what_is_known_of_them():
    parts = amot_cost.counted()
    amot_cost.check(parts)
    assert amot_cost.ratio(parts) < 0.5
    with pytest.raises(ValueError, match='decoder'):
        amot_cost.check({**parts, 'decoder': 6.0})


def test_report_has_intervals_paired_differences_and_plain_targets(images, tmp_path):
    rng = np.random.default_rng(2)
    sent = np.full(37, 1000)
    right = {'raw': 1.0, 'amot': 0.9, 'mot': 0.5, 'non_r': 0.2}
    work = amot_benchmark.Work(tmp_path / 'a.work.json', 'content', fresh=False)
    for method, share in right.items():
        for seed in range(1 if method == 'raw' else 3):
            traffic = 1.0 if method == 'raw' else 0.4
            labels = np.where(rng.random(37) < share, images.labels, images.labels + 1)
            key = amot_benchmark.key_of(method, traffic, seed)
            work.add(key, Answers(labels, sent), images)
    hard = images.split.hard
    found = amot_report.content(work.runs, hard, 12_288, [], {})
    assert found['accuracy']['raw'] == {'100': 1.0}
    ours = found['accuracy']['amot']['40']
    low, high = found['details']['amot']['40']['interval_95']
    assert low < ours < high
    both = found['details']['amot']['40']
    share = hard.mean()
    assert (1 - share) * both['easy'] + share * both['hard'] == pytest.approx(ours, abs=1e-3)
    gap = found['differences']['non_r']['40']
    assert gap['mean'] == pytest.approx(ours - found['accuracy']['non_r']['40'], abs=1e-4)
    assert gap['interval_95'][0] > 0
    assert found['targets']['A-MOT less Non-R at 40 %']['met'] is True
    assert found['targets']['A-MOT less SDT at 40 %']['met'] is None
    path = tmp_path / 'amot.json'
    path.write_text(json.dumps({'robot_us_per_image': 40.0, 'accuracy': {}}))
    amot_report.write(found, path)
    kept = json.loads(path.read_text())
    assert kept['robot_us_per_image'] == 40.0 and kept['accuracy'] == found['accuracy']
    assert path.with_suffix('.png').stat().st_size > 10_000


def test_work_goes_on_with_the_same_networks_and_images_only(images, tmp_path):
    path = tmp_path / 'a.work.json'
    answers = Answers(images.labels, np.full(37, 5))
    amot_benchmark.Work(path, 'first', fresh=False).add('amot 40 0', answers, images)
    assert not amot_benchmark.Work(path, 'first', fresh=False).lacks('amot 40 0')
    assert amot_benchmark.Work(path, 'other', fresh=False).lacks('amot 40 0')
    assert amot_benchmark.Work(path, 'first', fresh=True).lacks('amot 40 0')


def test_second_rounds_keep_what_the_paper_keeps():
    shares = [amot_benchmark.second_share(traffic) for traffic in (0.2, 0.3, 0.4, 0.5, 1.0)]
    assert shares == [0.1, 0.1, 0.1, 0.2, 0.2]
