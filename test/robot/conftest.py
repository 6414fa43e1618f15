"""A device lane that is closed afterwards, and strategies and models of milliseconds."""

import faulthandler
import threading
import time

import pytest
import torch
from torch import nn

from offload_ros.models.config import InputSpec, ModelConfig, Source
from offload_ros.models.model import Model
from offload_ros.robot.lane import DeviceLane
from offload_ros.strategy import Prediction, Result, Unanswered


@pytest.fixture(autouse=True)
def no_endless_wait():
    """End the run with every thread's place if a test waits for ever."""
    faulthandler.dump_traceback_later(120, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()


class Doubled(nn.Module):
    """Twice the input after ``seconds``, which a test may change; ``error`` is raised instead."""

    def __init__(self, seconds=0.0):
        super().__init__()
        self.seconds = seconds
        self.error = None
        self.began = threading.Event()
        self.began_s = 0.0  # the last call, steady time
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        self.began_s = time.monotonic()
        self.began.set()
        time.sleep(self.seconds)
        if self.error is not None:
            raise self.error
        return x * 2


class Stub:
    """A strategy whose answer a test writes: ``answer(frame, deadline_s)`` runs in ``run``."""

    def __init__(self, answer=None):
        self.answer = answer or (lambda frame, deadline_s: self.result(frame))
        self.frames = []
        self.cancelled = []
        self.closed = False
        self.changed = threading.Condition()

    @staticmethod
    def result(frame):
        """Return what the model would compute, under a plan of its own."""
        return Result({'output': frame.inputs['x'] * 2}, plan='stub')

    def never(self, frame, deadline_s):
        """Wait for the cancel or the deadline as a strategy without its server does."""
        with self.changed:
            self.changed.wait_for(
                lambda: frame.seq in self.cancelled or self.closed,
                max(0.0, deadline_s - time.monotonic()),
            )
        raise Unanswered('the stub never answers')

    def prepare(self, model, link):
        self.model = model

    def predict(self, state):
        return Prediction()

    def run(self, frame, deadline_s):
        self.frames.append(frame)
        return self.answer(frame, deadline_s)

    def cancel(self, seq):
        with self.changed:
            self.cancelled.append(seq)
            self.changed.notify_all()

    def close(self):
        with self.changed:
            self.closed = True
            self.changed.notify_all()


@pytest.fixture
def lane():
    built = DeviceLane()
    yield built
    built.close()


@pytest.fixture
def make_model():
    """Return a function that builds a model around a module of milliseconds."""

    def make(module=None, **config):
        values = {
            'name': 'tiny',
            'source': Source(python='nowhere:nothing'),
            'inputs': (InputSpec('x', 'topic', shape=(3,)),),
            'strategy': 'device',
            'deadline_ms': 20_000.0,
            **config,
        }
        return Model(ModelConfig(**values), module or Doubled(), 'hash', True)

    return make


@pytest.fixture
def doubled():
    """Return the module class of the tiny models."""
    return Doubled


@pytest.fixture
def stub():
    """Return the strategy class of the pipeline's tests."""
    return Stub


@pytest.fixture
def x():
    """Return one input tensor of the tiny models."""
    return torch.tensor([1.0, 2.0, 3.0])
