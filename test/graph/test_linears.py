"""A trace keeps linear layers whole, so that they can be split along the axes before the last."""

import pytest
import torch
from torch import nn

from offload_ros.graph.capture import capture
from offload_ros.graph.classify import classify
from offload_ros.graph.execute import Executor
from offload_ros.graph.local import Kind

from .conftest import captured
from .equality import assert_same, flat_outputs


class Pair(nn.Module):
    """With a bias and without, over the last of four axes; and one over flat rows."""

    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(6, 10), nn.Linear(10, 6, bias=False)
        self.head = nn.Linear(6 * 7, 3)

    def forward(self, image):
        y = self.down(torch.relu(self.up(image)))
        return self.head(y.mean(1).flatten(1))


class Reshaped(nn.Module):
    """A matrix product whose result is laid out otherwise: no linear layer."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(6, 4))

    def forward(self, image):
        flat = image.reshape(-1, 6) @ self.weight
        return flat.reshape(4, -1)


def traced(model, inputs):
    graph, parameters = capture(model, inputs, method='trace')
    assert not any('not bit-equal' in note for note in graph.notes)
    assert_same(Executor(graph, parameters)(inputs), flat_outputs(model, inputs))
    return graph


def names(graph):
    return [node.operator for node in graph.nodes]


def test_linear_layers_over_larger_tensors_are_one_operator():
    graph = traced(Pair().eval(), {'image': torch.randn(2, 5, 7, 6)})
    assert names(graph).count('aten.linear.default') == 2
    assert names(graph).count('aten.addmm.default') == 1  # of the head: its rows are flat
    assert 'aten.mm.default' not in names(graph)


def test_another_layout_of_the_product_stays_as_it_is():
    graph = traced(Reshaped().eval(), {'image': torch.randn(2, 5, 4, 6)})
    assert 'aten.linear.default' not in names(graph)


@pytest.mark.parametrize('name', ['convnext', 'convnext3d'])
def test_a_traced_convnext_has_no_more_barriers_than_an_exported_one(name):
    barriers = {
        method: classify(captured(name, method)[2]).counts[Kind.BARRIER]
        for method in ('trace', 'export')
    }
    assert barriers['trace'] <= barriers['export'] + 1


@pytest.mark.parametrize('name', ['vit', 'convnext'])
def test_other_networks_are_the_same_to_the_bit(name):
    model, inputs, graph, parameters = captured(name)
    assert 'aten.linear.default' in names(graph)
    assert_same(Executor(graph, parameters)(inputs), flat_outputs(model, inputs))
