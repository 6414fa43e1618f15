"""The manager ends or dies with requests in flight: the server forgets it, a new one works."""

from __future__ import annotations

from pathlib import Path
import signal
import time

from rig import BACK_S, Footprint, Robot, kept, rig_in, robots_of, stop_all
from system import until


def test_server_forgets_a_manager_that_ended_or_died_and_serves_the_next(tmp_path: Path) -> None:
    """With a request in flight. Each frame that a manager accepted has its one right result, but
    the one in the hand of a manager that is killed; the next one uses the server within 2 s."""
    with rig_in(tmp_path) as rig:
        server, manager = rig.server(), rig.manager()
        told = robots_of(rig)
        robot = Robot(rig)
        robot.ready()
        robot.served()
        robot.settle()
        until(lambda: told and told[-1][1] == 1, 'one robot is connected')
        before = Footprint(server)

        # In order: the frame in hand is answered, by the robot, which waits for nobody.
        rig.pace('offload_server', 0.7)
        in_flight = robot.send()
        rig.computing()
        manager.send(signal.SIGINT)
        sent_s = time.monotonic()
        assert manager.ended() == 0, manager.output
        assert 'Traceback' not in manager.output
        until(lambda: robot.result_of(in_flight), 'the frame in flight')
        robot.judge(robot.result_of(in_flight))
        until(lambda: told[-1][0] > sent_s and told[-1][1] == 0, 'it is forgotten')
        print(f'forgotten {told[-1][0] - sent_s:.1f} s after its end')
        rig.pace('offload_server', 0.0)

        back = []
        for soon in (False, True):  # after its end, and at once after it was killed
            if soon:
                rig.pace('offload_server', 0.7)
                robot.send()
                rig.computing()
                manager.send(signal.SIGKILL)
                manager.ended()
                rig.pace('offload_server', 0.0)
            manager = rig.manager()
            first = len(robot.results)
            robot.ready()
            began_s = robot.results[first][0]
            used_s = next(at_s for at_s, r in robot.results[first:] if r.strategy_used == 'server')
            back.append(used_s - began_s)
            robot.served()
            robot.settle(first)
            until(lambda: told[-1][1] == 1, 'one robot is connected')
        print('server used', ', '.join(f'{each:.3f}' for each in back), 's after the first result')
        kept(BACK_S, *back)
        after = Footprint(server)
        print(f'server before: {before}; after: {after}')
        assert (after.threads, after.files) == (before.threads, before.files)
        stop_all(server, manager)
