"""A server that becomes slow, and quick again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
import time

from promise import (
    ALONE_S,
    ATTEMPTS,
    STRATEGIES,
    back_in_time,
    by_robot,
    counted,
    models,
    used_again_s,
)
import pytest
from rig import BACK_S, Rig, Robot, rig_in, stop_all

SLOW_S = 1.5  # longer than the deadline


@pytest.fixture
def rig(tmp_path: Path, strategy: str) -> Iterator[Rig]:
    with rig_in(tmp_path, models(strategy)) as made:
        yield made


@pytest.mark.parametrize('strategy', STRATEGIES)
def test_slow_server(rig: Rig, strategy: str) -> None:
    """Each frame has its one right result in time, by the robot; strategy auto lets it begin at
    once now and then. The server is used again 2 s after the last slow computation has ended."""
    manager, server = rig.manager(), rig.server()
    rig.pace('offload_manager', ALONE_S)
    robot = Robot(rig)
    robot.ready()
    took = []
    with counted(robot, f'{strategy}, slow server'):
        robot.served()
        for _ in range(ATTEMPTS):
            rig.pace('offload_server', SLOW_S)
            robot.play_until(lambda: robot.results[-1][1].strategy_used == 'device', 'it is slow')
            slow = robot.play(60, 20.0)
            by_robot(strategy, slow)
            if strategy == 'auto':
                assert not all(r.fallback for r in slow)
            rig.pace('offload_server', 0.0)
            time.sleep(SLOW_S)  # what it computes has begun before
            took.append(used_again_s(robot))
            if took[-1] <= BACK_S:
                break
        robot.served()
    back_in_time(*took)
    stop_all(manager, server)
