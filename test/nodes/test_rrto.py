"""Strategy rrto in the manager: equal results, what it tells, loss of the server and return."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
import signal
import time
from typing import Any

import numpy as np
from programs import server_in
import pytest
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import SetParameters
from sensor_msgs.msg import Image
from system import (
    Listener,
    Process,
    answers_to,
    image_message,
    new_domain,
    outputs_of,
    random_pixels,
    running,
    until,
    write_models,
)

from offload_ros.msg import InferenceResult, OffloadStatus

MODELS = """
models:
  conv:
    source: {python: 'networks:Conv'}
    inputs: [{name: image, topic: camera}]
    outputs: [map, mean]
    deadline_ms: 3000.0
  near:
    source: {python: 'networks:ColourAndDepth'}
    inputs:
      - {name: image, topic: camera}
      - {name: depth, topic: depth, encoding: 32FC1}
    outputs: [colour]
    deadline_ms: 3000.0
"""
NAMES = ('conv', 'near')


class Robot:
    """A manager, its sensors and its results."""

    def __init__(self, domain: int, models: Path) -> None:
        from ament_index_python.packages import get_package_prefix

        prefix = get_package_prefix('offload_ros')
        command = [f'{prefix}/lib/offload_ros/offload_manager', '--ros-args']
        command += ['-p', f'models_file:={models}', '-p', 'threads:=1']
        self.process = Process(domain, *command)
        self.listener = Listener(domain)
        self.publishers = [self.listener.publisher(Image, topic) for topic in ('camera', 'depth')]
        self.results = [self.listener.results(name) for name in NAMES]
        self.statuses: list[Any] = self.listener.collect(OffloadStatus, '/offload/status')
        self.stamp = 0
        for publisher in self.publishers:
            until(publisher.get_subscription_count, 'the manager subscribes')

    def frame(self, seed: int = 1) -> dict[str, Any]:
        """One frame on every topic; the result of each model."""
        self.stamp += 1
        depth = np.random.default_rng(seed).uniform(0, 4, (48, 64)).astype(np.float32)
        messages = [
            image_message(random_pixels(seed), self.stamp),
            image_message(depth, self.stamp, '32FC1'),
        ]

        def publish() -> None:
            for publisher, message in zip(self.publishers, messages, strict=True):
                publisher.publish(message)

        found = answers_to(publish, messages[0].header.stamp, self.results)
        for result in found:
            assert result.status == InferenceResult.OK, result.detail
        return dict(zip(NAMES, found, strict=True))

    def until_used(self, strategy: str) -> dict[str, Any]:
        """Play until both models' results come from ``strategy``."""
        end_s = time.monotonic() + 90.0
        while time.monotonic() < end_s:
            results = self.frame()
            if all(result.strategy_used == strategy for result in results.values()):
                return results
        reasons = {name: result.reason for name, result in results.items()}
        raise AssertionError(f'{strategy} is never used: {reasons}')

    def use(self, strategy: str, *names: str) -> None:
        """Set the strategy of models (all)."""
        value = ParameterValue(type=ParameterType.PARAMETER_STRING, string_value=strategy)
        request = SetParameters.Request(
            parameters=[Parameter(name=f'{n}.strategy', value=value) for n in names or NAMES]
        )
        response = self.listener.call(SetParameters, '/offload_manager/set_parameters', request)
        assert all(result.successful for result in response.results), response


@pytest.fixture
def site(tmp_path: Path) -> Iterator[tuple[int, Path, Robot]]:
    models = write_models(tmp_path, MODELS)
    domain = new_domain()
    robot = Robot(domain, models)
    with running(robot.process):
        yield domain, models, robot
        robot.listener.close()
        assert robot.process.stop() == 0, robot.process.output


def test_models_run_by_rrto(site: tuple[int, Path, Robot]) -> None:
    """Both at once: bits of the robot, status, parameters back and forth, loss, a new server."""
    domain, models, robot = site
    by_device = {seed: robot.frame(seed) for seed in range(4)}
    assert all(r.strategy_used == 'device' for r in by_device[0].values())
    server = server_in(domain, models)
    command = ('ros2', 'param', 'set', '/offload_manager', 'conv.strategy', 'rrto')
    assert Process(domain, *command).ended() == 0
    robot.use('rrto', 'near')
    with running(server):
        robot.until_used('rrto')
        for _ in range(3):
            for seed, want in by_device.items():
                for name, result in robot.frame(seed).items():
                    assert (result.strategy_used, result.fallback) == ('rrto', False), result.reason
                    assert result.exact
                    same(result, want[name])
        assert ', mode replay: replayed, 1 units of ' in result.plan
        for text in ('server /offload_server', ' operators, ', ' RPCs, ', ' bytes up, ', ' aborts'):
            assert text in result.plan
        last = until(
            lambda: [s for s in robot.statuses[-1:] if all('replayed' in m.plan for m in s.models)],
            'a status with both plans',
        )[0]
        assert {m.model: m.strategy_used for m in last.models} == dict.fromkeys(NAMES, 'rrto')

        for strategy in ('server', 'rrto', 'device', 'rrto'):
            robot.use(strategy)
            for name, result in robot.until_used(strategy).items():
                same(result, by_device[1][name])

        server.send(signal.SIGKILL)
        server.ended()
        results = robot.until_used('device')
        assert all(result.fallback and result.reason for result in results.values())
        for seed, want in by_device.items():
            for name, result in robot.frame(seed).items():
                assert (result.strategy_used, result.reason) == ('device', 'no server is there')
                same(result, want[name])
    second = server_in(domain, models)
    with running(second):
        robot.until_used('rrto')
        for seed, want in by_device.items():
            for name, result in robot.frame(seed).items():
                assert result.strategy_used == 'rrto', result.reason
                same(result, want[name])
        assert second.stop() == 0, second.output
    assert 'Traceback' not in robot.process.output


def same(result: Any, want: Any) -> None:
    """Bit for bit."""
    theirs, ours = outputs_of(result), outputs_of(want)
    assert theirs.keys() == ours.keys()
    for name, values in theirs.items():
        np.testing.assert_array_equal(values, ours[name], err_msg=name)


def test_server_that_runs_no_operators_is_told_in_the_reason(
    site: tuple[int, Path, Robot],
) -> None:
    domain, models, robot = site
    server = server_in(domain, models, **{'rrto.sessions': 0})
    robot.use('rrto')
    with running(server):

        def told() -> bool:
            reasons = {result.reason for result in robot.frame().values()}
            return any('(parameter rrto.sessions is 0)' in reason for reason in reasons)

        until(told, 'the reason')
        robot.use('server')
        robot.until_used('server')
        assert server.stop() == 0, server.output
