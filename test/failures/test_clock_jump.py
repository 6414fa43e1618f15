"""The clock jumps, a simulation's or the wall clock: nothing but stamps may follow it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
import subprocess
import sys
import threading
import time

from promise import ALONE_S, DEADLINE_S, at_once, counted, models
import pytest
from rig import AT_ONCE_S, Rig, Robot, mostly_by_server, rig_in, stop_all
from rosgraph_msgs.msg import Clock
from system import until

WRAPPER = Path(__file__).parent / 'stepped_clock.py'
HOUR_S = 3600.0
SERVER_S = 0.3  # of a frame that is in flight while the clock jumps


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    with rig_in(tmp_path, models()) as made:
        yield made


class SimulatedTime:
    """Publishes /clock, whatever it says, until the block ends; ``rate`` 0: it stands."""

    def __init__(self, rig: Rig) -> None:
        self.now_s, self.rate = 1000.0, 1.0
        self._publisher = rig.listener.publisher(Clock, '/clock')
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)

    def _work(self) -> None:
        while not self._stop.wait(0.02):
            self.now_s += 0.02 * self.rate
            message = Clock()
            message.clock.sec = int(self.now_s)
            message.clock.nanosec = int(self.now_s % 1.0 * 1e9)
            self._publisher.publish(message)

    def __enter__(self) -> SimulatedTime:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def jumps_change_nothing(robot: Robot, jumps: dict[str, Callable[[], None]]) -> None:
    """With each jump: frames in flight, frames after it, and one that its server answers too late.

    Frames are answered by the server in the time that it takes, and at the deadline by the robot.
    """
    rig = robot.rig
    robot.ready()
    robot.served()
    for name, jump in jumps.items():
        with counted(robot, name):
            rig.pace('offload_server', SERVER_S)
            number = robot.send()
            time.sleep(SERVER_S / 3)
            jump()
            flying = until(lambda n=number: robot.result_of(n), 'the frame in flight')
            mostly_by_server([flying])
            assert SERVER_S <= flying.total_s < SERVER_S + AT_ONCE_S
            rig.pace('offload_server', 0.0)
            after = robot.served()
            at_once(after)

            rig.pace('offload_server', 1.5 * DEADLINE_S)
            number = robot.send()
            time.sleep(SERVER_S)
            jump()
            late = until(lambda n=number: robot.result_of(n), 'one that the server answers late')
            assert late.fallback
            assert DEADLINE_S - 2 * ALONE_S < late.total_s < DEADLINE_S + AT_ONCE_S
            rig.pace('offload_server', 0.0)
            robot.ready()
        for result in (flying, late, *after):
            parts = (result.robot_s, result.uplink_s, result.server_s, result.downlink_s)
            assert min(parts) >= 0.0
            assert sum(parts) == pytest.approx(result.total_s, abs=1e-3)
            # As the test saw it, on its own steady clock.
            number = result.header.stamp.sec
            assert result.total_s <= robot.arrival_s(number) - robot.sent_s[number] + 1e-3


def test_simulated_time_jumps_and_stands(rig: Rig) -> None:
    """Forwards, back to its beginning, and not at all: each frame has its one right result,
    in time, with the latencies that it had, by the server as before."""
    manager, server = rig.manager(use_sim_time=True), rig.server(use_sim_time=True)
    rig.pace('offload_manager', ALONE_S)
    robot = Robot(rig)
    with SimulatedTime(rig) as clock:

        def by(seconds: float) -> None:
            clock.now_s = max(0.0, clock.now_s + seconds)

        def stands() -> None:
            clock.rate = 0.0

        jumps_change_nothing(
            robot,
            {
                'an hour on': lambda: by(HOUR_S),
                'to its beginning': lambda: by(-10 * HOUR_S),
                'stands': stands,
            },
        )
        # It was this clock that they had.
        count = len(robot.statuses)
        clock.now_s = 77.0
        until(lambda: len(robot.statuses) > count + 2, 'a status')
        assert robot.statuses[-1].header.stamp.sec == 77
    stop_all(manager, server)


def test_wall_clock_of_manager_and_server_steps(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """By years, as when a robot first hears the time: as above."""
    step = tmp_path / 'step'
    step.write_text('0.0')
    monkeypatch.setenv('CLOCK_STEP', str(step))
    rig.through = [sys.executable, str(WRAPPER)]
    manager, server = rig.manager(), rig.server()
    rig.pace('offload_manager', ALONE_S)
    robot = Robot(rig)

    def by(seconds: float) -> None:
        new = step.with_suffix('.new')
        new.write_text(str(float(step.read_text()) + seconds))
        new.replace(step)

    jumps_change_nothing(
        robot,
        {
            'a year on': lambda: by(365 * 24 * HOUR_S),
            'a minute on': lambda: by(60.0),
            'two years back': lambda: by(-2 * 365 * 24 * HOUR_S),
        },
    )
    stop_all(manager, server)


def test_the_wrapper_steps_what_python_looks_at(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    step, program = tmp_path / 'step', tmp_path / 'program.py'
    step.write_text('1e9')
    program.write_text(
        'import time\n'
        'print(time.time(), time.time_ns() / 1e9, time.clock_gettime(time.CLOCK_REALTIME), '
        'time.monotonic())'
    )
    monkeypatch.setenv('CLOCK_STEP', str(step))
    before_s = (time.time(), time.monotonic())
    told = subprocess.run([sys.executable, WRAPPER, program], capture_output=True, check=True)
    *wall_s, steady_s = (float(word) for word in told.stdout.split())
    assert all(1e9 <= each - before_s[0] < 1e9 + 60.0 for each in wall_s)
    assert 0.0 <= steady_s - before_s[1] < 60.0
