"""The server has no memory for a model's inference: it says so, lives on, and serves again."""

from __future__ import annotations

from pathlib import Path
import resource

from promise import ALONE_S, ATTEMPTS, at_once, back_in_time, counted, models, used_again_s
from rig import BACK_S, Rig, Robot, all_by_robot, rig_in, stop_all
from system import Process, until

# Of address space: what a server without memory still has for all else, and what an inference asks.
LEFT_BYTES, ASKED_BYTES = 1 << 30, 4 << 30
ERRORS = {
    'CPU': 'MemoryError',
    'CUDA': 'OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 GiB.',
    str(ASKED_BYTES): 'RuntimeError: ',  # torch's, where the system refuses it
}


def asks(rig: Rig, wanted: str) -> None:
    """What each inference on the server asks for from now on."""
    file = rig.pace_file('offload_server').with_suffix('.memory')
    new = file.with_suffix('.new')
    new.write_text(wanted)
    new.replace(file)


def limit(server: Process, left_bytes: int) -> None:
    """From now on the server gets no more address space than it has and so much."""
    pid = server.process.pid
    used = int(Path(f'/proc/{pid}/statm').read_text().split()[0]) * resource.getpagesize()
    resource.prlimit(pid, resource.RLIMIT_AS, (used + left_bytes, resource.RLIM_INFINITY))


def without_memory(robot: Robot, wanted: str) -> tuple[int, float]:
    """Play while inferences on the server ask for this; how many frames that were, and seconds
    until the server is used again."""
    asks(robot.rig, wanted)
    robot.play_until(lambda: robot.results[-1][1].strategy_used == 'device', 'it has no memory')
    results = robot.play(30, 20.0)
    all_by_robot(results, f"model 'probe' failed: {ERRORS[wanted]}")
    at_once(results)
    asks(robot.rig, '0')
    return len(results), used_again_s(robot)


def test_server_without_memory(tmp_path: Path) -> None:
    """An error of Python's, one of torch's, and a system that has none left: each frame has its
    one right result, at once by the robot, which knows why; the server's log says it, not with
    each frame; it is used again 2 s after there is memory."""
    with rig_in(tmp_path, models().replace('networks:Paced', 'networks:Hungry')) as rig:
        manager, server = rig.manager(), rig.server()
        rig.pace('offload_manager', ALONE_S)
        robot = Robot(rig)
        robot.ready()
        robot.served()
        limit(server, LEFT_BYTES)
        frames, took = 0, []
        for wanted in ERRORS:
            with counted(robot, f'no memory ({ERRORS[wanted]})'):
                robot.served()
                for _ in range(ATTEMPTS):
                    count, back_s = without_memory(robot, wanted)
                    frames += count
                    took.append(back_s)
                    if back_s <= BACK_S:
                        break
                robot.served()
        until(lambda: "model 'probe' failed: MemoryError" in server.output, 'the log says it')
        assert server.output.count("model 'probe' failed") < 0.5 * frames
        assert 'Traceback' not in server.output
        back_in_time(*took)
        stop_all(manager, server)
