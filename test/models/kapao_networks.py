"""Weights without training: by the formula in test/data/README.md, and random ones that see persons
in coloured tiles."""

import math
import zlib

import numpy as np
import torch

from offload_ros.models.kapao_network import BOX, CLASSES, SIZES, KapaoNetwork


def value_of(name, tensor):
    """The entry ``name`` of a state dict; integers and anchors stay as they are."""
    if not tensor.is_floating_point() or name.endswith(('anchors', 'anchor_grid')):
        return tensor.clone()
    place = np.arange(tensor.numel(), dtype=np.float64)
    wave = np.sin(0.37 * place + 2 * math.pi * (zlib.crc32(name.encode()) % 1000) / 1000)
    if name.endswith('running_var'):
        values = 1 + 0.25 * wave
    elif name.endswith(('running_mean', 'bias')):
        values = 0.1 * wave
    elif tensor.ndim == 1:
        values = 1 + 0.1 * wave
    else:
        values = wave * math.sqrt(3 / math.prod(tensor.shape[1:]))
    return torch.from_numpy(values.astype(np.float32)).reshape(tensor.shape)


def state_of(network):
    """The whole state dict."""
    return {name: value_of(name, each) for name, each in network.state_dict().items()}


def lively():
    """A KAPAO-T whose candidates differ from cell to cell and from image to image."""
    generator = torch.Generator().manual_seed(7)
    network = KapaoNetwork(SIZES['t'])
    with torch.no_grad():
        for each in network.parameters():
            if each.ndim == 4:
                scale = math.sqrt(math.prod(each.shape[1:]))
                each.copy_(torch.randn(each.shape, generator=generator) / scale)
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = 1.0
        tiles = torch.rand((6, 3, 8, 12), generator=generator)
        images = tiles.repeat_interleave(16, 2).repeat_interleave(16, 3)
        network.train()(images)
        for layer, values in zip(network.detect.m, network.eval()(images), strict=True):
            layer.weight /= values.std() / 1.5
            bias = layer.bias.reshape(3, -1)
            bias.zero_()
            bias[:, BOX + 1 : BOX + 1 + CLASSES] = -1.0
            bias[:, BOX + 1] = 1.5
    return network
