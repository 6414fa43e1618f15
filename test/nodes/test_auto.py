"""Strategy auto between real nodes: the server while it is faster, the robot while the link is thin
or the server gone, and the reason in each result."""

from __future__ import annotations

from pathlib import Path
import time
from typing import Any

import numpy as np
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
    server,
    until,
    write_models,
)

from offload_ros.msg import InferenceResult, OffloadStatus
from offload_ros.robot.pacing import ROBOT_SLOWDOWN

# Paced, the robot takes eight times the server's 40 ms.
MODELS = """
models:
  probe:
    source: {python: 'networks:Identity', arguments: {delay_s: 0.04}}
    inputs: [{name: image, topic: cam}]
    outputs: [mean]
    deadline_ms: 3000.0
    strategy: auto
"""


class Site:
    def __init__(self, domain: int) -> None:
        self.listener = Listener(domain)
        self.camera = self.listener.publisher(Image, 'cam')
        self.results = self.listener.results('probe')
        self.status = self.listener.collect(OffloadStatus, 'offload/status')
        until(self.camera.get_subscription_count, 'the manager subscribes')
        self._stamp = 0

    def frame(self) -> Any:
        self._stamp += 1
        pixels = random_pixels(self._stamp, 192, 256)
        message = image_message(pixels, self._stamp)
        result = answer_to(self.camera.publish, message, self.results)
        assert result.status == InferenceResult.OK, result.detail
        np.testing.assert_allclose(outputs_of(result)['mean'], [pixels.mean()], rtol=1e-4)
        assert result.strategy_requested == 'auto'
        return result

    def until_used(self, strategy: str, reason: str, limit_s: float = 60.0) -> Any:
        end_s = time.monotonic() + limit_s
        while True:
            result = self.frame()
            if result.strategy_used == strategy and reason in result.reason:
                return result
            assert time.monotonic() < end_s, (result.strategy_used, result.reason)

    def emulate(self, mbit: float) -> None:
        value = ParameterValue(type=ParameterType.PARAMETER_DOUBLE, double_value=mbit)
        name = 'link.emulate.bandwidth_mbps'
        request = SetParameters.Request(parameters=[Parameter(name=name, value=value)])
        response = self.listener.call(SetParameters, '/offload_manager/set_parameters', request)
        assert all(each.successful for each in response.results), response


def test_each_frame_is_computed_where_it_is_expected_to_be_fastest(tmp_path: Path) -> None:
    domain, models = new_domain(), write_models(tmp_path, MODELS)
    manager = Process(
        domain, 'ros2', 'launch', 'offload_ros', 'robot.launch.py', f'models_file:={models}',
        'threads:=1', **{ROBOT_SLOWDOWN: '8'},
    )  # fmt: skip
    servers = [server(domain, models)]
    with running(manager, *servers):
        site = Site(domain)
        try:
            site.until_used('server', ', device ')  # its reason: what each would take
            # 147 kB take 1.2 s: the robot's 0.3 s are less.
            site.emulate(1.0)
            result = site.until_used('device', ', server ')
            assert not result.fallback
            site.emulate(0.0)
            site.until_used('server', 'least latency')
            servers[0].stop()
            result = site.until_used('device', 'no server')
            assert not result.fallback  # it was not even asked
            servers.append(server(domain, models))
            site.until_used('server', 'least latency')
            until(lambda: site.status and site.status[-1].models, 'a status')
            until(lambda: 'least latency' in site.status[-1].models[0].reason, 'the reason')
            results = site.results
            assert [r.seq for r in results] == list(range(1, len(results) + 1))
            manager.stop()
        finally:
            site.listener.close()
            for each in servers[1:]:
                each.kill()
