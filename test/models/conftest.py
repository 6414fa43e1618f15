"""Networks of milliseconds from every kind of source."""

import sys
from types import ModuleType

import pytest
import torch
from torch import nn

from offload_ros.models.config import InputSpec, ModelConfig, Preprocess, Source

FACTORIES = """
import torch
from torch import nn


def linear(size=3):
    return nn.Linear(size, 2)


def trained(size=3):
    module = nn.Linear(size, 2)
    module.weights_trained = True
    return module


def dropout():
    return nn.Sequential(nn.Linear(3, 2), nn.Dropout(0.5))


def fails():
    raise OSError('weights.bin is missing\\nand more')


def nothing():
    return {'a': 1}


value = 5
"""


@pytest.fixture
def factories(monkeypatch):
    """Return the name of an importable module of network factories."""
    module = ModuleType('tiny_networks')
    exec(FACTORIES, module.__dict__)
    monkeypatch.setitem(sys.modules, 'tiny_networks', module)
    return 'tiny_networks'


@pytest.fixture(scope='session')
def resnet_folder(tmp_path_factory):
    """Return a folder with a small ResNet's configuration and no weights."""
    import transformers

    folder = tmp_path_factory.mktemp('resnet')
    transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type='basic', num_labels=5
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope='session')
def vit(tmp_path_factory):
    """Return a small ViT with seeded weights, and the folder in which it is saved."""
    import transformers

    folder = tmp_path_factory.mktemp('vit')
    torch.manual_seed(5)
    network = transformers.ViTForImageClassification(
        transformers.ViTConfig(
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=16,
            image_size=32,
            patch_size=16,
            num_labels=4,
        )
    ).eval()
    network.save_pretrained(folder)
    return network, folder


class Exported(nn.Module):
    """A network that is worth exporting."""

    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, 3)

    def forward(self, pixels):
        return self.convolution(pixels).relu().mean(dim=(2, 3))[0]


@pytest.fixture(scope='session')
def exported(tmp_path_factory):
    """Return a module and the torch.export archive of it, for (1, 3, 8, 8) pixels."""
    torch.manual_seed(6)
    module = Exported().eval()
    path = tmp_path_factory.mktemp('export') / 'net.pt2'
    torch.export.save(torch.export.export(module, (torch.zeros(1, 3, 8, 8),)), str(path))
    return module, path


@pytest.fixture
def make_config():
    """Return a function that makes the entry of a model."""

    def make(source, **fields):
        values = {'name': 'tiny', 'inputs': (InputSpec('x', 'topic'),), **fields}
        if isinstance(source, str):
            source = Source(python=source)
        return ModelConfig(source=source, **values)

    return make


@pytest.fixture
def classifier_config(make_config):
    """Return a function that makes the entry of a transformers classifier of 32 x 32 images."""

    def make(folder, **fields):
        values = {
            'preprocess': Preprocess(resize=(32, 32), mean=(0.5,) * 3, std=(0.5,) * 3),
            'outputs': ('probabilities', 'logits'),
            **fields,
        }
        return make_config(Source(transformers=str(folder)), **values)

    return make
