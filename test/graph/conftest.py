"""Captured networks, each made once for all tests: capture is the slow part."""

from functools import cache

import pytest
import torch

from offload_ros.graph.capture import capture

from .networks import build


@pytest.fixture(autouse=True)
def one_thread():
    """Sums are made in the same order then."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@cache
def captured(name, method='trace'):
    """(model, example, graph, parameters) of a network of ``networks.NETWORKS``."""
    model, example = build(name)
    graph, parameters = capture(model, example, name, method=method)
    return model, example, graph, parameters
