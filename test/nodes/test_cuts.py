"""Layer cuts between real nodes: a profile first, then equal results, loss and return."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
import signal
import time
from typing import Any

from programs import server_in
import pytest
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import SetParameters
from sensor_msgs.msg import Image
from system import (
    Listener,
    Process,
    answer_to,
    image_message,
    new_domain,
    outputs_of,
    random_pixels,
    running,
    until,
    write_models,
)

MODELS = """
models:
  conv:
    source: {python: 'networks:Conv'}
    inputs: [{name: image, topic: camera}]
    outputs: [map, mean]
    deadline_ms: 3000.0
    strategy: device
"""
METHODS = ('dsccs', 'mcop', 'spso_ga')
SLOWDOWN = 200.0  # of the robot in the profile: there is something to be won on the server


def write_profile() -> None:
    """As ``ros2 run offload_ros profile`` does it."""
    from networks import Conv
    import torch

    from offload_ros.graph.classify import classify
    from offload_ros.graph.execute import Executor
    from offload_ros.graph.measure import measure_nodes, profile_of
    from offload_ros.graph.of_model import capture_model, graph_hash
    from offload_ros.graph.profile_store import MeasuredProfile, save_profile
    from offload_ros.models.config import InputSpec, ModelConfig, Source
    from offload_ros.models.model import Model

    config = ModelConfig(
        'conv',
        Source('networks:Conv'),
        inputs=(InputSpec('image', 'camera'),),
        outputs=('map', 'mean'),
    )
    inputs = {'image': torch.from_numpy(random_pixels(1))}
    graph, parameters = capture_model(Model(config, Conv().eval(), '', True), inputs)
    times = measure_nodes(Executor(graph, parameters), inputs, 3)
    profile = profile_of(graph, classify(graph), times.slower(SLOWDOWN), times)
    save_profile(MeasuredProfile(profile, graph_hash(graph)))


class Robot:
    """A manager, its camera and its results."""

    def __init__(self, domain: int, models: Path) -> None:
        from ament_index_python.packages import get_package_prefix

        self.domain = domain
        prefix = get_package_prefix('offload_ros')
        command = [f'{prefix}/lib/offload_ros/offload_manager', '--ros-args']
        command += ['-p', f'models_file:={models}', '-p', 'threads:=1']
        self.process = Process(domain, *command)
        self.listener = Listener(domain)
        self.camera = self.listener.publisher(Image, 'camera')
        self.results = self.listener.results('conv')
        self.stamp = 0
        until(self.camera.get_subscription_count, 'the manager subscribes')

    def frame(self, seed: int = 1) -> Any:
        """The result of one image."""
        self.stamp += 1
        message = image_message(random_pixels(seed), self.stamp)
        return answer_to(self.camera.publish, message, self.results)

    def until_plan(self, text: str) -> Any:
        """Play until a result's plan has ``text``."""
        end_s = time.monotonic() + 90.0
        while text not in (result := self.frame()).plan:
            assert time.monotonic() < end_s, (result.strategy_used, result.plan, result.reason)
        return result

    def set(self, value: str, key: str = 'strategy') -> Process:
        """``ros2 param set``; a process that has ended."""
        command = ('ros2', 'param', 'set', '/offload_manager', f'conv.{key}', value)
        process = Process(self.domain, *command)
        process.ended()
        return process

    def use(self, strategy: str) -> None:
        """The same without the second that the command needs."""
        value = ParameterValue(type=ParameterType.PARAMETER_STRING, string_value=strategy)
        request = SetParameters.Request(parameters=[Parameter(name='conv.strategy', value=value)])
        response = self.listener.call(SetParameters, '/offload_manager/set_parameters', request)
        assert response.results[0].successful, response


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[int, Path, Robot]]:
    monkeypatch.setenv('XDG_DATA_HOME', str(tmp_path / 'data'))
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    models = write_models(tmp_path, MODELS)
    domain = new_domain()
    robot = Robot(domain, models)
    with running(robot.process):
        yield domain, models, robot
        robot.listener.close()
        assert robot.process.stop() == 0, robot.process.output


def test_a_model_is_cut_between_nodes(site: tuple[int, Path, Robot], tmp_path: Path) -> None:
    """Refused before it is measured; then equal results by every method, loss, a new server that
    lacks the model."""
    domain, models, robot = site
    by_device = {seed: outputs_of(robot.frame(seed)) for seed in range(4)}
    refused = robot.set('dsccs')
    assert 'ros2 run offload_ros profile --model conv' in refused.output
    write_profile()
    server = server_in(domain, models)
    with running(server):
        assert 'successful' in robot.set(METHODS[0]).output
        # What rrto changes in torch must not show in what is captured after it.
        robot.use('rrto')
        robot.until_plan('mode replay')
        for method in METHODS:
            robot.use(method)
            result = robot.until_plan(' on the server')
            assert result.plan.startswith(f'{method} at ')
            for seed, want in by_device.items():
                result = robot.frame(seed)
                assert (result.strategy_used, result.fallback) == (method, False), result.reason
                assert result.exact
                same(result, want)
        server.send(signal.SIGKILL)
        server.ended()
        for seed, want in by_device.items():
            same(robot.frame(seed), want)
    other = tmp_path / 'other'
    other.mkdir()
    second = server_in(domain, write_models(other, MODELS.replace('conv:\n', 'unknown:\n')))
    with running(second):
        robot.until_plan(' on the server')
        for seed, want in by_device.items():
            result = robot.frame(seed)
            assert result.strategy_used == METHODS[-1], result.reason
            same(result, want)
        assert second.stop() == 0, second.output
    assert 'Traceback' not in robot.process.output


def same(result: Any, want: Any) -> None:
    """Bit for bit."""
    found = outputs_of(result)
    assert found.keys() == want.keys()
    assert all((found[name] == want[name]).all() for name in want)
