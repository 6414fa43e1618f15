"""Lifecycle transitions and models loaded, unloaded and switched while requests are in flight."""

from __future__ import annotations

from collections.abc import Iterator
import itertools
from pathlib import Path
import random
import time
from typing import Any

from promise import Stream
import pytest
from rig import MODEL, Footprint, Rig, Robot, mostly_by_server, rig_in, stop_all
from system import until

from offload_ros.srv import SetModel

# What leads from each state to another one of the three.
NEXT = {
    'unconfigured': {'configure': 'inactive'},
    'inactive': {'activate': 'active', 'cleanup': 'unconfigured'},
    'active': {'deactivate': 'inactive'},
}
TRANSITIONS = 24
OFFSET = 1000.0
LOAD_S = 1.5  # longer than a silent server is believed alive


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    with rig_in(tmp_path) as made:
        yield made


def test_transitions_at_random_moments_lose_nothing_and_leak_nothing(rig: Rig) -> None:
    manager, server = rig.manager(), rig.server()
    robot = Robot(rig)
    robot.ready()
    robot.served()
    nodes = {robot.name: manager, '/offload_server': server}
    states = dict.fromkeys(nodes, 'active')
    rig.pace('offload_server', 0.03)  # so that nearly always one is in flight
    chance = random.Random(7)
    footprints: list[dict[str, Footprint]] = []

    def go(node: str, label: str) -> None:
        goal = NEXT[states[node]][label]
        assert rig.transition(node, label), f'{node} {label}:\n{nodes[node].output}'
        states[node] = goal

    def all_active() -> None:
        for node in nodes:
            while states[node] != 'active':
                go(node, 'configure' if states[node] == 'unconfigured' else 'activate')
        first = robot.send()
        until(lambda: robot.by_server('', robot.since(first)), 'the server is used again')
        footprints.append({node: Footprint(process) for node, process in nodes.items()})

    with Stream(robot):
        # Once through all, so that whatever is made at the first time only is there.
        for node in nodes:
            for label in ('deactivate', 'cleanup'):
                go(node, label)
        all_active()
        for _ in range(TRANSITIONS):
            time.sleep(chance.uniform(0.0, 0.15))
            node = chance.choice(sorted(nodes))
            go(node, chance.choice(sorted(NEXT[states[node]])))
        all_active()
        for _ in range(3):
            for node in nodes:
                for label in ('deactivate', 'cleanup'):
                    go(node, label)
            all_active()
    for node in nodes:
        first_one, process = footprints[0][node], nodes[node]
        # What ends a session may go on for a moment after the next one is used.
        until(lambda p=process, t=first_one: Footprint(p).threads <= t.threads, 'threads ended')
        last = Footprint(process)
        print(f'{node}: {first_one}; after {TRANSITIONS + 12} transitions: {last}')
        assert last.files <= first_one.files + 1, [str(each[node]) for each in footprints]
        assert 'Traceback' not in nodes[node].output
    robot.served()
    robot.settle()
    stop_all(manager, server)


MODELS = MODEL.replace(
    'outputs: [mean]',
    f"""outputs: [mean]
    variant: plain
    variants:
      shifted:
        source: {{python: 'networks:Paced', arguments: {{offset: {OFFSET}, load_s: {LOAD_S}}}}}""",
)


def test_models_loaded_unloaded_and_switched_while_frames_flow(tmp_path: Path) -> None:
    with rig_in(tmp_path, MODELS) as rig:
        manager, server = rig.manager(), rig.server()
        robot = Robot(rig)

        def set_model(node: str, variant: str, loaded: bool) -> Any:
            request = SetModel.Request(model='probe', variant=variant, loaded=loaded)
            response = rig.listener.call(SetModel, f'{node}/set_model', request)
            assert response.success, response.message
            return response.message

        robot.ready()
        robot.served()
        plain = robot.model_hash
        with Stream(robot):
            first = robot.send()
            assert "runs as 'shifted'" in set_model(robot.name, 'shifted', True)
            switched = until(
                lambda: [r for r in robot.since(first) if r.model_hash != plain], 'it is switched'
            )[0]
            shifted = switched.model_hash
            # It took its time, and meanwhile nothing was lost: not a heartbeat, not the server.
            sent_s = robot.sent_s[switched.header.stamp.sec] - robot.sent_s[first]
            assert sent_s > 0.8 * LOAD_S
            mostly_by_server([r for r in robot.since(first) if r.seq < switched.seq])
            assert "runs as 'plain'" in set_model(robot.name, 'plain', True)
            back = robot.send()
            until(lambda: robot.result_of(back), 'a result')
            assert robot.result_of(back).model_hash == plain
            mostly_by_server(robot.since(first))

            # The server loads a variant anew: its heartbeats go on.
            first = robot.send()
            assert set_model('/offload_server', 'shifted', False) == "model 'probe': plain"
            began_s = time.monotonic()
            set_model('/offload_server', 'shifted', True)
            beats = [at_s for at_s, _ in rig.beats('/offload_server', began_s)]
            assert time.monotonic() - began_s > LOAD_S
            gaps = [later - sooner for sooner, later in itertools.pairwise(beats)]
            print(f'longest time between heartbeats while a model loads: {max(gaps):.3f} s')
            assert max(gaps) < 0.8 * LOAD_S
            mostly_by_server(robot.since(first))

            # Unloaded on the server: the robot computes; loaded again: the server does.
            set_model('/offload_server', 'plain', False)
            until(lambda: robot.results[-1][1].strategy_used == 'device', 'the robot computes')
            until(lambda: 'has another' in robot.results[-1][1].reason, 'the reason is told')
            set_model('/offload_server', 'plain', True)
            until(lambda: robot.results[-1][1].strategy_used == 'server', 'the server computes')

            # Unloaded on the robot: frames are not taken up; loaded again: numbers go on.
            assert 'is not loaded' in set_model(robot.name, 'plain', False)
            count = len(robot.results)
            time.sleep(0.5)
            assert len(robot.results) == count
            set_model(robot.name, 'plain', True)
            until(lambda: len(robot.results) > count + 10, 'results go on')
            assert robot.results[-1][1].seq == robot.results[count - 1][1].seq + (
                len(robot.results) - count
            )
        robot.flush()
        numbers = [r.seq for _, r in robot.results]
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
        for _, result in robot.results:
            robot.judge(result, OFFSET if result.model_hash == shifted else 0.0)
        model = until(
            lambda: next(
                (m for s in robot.statuses[-1:] for m in s.models if m.results == numbers[-1]), None
            ),
            'the status',
        )
        assert model.accepted == numbers[-1]
        assert not rig.set_parameters(robot.name, probe__variant='shifted')
        until(lambda: robot.flush().model_hash == shifted, 'a parameter switches too')
        stop_all(manager, server)
