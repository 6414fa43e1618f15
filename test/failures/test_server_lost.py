"""The server dies, hangs, ends or is one of two: who answers, and when it is used again."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
import signal
import time
from types import SimpleNamespace
from typing import Any

from promise import ALONE_S, STRATEGIES, by_robot, on_time, told
import pytest
from rig import (
    AT_ONCE_S,
    BACK_S,
    LOST_S,
    MODEL,
    SLOW,
    Rig,
    Robot,
    all_by_robot,
    kept,
    pixels_of,
    rig_in,
    stop_all,
)
from stranger import Stranger
from system import Process, until
import torch

from offload_ros.strategy import Frame
from offload_ros.wire.client import NoReply


@pytest.fixture
def rig(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Rig]:
    models = MODEL.replace(
        'outputs:', f'strategy: {getattr(request, "param", "server")}\n    outputs:'
    )
    with rig_in(tmp_path, models) as made:
        yield made


def frame_in_flight(rig: Rig, robot: Robot, delay_s: float = 60.0) -> int:
    """Send one frame and return when the server computes on it, which takes it ``delay_s``."""
    rig.pace('offload_server', delay_s)
    number = robot.send()
    rig.computing()
    assert robot.result_of(number) is None
    return number


def used_again(rig: Rig, robot: Robot, since_s: float) -> float:
    """Play until the server is used again; seconds since its first heartbeat after ``since_s``."""
    first = robot.send()
    robot.play_until(lambda: robot.by_server('', robot.since(first)), 'the server is used again')
    # The test may hear the server a little later than the robot does.
    heard_s = until(lambda: rig.beats('/offload_server', since_s), 'a heartbeat')[0][0]
    result = robot.by_server('', robot.since(first))[0]
    return robot.arrival_s(result.header.stamp.sec) - heard_s


def why_not_server(strategy: str) -> list[str]:
    """Of a frame in flight when the server is lost: with ``auto`` it may be overdue sooner."""
    overdue = [f'strategy {strategy} did not answer before the robot had to']
    return ['server /offload_server is lost', *(overdue if strategy == 'auto' else [])]


def call(other: Stranger, model_hash: str) -> tuple[str, float]:
    """Ask as a robot does, with much time; why there was no reply, and when that was known."""
    model: Any = SimpleNamespace(
        name='probe', hash=model_hash, config=SimpleNamespace(opaque_inputs=frozenset())
    )
    frame = Frame(1, {'image': torch.from_numpy(pixels_of(1))}, 0.0)
    server = next(each for each in other.directory.alive() if each.name == other.server)
    with pytest.raises(NoReply) as ended:
        other.client.call(server, model, frame, time.monotonic() + 60.0)
    return str(ended.value), time.monotonic()


def no_wait_while_away(robot: Robot, seconds: float, strategy: str = 'server') -> None:
    """The robot computes each frame by itself, at once."""
    away = robot.play(int(40 * seconds), 40.0)
    by_robot(strategy, away)
    assert max(r.total_s for r in away) < AT_ONCE_S


@pytest.mark.parametrize(('rig', 'strategy'), [(s, s) for s in STRATEGIES], indirect=['rig'])
def test_killed_and_stopped_server(rig: Rig, strategy: str) -> None:
    """kill -9 and SIGSTOP with a request in flight: known in 0.5 s; back in 2 s of a heartbeat.

    Each frame has its one right result in time, that in flight too.
    """
    manager, server = rig.manager(), rig.server()
    rig.pace('offload_manager', ALONE_S)
    robot = Robot(rig)
    robot.ready()
    robot.served()
    played = len(robot.results)

    number = frame_in_flight(rig, robot)
    server.send(signal.SIGKILL)
    killed_s = time.monotonic()
    until(lambda: robot.result_of(number), 'the frame in flight')
    known_s = robot.arrival_s(number) - ALONE_S - killed_s
    all_by_robot([robot.result_of(number)], *why_not_server(strategy))
    no_wait_while_away(robot, 1.0, strategy)
    server.ended()
    restarted_s = time.monotonic()
    server = rig.server()
    back_s = used_again(rig, robot, restarted_s)
    robot.served()
    print(f'killed: known after {known_s:.3f} s, used {back_s:.3f} s after its first heartbeat')
    known, back = [known_s], [back_s]

    # Stopped for so long that it takes the robot for gone; and for so short that its answer to the
    # old request comes when it goes on, unless the robot's new session ends the old one first.
    replies, stale = rig.eavesdropper(robot.name).replies, []
    for stopped_s in (5.0, 1.0, 1.0, 1.0, 1.0, 1.0):
        number = frame_in_flight(rig, robot, 0.8)
        before = len(replies)
        server.send(signal.SIGSTOP)
        halted_s = time.monotonic()
        until(lambda number=number: robot.result_of(number), 'the frame in flight')
        known_s = robot.arrival_s(number) - ALONE_S - halted_s
        all_by_robot([robot.result_of(number)], *why_not_server(strategy))
        no_wait_while_away(robot, stopped_s - (time.monotonic() - halted_s), strategy)
        rig.pace('offload_server', 0.0)
        continued_s = time.monotonic()
        server.send(signal.SIGCONT)
        back_s = used_again(rig, robot, continued_s)
        robot.served()
        stale += [r for r in replies[before:] if r.compute_s > 0.5]
        print(
            f'stopped: known after {known_s:.3f} s, used {back_s:.3f} s after its first '
            f'heartbeat, {len(stale)} stale replies'
        )
        known.append(known_s)
        back.append(back_s)
        if stale and stopped_s < 2.0:
            break
    assert stale, 'the server never answered the old request'
    kept(LOST_S, *known)
    kept(BACK_S, *back)
    robot.settle()
    timed = robot.results[played:]
    on_time(timed, 4.0)
    print(f'{strategy}: {told([r for _, r in timed])}')
    stop_all(manager, server)


def test_server_ended_in_order_while_many_requests_wait(rig: Rig) -> None:
    manager, server = rig.manager(), rig.server()
    robot = Robot(rig)
    robot.ready()
    other = rig.stranger('/other/offload_manager')
    robot.served()

    number = frame_in_flight(rig, robot, 1.5)
    with ThreadPoolExecutor(20) as callers:
        calls = [callers.submit(call, other, robot.model_hash) for _ in range(20)]
        until(lambda: rig.beats('/offload_server')[-1][1].queue_length == 20, 'twenty wait')
        server.send(signal.SIGINT)
        told_s = time.monotonic()
        until(lambda: robot.result_of(number), 'the frame in flight')
        assert robot.arrival_s(number) - told_s <= SLOW * LOST_S
        ends = [each.result() for each in calls]
    assert {why for why, _ in ends} == {'server /offload_server ended'}
    assert max(ended_s for _, ended_s in ends) - told_s <= SLOW * LOST_S
    all_by_robot([robot.result_of(number)], 'server /offload_server ended')
    all_by_robot(robot.play(20), 'no server is there (/offload_server ended)')
    assert server.ended() == 0, (
        server.output
    )  # by the one signal: a second one would cut its end short
    assert 'Traceback' not in server.output
    began_s = time.monotonic()
    server = rig.server()
    assert used_again(rig, robot, began_s) <= SLOW * BACK_S
    robot.served()
    robot.settle()
    stop_all(manager, server)


def test_other_server_takes_over_unless_one_is_pinned(rig: Rig) -> None:
    manager = rig.manager()
    servers: dict[str, Process] = {f'/{name}': rig.server(name) for name in ('ada', 'bob')}
    robot = Robot(rig)
    for name in servers:
        assert not rig.set_parameters(robot.name, server__name=name)
        robot.ready(name)
        robot.served(name)
    assert not rig.set_parameters(robot.name, server__name='')
    robot.served()

    used = robot.flush().plan.removeprefix('server ')
    (other,) = set(servers) - {used}
    servers[used].send(signal.SIGKILL)
    killed_s = time.monotonic()
    # The one that died may be asked until it is known to be dead, and each frame has its answer.
    first = robot.send()
    robot.play_until(lambda: robot.by_server(other, robot.since(first)), 'the other takes over')
    result = robot.by_server(other, robot.since(first))[0]
    took_s = robot.arrival_s(result.header.stamp.sec) - killed_s
    print(f'the other server took over after {took_s:.3f} s')
    assert took_s <= SLOW * LOST_S
    robot.served(other)

    servers[used].ended()
    servers[used] = rig.server(used.strip('/'))
    assert not rig.set_parameters(robot.name, server__name=used)
    robot.ready(used)
    robot.served(used)
    servers[used].send(signal.SIGKILL)
    killed_s = time.monotonic()
    robot.play_until(lambda: time.monotonic() - killed_s > SLOW * LOST_S, 'it is lost')
    all_by_robot(robot.play(40), f'server {used} is not there')
    robot.settle()
    stop_all(manager, servers[other])
