"""Captured networks in rows, each made once for all tests."""

from functools import cache

import pytest
import torch

from offload_ros.graph.capture import capture
from offload_ros.graph.classify import classify
from offload_ros.graph.execute import Executor
from offload_ros.intra_dp.pieces import RowGraph

from ..graph.networks import NETWORKS, build

# Of the networks whose images come without a batch axis one is enough for make test.
UNBATCHED_IN_LONG = [
    pytest.param(name, marks=pytest.mark.long) if name.endswith('3d') and name != 'unet3d' else name
    for name in NETWORKS
]


@pytest.fixture(autouse=True)
def one_thread():
    """Sums are made in the same order then."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@cache
def in_rows(name):
    """(rows, executor, example, outputs of the whole graph) of a network."""
    model, example = build(name)
    graph, parameters = capture(model, example, name)
    executor = Executor(graph, parameters)
    return RowGraph(classify(graph)), executor, example, executor(example)
