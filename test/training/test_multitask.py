"""Training of the multi-task networks: labels, goals, loss, resumption, figures."""

import json

import numpy as np
import pytest
from safetensors.torch import load_file
import torch

from offload_ros.models.multitask_network import (
    BOXES,
    CLASSES,
    OBJECTS,
    ROOM,
    SIZES,
    STRIDE,
    TASKS,
    MultitaskNetwork,
)
from offload_ros.sim.objects import KINDS
from offload_ros.sim.scene import ROOM_KINDS
from offload_ros.training.kapao.evaluate import overlaps
from offload_ros.training.multitask import images, train
from offload_ros.training.multitask.batches import Batches, images_of, mirrored, truth_of
from offload_ros.training.multitask.evaluate import (
    Detections,
    Segments,
    Shares,
    fitted,
    main,
)
from offload_ros.training.multitask.images import CLASS_OF_KIND, MOST, NOTHING
from offload_ros.training.multitask.loss import (
    class_weights,
    generalised_iou,
    goals_of,
    multitask_loss,
)

PERSON, CHAIR, WALL = (CLASSES.index(each) for each in ('person', 'chair', 'wall'))


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    where = tmp_path_factory.mktemp('rooms')
    images.generate(where, {'train': 12, 'calibration': 4, 'test': 4})
    return where


@pytest.fixture(scope='module')
def arrays(folder):
    return images.load(folder, 'train')


def ideal(truth, height=24, width=32):
    """Raw maps that say exactly what is asked for."""
    goals = goals_of(truth, height, width)
    count = len(truth.classes)
    maps = torch.zeros(count, len(OBJECTS) + 4, height, width)
    maps[:, : len(OBJECTS)] = torch.logit(goals.scores.clamp(1e-6, 1 - 1e-6))
    image, cell = goals.at
    x, y = (cell % width + 0.5) * STRIDE, (cell // width + 0.5) * STRIDE
    x1, y1, x2, y2 = goals.boxes.unbind(1)
    sides = torch.stack((x - x1, y - y1, x2 - x, y2 - y), 1) / STRIDE
    at = maps.permute(0, 2, 3, 1).reshape(count, -1, len(OBJECTS) + 4)
    at[image, cell, len(OBJECTS) :] = sides.clamp(min=0.05).log()
    shape = (count, height, width, len(OBJECTS) + 4)
    classes = torch.nn.functional.one_hot(truth.classes.clamp(max=len(CLASSES) - 1), len(CLASSES))
    return {
        'detection': at.reshape(shape).permute(0, 3, 1, 2),
        'segmentation': 20.0 * classes.permute(0, 3, 1, 2).float(),
        'depth': truth.depth.clamp(min=0.2).log()[:, None],
    }


def test_every_kind_of_the_world_has_a_class():
    assert set(CLASS_OF_KIND) == {*KINDS, *ROOM_KINDS, 'person'}
    assert set(CLASS_OF_KIND.values()) == {*range(len(CLASSES)), NOTHING}


def test_labels_of_a_picture_counted_by_hand():
    kinds = (*ROOM_KINDS, 'stool', 'person', 'mug')
    entities = np.full((240, 320), 2, np.int32)
    entities[100:140, 60:80] = 4  # 800 pixels
    entities[0:20, 310:320] = 5  # 200
    entities[200:205, 0:5] = 6  # 25: too small to be asked for
    depth = np.full((240, 320), 3.0, np.float32)
    depth[100:140, 60:80] = 1.5
    depth[:10, :10] = np.nan
    depth[230:234, 310:] = np.nan
    labels = images.labels_of(entities, depth, kinds)
    assert labels['kind'].tolist() == [CHAIR, PERSON, CLASSES.index('small')] + [NOTHING] * 21
    assert labels['counted'].tolist() == [True, True] + [False] * 22
    assert labels['boxes'][:3].tolist() == [
        [24.0, 40.0, 32.0, 56.0],
        [124.0, 0.0, 128.0, 8.0],
        [0.0, 80.0, 2.0, 82.0],
    ]
    wanted = np.full((24, 32), WALL)
    wanted[10:14, 6:8] = CHAIR
    wanted[0:2, 31] = PERSON
    assert np.array_equal(labels['classes'], wanted)
    metres = np.where(wanted == CHAIR, 1.5, 3.0)
    metres[0, 0] = 0.0
    assert np.array_equal(labels['depth'], metres)


def test_worlds_are_drawn_again_alike_and_those_of_splits_are_others(arrays, folder):
    again = images.of_world(images.FIRST_SEED['train'], 2)
    assert all(np.array_equal(again[name], arrays[name][:2]) for name in arrays)
    assert not (folder / 'worlds' / f'{images.FIRST_SEED["train"]}.npz').exists()
    seeds = [
        range(first, first + images.COUNTS[split]) for split, first in images.FIRST_SEED.items()
    ]
    assert len(set().union(*seeds)) == sum(map(len, seeds))
    there = arrays['kind'] != NOTHING
    boxes = arrays['boxes'][there]
    assert arrays['counted'].sum() >= 12 and (boxes[:, :2] < boxes[:, 2:]).all()
    assert boxes.min() >= 0 and boxes[:, 2].max() <= 128 and boxes[:, 3].max() <= 96
    assert arrays['kind'][there].min() >= len(ROOM) and arrays['depth'].max() < 15
    assert (arrays['classes'] < len(CLASSES)).mean() > 0.99
    with pytest.raises(ValueError, match=r'nowhere/train\.npz is missing: python -m'):
        images.load(folder / 'nowhere', 'train')


def test_what_is_asked_for_decodes_to_what_is_there(arrays, monkeypatch):
    """Goals, decoding, suppression and figures agree on places, classes and sizes."""
    truth = truth_of(arrays)
    network = MultitaskNetwork(SIZES['small']).eval()
    raw = ideal(truth)
    monkeypatch.setattr(network, 'forward', lambda _: raw)
    found = network.answers(torch.zeros(len(truth.classes), 3, 96, 128))
    detections, segments = Detections(), Segments()
    for index in range(len(truth.classes)):
        label = {name: arrays[name][index] for name in ('boxes', 'kind', 'counted')}
        detections.add(found['boxes'][index].numpy(), **label)
        segments.add(found['classes'][index].numpy(), arrays['classes'][index])
    figures = detections.figures(0.5)
    # Two of a class whose middles share a cell, or that overlap by more than half, are one.
    assert figures['recall'] > 0.93 and figures['precision'] > 0.97
    assert figures['average_precision'] > 0.93
    assert segments.figures()['mean_iou'] == 1.0
    assert (found['depth'] - truth.depth).abs()[truth.depth > 0.3].max() < 1e-3
    weights = class_weights(arrays)
    right, _ = multitask_loss(network, raw, truth, weights)
    blank = {name: torch.zeros_like(each) for name, each in raw.items()}
    wrong, parts = multitask_loss(network, blank, truth, weights)
    assert float(right) < 0.05 * float(wrong)
    assert set(parts) == {'score', 'box', 'segmentation', 'depth'}


def test_goals_of_two_objects_worked_out_by_hand(arrays):
    labels = {name: each[:1].copy() for name, each in arrays.items()}
    labels['kind'][:] = NOTHING
    labels['counted'][:] = False
    labels['kind'][0, :3] = PERSON, PERSON, CHAIR
    labels['boxes'][0, :3] = (40, 20, 60, 80), (44, 44, 52, 52), (0, 0, 16, 16)
    labels['counted'][0, :2] = True
    goals = goals_of(truth_of(labels), 24, 32)
    assert goals.objects == 2
    people = goals.scores[0, PERSON - len(ROOM)]
    assert (people == 1).nonzero().tolist() == [[12, 12]]  # both have their middle there
    assert goals.scores[0, CHAIR - len(ROOM)].max() == 0
    free = goals.free[0, CHAIR - len(ROOM)]
    assert not free[:4, :4].any() and free[4:].all() and free[:, 4:].all()
    assert goals.free[0, PERSON - len(ROOM)].all()
    # The smaller one has the middle, the larger one cells above and below.
    own = {
        (int(cell), tuple(box)) for cell, box in zip(goals.at[1], goals.boxes.tolist(), strict=True)
    }
    assert (12 * 32 + 12, (44.0, 44.0, 52.0, 52.0)) in own
    assert (11 * 32 + 12, (40.0, 20.0, 60.0, 80.0)) in own
    assert float(goals.share.sum()) == pytest.approx(2.0)


def test_boxes_of_equal_ones_have_no_loss_and_others_have():
    one = torch.tensor([[0.0, 0.0, 2.0, 2.0], [0.0, 0.0, 1.0, 1.0]])
    other = torch.tensor([[1.0, 0.0, 3.0, 2.0], [3.0, 0.0, 4.0, 1.0]])
    assert generalised_iou(one, one).tolist() == pytest.approx([1.0, 1.0], abs=1e-5)
    assert generalised_iou(one, other).tolist() == pytest.approx([1 / 3, -0.5], abs=1e-5)


def test_a_mirrored_image_has_mirrored_labels(arrays):
    chosen = np.arange(len(arrays['images'])) % 2 == 0
    turned = mirrored(arrays, chosen)
    for name in ('images', 'classes', 'depth'):
        assert np.array_equal(turned[name][0], arrays[name][0][:, ::-1])
    assert all(np.array_equal(turned[name][1], arrays[name][1]) for name in arrays)
    back = mirrored(turned, chosen)
    assert all(np.allclose(back[name], arrays[name], atol=1e-5) for name in arrays)
    there = turned['kind'][0] != NOTHING
    assert not np.array_equal(turned['boxes'][0][there], arrays['boxes'][0][there])


def test_a_batch_is_the_same_again(arrays):
    pictures, truth = Batches(arrays, 4, seed=3).at(4)
    again, same = Batches(arrays, 4, seed=3).at(4)
    assert torch.equal(pictures, again) and torch.equal(truth.boxes, same.boxes)
    assert pictures.shape == (4, 3, 96, 128) and pictures.min() >= 0 and pictures.max() <= 1
    other, _ = Batches(arrays, 4, seed=4).at(4)
    assert not torch.equal(pictures, other)
    with pytest.raises(ValueError, match='less than one batch of 13'):
        Batches(arrays, 13)
    assert torch.equal(
        images_of(arrays['images'])[:, 1], torch.from_numpy(arrays['images'][..., 1]) * (1 / 255)
    )


def test_training_goes_on_where_it_was_stopped_and_the_loss_falls(folder, tmp_path, monkeypatch):
    options = ['--data', str(folder), '--batch', '6', '--epochs', '12', '--threads', '1']
    options += ['--only', 'multi_small', '--rate', '0.005']
    monkeypatch.setattr('offload_ros.training.loop.EVERY', 4)
    monkeypatch.setattr('offload_ros.training.loop.SAVE_S', 0.0)
    whole, parts = tmp_path / 'whole', tmp_path / 'parts'
    train.run(train.parser().parse_args([str(whole), *options]))
    original, steps = multitask_loss, []

    def stopped(*arguments):
        steps.append(1)
        if len(steps) == 10:
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(train, 'multitask_loss', stopped)
    with pytest.raises(KeyboardInterrupt):
        train.run(train.parser().parse_args([str(parts), *options]))
    train.run(train.parser().parse_args([str(parts), *options]))
    assert len(steps) == 24 + 2  # stopped in the tenth, gone on after the eighth
    one, other = (load_file(each / 'multi_small.safetensors') for each in (whole, parts))
    assert all(torch.equal(one[name], other[name]) for name in one)
    lines = [json.loads(each) for each in (whole / 'multi_small.log.jsonl').open()]
    for part in ('loss', 'score', 'box', 'segmentation', 'depth'):
        assert lines[-1][part] < 0.92 * lines[0][part]
    assert lines[-1]['loss'] < 0.6 * lines[0]['loss']
    assert not (whole / 'multi_small.training.safetensors').exists()
    before = (whole / 'multi_small.safetensors').stat().st_mtime_ns
    train.run(train.parser().parse_args([str(whole), *options]))
    assert (whole / 'multi_small.safetensors').stat().st_mtime_ns == before


def test_figures_of_detections_counted_by_hand():
    count = Detections()
    boxes = np.zeros((MOST, 4), np.float32)
    boxes[:3] = (0, 0, 20, 20), (40, 40, 60, 60), (100, 0, 104, 4)
    kind = np.full(MOST, NOTHING, np.uint8)
    kind[:3] = PERSON, CHAIR, CHAIR
    counted = np.zeros(MOST, bool)
    counted[:2] = True
    rows = np.zeros((BOXES, 6), np.float32)
    rows[:5] = (
        (0, 0, 20, 18, 0.9, PERSON),  # right
        (0, 0, 20, 20, 0.8, PERSON),  # the same once more: wrong
        (40, 40, 60, 60, 0.7, PERSON),  # another class: wrong
        (100, 0, 104, 4, 0.6, CHAIR),  # one that does not count
        (42, 40, 62, 60, 0.4, CHAIR),  # right
    )
    count.add(rows, boxes, kind, counted)
    figures = count.figures(0.5)
    assert figures['objects'] == 2
    assert (figures['recall'], figures['precision']) == pytest.approx((1 / 2, 1 / 3))
    assert figures['f1'] == pytest.approx(0.4)
    assert count.figures(0.3)['f1'] == pytest.approx(2 * 2 / (2 + 4))
    # Of persons 1 at once, of chairs 1: their only one that counts is right.
    assert figures['average_precision'] == pytest.approx(1.0)
    assert count.best_score() == pytest.approx(0.9)  # 2 / (2 + 1) there, as many at 0.4
    nothing = Detections()
    nothing.add(np.zeros((BOXES, 6), np.float32), boxes, kind, counted)
    assert nothing.figures(0.5)['f1'] == nothing.figures(0.5)['average_precision'] == 0.0


def test_average_precision_falls_with_wrong_ones_in_front():
    count = Detections()
    boxes = np.zeros((MOST, 4), np.float32)
    boxes[:2] = (0, 0, 20, 20), (40, 40, 60, 60)
    kind = np.full(MOST, NOTHING, np.uint8)
    kind[:2] = PERSON
    rows = np.zeros((BOXES, 6), np.float32)
    rows[:3] = (
        (80, 0, 90, 10, 0.9, PERSON),
        (0, 0, 20, 20, 0.8, PERSON),
        (40, 40, 60, 60, 0.7, PERSON),
    )
    count.add(rows, boxes, kind, kind != NOTHING)
    # Precision 1/2 at recall 1/2, 2/3 at 1; interpolated 2/3 all along.
    assert count.figures(0.5)['average_precision'] == pytest.approx(2 / 3)


def test_figures_of_segmentation_and_depth_counted_by_hand():
    segments = Segments()
    truth = np.array([[0, 0, 1, 1], [3, 3, NOTHING, 1]], np.uint8)
    segments.add(np.array([[0, 1, 1, 1], [3, 0, 2, 1]], np.uint8), truth)
    figures = segments.figures()
    # floor 1 of 3, wall 3 of 4, person 1 of 2; a class that is nowhere does not count.
    assert figures['mean_iou'] == pytest.approx((1 / 3 + 3 / 4 + 1 / 2) / 3)
    assert set(figures['by_class']) == {'floor', 'wall', 'person'}
    shares = Shares()
    shares.add(np.array([1.0, 1.2, 1.3, 2.0]), np.array([1.0, 1.0, 1.0, 0.0]))
    assert shares.figures() == {'delta1': pytest.approx(2 / 3), 'cells': 3}
    shares.add(np.array([0.81, 0.79]), np.array([1.0, 1.0]))
    assert shares.figures()['delta1'] == pytest.approx(3 / 5)


def test_overlaps_and_the_line_through_times():
    one = np.array([[0.0, 0.0, 10.0, 10.0]])
    other = np.array([[5.0, 0.0, 15.0, 10.0], [0.0, 0.0, 40.0, 40.0]])
    iou, inside = overlaps(one, other)
    assert iou[0].tolist() == pytest.approx([1 / 3, 100 / 1600])
    assert inside[0].tolist() == pytest.approx([0.5, 1.0])
    assert fitted({1: 0.003, 2: 0.005, 4: 0.009}) == pytest.approx((0.001, 0.002))
    # A machine that is slower per image with more of them has no fixed part.
    assert fitted({1: 0.002, 2: 0.005, 4: 0.012})[0] == 0.0


def test_evaluation_writes_accuracy_size_and_time_of_every_network(
    folder, tmp_path, monkeypatch, capsys
):
    for name in ('multi_small', 'single_depth'):
        its = train.NETWORKS[name]
        train.save(MultitaskNetwork(SIZES[its.size], its.tasks), tmp_path / f'{name}.safetensors')
    path = tmp_path / 'multitask.json'
    command = ['evaluate', str(tmp_path), '--data', str(folder), '--json', str(path)]
    monkeypatch.setattr('sys.argv', [*command, '--repeats', '1'])
    monkeypatch.setenv('COLUMNS', '120')
    main()
    told = json.loads(path.read_text())
    assert set(told['models']) == {'multi_small', 'single_depth'}
    small, single = told['models']['multi_small'], told['models']['single_depth']
    assert set(small['accuracy']) == set(TASKS) and set(single['accuracy']) == {'depth'}
    assert all(0 <= each <= 1 for each in small['accuracy'].values())
    assert single['parameters'] < small['parameters'] < small['size_bytes'] / 4
    assert small['alpha_s'] >= 0 and small['beta_s'] > 0
    assert f'{small["parameters"]:,}' in capsys.readouterr().out
    monkeypatch.setattr('sys.argv', ['evaluate', str(tmp_path / 'no'), '--data', str(folder)])
    with pytest.raises(SystemExit, match='no networks in'):
        main()
