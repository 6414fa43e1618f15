"""A robot and a server in one process, and captured networks, each made once."""

import faulthandler
from functools import cache
import time

import pytest
import torch

from offload_ros.cuts.client import LocalGraph, link_on
from offload_ros.cuts.host import GraphHost
from offload_ros.graph.capture import capture
from offload_ros.robot.lane import DeviceLane
from offload_ros.wire.in_process import InProcessLink

from ..graph.networks import build

LONG_S = 30.0


@pytest.fixture(autouse=True)
def no_endless_wait():
    """End the run with every thread's place if a test waits for ever."""
    faulthandler.dump_traceback_later(120, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()


@pytest.fixture(autouse=True)
def one_thread():
    """Sums are made in the same order then."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@cache
def captured(name, method='trace'):
    """(example, graph, parameters, outputs of the whole graph) of a network."""
    model, example = build(name)
    graph, parameters = capture(model, example, name, method=method)
    return example, graph, parameters, LocalGraph(graph, parameters).executor(example)


def local_graph(name, **options):
    """The graph of a network, as a robot has it."""
    _, graph, parameters, _ = captured(name)
    return LocalGraph(graph, parameters, **options)


def until(condition, timeout_s=LONG_S):
    """Wait for a truthy value."""
    end_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end_s, 'it never came true'
        time.sleep(0.002)


class Site:
    """A server, and robots that are connected to it."""

    def __init__(self, memory_bytes=1 << 30, **options):
        self.host = GraphHost(memory_bytes, **options)
        self.links, self.sessions, self.lanes = [], [], []

    def robot(self, **shapes):
        """(link of graphs, lane) of another robot."""
        link = InProcessLink(**shapes)
        self.links.append(link)
        self.sessions.append(self.host.serve(link.server, f'/robot_{len(self.links)}'))
        self.lanes.append(DeviceLane())
        return link_on(link.robot), self.lanes[-1]

    def close(self):
        for link in self.links:
            link.close()
        for lane in self.lanes:
            lane.close()
        self.host.close()


@pytest.fixture
def site():
    """Make servers that end with the test."""
    made = []

    def make(**options):
        made.append(Site(**options))
        return made[-1]

    yield make
    for each in made:
        each.close()
