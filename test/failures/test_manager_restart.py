"""The robot's manager ends or dies with requests in flight: the server forgets it, a new one works."""

from __future__ import annotations

from pathlib import Path
import signal
import time

from diagnostic_msgs.msg import DiagnosticArray
from rig import Footprint, Rig, Robot, mostly_by_server, rig_in, stop_all
from system import until


def robots_of(rig: Rig) -> list[tuple[float, int]]:
    """How many robots the server's diagnostics tell, with the time; grows."""
    told: list[tuple[float, int]] = []

    def take(message: DiagnosticArray) -> None:
        for status in message.status:
            values = {each.key: each.value for each in status.values}
            if status.name == '/offload_server: load':
                told.append((time.monotonic(), int(values['robots'])))

    rig.listener.node.create_subscription(DiagnosticArray, '/diagnostics', take, 10)
    return told


def test_server_forgets_a_manager_that_ended_or_died_and_serves_the_next(tmp_path: Path) -> None:
    with rig_in(tmp_path) as rig:
        server, manager = rig.server(), rig.manager()
        told = robots_of(rig)
        robot = Robot(rig)
        footprint = None
        for number in (signal.SIGINT, signal.SIGKILL):
            first = len(robot.results)
            robot.ready()
            mostly_by_server(robot.play(60))
            robot.settle(first)
            until(lambda: told and told[-1][1] == 1, 'one robot is connected')
            footprint = footprint or Footprint(server)
            rig.pace('offload_server', 0.7)
            in_flight = robot.send()
            rig.computing()
            manager.send(number)
            sent_s = time.monotonic()
            if number == signal.SIGINT:
                # In order: the frame in hand is answered, by the robot, which waits for nobody.
                assert manager.ended() == 0, manager.output
                assert 'Traceback' not in manager.output
                until(lambda n=in_flight: robot.result_of(n), 'the frame in flight')
                robot.judge(robot.result_of(in_flight))
            manager.ended()
            rig.pace('offload_server', 0.0)
            until(lambda s=sent_s: told[-1][0] > s and told[-1][1] == 0, 'it is forgotten')
            print(f'forgotten {told[-1][0] - sent_s:.1f} s after signal {number}')
            manager = rig.manager()

        # At once, before the old session is silent for long: the new one takes its place.
        first = len(robot.results)
        robot.ready()
        in_flight = robot.send()
        robot.flush()
        manager.send(signal.SIGKILL)
        manager.ended()
        manager = rig.manager()
        first = len(robot.results)
        robot.ready()
        mostly_by_server(robot.play(60))
        until(lambda: told[-1][1] == 1, 'one robot is connected')
        robot.settle(first)
        assert footprint is not None
        after = Footprint(server)
        print(f'server before: {footprint}; after: {after}')
        assert (after.threads, after.files) == (footprint.threads, footprint.files)
        stop_all(server, manager)
