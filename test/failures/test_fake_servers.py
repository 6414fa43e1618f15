"""Servers that are none: they only beat, they take another's name, they answer with nonsense."""

from __future__ import annotations

from collections.abc import Callable, Iterator
import itertools
from pathlib import Path
import random
import struct
import time
from typing import Any

import numpy as np
import pytest
from rig import MODEL, Footprint, Rig, Robot, mostly_by_server, rig_in, stop_all
from stranger import Liar
from system import until
import torch

from offload_ros.msg import ModelInfo, ServerHeartbeat
from offload_ros.nodes.topics import HEARTBEAT
from offload_ros.wire.directory import MAX_SERVERS
from offload_ros.wire.exchange import Reply, Request, Status
from offload_ros.wire.framing import MAX_HEADER_BYTES, frame_reply

GROWTH = 20e6  # bytes
# Of the largest lie. Each is told nine times more: what kept them would hold far more than one.
ONE_LIE = 80e6
BAD_NAMES = ('', 'no slash', '/', '/a b', '/x//y', '/é', '/1x', '/a' * 200, '/a' * 99, '/ok/', '~')
SESSION = '0123456789abcdef'
# Longer than any answer of the liars takes; the robot begins in time before it.
DEADLINE_S = 1.0


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    with rig_in(tmp_path, MODEL.replace('4000.0', str(1000 * DEADLINE_S))) as made:
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

    def fake(name: str, session: str = SESSION, **fields: Any) -> None:
        faker.publish(ServerHeartbeat(server=name, session=session, models=models, **fields))
        time.sleep(0.001)

    for name in (*BAD_NAMES, '{}'):
        fake(name)
    for session in ('', '/', 'é', 'x y', 'x' * 500, 'x' * 16, SESSION[:-1], SESSION.upper()):
        fake('/fake', session)
    for index in range(1000):
        fake(f'/fake_{index}')
        if index % 100 == 0:
            robot.send()
    many = [ModelInfo(name=f'm{index}', hash='0') for index in range(3000)]
    faker.publish(ServerHeartbeat(server='/fake_0', session=SESSION, models=many))

    def connecting() -> bool:
        fake('/fake_0')  # a fake that is silent for long is forgotten
        result = robot.flush()
        assert (result.strategy_used, result.fallback) == ('device', True)
        return 'is connecting' in result.reason

    until(connecting, 'the reason')

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
    robot.served('/offload_server')

    # Another node with the real one's name does not throw it out.
    first = robot.send()
    for _ in range(40):
        fake('/offload_server', SESSION)
        robot.send()
        time.sleep(0.02)
    mostly_by_server(robot.since(first + 1), '/offload_server')
    manager.wait_for('two servers are named /offload_server')
    # One that says in its name that it ends, but in another session, ends nothing.
    fake('/offload_server', SESSION, closing=True)
    mostly_by_server(robot.play(60), '/offload_server')  # from the first frame on
    until(lambda: len(robot.statuses[-1].servers) == 1, 'the fakes are forgotten')
    until(lambda: Footprint(manager).threads <= before.threads + 3, 'their threads ended')
    after = Footprint(manager)
    print(f'manager before: {before}; after: {after}')
    assert after.rss - before.rss < GROWTH
    assert after.files <= before.files + 4
    assert 'Traceback' not in manager.output
    robot.settle()
    stop_all(manager, server)


def lies(chance: random.Random) -> list[Callable[[Request], Reply | bytes]]:
    """Answers (of a request) that are none, each wrong in another way."""

    def reply(request: Request, seq: int = 0, **fields: Any) -> Reply:
        good = {'status': Status.OK, 'outputs': {'mean': torch.ones(1, dtype=torch.double)}}
        return Reply('', '', '', request.seq + seq, **{**good, **fields})

    def framed(request: Request) -> bytearray:
        return bytearray(b''.join(frame_reply(reply(request)).buffers))

    def damaged(request: Request) -> bytes:
        whole = framed(request)
        for _ in range(4):
            # In the header: what is wrong in the data alone is another result, as anyone may say.
            whole[chance.randrange(4, 100)] = chance.randrange(128)
        return bytes(whole[:-8])

    ones = torch.ones(int(ONE_LIE) // 8, dtype=torch.double)
    # Too large on the wire however it is coded.
    noise = torch.rand(int(ONE_LIE) // 8, dtype=torch.double)
    return [
        lambda request: reply(request, outputs={}),
        lambda request: reply(request, outputs={'other': torch.ones(1)}),
        lambda request: reply(request, status=Status.ERROR, detail='no\n[ERROR] fire' * 100),
        lambda request: reply(request, status=Status.BUSY),
        lambda request: reply(request, status=Status.EXPIRED),
        lambda request: bytes(framed(request)[:-1]),
        lambda request: bytes(framed(request)).replace(b'"status": 0', b'"status": 9'),
        lambda request: bytes(framed(request)).replace(b'[1]', b'[9]'),
        lambda request: b'',
        lambda request: b'xyz',
        lambda request: struct.pack('<I', 100_000) + b'[' * 100_000,
        lambda request: struct.pack('<I', MAX_HEADER_BYTES) + b' ' * MAX_HEADER_BYTES,
        lambda request: reply(request, outputs={'mean': ones}),
        lambda request: reply(request, outputs={'mean': noise}),
        lambda request: chance.randbytes(1000),
        damaged,
        damaged,
    ]


def test_server_that_answers_with_nonsense_costs_no_result(rig: Rig) -> None:
    """The session is in order, the model's hash is right: only the answers are not."""
    manager, server = rig.manager(), rig.server()
    robot = Robot(rig)
    robot.ready()
    answers = lies(random.Random(9))
    numbers = itertools.count()

    def lie(request: Request) -> Reply | bytes:
        return answers[next(numbers) % len(answers)](request)

    liar = Liar(rig.domain, '/a_liar', robot.model_hash, lie)
    try:
        assert not rig.set_parameters(robot.name, server__name='a_liar')
        first = robot.send()
        # Each once, so that the largest is among what was taken before.
        robot.play_until(lambda: liar.asked > len(answers), 'the liar is asked', rate_hz=100.0)
        before = Footprint(manager)
        robot.play_until(lambda: liar.asked > 10 * len(answers), 'all lies are told', rate_hz=100.0)
        robot.flush()
        lied = robot.since(first)
        assert not robot.by_server('/a_liar', lied)
        # The robot need not wait for its deadline to know that an answer is none.
        quick_s = float(np.quantile([r.total_s for r in lied], 0.95))
        print(f'{liar.asked} lies, 95 % of the results within {quick_s:.3f} s')
        assert quick_s < DEADLINE_S / 2
        reasons = ' '.join({r.reason for r in lied})
        for text in (
            'sent a bad reply',
            'answered with outputs',
            'did not reach the robot',
            '[ERROR] fire',
        ):
            assert text in reasons, text
        assert '\n' not in reasons
        assert not rig.set_parameters(robot.name, server__name='')
    finally:
        liar.close()
    robot.ready('/offload_server')
    robot.served('/offload_server')
    after = Footprint(manager)
    print(f'manager before: {before}; after: {after}')
    assert after.rss - before.rss < ONE_LIE
    assert 'Traceback' not in manager.output
    robot.settle()
    stop_all(manager, server)
