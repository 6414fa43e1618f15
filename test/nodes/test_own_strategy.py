"""The strategy of doc/own_strategy.md through the running manager, and what is refused of others.

The file that runs here is the very text of the page.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import DescribeParameters, SetParameters
from sensor_msgs.msg import Image
from system import (
    TINY,
    Listener,
    answer_to,
    image_message,
    new_domain,
    outputs_of,
    random_pixels,
    robot,
    running,
    server,
    until,
    write_models,
)

from offload_ros.msg import InferenceResult

EXAMPLE = Path(__file__).parents[2] / 'doc' / 'examples' / 'race.py'
MODELS = """
strategies: [race]
models:
  paced:
    source: {python: 'networks:Paced'}
    inputs: [{name: image, topic: cam}]
    outputs: [mean]
    deadline_ms: 20000.0
    strategy: race
"""


@pytest.fixture
def on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a user's folder on PYTHONPATH."""
    monkeypatch.setenv('PYTHONPATH', str(EXAMPLE.parent), prepend=':')


class Site:
    """Robot, a server, and who sets one's parameters."""

    def __init__(self, domain: int) -> None:
        self.listener = Listener(domain)
        self.camera = self.listener.publisher(Image, 'cam')
        self.results = self.listener.results('paced')
        self._stamp = 0

    def frame(self) -> Any:
        self._stamp += 1
        pixels = random_pixels(self._stamp)
        result = answer_to(self.camera.publish, image_message(pixels, self._stamp), self.results)
        assert result.status == InferenceResult.OK, result.detail
        np.testing.assert_allclose(outputs_of(result)['mean'], [pixels.mean()], rtol=1e-12)
        return result

    def until_won_by(self, who: str) -> Any:
        def won() -> Any:
            result = self.frame()
            return result if result.strategy_used == 'race' and who in result.plan else None

        return until(won, f'{who} is first')

    def set(self, name: str, value: Any) -> str:
        """Empty where it is taken, else why not."""
        kind, field = {
            str: (ParameterType.PARAMETER_STRING, 'string_value'),
            int: (ParameterType.PARAMETER_INTEGER, 'integer_value'),
        }[type(value)]
        given = Parameter(name=name, value=ParameterValue(type=kind, **{field: value}))
        request = SetParameters.Request(parameters=[given])
        service = '/offload_manager/set_parameters'
        (answer,) = self.listener.call(SetParameters, service, request).results
        return '' if answer.successful else answer.reason

    def described(self, name: str) -> str:
        request = DescribeParameters.Request(names=[name])
        service = '/offload_manager/describe_parameters'
        described = self.listener.call(DescribeParameters, service, request)
        text: str = described.descriptors[0].description
        return text


@pytest.fixture
def site(
    tmp_path: Path, on_path: None, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Site, Path, Path]]:
    domain, models = new_domain(), write_models(tmp_path, MODELS)
    paces = []
    processes = []
    for name, start in (('robot', robot), ('server', server)):
        paces.append(tmp_path / name)
        paces[-1].write_text('0.0')
        monkeypatch.setenv('PACE', str(paces[-1]))
        processes.append(start(domain, models))
    with running(*processes):
        here = Site(domain)
        until(here.camera.get_subscription_count, 'the manager subscribes')
        yield here, paces[0], paces[1]
        here.listener.close()
        for process in processes:
            process.stop()


def test_own_strategy_runs_by_its_name_and_auto_takes_it_up(site: tuple[Site, Path, Path]) -> None:
    here, robot_pace, server_pace = site
    robot_pace.write_text('1.5')
    result = here.until_won_by('server')
    assert result.exact and result.bytes_up > 0 and not result.fallback
    robot_pace.write_text('0.0')
    server_pace.write_text('1.5')
    assert not here.until_won_by('robot').fallback

    assert ' | race | ' in here.described('paced.strategy')
    assert here.set('paced.strategy', 'server') == ''
    refusal = here.set('paced.strategy', 'chase')
    assert "there is no strategy 'chase'; there are amot, auto" in refusal
    assert ' race, ' in refusal.partition('admissible:')[2]
    # Only this machine's files import: not even what is there already.
    for name in ('networks:Identity', 'race:Race', 'os:getcwd'):
        assert f"'{name}' is imported from models.yaml only" in here.set('paced.strategy', name)
    assert 'type' in here.set('paced.strategy', 5).lower()

    server_pace.write_text('0.05')
    robot_pace.write_text('0.3')
    assert here.set('paced.strategy', 'auto') == ''

    def considered() -> bool:
        result = here.frame()
        return result.strategy_requested == 'auto' and 'race' in result.reason

    until(considered, 'auto tells what race would take')


@pytest.mark.parametrize(
    ('strategies', 'expected'),
    [
        ('[nowhere]', "strategies: module 'nowhere' does not import: ModuleNotFoundError"),
        ('[networks]', "strategies: module 'networks' registers no strategy: put @register"),
        ('race.py', "strategies must be a list of modules, as [my_package.my_strategy], not 'race"),
    ],
)
def test_a_module_that_brings_no_strategy_is_named_at_start(
    tmp_path: Path, on_path: None, strategies: str, expected: str
) -> None:
    models = write_models(tmp_path, f'strategies: {strategies}\nmodels: {{tiny: {{{TINY}}}}}\n')
    process = robot(new_domain(), models)
    with running(process):
        process.wait_for(f'{models}: {expected}')
        process.ended()
        assert 'Traceback' not in process.output
