"""Many frames: results that never cross between robots, and a footprint that does not grow."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
import threading
from typing import Any

import pytest
from rig import Footprint, Rig, Robot, rig_in, stop_all

RATE_HZ = 130.0


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    with rig_in(tmp_path) as made:
        yield made


@pytest.mark.parametrize('frames', [200, pytest.param(2000, marks=pytest.mark.long)])
def test_results_of_two_robots_with_two_servers_never_cross(rig: Rig, frames: int) -> None:
    servers = [rig.server(name) for name in ('ada', 'bob')]
    managers = [rig.manager(namespace) for namespace in ('one', 'two')]
    robots = [Robot(rig, 'one'), Robot(rig, 'two', base=20_000)]
    played: dict[int, list[Any]] = {}
    for index, robot in enumerate(robots):
        robot.ready()
        # Crosswise and, in the second half, both on one server.
        assert not rig.set_parameters(robot.name, server__name=('/ada', '/bob')[index])
        robot.ready(('/ada', '/bob')[index])

    def play_both(count: int) -> None:
        def play(index: int) -> None:
            played[index] = robots[index].served(frames=count, rate_hz=50.0)

        threads = [threading.Thread(target=play, args=(index,)) for index in (0, 1)]
        played.clear()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        # A slow machine takes up fewer frames.
        assert all(len(played[index]) > 0.2 * count for index in (0, 1))

    play_both(frames // 2)
    for robot in robots:
        assert not rig.set_parameters(robot.name, server__name='/ada')
        robot.ready('/ada')
    play_both(frames // 2)
    for robot in robots:
        assert robot.settle() > 0.2 * frames  # judges each result by its own frame's content
    stop_all(*servers, *managers)


@pytest.mark.parametrize(
    ('frames', 'settled', 'growth'),
    [
        # Allocators go on filling their pools for a while: a leak of 5 kB a frame is found, by the
        # long one of 1 kB.
        pytest.param(1200, 400, 0.01, id='short'),
        pytest.param(10_000, 1000, 0.02, id='long', marks=pytest.mark.long),
    ],
)
def test_memory_threads_and_files_stay_constant(
    rig: Rig, frames: int, settled: int, growth: float
) -> None:
    """Over so many frames that were answered, all but the first ``settled`` of them judged."""
    nodes = {'manager': rig.manager(), 'server': rig.server()}
    robot = Robot(rig)
    robot.ready()
    answered(robot, settled)
    for _ in range(3):  # a pool may still fill once; a leak goes on
        before = {name: Footprint(process) for name, process in nodes.items()}
        count = answered(robot, frames - settled)
        after = {name: Footprint(process) for name, process in nodes.items()}
        shares = {name: after[name].rss / before[name].rss - 1.0 for name in nodes}
        for name in nodes:
            print(f'{name}: {before[name]}; {count} frames later: {after[name]}')
        if max(shares.values()) < growth:
            break
    assert max(shares.values()) < growth, shares
    for name in nodes:
        assert after[name].threads == before[name].threads
        assert after[name].files == before[name].files
    assert robot.settle() >= frames
    stop_all(*nodes.values())


def answered(robot: Robot, frames: int) -> int:
    """Play until so many frames, at least, have their results, by the server; how many they are."""
    count = 0
    while count < frames:  # a slow machine takes up fewer at a time
        count += len(robot.served(frames=frames - count, rate_hz=RATE_HZ))
    return count
