"""Whatever strangers send: no crash, no wrong result, no use of memory without end."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
import copy
import itertools
from pathlib import Path
import random
import time
from typing import Any

import pytest
from rclpy.serialization import serialize_message
from rig import MODEL, Footprint, Rig, Robot, Stranger, mostly_by_server, pair_in, rig_in, stop_all
from system import Process, until

from offload_ros.msg import (
    InferenceReply,
    InferenceRequest,
    ModelInfo,
    ServerHeartbeat,
    Tensor,
)
from offload_ros.nodes.topics import HEARTBEAT
from offload_ros.wire.directory import MAX_SERVERS

GROWTH = 20e6  # bytes; what the garbage below would take if it were kept is far more


MODELS = MODEL.replace('4000.0', '1000.0')
Pair = tuple[Robot, Process, Process]


@pytest.fixture(scope='module')
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with pair_in(tmp_path_factory.mktemp('garbage'), MODELS) as made:
        yield made


def random_tensor(chance: random.Random) -> Tensor:
    """Fields that seldom fit each other."""
    tensor = Tensor(name=chance.choice(['image', 'mean', '', 'x' * 1000, 'é\N{SNOWMAN}']))
    tensor.dtype = chance.choice([0, 1, 5, 5, 10, 99, 255])
    tensor.codec = chance.choice([0, 0, 0, 7])
    tensor.shape = chance.choice([[8, 8, 3], [2**63], [0] * 9, [], [2**32, 2**32], [0, 2**62], [3]])
    tensor.data = array('B', chance.randbytes(chance.choice([0, 1, 192, 1000])))
    return tensor


def test_random_requests_do_not_harm_the_server(pair: Pair) -> None:
    robot, _, server = pair
    rig = robot.rig
    robot.ready()
    stranger = Stranger(rig, '/stranger')
    stranger.connect()
    mostly_by_server(robot.play(40))
    before = Footprint(server)
    chance = random.Random(3)
    for number in range(600):
        kind = chance.choice([InferenceRequest.INFER, InferenceRequest.CANCEL, 9, 255])
        stranger.ask(
            number,
            kind=kind,
            robot=chance.choice(['/stranger', 'no name', '', '/a' * 150, '/a' * 99, '/x//y', '/é']),
            session=chance.choice(['/stranger', '', 'other', 'x' * 500]),
            server_session=chance.choice(['', 'of yesterday', rig.heartbeats[-1][1].session]),
            model=chance.choice(['probe', 'none', '']),
            model_hash=chance.choice([robot.model_hash, '', '00']),
            budget_s=chance.choice([1.0, -1.0, float('nan'), float('inf'), 1e30]),
            priority=chance.choice([0, 128, 255]),
            inputs=[random_tensor(chance) for _ in range(chance.choice([0, 1, 1, 2, 40]))],
        )
        if number % 20 == 0:
            robot.send()
    # Bytes that are no message at all, and messages that are cut off or damaged.
    whole = serialize_message(InferenceRequest(robot='/stranger', session='s', model='probe'))
    for _ in range(300):
        damaged = bytearray(whole)
        for _ in range(chance.randrange(1, 8)):
            damaged[chance.randrange(4, len(damaged))] = chance.randrange(256)
        cut = bytes(damaged[: chance.randrange(4, len(damaged))])
        stranger.publisher.publish(chance.choice([cut, bytes(damaged), whole[:4]]))
    # Others' names: a robot's answers go to that robot, which did not ask.
    for number in range(100):
        stranger.ask(number, robot=robot.name, session='stolen', model_hash=robot.model_hash)
    robot.ready()
    mostly_by_server(robot.play(60))
    after = Footprint(server)
    print(f'server before: {before}; after: {after}')
    assert after.rss - before.rss < GROWTH
    assert 'Traceback' not in server.output
    robot.settle()


def test_replayed_and_forged_replies_become_no_results(pair: Pair) -> None:
    robot, manager, _ = pair
    rig = robot.rig
    robot.ready()
    replies = rig.listener.collect(InferenceReply, f'{robot.name}/reply', 1000)
    forger = rig.listener.publisher(InferenceReply, f'{robot.name}/reply')
    mostly_by_server(robot.play(60))
    before = Footprint(manager)
    real = next(r for r in reversed(replies) if r.outputs)
    chance = random.Random(5)

    def forged(seq: int) -> Iterator[Any]:
        """Answers with the content of another frame, each wrong in another way."""
        for fields in (
            {},  # a replay: its request was answered long ago
            {'seq': seq, 'session': 'other'},
            {'seq': seq, 'server_session': 'other'},
            {'seq': seq, 'server': '/other'},
            {'seq': seq, 'session': '', 'server_session': '', 'server': ''},
            {'seq': 0},
            {'seq': 2**64 - 1},
            {'seq': seq, 'session': 'x', 'status': 200},
        ):
            message = copy.deepcopy(real)
            for name, value in fields.items():
                setattr(message, name, value)
            yield message
        yield InferenceReply(seq=seq, outputs=[random_tensor(chance)])

    # While each real request is in flight, all numbers that it may have are answered falsely.
    rig.pace('offload_server', 0.05)
    first = robot.send()
    for _ in range(20):
        robot.send()
        newest = max(r.seq for r in list(replies) if r.seq < 2**32)
        for seq in range(newest + 1, newest + 4):
            for message in forged(seq):
                forger.publish(message)
                if message is not real:
                    time.sleep(0.0005)  # the robot's reader keeps ten
    whole = serialize_message(real)
    for _ in range(100):
        damaged = bytearray(whole)
        for _ in range(chance.randrange(1, 8)):
            damaged[chance.randrange(4, len(damaged))] = chance.randrange(256)
        forger.publish(bytes(damaged[: chance.randrange(4, len(damaged))]))
    rig.pace('offload_server', 0.0)
    robot.ready()
    mostly_by_server(robot.play(60))
    for result in robot.since(first):
        robot.judge(result)
    after = Footprint(manager)
    print(f'manager before: {before}; after: {after}')
    assert after.rss - before.rss < GROWTH
    assert 'Traceback' not in manager.output
    robot.settle()


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    with rig_in(tmp_path, MODELS) as made:
        yield made


def test_heartbeats_of_servers_that_never_answer(rig: Rig) -> None:
    """Fake servers, bad names, more of them than any network has; then the real one is found."""
    manager = rig.manager()
    robot = Robot(rig)
    robot.flush()
    until(lambda: robot.play(5), 'the robot computes by itself')
    before = Footprint(manager)
    faker = rig.listener.publisher(ServerHeartbeat, '/offload/servers', HEARTBEAT)
    models = [ModelInfo(name='probe', hash=robot.model_hash)]

    def fake(name: str, session: str = 's', **fields: Any) -> None:
        faker.publish(ServerHeartbeat(server=name, session=session, models=models, **fields))
        time.sleep(0.001)

    for name in (
        '',
        'no slash',
        '/',
        '/a b',
        '/x//y',
        '/é',
        '/1x',
        '/a' * 200,
        '/a' * 99,
        '/ok/',
        '~',
        '{}',
    ):
        fake(name)
    for session in ('', '/', 'é', 'x y', 'x' * 500):
        fake('/fake', session)
    for index in range(1000):
        fake(f'/fake_{index}')
        if index % 100 == 0:
            robot.send()
    many = [ModelInfo(name=f'm{index}', hash='0') for index in range(3000)]
    faker.publish(ServerHeartbeat(server='/fake_0', session='s', models=many))
    result = robot.flush()
    assert (result.strategy_used, result.fallback) == ('device', True)
    assert 'is connecting' in result.reason

    server = rig.server()
    began_s = time.monotonic()
    # The fakes go on all the time: enough to hold all places, and now and then another one.
    others = itertools.cycle(range(MAX_SERVERS, 1000))

    def found() -> Any:
        for index in (*range(MAX_SERVERS), next(others)):
            fake(f'/fake_{index}')
        return robot.by_server('/offload_server', robot.since(first))

    first = robot.send()
    robot.play_until(found, 'the real server is found')
    print(f'the real server is used {time.monotonic() - began_s:.1f} s after its start')
    mostly_by_server(robot.play(60), '/offload_server')

    # Another node with the real one's name does not throw it out.
    first = robot.send()
    for _ in range(40):
        fake('/offload_server', 'another')
        robot.send()
        time.sleep(0.02)
    mostly_by_server(robot.since(first + 1), '/offload_server')
    manager.wait_for('two servers are named /offload_server', 1.0)
    # One that says in its name that it ends, but in another session, ends nothing.
    fake('/offload_server', 'another', closing=True)
    mostly_by_server(robot.play(40), '/offload_server')
    until(lambda: len(robot.statuses[-1].servers) == 1, 'the fakes are forgotten')
    after = Footprint(manager)
    print(f'manager before: {before}; after: {after}')
    assert after.rss - before.rss < GROWTH
    assert after.threads <= before.threads + 4
    assert after.files <= before.files + 4
    assert 'Traceback' not in manager.output
    robot.settle()
    stop_all(manager, server)
