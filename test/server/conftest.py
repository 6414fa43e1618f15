"""Models of milliseconds for the server's tests."""

import faulthandler
import threading
import time

import pytest
from torch import nn

from offload_ros.models.config import InputSpec, ModelConfig, Source
from offload_ros.models.model import Model


@pytest.fixture(autouse=True)
def no_endless_wait():
    """End the run with every thread's place if a test waits for ever."""
    faulthandler.dump_traceback_later(120, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()


class Gate(nn.Module):
    """Twice the input, but only while the gate is open; ``error`` is raised instead."""

    def __init__(self):
        super().__init__()
        self.open, self.began = threading.Event(), threading.Event()
        self.open.set()
        self.error = None
        self.seconds = 0.0
        self.threads = set()

    def forward(self, x):
        self.threads.add(threading.current_thread().name)
        self.began.set()
        assert self.open.wait(60)
        time.sleep(self.seconds)
        if self.error is not None:
            raise self.error
        return x * 2


@pytest.fixture
def gate():
    """Return the module of the model 'tiny', which a test can hold."""
    module = Gate()
    yield module
    module.open.set()


@pytest.fixture
def model(gate):
    """Return the model 'tiny' with the content hash 'hash'."""
    # Of scans no example is made to warm the model up: each of its runs is a test's.
    scan = InputSpec('x', 'topic', 'sensor_msgs/msg/LaserScan', shape=(3,))
    config = ModelConfig('tiny', Source(python='nowhere:nothing'), inputs=(scan,))
    return Model(config, gate, 'hash1234567', True)
