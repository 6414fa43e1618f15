"""Public architectures: captured, sent, cut in two, equal to the model."""

import pytest
import torch

from offload_ros.graph.capture import capture
from offload_ros.graph.cuts import layer_cut, run_layer_cut
from offload_ros.graph.execute import Executor
from offload_ros.graph.wire_form import (
    graph_from_json,
    graph_to_json,
    parameters_from_bytes,
    parameters_to_bytes,
)

from .equality import assert_same, flat_outputs
from .public_models import PUBLIC, build_public

pytest.importorskip('transformers')
QUICK = ('vit', 'convnext', 'resnet')
MODELS = [each if each in QUICK else pytest.param(each, marks=pytest.mark.long) for each in PUBLIC]


def on_two_machines(model, example, method):
    """(graph, robot's executor, server's executor, which got all that it has over the wire)"""
    graph, parameters = capture(model, example, method=method)
    received = graph_from_json(graph_to_json(graph))
    tensors = parameters_from_bytes(received, parameters_to_bytes(graph, parameters))
    return graph, Executor(graph, parameters), Executor(received, tensors)


def outputs_of(model, example):
    found = flat_outputs(model, example)
    return {name: each for name, each in found.items() if isinstance(each, torch.Tensor)}


@pytest.mark.parametrize('name', MODELS)
def test_a_cut_at_each_node_of_a_public_model_gives_its_bits(name):
    model, example = build_public(name)
    graph, robot, server = on_two_machines(model, example, 'trace')
    expected = outputs_of(model, example)
    for count in range(len(graph.nodes) + 1):
        results = run_layer_cut(
            layer_cut(graph, range(count)),
            robot,
            server,
            example,
            lambda side, reference, tensor: tensor.contiguous().clone(),
        )
        assert_same(results, expected)


@pytest.mark.long
@pytest.mark.parametrize('name', PUBLIC)
def test_an_exported_public_model_equals_the_model_on_other_inputs(name):
    model, example = build_public(name)
    graph, robot, server = on_two_machines(model, example, 'export')
    for seed in (1, 2):
        other = build_public(name, seed)[1]
        expected = outputs_of(model, other)
        if graph.notes:  # PyTorch's fused encoder layer is no operator of an exported program
            assert name == 'transformer' and 'not bit-equal' in graph.notes[0]
            torch.testing.assert_close(server(other), expected)
            continue
        assert_same(server(other), expected)
        half = layer_cut(graph, range(len(graph.nodes) // 2))
        assert_same(run_layer_cut(half, robot, server, other), expected)
