"""A small network that labels binary voxels, as scene completion does."""

from __future__ import annotations

from functools import cache

import torch
from torch import nn

from offload_ros.graph.capture import capture


class Scene(nn.Module):
    """Labels of a grid of binary voxels, as scene completion gives them."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(9, 16, 3, padding=1)
        self.last = nn.Conv2d(16, 9 * 4, 3, padding=1)

    def forward(self, voxels):
        x = torch.relu(self.first(voxels.to(torch.float32)))
        return self.last(x).unflatten(1, (4, 9)).argmax(1)


def voxels(dtype=torch.uint8):
    scene = torch.zeros(1, 9, 47, 53)
    scene[:, :2] = 1
    scene[:, :7, 11:20, 30:44] = 1
    return scene.to(dtype)


@cache
def scene(dtype=torch.uint8):
    """(inputs, graph, parameters)."""
    torch.manual_seed(3)
    inputs = {'voxels': voxels(dtype)}
    graph, parameters = capture(Scene().eval(), inputs, 'scene')
    return inputs, graph, parameters
