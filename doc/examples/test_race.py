"""``pytest test_race.py``: without ROS or a server; the robot's lane and the model are real."""

import threading
import time

import pytest
from race import Race
import torch

from offload_ros.models.config import InputSpec, ModelConfig, Source
from offload_ros.models.model import Model
from offload_ros.robot.lane import DeviceLane
from offload_ros.strategy import Frame, Link, Result, Unanswered


class Server:
    """In place of strategy ``server``: answers after ``seconds``, unless it is cancelled."""

    def __init__(self, model, seconds):
        self.model, self.seconds, self.cancelled = model, seconds, threading.Event()

    def run(self, frame, deadline_s):
        if self.cancelled.wait(self.seconds):
            raise Unanswered('cancelled')
        return Result(self.model.run(frame.inputs), plan='server')

    def cancel(self, seq):
        self.cancelled.set()


@pytest.mark.parametrize(('seconds', 'first'), [(0.0, 'server'), (60.0, 'the robot')])
def test_who_is_first_answers(seconds, first):
    class Network(torch.nn.Module):
        def forward(self, image):
            time.sleep(0.2)
            return image.float().mean()

    config = ModelConfig('tiny', Source(python='a:b'), inputs=(InputSpec('image', 'camera'),))
    model, lane = Model(config, Network(), 'hash', True), DeviceLane()
    race = Race()
    race._model, race._link = model, Link(lane, None)
    race._server = Server(model, seconds)
    inputs = {'image': torch.randint(0, 256, (48, 64, 3), dtype=torch.uint8)}
    result = race.run(Frame(1, inputs, time.monotonic()), time.monotonic() + 30.0)
    assert result.plan == f'race: {first} was first'
    assert torch.equal(result.outputs['output'], inputs['image'].float().mean())
    lane.close()
