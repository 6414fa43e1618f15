"""Networks of milliseconds, as a folder and as models of a robot and a server."""

from functools import cache, partial
from pathlib import Path
import tempfile
import time

import torch

from offload_ros.amot.bundle import load, save_second_pass
from offload_ros.amot.host import AmotHost
from offload_ros.amot.networks import IMAGENET, SecondPass, VitSize, vit_classifier, vit_mae
from offload_ros.amot.options import AmotOptions
from offload_ros.models.config import InputSpec, ModelConfig, Preprocess, Source
from offload_ros.models.model import load_model
from offload_ros.robot.lane import DeviceLane
from offload_ros.server.engine import Engine
from offload_ros.strategy import Link as StrategyLink
from offload_ros.strategy import LinkState, make_strategy
from offload_ros.wire.client import OffloadClient
from offload_ros.wire.directory import ServerDirectory, ServerState
from offload_ros.wire.in_process import InProcessLink

IMAGE_PX, PATCH_PX = 64, 16
PATCHES, PATCH_BYTES = 16, 16 * 16 * 3
IMAGE_BYTES = PATCHES * PATCH_BYTES
LABELS = ('ball', 'chair', 'door', 'plant', 'shoe')
LONG_S = 30.0
SIZE = VitSize(32, 2, 2)
GAIN = 16.0


def write_bundle(folder, seed=0, second=True):
    """A folder of random networks whose confidences differ from image to image."""
    torch.manual_seed(seed)
    folder = Path(folder)
    classifier = vit_classifier(SIZE, IMAGE_PX, PATCH_PX, LABELS)
    with torch.no_grad():  # weights as small as at birth do not tell images apart
        for parameter in classifier.parameters():
            if parameter.ndim > 1:
                parameter.mul_(GAIN)
    classifier.save_pretrained(folder / 'classifier')
    mae = vit_mae(SIZE, VitSize(16, 1, 2), IMAGE_PX, PATCH_PX)
    mae.save_pretrained(folder / 'mae')
    if second:
        network = SecondPass(classifier.config, layers=2)
        network.begin_from(classifier)
        save_second_pass(network, folder / 'second_pass')
    return folder


@cache
def bundle_folder(seed=0, second=True):
    """One for all tests; they do not change it."""
    return write_bundle(tempfile.mkdtemp(prefix=f'amot_{seed}_'), seed, second)


def config_of(folder=None, **changes):
    """The entry of models.yaml."""
    folder = folder or bundle_folder()
    values = {
        'source': Source(transformers=str(folder / 'classifier')),
        'inputs': (InputSpec('image', 'camera'),),
        'preprocess': Preprocess(resize=(IMAGE_PX, IMAGE_PX), mean=IMAGENET[0], std=IMAGENET[1]),
        'outputs': ('probabilities',),
        'amot': AmotOptions(str(folder)),
        **changes,
    }
    return ModelConfig('scene', **values)


@cache
def model():
    """The model that robot and server have; tests do not change it."""
    return load_model(config_of())


@cache
def networks():
    """All of the bundle, for computing what an answer must be."""
    return load(bundle_folder())


def images(count, size=(IMAGE_PX, IMAGE_PX), seed=1):
    """Camera images (H, W, 3) uint8."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(count):
        coarse = torch.randint(0, 256, (8, 8, 3), dtype=torch.uint8, generator=generator)
        planes = coarse.permute(2, 0, 1)[None].float()
        fine = torch.nn.functional.interpolate(planes, size=size, mode='bilinear')
        yield fine[0].permute(1, 2, 0).round().to(torch.uint8).contiguous()


def until(condition, timeout_s=LONG_S):
    """Wait for a truthy value."""
    end_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end_s, 'it never came true'
        time.sleep(0.002)


class Server:
    """An engine with A-MOT, and robots on channels to it."""

    def __init__(self, *models, **options):
        self.engine = Engine('/server', 's1', models or [model()])
        self.host = AmotHost(self.engine.find, partial(self.engine.lend, in_turn=True), **options)
        self.why = [self.host.add(each) for each in models or [model()]]
        self.links, self.sessions, self.robots = [], [], []

    def channel(self, **shapes):
        """The robot's end of another one."""
        link = InProcessLink(**shapes)
        self.links.append(link)
        self.sessions.append(self.host.serve(link.server, f'/robot_{len(self.links)}'))
        return link.robot

    def robot(self, **shapes):
        """A robot with a channel."""
        self.robots.append(Robot(self, self.channel(**shapes)))
        return self.robots[-1]

    def close(self):
        for robot in self.robots:
            robot.close()
        for link in self.links:
            link.close()
        self.host.close()
        self.engine.close()


class Robot:
    """A robot's client that knows one server; ``state``: what its link is."""

    def __init__(self, server, channel):
        self.directory = ServerDirectory(1e6)
        self.client = OffloadClient('/robot', 's0', self.directory, lambda *_: 0)
        self.state = LinkState(20e6, 20e6, 0.002)
        self.client.link_state = lambda name: self.state
        self.channels = {'/server': channel}
        self.client.channel_to = self.channels.get
        models = {each.name: frozenset([each.hash]) for each in server.engine.models}
        self.directory.heard(ServerState('/server', 's1', '', models=models))
        self.directory.connect('/server', 's1')
        self.lane = DeviceLane()
        self.link = StrategyLink(self.lane, self.client)
        self.made = []

    def strategy(self, model):
        strategy = make_strategy('amot')
        self.made.append(strategy)
        strategy.prepare(model, self.link)
        return strategy

    def lose(self):
        """The server is gone."""
        self.directory.leave('/server', 's1')
        self.channels.pop('/server').close('server /server is lost')

    def close(self):
        for each in self.made:
            each.close()
        self.lane.close()
