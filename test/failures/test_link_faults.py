"""The link is cut, both ways or one, drops in the middle of a frame, loses packets, has spikes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
import time
from typing import Any

import numpy as np
from promise import (
    ALONE_S,
    ATTEMPTS,
    STRATEGIES,
    Stream,
    at_once,
    back_in_time,
    by_robot,
    counted,
    emulated,
    models,
    told,
    used_again_s,
)
import pytest
from rig import (
    AT_ONCE_S,
    BACK_S,
    LOST_S,
    PIXELS,
    SLOW,
    Rig,
    Robot,
    mostly_by_server,
    pixels_of,
    rig_in,
    stop_all,
)
from system import Process, random_pixels, until

LARGE = (200, 300)  # 180 kB
MBIT = 20.0  # one large frame takes 72 ms, a twentieth of it longer than the deadline
GOOD_S, BAD_S = 3.0, 60.0  # before and after the drop
# Cut off one way, a server goes on beating: the robot knows when the server has taken it for gone
# (2 s) and is silent itself (2 s).
UPLINK_LOST_S = 4.0
SPIKE_S = 0.2


class Sized(Robot):
    """A robot whose camera's frames are large while ``large`` is set."""

    def __init__(self, rig: Rig) -> None:
        super().__init__(rig)
        self.large = False
        self._large: dict[int, bool] = {}  # by number, as they were sent
        self._noise = random_pixels(7, *LARGE)  # no codec makes it less

    def pixels(self, number: int) -> np.ndarray:
        if not self._large.setdefault(number, self.large):
            return super().pixels(number)
        frame = self._noise.copy()
        frame.reshape(-1)[:PIXELS] = pixels_of(number).reshape(-1)
        return frame


Pair = tuple[Sized, Process, str]


@pytest.fixture(scope='module', params=STRATEGIES)
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Pair]:
    with rig_in(tmp_path_factory.mktemp('link'), models(request.param)) as rig:
        manager, server = rig.manager(), rig.server()
        rig.pace('offload_manager', ALONE_S)
        robot = Sized(rig)
        robot.ready()
        yield robot, manager, request.param
        stop_all(manager, server)


def known_lost(results: list[Any]) -> bool:
    """Whether a result tells that the server cannot be used now."""
    reasons = [r.reason for r in results if r.strategy_used == 'device']
    return any('no server is there' in why or 'is connecting' in why for why in reasons)


def cut_once(robot: Robot, strategy: str, direction: str) -> tuple[float, float]:
    """Cut the link and restore it; when that was known, and when the server was used again (s)."""
    with emulated(robot, cut=True, direction=direction):
        cut_s = time.monotonic()
        first = robot.send()
        robot.play_until(lambda: known_lost(robot.since(first)), 'it is lost')
        lost_s = time.monotonic() - cut_s
        away = robot.play(30, 20.0)
        by_robot(strategy, away)
        at_once(away)
        # Longer than the server waits for a robot: both begin anew.
        until(lambda: time.monotonic() - cut_s > 2.5, 'the server forgets the robot')
    return lost_s, used_again_s(robot)


@pytest.mark.parametrize('direction', ['both', 'up', 'down'])
def test_cut(pair: Pair, direction: str) -> None:
    """Each frame has its one right result in time; a cut server is known in 0.5 s (4 s where
    only the uplink is cut), then no frame waits for it; used again 2 s after the link is back."""
    robot, manager, strategy = pair
    robot.served()
    took = []
    said = manager.output.count('server /offload_server is lost: this robot')
    with counted(robot, f'{strategy}, cut {direction}'):
        for _ in range(ATTEMPTS):
            lost_s, back_s = cut_once(robot, strategy, direction)
            print(f'known after {lost_s:.3f} s')
            assert lost_s <= SLOW * LOST_S + (UPLINK_LOST_S if direction == 'up' else 0.0)
            took.append(back_s)
            if back_s <= BACK_S:
                break
    if direction != 'up':
        now = manager.output.count('server /offload_server is lost: this robot')
        assert now == said + len(took)
    back_in_time(*took)
    robot.served()


def test_loss(pair: Pair) -> None:
    """Of 2 % of all packets, both ways: each frame, also of many packets, has its one right result
    in time, nearly all by the server."""
    robot, _, strategy = pair
    robot.served()
    with counted(robot, f'{strategy}, 2 % loss') as count, emulated(robot, loss=0.02):
        robot.play(150, 40.0)
        robot.large = True
        robot.play(12, 6.0)
        robot.large = False
    assert len(robot.by_server('', count.results)) >= 0.9 * len(count.results)
    robot.served()


def test_delay_spikes(pair: Pair) -> None:
    """Of 200 ms each way, again and again: each frame has its one right result in time, the
    server is not taken for lost, and is used between spikes."""
    robot, manager, strategy = pair
    robot.served()
    said = manager.output.count('is lost: this robot')
    took = []
    with counted(robot, f'{strategy}, spikes') as count:
        for _ in range(5):
            with Stream(robot, 25.0), emulated(robot, delay_ms=1000.0 * SPIKE_S):
                time.sleep(0.5)
            took.append(used_again_s(robot))
            robot.play(10, 25.0)
    assert manager.output.count('is lost: this robot') == said
    slow = [r for r in count.results if r.strategy_used == 'server' and r.total_s > SPIKE_S]
    overdue = [r for r in count.results if r.reason.endswith('before the robot had to')]
    assert slow or (strategy == 'auto' and overdue), 'no frame met a spike'
    back_in_time(*took)
    robot.served()


def drop_once(robot: Robot, strategy: str, trace: Path) -> float:
    """Play while the link is as the trace says, and until the server is used again (s)."""
    robot.ready()
    with emulated(robot, trace=str(trace)):
        began_s = time.monotonic()
        first = robot.send()
        robot.play_until(
            lambda: any(r.fallback for r in robot.since(first)), 'it drops', rate_hz=20.0
        )
        assert 0.5 * GOOD_S < time.monotonic() - began_s < GOOD_S + SLOW
        good, caught = split(robot.since(first))
        mostly_by_server(good, share=0.1)
        assert caught.strategy_used == 'device'
        assert caught.reason
        by_robot(strategy, robot.play(20, 10.0))
    return used_again_s(robot)


def test_bandwidth_drops_within_a_frame(pair: Pair, tmp_path: Path) -> None:
    """20-fold, while a frame's bytes are on their way: the robot computes it, and those that
    follow, by itself in time; used again 2 s after the link is as before."""
    robot, _, strategy = pair
    trace = tmp_path / 'drop.csv'
    trace.write_text(f'0,{MBIT}\n{GOOD_S},{MBIT / 20.0}\n{GOOD_S + BAD_S},{MBIT}\n')
    robot.served()
    robot.large = True
    took = []
    with counted(robot, f'{strategy}, bandwidth drops'):
        for _ in range(ATTEMPTS):
            took.append(drop_once(robot, strategy, trace))
            if took[-1] <= BACK_S:
                break
    robot.large = False
    back_in_time(*took)
    robot.served()


def split(results: list[Any]) -> tuple[list[Any], Any]:
    """Those before the first that the robot had to compute, and this one."""
    at = next(index for index, result in enumerate(results) if result.fallback)
    return results[:at], results[at]


def test_what_cannot_fit_comes_as_soon_as_it_can_and_is_marked_late(pair: Pair) -> None:
    """Without a link, and a robot that takes longer than its deadline."""
    robot, _, strategy = pair
    alone_s, before = 0.5, len(robot.results)
    robot.rig.pace('offload_manager', alone_s)
    assert not robot.rig.set_parameters(robot.name, probe__deadline_ms=200.0)
    with emulated(robot, cut=True):
        first = robot.send()
        robot.play_until(lambda: known_lost(robot.since(first)), 'it is lost')
        away = robot.play(10, 5.0)
        by_robot(strategy, away)
        for result in away:
            assert result.late
            assert alone_s <= result.total_s < alone_s + AT_ONCE_S
    robot.ready()
    robot.settle()
    print(f'{strategy}, too slow a robot: {told([r for _, r in robot.results[before:]])}')
