"""A fleet over real DDS: two robots, two servers and their planner."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
import threading
import time
from typing import Any

import numpy as np
import pytest
from sensor_msgs.msg import Image
from system import (
    Listener,
    Process,
    image_message,
    new_domain,
    outputs_of,
    running,
    until,
    write_models,
)

from offload_ros.msg import FleetPlan, FleetRoute, FleetTask, InferenceResult, ServerHeartbeat
from offload_ros.nodes.topics import FLEET_PLAN_TOPIC, HEARTBEAT, STATUS

MODELS = """
models:
  probe:
    source: {python: 'networks:Paced'}
    variant: small
    variants: {large: {source: {python: 'networks:Paced', arguments: {offset: 1000.0}}}}
    inputs: [{name: image, topic: cam}]
    outputs: [mean]
    deadline_ms: 3000.0
    strategy: fleet
"""
# A server has memory for one of both, and time for 20 large ones per s: together they answer the
# 30 that come. One alone leaves 10, for which robots have time.
FLEET = """
nodes:
  robot1: {kind: robot, memory_bytes: 100, speed: 1}
  robot2: {kind: robot, memory_bytes: 100, speed: 1, address: /second/manager}
  edge1: {kind: server, memory_bytes: 200, speed: 10}
  edge2: {kind: server, memory_bytes: 200, speed: 10, address: /hall/edge2}
links:
  - {from: robot1, to: edge1, capacity_bytes_per_s: 1.0e+7, latency_s: 0.005}
  - {from: robot1, to: edge2, capacity_bytes_per_s: 1.0e+7, latency_s: 0.005}
  - {from: robot2, to: edge1, capacity_bytes_per_s: 1.0e+7, latency_s: 0.005}
  - {from: robot2, to: edge2, capacity_bytes_per_s: 1.0e+7, latency_s: 0.005}
tasks: {probe: {latency_limit_s: 2.0}}
models:
  small: {size_bytes: 100, accuracy: {probe: 0.5}, alpha_s: 0.05, beta_s: 0.05}
  large: {size_bytes: 200, accuracy: {probe: 0.9}, alpha_s: 0.25, beta_s: 0.25}
demand:
  - {robot: robot1, task: probe, queries_per_s: 15, query_bytes: 192}
  - {robot: robot2, task: probe, queries_per_s: 15, query_bytes: 192}
"""
HZ = 15.0
SERVERS = ('/edge1', '/hall/edge2')


def started(domain: int, kind: str, name: str, namespace: str, **parameters: object) -> Process:
    """A node of the package with a name of its own."""
    given = [each for key, value in parameters.items() for each in ('-p', f'{key}:={value}')]
    names = ['-r', f'__node:={name}', '-r', f'__ns:={namespace}']
    return Process(domain, 'ros2', 'run', 'offload_ros', kind, '--ros-args', *names, *given)


class Camera:
    """Images for one robot, numbered, and the results that come of them."""

    def __init__(self, domain: int, namespace: str) -> None:
        self.listener = Listener(domain, namespace)
        self.results = self.listener.results('probe')
        self._publisher = self.listener.publisher(Image, 'cam')
        until(self._publisher.get_subscription_count, 'the manager subscribes')
        self._sent = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._play, daemon=True)
        self._thread.start()

    def _play(self) -> None:
        while not self._ended.wait(1.0 / HZ):
            self._sent += 1
            pixels = np.full((8, 8, 3), self._sent % 251, dtype=np.uint8)
            self._publisher.publish(image_message(pixels, self._sent))

    def stop(self) -> list[Any]:
        """All results, once the last one has come."""
        if not self._ended.is_set():
            self._ended.set()
            self._thread.join()
            until(lambda: self.results and self.results[-1].header.stamp.sec == self._sent, 'last')
            self.listener.close()
        return self.results

    def judge(self) -> None:
        """Every accepted frame has exactly one result, and that of the model that it names."""
        results = self.stop()
        assert [r.seq for r in results] == list(range(1, len(results) + 1))
        hashes: dict[str, set[str]] = {'small': set(), 'large': set()}
        for result in results:
            assert result.status == InferenceResult.OK, result.detail
            number = float(outputs_of(result)['mean'][0])
            large = number >= 1000.0
            assert number - 1000.0 * large == result.header.stamp.sec % 251
            hashes['large' if large else 'small'].add(result.model_hash)
            if result.strategy_used == 'fleet':
                assert f'variant {"large" if large else "small"}' in result.plan
        assert len(hashes['small'] | hashes['large']) == len(hashes['small']) + len(hashes['large'])
        assert all(len(each) <= 1 for each in hashes.values())


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[dict[str, Any]]:
    """All of it, running."""
    domain, models = new_domain(), write_models(tmp_path, MODELS)
    file = tmp_path / 'fleet.yaml'
    file.write_text(FLEET)
    common = {'models_file': models, 'threads': 1}
    processes = {
        'planner': started(
            domain,
            'fleet_planner',
            'fleet_planner',
            '/',
            fleet_file=file,
            unload_after_s=1.0,
            least_demand=1.0,  # whatever the machine is busy with
        ),
        'edge1': started(domain, 'offload_server', 'edge1', '/', **common),
        'edge2': started(domain, 'offload_server', 'edge2', '/hall', **common),
        'robot1': started(domain, 'offload_manager', 'offload_manager', '/robot1', **common),
        'robot2': started(domain, 'offload_manager', 'manager', '/second', **common),
    }
    with running(*processes.values()):
        listener = Listener(domain)
        plans = listener.collect_timed(FleetPlan, FLEET_PLAN_TOPIC, STATUS)
        beats = listener.collect(ServerHeartbeat, '/offload/servers', HEARTBEAT)
        for robot in ('robot1', 'robot2'):
            for server in SERVERS:
                processes[robot].wait_for(f'server {server} is ready')
        cameras = [Camera(domain, each) for each in ('robot1', 'second')]
        yield {
            **processes,
            'listener': listener,
            'plans': plans,
            'beats': beats,
            'cameras': cameras,
        }
        for camera in cameras:
            camera.stop()
        listener.close()
        for name, process in processes.items():
            if not process.told_to_end and process.process.poll() is None:
                assert process.stop() == 0, name


def held(beats: list[Any], server: str) -> list[str]:
    """Variants that a server said it has, last."""
    last = next(beat for beat in reversed(beats) if beat.server == server)
    return sorted(model.variant for model in last.models)


def routes(plan: Any, robot: str) -> dict[tuple[str, str], float]:
    """(server, variant): share."""
    task = next(each for each in plan.tasks if each.robot == robot)
    return {(each.server, each.variant): each.share for each in task.routes}


def number_of(result: Any) -> int:
    """Of the plan that a frame went by; 0: none."""
    words = result.plan.partition(':')[0]
    return int(words.removeprefix('fleet plan ')) if words.startswith('fleet plan ') else 0


def newest(results: list[Any], holds: Callable[[Any], bool], what: str) -> Any:
    """The first result from now on of which something holds."""
    begin = len(results)
    return until(lambda: next((r for r in results[begin:] if holds(r)), None), what, 30.0)


def test_fleet_follows_its_planner_through_the_loss_of_a_server(fleet: dict[str, Any]) -> None:
    plans, beats, cameras = fleet['plans'], fleet['beats'], fleet['cameras']

    # The plan: both servers have the large model, and nothing else any more; all goes there.
    def settled() -> bool:
        nodes = {node.name: [each.variant for each in node.models] for node in plans[-1][1].nodes}
        return nodes == {
            'robot1': [],
            'robot2': [],
            'edge1': ['large'],
            'edge2': ['large'],
        } and all(held(beats, server) == ['large'] for server in SERVERS)

    until(settled, 'both servers hold what is planned', 40.0)
    plan = plans[-1][1]
    servers = {server for task in plan.tasks for server in (r.server for r in task.routes)}
    assert servers >= set(SERVERS)
    assert plan.accuracy > 0.85
    for camera in cameras:
        planned = newest(camera.results, lambda r: r.plan.startswith('fleet plan'), 'as planned')
        assert planned.strategy_used == 'fleet'
    begin = [len(camera.results) for camera in cameras]
    time.sleep(2.0)
    ways: Counter[str] = Counter()
    for camera, first in zip(cameras, begin, strict=True):
        ways.update(r.plan.partition(': ')[2].partition(' (')[0] for r in camera.results[first:])
    assert ways['server /edge1, variant large'] > 0
    assert ways['server /hall/edge2, variant large'] > 0

    # What is no plan is refused with one line, and changes nothing.
    stranger = fleet['listener'].publisher(FleetPlan, FLEET_PLAN_TOPIC, STATUS)
    until(lambda: stranger.get_subscription_count() >= 3, 'both managers and the planner listen')
    twice = FleetRoute(server='/edge1', variant='large', share=0.9)
    other = FleetRoute(server='', variant='small', share=0.9)
    task = FleetTask(robot='/robot1/offload_manager', task='probe', routes=[twice, other])
    stranger.publish(
        FleetPlan(planner='/stranger', session='x', beat_s=1.0, silent_s=3.0, tasks=[task])
    )
    fleet['robot1'].wait_for("a fleet plan of '/stranger' is refused", 10.0)
    assert 'shares add up to 1.8' in fleet['robot1'].output
    newest(cameras[0].results, lambda r: r.strategy_used == 'fleet', 'goes on')
    fleet['listener'].destroy(stranger)

    # A server is killed: within 2 s a plan without it, and no frame is left out.
    lost_s = time.monotonic()
    fleet['edge1'].told_to_end = True
    fleet['edge1'].kill()

    def without() -> float | None:
        names = ((at_s, {node.name for node in plan.nodes}) for at_s, plan in list(plans))
        return next((at_s for at_s, each in names if at_s > lost_s and 'edge1' not in each), None)

    assert until(without, 'a plan without edge1', 20.0) - lost_s < 2.0
    plan = next(each for at_s, each in plans if at_s > lost_s and 'edge1 is lost' in each.reason)
    for robot in ('/robot1/offload_manager', '/second/manager'):
        assert '/edge1' not in {server for server, _ in routes(plan, robot)}
    everywhere = {way for each in plan.tasks for way in routes(plan, each.robot)}
    assert ('', 'small') in everywhere, 'the robots take over what one server has no time for'
    for camera in cameras:
        newest(camera.results, lambda r: number_of(r) >= plan.version, 'as planned anew')

    # Without the planner the robots choose by themselves.
    assert fleet['planner'].stop() == 0
    for camera in cameras:
        alone = newest(camera.results, lambda r: 'is silent since' in r.reason, 'no planner')
        # The remaining server holds the large model only: the robot has it computed by no other.
        assert (alone.strategy_requested, alone.strategy_used) == ('fleet', 'device')
        assert alone.fallback
    for camera in cameras:
        camera.judge()


def test_wrong_fleet_file_is_one_line(tmp_path: Path) -> None:
    file = tmp_path / 'fleet.yaml'
    file.write_text(FLEET.replace('address: /hall/edge2', 'address: hall/edge2'))
    launch = ('ros2', 'launch', 'offload_ros', 'fleet_planner.launch.py', f'fleet_file:={file}')
    process = Process(new_domain(), *launch)
    with running(process):
        process.ended()
        assert 'nodes.edge2.address is a node' in process.output
        assert 'Traceback' not in process.output
