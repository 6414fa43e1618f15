"""Training of the small KAPAO: labels, targets, loss, resumption, figures."""

from dataclasses import replace

import numpy as np
import pytest
from safetensors.torch import load_file
import torch

from offload_ros.models.kapao import PoseSettings
from offload_ros.models.kapao_network import ANCHORS, SIZES, STRIDES, VALUES, KapaoNetwork
from offload_ros.models.kapao_weights import load_network
from offload_ros.sim.person_body import KEYPOINTS as NAMES
from offload_ros.training.kapao import people_images, train
from offload_ros.training.kapao.batches import MIRRORED, Batches, letterboxed, objects_of
from offload_ros.training.kapao.evaluate import evaluate
from offload_ros.training.kapao.loss import asked, complete_iou, kapao_loss
from offload_ros.training.kapao.people import IGNORED, MOST, PERSON, People, load
from offload_ros.training.kapao.postures import KINDS

HEIGHT, WIDTH = 240, 320
COUNTS = {'train': 6, 'calibration': 0, 'test': 2}


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    where = tmp_path_factory.mktemp('people')
    people_images.generate(where, COUNTS)
    return where


@pytest.fixture(scope='module')
def world():
    """More people than six pictures have."""
    return People(**people_images.of_world(123, 12))


def ideal(objects, count):
    """Raw maps that say exactly what is asked for."""
    maps = []
    network = KapaoNetwork(SIZES['t'])
    anchors = network.detect.anchor_grid.reshape(4, ANCHORS, 2)
    for level, stride in enumerate(STRIDES):
        height, width = 256 // stride, 320 // stride
        values = torch.full((count, ANCHORS, VALUES, height, width), -12.0)
        wanted = asked(objects, anchors[level] / stride, stride, height, width)
        # Persons last: only they say anything about keypoints.
        for index in wanted.kind.argsort(descending=True).tolist():
            image, anchor, row, column = (int(each[index]) for each in wanted.at)
            cell = values[image, anchor, :, row, column]
            s = torch.full((VALUES,), 1e-6)
            s[:2] = (wanted.box[index, :2] + 0.5) / 2
            s[2:4] = (wanted.box[index, 2:] / wanted.anchor[index]).sqrt() / 2
            s[4] = 1 - 1e-6
            s[5 + wanted.kind[index]] = 1 - 1e-6
            points = wanted.keypoints[index, :, :2] / wanted.anchor[index] + 2
            s[23:] = (points / 4).reshape(-1)
            cell[:] = torch.logit(s.clamp(1e-6, 1 - 1e-6))
        maps.append(values.reshape(count, -1, height, width))
    return network, maps


def test_what_is_asked_for_decodes_to_the_people_in_the_image(world):
    """Targets, decoding and post-processing agree on places, anchors, classes and pixels."""
    objects = objects_of(world.arrays(), HEIGHT, WIDTH)
    network, maps = ideal(objects, len(world))
    rows = network.candidates([each.clone() for each in maps])
    found = [each[each[:, 4] > 0.5] for each in rows]
    exact = PoseSettings(0.5, 0.9, 0.5, 0.9, 0.4, 3.0)
    got = evaluate(found, world, exact)
    assert got.people >= 10
    # An arm can reach further than two anchors from its cell.
    assert got.recall == 1.0 and got.pck > 0.98
    loss, parts = kapao_loss(network, maps, objects)
    # A cell that two keypoints claim, as an eye and the nose, can have one only; the rest is exact.
    # Maps that say nothing have 3.5 and more.
    assert parts['box'] < 0.6 and parts['keypoints'] < 0.5
    worse, _ = kapao_loss(network, [each * 0.7 for each in maps], objects)
    assert worse > 1.5 * loss


def test_people_in_worlds_are_labelled_where_they_are_seen(world):
    assert world.images.shape == (12, HEIGHT, WIDTH, 3)
    people = world.state == PERSON
    assert people.sum() >= 10 and world.images.std() > 15
    boxes, points = world.boxes[people], world.keypoints[people]
    assert (boxes[:, :2] < boxes[:, 2:]).all() and boxes.min() >= -0.5
    labelled = points[..., 2] > 0
    assert labelled.sum(1).min() >= people_images.LEAST_KEYPOINTS
    inside = (points[..., :2] > boxes[:, None, :2] - 6) & (points[..., :2] < boxes[:, None, 2:] + 6)
    assert inside.all(2)[labelled].all()
    again = People(**people_images.of_world(123, 2))
    assert np.array_equal(again.images, world.images[:2])
    assert np.array_equal(again.keypoints, world.keypoints[:2])
    assert abs(sum(KINDS.values()) - 1) < 1e-9 and sum(people_images.PEOPLE_SHARES) == 1


def test_generation_and_training_go_on_where_they_were_stopped(folder, tmp_path, monkeypatch):
    assert not (folder / 'worlds' / f'{people_images.FIRST_SEED["train"]}.npz').exists()
    people = load(folder, 'train')
    assert len(people) == 6 and len(load(folder, 'test')) == 2
    with pytest.raises(ValueError, match='people_images'):
        load(folder, 'calibration')
    options = ['--data', str(folder), '--batch', '2', '--epochs', '1', '--threads', '1']
    monkeypatch.setattr('offload_ros.training.loop.EVERY', 1)
    monkeypatch.setattr('offload_ros.training.loop.SAVE_S', 0.0)
    whole, parts = tmp_path / 'whole', tmp_path / 'parts'
    train.run(train.parser().parse_args([str(whole), *options]))
    original, steps = kapao_loss, []

    def stopped(*arguments):
        steps.append(1)
        if len(steps) == 3:
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(train, 'kapao_loss', stopped)
    with pytest.raises(KeyboardInterrupt):
        train.run(train.parser().parse_args([str(parts), *options]))
    train.run(train.parser().parse_args([str(parts), *options]))
    assert len(steps) == 4
    one, other = (load_file(each / 'kapao_t.safetensors') for each in (whole, parts))
    assert all(torch.equal(one[name], other[name]) for name in one)
    network, said = load_network(whole / 'kapao_t.safetensors')
    assert network.size.name == 't' and said['trained'] == 'true'
    # A second training goes on from there, and another size cannot.
    start = ['--start', str(whole / 'kapao_t.safetensors'), '--name', 'again']
    monkeypatch.setattr(train, 'kapao_loss', original)
    train.run(train.parser().parse_args([str(parts), *options, *start]))
    again, _ = load_network(parts / 'again.safetensors')
    name = 'model.0.conv.conv.weight'
    moved = (again.state_dict()[name] - network.state_dict()[name]).abs().max()
    assert 0 < float(moved) < 0.1
    with pytest.raises(ValueError, match='is of size t'):
        train.run(train.parser().parse_args([str(parts), *options, *start, '--size', 's']))


def test_a_batch_is_the_same_again_and_labels_follow_the_picture(world):
    batches = Batches(world, 4, seed=3)
    images, objects = batches.at(1)
    Batches(world, 4, seed=3).at(0)
    again, _ = batches.at(1)
    assert torch.equal(images, again) and images.shape == (4, 3, 256, 320)
    assert float(images.min()) >= 0 and float(images.max()) <= 1
    persons = objects.kind == 0
    assert int(persons.sum()) and objects.boxes[persons][:, 2:].min() > 0
    # Each keypoint object is one that its person has labelled.
    labelled = int((objects.keypoints[persons][..., 2] > 0).sum())
    assert int((~persons).sum()) == labelled
    for index, mirrored in enumerate(MIRRORED):
        one, other = NAMES[index], NAMES[mirrored]
        assert other == one.translate({}) if index == 0 else other != one
        assert other.replace('right', 'left') == one.replace('right', 'left')


def test_a_mirrored_picture_has_mirrored_labels():
    """A bright dot under each keypoint stays under it."""
    rng = np.random.default_rng(0)
    images = np.zeros((8, HEIGHT, WIDTH, 3), np.uint8)
    state = np.zeros((8, MOST), np.uint8)
    state[:, 0] = PERSON
    points = np.zeros((8, MOST, 17, 3), np.float32)
    for index in range(8):
        xy = rng.integers([60, 60], [260, 180], (17, 2))
        points[index, 0] = np.concatenate([xy, np.ones((17, 1))], 1)
        for number, (x, y) in enumerate(xy):
            images[index, y - 1 : y + 2, x - 1 : x + 2] = 60 + 10 * number
    boxes = np.zeros((8, MOST, 4), np.float32)
    boxes[:, 0] = (50, 50, 270, 190)
    people = People(images, state, boxes, points, np.full((8, MOST), 150, np.float32))
    moved, objects = Batches(people, 8, seed=5).at(0)
    for box, kind, image in zip(objects.boxes, objects.kind, objects.image, strict=True):
        if kind > 0:
            x, y = (box[:2] - 0.5).round().long().tolist()
            patch = moved[image, :, max(0, y - 2) : y + 3, max(0, x - 2) : x + 3]
            assert float(patch.max()) > 0.15


def test_who_does_not_count_is_neither_asked_for_nor_blamed(world):
    arrays = {name: each.copy() for name, each in world.arrays().items()}
    arrays['state'][arrays['state'] == PERSON] = IGNORED
    none = objects_of(arrays, HEIGHT, WIDTH)
    assert len(none.kind) == 0 and len(none.ignored) >= 10
    network = KapaoNetwork(SIZES['t'])
    maps = [torch.zeros(len(world), 171, 256 // s, 320 // s) for s in STRIDES]
    with_people, _ = kapao_loss(network, maps, none)
    nobody, _ = kapao_loss(network, maps, replace(none, ignored=none.ignored[:0]))
    assert with_people < 0.97 * nobody


def test_boxes_that_are_equal_have_no_loss_and_others_have():
    boxes = torch.tensor([[5.0, 5.0, 2.0, 4.0], [1.0, 1.0, 1.0, 1.0]])
    assert complete_iou(boxes, boxes).tolist() == pytest.approx([1.0, 1.0])
    moved = boxes + torch.tensor([1.0, 0.0, 0.0, 0.0])
    apart = complete_iou(boxes, moved)
    assert apart[0] == pytest.approx(
        1 / 3 - 1 / 25, abs=1e-5
    )  # IoU less squared distance / diagonal
    assert apart[1] < 0


def test_letterboxes_are_grey_and_keep_every_pixel(world):
    boxed = letterboxed(world.images)
    assert boxed.shape == (12, 3, 256, 320)
    assert bool((boxed[:, :, :8] == 114).all()) and bool((boxed[:, :, -8:] == 114).all())
    assert np.array_equal(boxed[:, :, 8:-8].permute(0, 2, 3, 1).numpy(), world.images)
