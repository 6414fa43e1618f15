"""Images on disk, batches, losses, and the trainings' command, each in a few steps."""

import json
import sys

import cv2
import numpy as np
import pytest
import torch

from offload_ros.amot import train
from offload_ros.amot.batches import Batches, random_positions
from offload_ros.amot.bundle import BundleError, load, save_second_pass
from offload_ros.amot.dataset import Split, load_split, write_split
from offload_ros.amot.losses import PartsHead, classifier_loss, mae_loss, second_loss, spoiled
from offload_ros.amot.networks import VitSize, vit_mae
from offload_ros.amot.patches import images_of, patches_of
from offload_ros.training.loop import Plan
from offload_ros.training.loop import train as loop

from .networks import LABELS, PATCH_PX, PATCHES, images, small_bundle

EDGE = 128


def split_of(count=40, classes=4, seed=0):
    """Images with a square whose place and colour tell the class."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, count).astype(np.uint8)
    pictures = rng.integers(0, 80, (count, EDGE, EDGE, 3)).astype(np.uint8)
    parts = np.zeros((count, 8, 8), np.uint8)
    for picture, label, part in zip(pictures, labels, parts, strict=True):
        row, column = rng.integers(2, 5, 2)
        part[row : row + 2, column : column + 2] = label + 1
        block = picture[row * 16 : row * 16 + 32, column * 16 : column * 16 + 32]
        block[:] = np.eye(3, dtype=np.uint8)[label % 3] * 200 + (label // 3) * 55
    return Split(pictures, labels, np.arange(count) % 2 == 1, parts.reshape(count, 64))


@pytest.fixture
def data(tmp_path):
    """A small folder as the generator writes it."""
    folder = tmp_path / 'data'
    for seed, name in enumerate(('train', 'calibration', 'test')):
        write_split(folder, name, [split_of(seed=seed)], 40, LABELS[:4])
    return folder


def test_a_written_split_is_read_as_it_was(tmp_path):
    split = split_of()
    write_split(tmp_path, 'test', [split, split], 50, LABELS[:4])
    found, labels = load_split(tmp_path, 'test', EDGE)
    assert labels == LABELS[:4] and len(found) == 50
    assert np.array_equal(found.images[40:], split.images[:10])
    assert np.array_equal(found.parts[:40], split.parts)
    with pytest.raises(ValueError, match='128x128x3, wanted is 64x64x3'):
        load_split(tmp_path, 'test', 64)


def test_any_folder_of_pictures_by_class_is_a_data_set(tmp_path):
    rng = np.random.default_rng(0)
    for name in ('cat', 'dog'):
        (tmp_path / 'train' / name).mkdir(parents=True)
        for index in range(3):
            picture = rng.integers(0, 256, (40 + 10 * index, 70, 3)).astype(np.uint8)
            cv2.imwrite(str(tmp_path / 'train' / name / f'{index}.png'), picture)
    (tmp_path / 'train' / 'cat' / 'notes.txt').write_text('no picture')
    split, labels = load_split(tmp_path, 'train', 32)
    assert labels == ('cat', 'dog') and split.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert split.images.shape == (6, 32, 32, 3) and split.parts.shape == (6, 0)
    (tmp_path / 'train' / 'cat' / 'broken.png').write_bytes(b'no picture')
    with pytest.raises(ValueError, match=r'broken\.png is not a picture'):
        load_split(tmp_path, 'train', 32)


def test_a_folder_without_images_says_how_to_get_some(tmp_path):
    with pytest.raises(ValueError, match='generate images with'):
        load_split(tmp_path, 'train', 32)


def test_batches_are_the_same_again_wherever_a_training_was_resumed():
    split = split_of()
    one, other = Batches(split, 16, 16, seed=3), Batches(split, 16, 16, seed=3)
    straight = [one.at(step) for step in range(5)]
    for step in (4, 1, 3):
        again = other.at(step)
        assert torch.equal(again.patches, straight[step].patches)
        assert torch.equal(again.parts, straight[step].parts)
        assert torch.equal(again.labels, straight[step].labels)
    assert not torch.equal(straight[0].patches, straight[2].patches)
    with pytest.raises(ValueError, match='less than one batch'):
        Batches(split, 41, 16)


def test_what_patches_show_moves_with_the_image():
    """Where parts name a class, its square's colour is what the patch shows."""
    split = split_of(classes=3)
    batches = Batches(split, 40, 16)
    agree = total = 0
    for step in range(4):
        batch = batches.at(step)
        pictures = images_of(batch.patches, 16)
        side = pictures.reshape(40, 8, 16, 8, 16, 3)[:, :, 6:10, :, 6:10].mean((2, 4))
        shown = (side - side.mean(-1, keepdim=True)).argmax(-1).flatten(1)
        named = batch.parts > 0
        assert named.float().mean() > 0.03
        agree += (shown[named] == batch.parts[named] - 1).sum().item()
        total += named.sum().item()
    assert agree > 0.97 * total  # rounded at the square's border


def test_positions_are_random_and_without_repetition():
    positions = random_positions(50, 5, 9, torch.Generator().manual_seed(0))
    assert all(len(set(row)) == 5 for row in positions.tolist())
    assert positions.unique().tolist() == list(range(9))


def test_the_autoencoder_is_judged_on_missing_patches_only():
    bundle = small_bundle()
    known = bundle.normalise(patches_of(images(4), PATCH_PX).float())
    generator = torch.Generator().manual_seed(0)
    loss, _ = mae_loss(bundle.mae, known, generator, (0.5, 0.5))
    generator = torch.Generator().manual_seed(0)
    torch.rand((), generator=generator)
    positions = random_positions(4, 4, PATCHES, generator)
    from offload_ros.amot.networks import rebuilt, taken

    drawn = rebuilt(bundle.mae, taken(known, positions), positions)
    missing = torch.ones(4, PATCHES).scatter_(1, positions, 0.0).bool()
    wanted = (drawn - known)[missing].square().mean()
    torch.testing.assert_close(loss, wanted)


def test_a_part_of_a_batch_is_as_the_autoencoder_rebuilds_it():
    bundle = small_bundle()
    known = bundle.normalise(patches_of(images(8), PATCH_PX).float())
    mixed = spoiled(known, bundle.mae, 0.5, (0.3, 0.3), torch.Generator().manual_seed(0))
    changed = (mixed != known).flatten(2).any(-1)  # by patch
    assert changed[:4].sum(-1).tolist() == [PATCHES - 2] * 4 and not changed[4:].any()
    assert spoiled(known, None, 0.5, (0.3, 0.3), torch.Generator()) is known


def test_each_loss_falls_when_it_is_followed():
    """Twenty steps on one batch: every network learns it."""
    torch.manual_seed(0)
    split = split_of(16, classes=4)
    batch = Batches(split, 16, 16).at(0)
    bundle = small_bundle(image_px=EDGE)
    known = bundle.normalise(batch.patches)
    head = PartsHead(32, len(LABELS))
    losses = {
        'mae': (bundle.mae, lambda g: mae_loss(bundle.mae, known, g, (0.3, 0.6))[0]),
        'classifier': (
            torch.nn.ModuleList([bundle.classifier, head]),
            lambda g: classifier_loss(bundle.classifier, head, known, batch, g, (0.5, 1.0))[0],
        ),
        'second': (
            bundle.second,
            lambda g: second_loss(bundle, known, batch.labels, g, (0.2, 0.5), (0.1, 0.3))[0],
        ),
    }
    for name, (module, loss_of) in losses.items():
        module.requires_grad_(True)
        optimiser = torch.optim.AdamW(module.parameters(), 2e-3)
        values = []
        for step in range(20):
            loss = loss_of(torch.Generator().manual_seed(step % 2))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            values.append(loss.item())
        module.requires_grad_(False)
        assert np.mean(values[-4:]) < 0.9 * np.mean(values[:4]), (name, values)


def test_a_trained_autoencoder_beats_the_mean_colour():
    """With positional codes of zero it cannot: all missing patches would look alike."""
    torch.manual_seed(0)
    at = torch.linspace(-1, 1, 64)
    slopes = torch.randn(64, 3, 2, generator=torch.Generator().manual_seed(1))
    pictures = torch.einsum(
        'bcx,xhw->bhwc', slopes, torch.stack(torch.meshgrid(at, at, indexing='ij'))
    )
    known = patches_of(pictures, 16)
    mae = vit_mae(VitSize(48, 2, 3), VitSize(48, 2, 3), 64, 16)
    optimiser = torch.optim.AdamW(mae.parameters(), 3e-3)
    values = []
    for step in range(150):
        loss, _ = mae_loss(mae, known, torch.Generator().manual_seed(step), (0.3, 0.6))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        values.append(loss.item())
    assert np.mean(values[-10:]) < 0.5 * known.var().item(), values[-10:]


def test_a_training_that_was_stopped_ends_where_another_ends(tmp_path, monkeypatch):
    """Stopped after 3 of 6 steps; what it had saved goes on to the same weights."""
    from offload_ros.training import loop as module

    monkeypatch.setattr(module, 'EVERY', 1)
    monkeypatch.setattr(module, 'SAVE_S', 0.0)

    def run(folder, stop=None):
        torch.manual_seed(0)
        network = torch.nn.Linear(4, 3)

        def loss_of(step, generator):
            if step == stop:
                raise KeyboardInterrupt
            x = torch.randn(8, 4, generator=generator)
            return (network(x) - x[:, :3] ** 2).square().mean(), {'twice': 2.0 * step}

        loop('net', Plan(6, 0.1), {'net': network}, loss_of, folder)
        return network.weight

    wanted = run(tmp_path / 'straight')
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / 'stopped', stop=3)
    assert torch.equal(run(tmp_path / 'stopped'), wanted)
    lines = (tmp_path / 'stopped' / 'net.log.jsonl').read_text().splitlines()
    assert [json.loads(line)['step'] for line in lines] == [1, 2, 3, 4, 5, 6]


def test_the_state_of_another_training_is_refused(tmp_path):
    def loss_of(step, generator):
        return network.weight.square().sum(), {}

    network = torch.nn.Linear(2, 2)
    loop('net', Plan(1, 0.1), {'net': network}, loss_of, tmp_path)
    network = torch.nn.Linear(3, 3)
    with pytest.raises(ValueError, match='is of another training: remove it to begin anew'):
        loop('net', Plan(1, 0.1), {'net': network}, loss_of, tmp_path)


def test_a_loss_that_is_no_number_ends_the_training(tmp_path):
    network = torch.nn.Linear(1, 1)
    with pytest.raises(FloatingPointError, match='loss of step 0 is nan'):
        loop(
            'net', Plan(2, 0.1), {'net': network},
            lambda step, generator: (network.weight.sum() * float('nan'), {}), tmp_path,
        )  # fmt: skip


def command(monkeypatch, capsys, *words):
    """Run the command line; its output and, where it failed, what it says."""
    monkeypatch.setattr(sys, 'argv', ['train', *map(str, words)])
    try:
        train.main()
    except SystemExit as end:
        return capsys.readouterr().out, str(end)
    return capsys.readouterr().out, ''


@pytest.fixture
def tiny(monkeypatch):
    for name in ('CLASSIFIER', 'MAE', 'MAE_DECODER'):
        monkeypatch.setattr(train, name, VitSize(32, 1, 2))


def test_the_commands_make_a_bundle_that_loads(tmp_path, data, tiny, monkeypatch, capsys):
    folder = tmp_path / 'net'
    common = ('--data', data, '--batch', 16, '--epochs', 1)
    for words in (
        ('classifier', folder, *common, '--keep', 0.4, 0.6),
        ('mae', folder, *common),
        ('classifier', folder, *common, *'--start classifier --rebuilt 0.5 --name better'.split()),
        ('decoder', folder, *common, '--layers', 1),
        ('decoder', folder, *common, '--only-new', '--name', 'second_pass_only_new'),
    ):  # fmt: skip
        output, error = command(monkeypatch, capsys, *words)
        assert not error and 'step 2/2' in output
    assert (
        "whole images of the calibration split: {'all': "
        in command(monkeypatch, capsys, 'classifier', folder, *common)[0]
    )
    bundle = load(folder)
    assert bundle.labels == LABELS[:4] and bundle.second.options['layers'] == 1
    assert not list(folder.glob('*.training.*'))
    _, error = command(monkeypatch, capsys, 'ship', folder, '--to', tmp_path / 'shipped')
    shipped = load(tmp_path / 'shipped', 'second_pass_only_new')
    assert not error and shipped.second.options['only_new'] and shipped.patches == 64
    weight = bundle.classifier.classifier.weight
    torch.testing.assert_close(shipped.classifier.classifier.weight, weight, rtol=1e-3, atol=1e-4)


def test_what_is_missing_is_said_in_one_line(tmp_path, data, tiny, monkeypatch, capsys):
    folder = tmp_path / 'net'
    _, error = command(monkeypatch, capsys, 'mae', folder, '--data', tmp_path)
    assert error.startswith('train: ') and 'generate images with' in error
    _, error = command(monkeypatch, capsys, 'decoder', folder, '--data', data, '--batch', 16)
    assert 'classifier has no config.json: train the network' in error


def test_bundles_that_do_not_fit_are_refused(tmp_path):
    bundle = small_bundle()
    with pytest.raises(BundleError, match='is not a folder of networks'):
        load(tmp_path / 'absent')
    bundle.classifier.save_pretrained(tmp_path / 'classifier')
    with pytest.raises(BundleError, match=r'mae has no config\.json'):
        load(tmp_path)
    bundle.mae.save_pretrained(tmp_path / 'mae')
    assert load(tmp_path).second is None  # one round only
    save_second_pass(small_bundle(1).second, tmp_path / 'second_pass')
    assert load(tmp_path).second is not None
    (tmp_path / 'second_pass' / 'config.json').write_text('{"layers": 1}')
    with pytest.raises(BundleError, match='not a second pass of this classifier'):
        load(tmp_path)
    other = small_bundle(image_px=64).mae
    other.save_pretrained(tmp_path / 'mae')
    with pytest.raises(BundleError, match='classifier sees 48 pixels'):
        load(tmp_path, '')
    with torch.no_grad():
        bundle.mae.vit.embeddings.position_embeddings.zero_()
    bundle.mae.save_pretrained(tmp_path / 'mae')
    with pytest.raises(BundleError, match='trained without them'):
        load(tmp_path, '')


@pytest.mark.parametrize(
    ('text', 'says'),
    [
        ('{', 'amot.json: Expecting'),
        ('[]', 'an object with some of'),
        ('{"maen": []}', 'an object with some of'),
        ('{"mean": [1, 2]}', 'mean has three numbers'),
        ('{"std": [1, 0, 1]}', 'std is above 0'),
        ('{"confidence": 1.5}', 'confidence is from 0 to 1'),
    ],
)
def test_settings_that_make_no_sense_are_refused(tmp_path, text, says):
    (tmp_path / 'amot.json').write_text(text)
    with pytest.raises(BundleError, match=says):
        load(tmp_path)
