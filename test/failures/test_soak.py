"""Many frames: results that never cross between robots, and a footprint that does not grow."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
import threading
from typing import Any

import pytest
from rig import Footprint, Rig, Robot, mostly_by_server, rig_in, stop_all

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
            played[index] = robots[index].play(count, 50.0)

        threads = [threading.Thread(target=play, args=(index,)) for index in (0, 1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for index in (0, 1):
            assert len(played[index]) > 0.9 * count
            mostly_by_server(played[index])

    play_both(frames // 2)
    for robot in robots:
        assert not rig.set_parameters(robot.name, server__name='/ada')
        robot.ready('/ada')
    play_both(frames // 2)
    for robot in robots:
        assert robot.settle() > 0.8 * frames  # judges each result by its own frame's content
    stop_all(*servers, *managers)


@pytest.mark.parametrize(
    ('frames', 'settled', 'growth'),
    [
        # Allocators go on filling their pools for a while: a leak of 4 kB a frame is found, by the
        # long one of 1 kB.
        pytest.param(1500, 500, 0.01, id='short'),
        pytest.param(10_000, 1000, 0.02, id='long', marks=pytest.mark.long),
    ],
)
def test_memory_threads_and_files_stay_constant(
    rig: Rig, frames: int, settled: int, growth: float
) -> None:
    nodes = {'manager': rig.manager(), 'server': rig.server()}
    robot = Robot(rig)
    robot.ready()
    played = robot.play(settled, RATE_HZ)
    before = {name: Footprint(process) for name, process in nodes.items()}
    results = robot.play(frames - settled, RATE_HZ)
    after = {name: Footprint(process) for name, process in nodes.items()}
    mostly_by_server(played + results)
    assert len(results) > 0.9 * (frames - settled)
    for name in nodes:
        share = after[name].rss / before[name].rss - 1.0
        print(f'{name}: {before[name]}; after {frames} frames: {after[name]} ({share:+.2%})')
        assert share < growth
        assert after[name].threads == before[name].threads
        assert after[name].files == before[name].files
    robot.settle()
    stop_all(*nodes.values())
