"""Two servers, of which one has another version of the robot's model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
import signal

from promise import ALONE_S, ATTEMPTS, back_in_time, counted, models, used_again_s
import pytest
from rig import BACK_S, Rig, Robot, rig_in, stop_all
from system import Process, until

OFFSET = 1000.0  # what the other version adds to each result


@pytest.fixture
def rig(tmp_path: Path, strategy: str) -> Iterator[Rig]:
    with rig_in(tmp_path, models(strategy)) as made:
        yield made


def other_version(rig: Rig, name: str) -> Process:
    """A server whose model of the same name computes something else."""
    file = rig.folder / 'other.yaml'
    source = "source: {python: 'networks:Paced'"
    file.write_text(
        rig.models.read_text().replace(source, f'{source}, arguments: {{offset: {OFFSET}}}')
    )
    assert file.read_text() != rig.models.read_text()
    return rig.server(name, models_file=file)


def ends(process: Process) -> None:
    process.send(signal.SIGKILL)
    process.ended()


@pytest.mark.parametrize('strategy', ['server', pytest.param('auto', marks=pytest.mark.long)])
def test_result_is_never_of_another_version(rig: Rig, strategy: str) -> None:
    """The one right result for each frame, whichever servers come and go: by the server with the
    robot's version while that is there, else by the robot, which says why (auto: or by operators
    that the robot sends, rrto)."""
    manager, bob = rig.manager(), other_version(rig, 'bob')
    rig.pace('offload_manager', ALONE_S)
    robot = Robot(rig)
    alone = {'device'} if strategy == 'server' else {'device', 'rrto'}
    robot.flush()
    until(lambda: rig.beats('/bob'), 'the other version is there')
    with counted(robot, f'{strategy}, two versions') as count:
        robot.play_until(
            lambda: any("has another 'probe'" in r.reason for _, r in robot.results), 'why'
        )
        without = robot.play(10, 10.0)
        assert {r.strategy_used for r in without} <= alone

        ada = rig.server('ada')
        robot.ready('/ada')
        robot.served('/ada')
        # The idle one is not asked although this one has much to do.
        rig.pace('ada', ALONE_S / 2)
        robot.served('/ada', rate_hz=15.0)
        rig.pace('ada', 0.0)

        # The right one is gone; then one of its name has the other version; then it is back.
        ends(ada)
        robot.play_until(lambda: robot.results[-1][1].strategy_used in alone, 'it is lost')
        robot.play(10, 10.0)
        first = robot.send()
        ada = other_version(rig, 'ada')
        until(lambda: rig.session('/ada'), 'it is there')
        without = robot.play(20, 10.0)
        assert {r.strategy_used for r in robot.since(first)} <= alone
        took = []
        for _ in range(ATTEMPTS):
            ends(ada)
            ada = rig.server('ada')
            until(lambda: rig.session('/ada'), 'it is back')
            took.append(used_again_s(robot))
            if took[-1] <= BACK_S:
                break
        robot.served('/ada')
    assert not robot.by_server('/bob', count.results)
    assert len({r.model_hash for r in count.results}) == 1
    back_in_time(*took)
    stop_all(manager, ada, bob)
