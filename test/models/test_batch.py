"""Frames computed together give what each gives alone, or are refused."""

from pathlib import Path

import cv2
import pytest
import torch
from torch import nn

from offload_ros.models.batch import BatchTooLarge, NotBatched, difference, run_batch
from offload_ros.models.config import InputSpec, ModelConfig, Preprocess, Source
from offload_ros.models.config_file import load_models_file
from offload_ros.models.model import Model, load_model
from offload_ros.models.sconet import sconet

MODELS = Path(__file__).parents[2] / 'config' / 'models.yaml'


def drawn(shape, dtype=torch.uint8, seed=0):
    """Return a tensor of ``shape``."""
    generator = torch.Generator().manual_seed(seed)
    if dtype.is_floating_point:
        return torch.rand(shape, generator=generator, dtype=dtype)
    return torch.randint(0, 256, shape, generator=generator, dtype=dtype)


def of_package(name, variant='default'):
    """Return a model of the package's own models.yaml."""
    configs = {config.name: config for config in load_models_file(str(MODELS))}
    config = configs[name]
    return load_model(config if variant == 'default' else config.variant_named(variant))


def own(network, names=('x',), outputs=('output',), preprocess=None):
    """Return a model of a module of a test."""
    kind = 'LaserScan' if preprocess is None else 'Image'
    inputs = tuple(InputSpec(name, 'topic', f'sensor_msgs/msg/{kind}') for name in names)
    config = ModelConfig(
        'own', Source(python='m:f'), inputs=inputs, outputs=outputs, preprocess=preprocess
    )
    return Model(config, network.eval(), 'hash', True)


def voxel_model(**options):
    """Return a small SCONet with seeded weights."""
    torch.manual_seed(3)
    network = sconet(grid=(32, 16, 40), classes=5, **options)
    with torch.no_grad():  # random ones have the same class everywhere
        network.network.seg_head_1_1.conv_classes.weight.mul_(30)
        network.network.seg_head_1_1.conv_classes.bias.zero_()
    return own(network, ('voxels',), ('labels',))


def agree(model, frames):
    """Assert that a batch gives what each frame does."""
    alone = [model.run(frame) for frame in frames]
    together = run_batch(model, frames)
    assert [difference(*each) for each in zip(alone, together, strict=True)] == [''] * len(frames)
    for one in together:
        assert list(one) == list(model.config.outputs)
        assert all(tensor.is_contiguous() for tensor in one.values())
    return alone, together


@pytest.fixture(scope='module')
def models():
    """Return models of the package, each loaded once."""
    return {
        'classifier': of_package('classifier', 'small'),
        'resnet18': of_package('classifier', 'resnet18'),
        'scene': of_package('scene'),
    }


@pytest.mark.parametrize('name', ['classifier', 'resnet18', 'scene'])
@pytest.mark.parametrize(
    ('count', 'height', 'width'), [(2, 240, 320), (3, 37, 501), (5, 131, 97), (1, 8, 8)]
)
def test_image_models_of_odd_sizes(models, name, count, height, width):
    frames = [{'image': drawn((height, width, 3), seed=seed)} for seed in range(count)]
    alone, _ = agree(models[name], frames)
    if count > 1:
        assert difference(alone[0], alone[1]), 'frames differ, so a mix-up would be seen'


@pytest.mark.parametrize('name', ['classifier', 'scene'])
def test_vmap_gives_the_same_as_a_network_that_takes_batches_itself(models, name, monkeypatch):
    frames = [{'image': drawn((61, 83, 3), seed=seed)} for seed in range(3)]
    itself = run_batch(models[name], frames)
    monkeypatch.delattr(type(models[name].network), 'batched')
    _, mapped = agree(models[name], frames)
    assert [difference(*each) for each in zip(itself, mapped, strict=True)] == [''] * 3


@pytest.mark.parametrize(
    'options', [{'attention': False}, {'attention': True}, {'attention': False, 'threshold': 0.4}]
)
def test_sconet(options):
    model = voxel_model(**options)
    frames = [{'voxels': drawn((32, 16 * 40 // 8), seed=seed)} for seed in range(3)]
    alone, together = agree(model, frames)
    assert together[0]['labels'].dtype == torch.uint8
    assert difference(alone[0], together[1])


class Mixed(nn.Module):
    """Two inputs of different dtypes to outputs of several dtypes and ranks."""

    def forward(self, image, points):
        mean = image.double().mean()
        return {
            'scalar': mean,
            'moved': points + mean.float(),
            'flags': points > 0.5,
            'count': (points > 0.5).sum().reshape(1),
            'half': points.to(torch.bfloat16),
        }


def test_several_inputs_and_outputs_of_all_kinds():
    model = own(Mixed(), ('image', 'points'), ('scalar', 'moved', 'flags', 'count', 'half'))
    frames = [
        {'image': drawn((5, 7, 3), seed=seed), 'points': drawn((11, 3), torch.float32, seed)}
        for seed in range(4)
    ]
    agree(model, frames)


class Branches(nn.Module):
    """Goes another way for what is dark."""

    def forward(self, x):
        return x.double() * 2 if x.double().mean() < 100 else x.double()


class Counts(nn.Module):
    """As many outputs as there are large values."""

    def forward(self, x):
        return x[x > 100]


class Draws(nn.Module):
    """Not the same twice."""

    def forward(self, x):
        return x.float() + torch.rand(x.shape)


@pytest.mark.parametrize('network', [Branches(), Counts(), Draws()])
def test_networks_that_cannot_be_mapped_say_so(network):
    frames = [{'x': drawn((9,), seed=seed)} for seed in range(2)]
    with pytest.raises(NotBatched):
        run_batch(own(network), frames)
    own(network).run(frames[0])  # alone it works


def test_kapao_gives_its_own_persons_or_says_that_it_cannot():
    """Its suppression keeps as many as there are: frames with unequal numbers fit no batch."""
    model = of_package('kapao', 't')
    frames = [{'image': drawn((240, 320, 3), seed=seed)} for seed in range(6)]
    counts = {len(model.run(frame)['poses']) for frame in frames}
    if len(counts) > 1:
        with pytest.raises(NotBatched):
            run_batch(model, frames)
    else:
        agree(model, frames)


def test_compressed_images_are_not_computed_together():
    spec = Preprocess(mean=(0.0,) * 3, std=(1.0,) * 3)
    model = own(nn.Flatten(), preprocess=spec)
    pixels = drawn((16, 16, 3)).numpy()
    data = torch.from_numpy(cv2.imencode('.png', pixels)[1].reshape(-1).copy())
    model.run({'x': data})
    with pytest.raises(NotBatched):
        run_batch(model, [{'x': data}, {'x': data}])


class Offers(nn.Module):
    """Has a batched form of its own, which a test says."""

    def __init__(self, batched):
        super().__init__()
        self.batched = batched

    def forward(self, x):
        return x.double() + 1


def test_outputs_without_an_axis_of_frames_are_refused():
    frames = [{'x': drawn((4,), seed=seed)} for seed in range(3)]
    for wrong in (lambda x: x.double().sum(), lambda x: x[:2].double()):
        with pytest.raises(NotBatched, match=r"'output' is .* for 3 frames"):
            run_batch(own(Offers(wrong)), frames)


def test_no_memory_is_told_apart():
    def greedy(x):
        raise torch.cuda.OutOfMemoryError('CUDA out of memory')

    with pytest.raises(BatchTooLarge, match='no memory for 2 frames'):
        run_batch(own(Offers(greedy)), [{'x': drawn((4,))}] * 2)


FLOATS = torch.tensor([1.0, -2.0, 1e-9, float('nan'), float('inf')])


@pytest.mark.parametrize(
    ('single', 'together', 'same'),
    [
        (FLOATS, FLOATS.clone(), True),
        (FLOATS, FLOATS * (1 + 5e-5), True),
        (FLOATS, FLOATS + 1e-5, True),
        (FLOATS, FLOATS * (1 + 5e-4), False),
        (FLOATS, FLOATS.nan_to_num(0.0), False),
        (FLOATS, FLOATS[:4], False),
        (FLOATS, FLOATS.double(), False),
        (torch.zeros(0), torch.zeros(0), True),
        (torch.arange(2000), torch.arange(2000).index_fill(0, torch.tensor([7]), 0), True),
        (torch.arange(500), torch.arange(500).index_fill(0, torch.tensor([7]), 0), False),
        (torch.tensor([True]), torch.tensor([False]), False),
    ],
)
def test_difference_is_what_the_order_of_sums_does_not_explain(single, together, same):
    assert (difference({'y': single}, {'y': together}) == '') == same
