"""Strategy amot between real nodes: two rounds, knobs while it runs, loss of the server, return."""

from __future__ import annotations

from collections.abc import Iterator
import math
from pathlib import Path
import shutil
import signal
import time
from typing import Any

import numpy as np
from programs import server_in
import pytest
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import DescribeParameters, SetParameters
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

from offload_ros.msg import InferenceResult

from ..amot.tiny import bundle_folder

MODELS = """
models:
  scene:
    source: {transformers: ./scene/classifier}
    inputs: [{name: image, topic: camera}]
    preprocess: {resize: [64, 64], mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225]}
    outputs: [probabilities]
    deadline_ms: 5000.0
    strategy: device
    amot: {networks: ./scene, confidence: 0.6}
  tiny:
    source: {python: 'networks:Identity'}
    inputs: [{name: image, topic: elsewhere}]
    outputs: [mean]
    strategy: device
"""


class Robot:
    """A manager, its camera and its results."""

    def __init__(self, domain: int, models: Path) -> None:
        from ament_index_python.packages import get_package_prefix

        self.domain = domain
        prefix = get_package_prefix('offload_ros')
        command = [f'{prefix}/lib/offload_ros/offload_manager', '--ros-args']
        command += ['-p', f'models_file:={models}', '-p', 'threads:=1']
        command += ['-p', 'server.lost_after_ms:=3000.0']  # a busy machine is no lost server
        self.process = Process(domain, *command)
        self.listener = Listener(domain)
        self.camera = self.listener.publisher(Image, 'camera')
        self.results = self.listener.results('scene')
        self.stamp = 0
        # Importing transformers alone may take half a minute where the machine is busy.
        until(self.camera.get_subscription_count, 'the manager subscribes', 240.0)

    def frame(self, seed: int = 1) -> Any:
        """The result of one image, 96 x 128."""
        self.stamp += 1
        message = image_message(random_pixels(seed, 96, 128), self.stamp)
        result = answer_to(self.camera.publish, message, self.results)
        assert result.status == InferenceResult.OK, result.detail
        return result

    def until_used(self, strategy: str) -> Any:
        """Play until a result comes from ``strategy``."""
        end_s = time.monotonic() + 90.0
        while (result := self.frame()).strategy_used != strategy:
            assert time.monotonic() < end_s, (result.strategy_used, result.reason)
        return result

    def set(self, **values: Any) -> list[Any]:
        """Set parameters of the model; the results."""
        parameters = []
        for name, value in values.items():
            kind = ParameterValue(type=ParameterType.PARAMETER_DOUBLE)
            if isinstance(value, str):
                kind = ParameterValue(type=ParameterType.PARAMETER_STRING, string_value=value)
            elif isinstance(value, bool):
                kind = ParameterValue(type=ParameterType.PARAMETER_BOOL, bool_value=value)
            else:
                kind.double_value = value
            parameters.append(Parameter(name=f'scene.{name.replace("__", ".")}', value=kind))
        request = SetParameters.Request(parameters=parameters)
        response = self.listener.call(SetParameters, '/offload_manager/set_parameters', request)
        return list(response.results)

    def use(self, **values: Any) -> None:
        """The same, which must succeed."""
        results = self.set(**values)
        assert all(each.successful for each in results), results


@pytest.fixture
def site(tmp_path: Path) -> Iterator[tuple[int, Path, Robot]]:
    shutil.copytree(bundle_folder(), tmp_path / 'scene')
    # The robot has the classifier, and nothing else of the networks.
    shutil.copytree(tmp_path / 'scene' / 'classifier', tmp_path / 'robot' / 'scene' / 'classifier')
    models = write_models(tmp_path, MODELS)
    domain = new_domain()
    robot = Robot(domain, write_models(tmp_path / 'robot', MODELS))
    with running(robot.process):
        yield domain, models, robot
        robot.listener.close()
        assert robot.process.stop() == 0, robot.process.output


def rounds_and_patches(result: Any) -> tuple[int, int]:
    outputs = outputs_of(result)
    assert outputs['rounds'].dtype == outputs['patches'].dtype == np.uint32
    return int(outputs['rounds'][0]), int(outputs['patches'][0])


def test_a_robot_is_answered_by_two_rounds_of_patches(site: tuple[int, Path, Robot]) -> None:
    domain, models, robot = site
    whole = {seed: outputs_of(robot.frame(seed))['probabilities'] for seed in range(4)}
    check_parameters(robot)
    server = server_in(domain, models)
    with running(server):
        robot.use(strategy='server')
        robot.until_used('server')
        for seed, want in whole.items():
            result = robot.frame(seed)
            assert (result.strategy_used, result.exact) == ('server', True), result.reason
            np.testing.assert_array_equal(outputs_of(result)['probabilities'], want)

        # All patches at once: nothing is rebuilt, and only their rounding is not the model's.
        robot.use(strategy='amot', amot__first_ratio=1.0, amot__confidence=0.0)
        robot.use(amot__traffic_budget=1.0)
        robot.until_used('amot')
        for seed, want in whole.items():
            result = robot.frame(seed)
            rounds, count = rounds_and_patches(result)
            assert (rounds, count) == (1, count) and count >= 15  # a head takes less than one
            assert not result.exact and math.isnan(result.tolerance) and not result.fallback
            if count == 16:
                found = outputs_of(result)['probabilities']
                np.testing.assert_allclose(found, want, rtol=0.1, atol=0.03)

        # Never confident: two rounds, as many patches as the budget has; and a text that says so.
        robot.use(amot__first_ratio=0.3, amot__confidence=1.0, amot__traffic_budget=0.6)
        result = robot.frame()
        assert rounds_and_patches(result) == (2, 9)
        text = f'amot: 9 of 16 patches, 2 rounds, {result.bytes_up / 1e3:.1f} kB, confidence '
        assert result.plan.startswith(text) and result.plan.endswith(', server /offload_server')
        assert result.bytes_up <= 0.6 * 64 * 64 * 3 and 0 < result.bytes_down < 200
        # Confident at once.
        robot.use(amot__confidence=0.0)
        assert rounds_and_patches(robot.frame()) == (1, 4)
        robot.use(amot__first_ratio=0.5)
        assert rounds_and_patches(robot.frame()) == (1, 8)

        robot.use(amot__confidence=1.0, amot__first_ratio=0.3)
        server.send(signal.SIGKILL)
        server.ended()
        for seed, want in whole.items():
            result = robot.frame(seed)
            assert (result.strategy_used, result.fallback) == ('device', True)
            assert result.exact and result.reason
            np.testing.assert_array_equal(outputs_of(result)['probabilities'], want)
    second = server_in(domain, models)
    with running(second):
        assert rounds_and_patches(robot.until_used('amot'))[0] == 2
        assert second.stop() == 0, second.output
    assert 'Traceback' not in robot.process.output


def check_parameters(robot: Robot) -> None:
    """Descriptions, ranges, refusals; none for a model without networks."""
    knobs = ['first_ratio', 'confidence', 'traffic_budget', 'adaptive', 'objective']
    names = [f'scene.amot.{knob}' for knob in knobs]
    request = DescribeParameters.Request(names=[*names, 'tiny.strategy'])
    found = robot.listener.call(
        DescribeParameters, '/offload_manager/describe_parameters', request
    ).descriptors
    assert [each.name for each in found[:5]] == names
    assert all('strategy amot: ' in each.description for each in found[:5])
    for each in found[:3]:
        (limits,) = each.floating_point_range
        assert 0.0 <= limits.from_value < limits.to_value == 1.0
    request = DescribeParameters.Request(names=['tiny.amot.confidence'])
    response = robot.listener.call(
        DescribeParameters, '/offload_manager/describe_parameters', request
    )
    assert not any(each.description for each in response.descriptors)
    (result,) = robot.set(amot__objective='best')
    assert not result.successful and 'is not one of printed, weighted' in result.reason
    (result,) = robot.set(amot__confidence=1.5)
    assert not result.successful
    robot.use(amot__objective='printed')
    robot.use(amot__adaptive=False)


def test_a_server_without_the_networks_serves_the_model_whole(
    site: tuple[int, Path, Robot],
) -> None:
    """It says why there are no patches, at its start and in each reason."""
    domain, models, robot = site
    shutil.rmtree(models.parent / 'scene' / 'mae')
    server = server_in(domain, models)
    with running(server):
        assert "model 'scene': strategy amot is not served, all others are: " in server.output
        robot.use(strategy='amot')
        reason = ''
        end_s = time.monotonic() + 90.0
        while 'its A-MOT networks cannot be used' not in reason:
            assert time.monotonic() < end_s, reason
            result = robot.frame()
            assert (result.strategy_used, result.exact) == ('device', True)
            reason = result.reason
        assert reason.endswith('train the network, or name it in amot.json')
        robot.use(strategy='server')
        assert robot.until_used('server').exact
        assert server.stop() == 0, server.output
