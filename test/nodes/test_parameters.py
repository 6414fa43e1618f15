"""The page of parameters tells what the nodes declare; what may be changed is taken, and acts; what
cannot take effect is refused in one line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
import re
import subprocess
import sys
from typing import Any

import pytest
from rcl_interfaces.srv import SetParameters
import rclpy
from rclpy.parameter import Parameter
from system import TINY, Listener, Process, new_domain, robot, running, server, until, write_models

from offload_ros.msg import ServerHeartbeat
from offload_ros.nodes.agrnav_navigator import AgrnavNavigator
from offload_ros.nodes.fleet_planner import FleetPlanner
from offload_ros.nodes.manager import OffloadManager
from offload_ros.nodes.server import OffloadServer
from offload_ros.nodes.topics import HEARTBEAT, HEARTBEAT_TOPIC

HERE = Path(__file__).parent
PAGE = (HERE.parents[1] / 'doc' / 'parameters.md').read_text()
ROW = re.compile(r'\| `([\w.<>]+)` \| (.+) \| (.+) \| (.+) \| (.+) \| (.+) \|')
# Values that fit, where half the range and the other truth value do not.
FITTING = {
    'server.name': '/offload_server',
    'strategy': 'device',
    'objective': 'energy',
    'amot.objective': 'printed',
    'variant': 'default',
    'record': '',
    'link.emulate.trace': '',
    'robot_motion': 'patrol',
    'link.emulate.cut': False,
    'link.emulate.direction': 'up',
}
REMEDIES = {
    'at start only': 'read-only parameter',
    'when configured': 'is read when configured: deactivate and clean up first',
    'when activated': 'is read when activated: deactivate first',
}


def rows(node: str) -> list[tuple[str, str, str, str]]:
    """Name, range, default, effect of each row of a node's table."""
    section = PAGE.partition(f'\n## {node}\n')[2].partition('\n## ')[0]
    found = ROW.findall(section)
    return [(name, limits, default, effect) for name, _, _, limits, default, effect in found]


def other_value(name: str, limits: str, default: str) -> Any:
    """One that is allowed by the page."""
    key = name.removeprefix('<model>.')
    if key in FITTING:
        return FITTING[key]
    if default in ('true', 'false'):
        return default == 'false'
    if limits == '-':
        return 'other'
    low, high = (float(each) for each in limits.split(' to '))
    middle = min(low + (high - low) / 2, 1e6)
    return middle if '.' in default else int(middle)


def test_page_has_every_parameter_as_its_node_declares_it() -> None:
    """Names, ranges, defaults and what is fixed when."""
    command = [sys.executable, str(HERE / 'describe.py'), '--check']
    ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert ran.returncode == 0, ran.stderr


def test_every_parameter_has_unit_and_effect() -> None:
    found = [
        (node, *row)
        for node in re.findall(r'\n## (\w+)\n', PAGE)
        for row in ROW.findall(PAGE.partition(f'\n## {node}\n')[2].partition('\n## ')[0])
    ]
    assert len(found) > 130
    assert {node for node, *_ in found} >= {'offload_manager', 'offload_server', 'fleet_planner'}
    assert all(effect for *_, effect in found)


def set_all(listener: Listener, node: str, model: str) -> None:
    """Set each parameter of a running node to what the page allows."""
    assert len(rows(node)) > 5
    for name, limits, default, effect in rows(node):
        value = other_value(name, limits, default)
        given = Parameter(name.replace('<model>', model), value=value)
        request = SetParameters.Request(parameters=[given.to_parameter_msg()])
        (answer,) = listener.call(SetParameters, f'/{node}/set_parameters', request).results
        if effect in REMEDIES:
            assert not answer.successful, f'{name} is taken, and has no effect'
            assert REMEDIES[effect] in answer.reason and '\n' not in answer.reason
        else:
            assert answer.successful, f'{name} = {value!r}: {answer.reason}'


@pytest.fixture(scope='module')
def listener() -> Iterator[Listener]:
    here = Listener(new_domain())
    yield here
    here.close()


@pytest.mark.parametrize('node', ['offload_manager', 'offload_server'])
def test_running_manager_and_server_take_what_the_page_says(listener: Listener, node: str) -> None:
    domain = listener.node.context.get_domain_id()
    models = HERE.parents[1] / 'config' / 'models.yaml'
    start = robot if node == 'offload_manager' else server
    process = start(domain, models, 'models:=scene')
    with running(process):
        process.wait_for('model(s): ')
        beats = listener.collect(ServerHeartbeat, HEARTBEAT_TOPIC, HEARTBEAT)
        set_all(listener, node, 'scene')
        if node == 'offload_server':
            until(lambda: beats[-1].queue_limit == 5000, 'it tells the limit that was set')
        assert process.process.poll() is None, process.output


@pytest.mark.parametrize('node', ['fleet_planner', 'kapao_tracker', 'agrnav_navigator', 'world'])
def test_other_running_nodes_take_what_the_page_says(listener: Listener, node: str) -> None:
    if node == 'world':
        pytest.importorskip('mujoco')
    domain = listener.node.context.get_domain_id()
    process = Process(domain, 'ros2', 'run', 'offload_ros', node)
    with running(process):
        set_all(listener, node, '')
        assert process.process.poll() is None, process.output


@pytest.fixture
def context() -> Iterator[None]:
    """Nodes of this process."""
    rclpy.init(domain_id=new_domain())
    yield
    rclpy.try_shutdown()


def set_on(node: Any, **values: Any) -> None:
    given = [Parameter(name.replace('__', '.'), value=value) for name, value in values.items()]
    for answer in node.set_parameters(given):
        assert answer.successful, answer.reason


def test_what_is_set_while_the_server_runs_acts(context: None, tmp_path: Path) -> None:
    models = write_models(tmp_path, f'models: {{tiny: {{{TINY}}}}}\n')
    node = OffloadServer()
    try:
        set_on(node, models_file=str(models), rrto__memory_mb=17.0)  # nobody has read them yet
        node.bring_up()
        set_on(node, queue_limit=5, rrto__sessions=0, amot__gather_ms=7.0, amot__max_batch=3)
        set_on(node, batch__max=4)
        large = node._programs.max_message_bytes
        assert node._engine.queue_limit == 5
        assert node._programs.refusal().endswith('(parameter rrto.sessions is 0)')
        assert (node._amot.batcher.gather_s, node._amot.batcher.max_batch) == (0.007, 3)
        assert node._engine.batching.max_batch == 4
        (refused,) = node.set_parameters([Parameter('rrto.memory_mb', value=5.0)])
        assert refused.reason == 'rrto.memory_mb is read when activated: deactivate first'
        node.trigger_deactivate()
        set_on(node, rrto__memory_mb=5.0)
        (refused,) = node.set_parameters([Parameter('models', value='x')])
        assert refused.reason.startswith('models is read when configured')
        node.trigger_activate()
        assert node._programs.max_message_bytes == large - 12_000_000
    finally:
        node.close()
        node.destroy_node()


def test_placement_is_refused_while_it_could_not_act(context: None, tmp_path: Path) -> None:
    models = write_models(tmp_path, f'models: {{tiny: {{{TINY}}}}}\n')
    node = OffloadManager()
    try:
        set_on(node, models_file=str(models), rrto__placement='whole')
        node.bring_up()
        assert node._contacts.client.placement == 'whole'
        (refused,) = node.set_parameters([Parameter('rrto.placement', value='auto')])
        assert refused.reason == 'rrto.placement is read when activated: deactivate first'
        node.trigger_deactivate()
        set_on(node, rrto__placement='server')
        node.trigger_activate()
        assert node._contacts.client.placement == 'server'
    finally:
        node.close()
        node.destroy_node()


def test_what_is_set_while_the_planner_runs_acts(context: None) -> None:
    node = FleetPlanner()
    try:
        set_on(node, hold_s=9.0, change=0.5, least_demand=0.0, refused_s=8.0)
        set_on(node, time_limit_s=0.3, load_timeout_s=7.0, unload_after_s=6.0)
        options, live = node._planner.options, node._fleet.options
        assert (options.time_limit_s, options.load_s, options.unload_s) == (0.3, 7.0, 6.0)
        assert (live.hold_s, live.change, live.least_demand, live.refused_s) == (9.0, 0.5, 0.0, 8.0)
    finally:
        node.close()
        node.destroy_node()


def test_what_is_set_while_the_navigator_runs_acts(context: None) -> None:
    node = AgrnavNavigator()
    try:
        set_on(node, turn_limit_radps=0.7, sideways=False)
        drive = node._navigation.config.drive
        assert (drive.turn_radps, drive.sideways, drive.speed_mps) == (0.7, False, 1.2)
        set_on(node, ask_hz=0.0)
        assert node._navigation.config.drive == drive
    finally:
        node.close()
        node.destroy_node()
