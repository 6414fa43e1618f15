"""A robot, an access point and a server with a real network between them, on one Linux machine."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
import os
import threading
import time
from types import TracebackType
from typing import Any

from offload_ros.wire.trace import Trace

from . import link, quota
from .host import Host, TestbedError, unavailable


@dataclass(frozen=True)
class Settings:
    """What a testbed is like. Raises ValueError for a value out of range.

    mbit: rate each way in Mbit/s of TCP payload, as iperf prints it; up_mbit (robot to server) and
    down_mbit override it for one direction. rtt_s: round-trip time added to the machine's own
    (about 0.1 ms), half of it each way. loss: probability that a frame is lost, each way; equal
    `seed`, equal losses frame for frame. queue_bytes: what the access point holds back before it
    drops, each way. routed: robot and server in two subnets, without multicast between them.
    robot_slowdown: times that the robot's accelerator takes longer than this machine;
    server_speed: share of this machine's speed that the server's has. Both are handed to the
    processes in their environment (OFFLOAD_ROBOT_SLOWDOWN, OFFLOAD_SERVER_SPEED), which pace
    themselves. cpu_quota: share of a core for all of the robot's processes; None: no limit. pinned:
    the robot's and the server's processes each on one core of their own.
    """

    mbit: float = 93.0
    up_mbit: float | None = None
    down_mbit: float | None = None
    rtt_s: float = 0.0
    loss: float = 0.0
    seed: int = 0
    queue_bytes: int = 312_000
    routed: bool = False
    robot_slowdown: float = 1.0
    server_speed: float = 1.0
    cpu_quota: float | None = None
    pinned: bool = True

    def __post_init__(self) -> None:
        for mbit in (self.mbit, self.up_mbit, self.down_mbit):
            if mbit is not None:
                link.check_rate(mbit)
        rules = (
            (0.0 <= self.rtt_s <= 10.0, 'rtt_s', 'a time from 0 to 10 s'),
            (0.0 <= self.loss < 1.0, 'loss', 'a probability from 0 to below 1'),
            (self.queue_bytes >= 2 * link.MTU, 'queue_bytes', 'at least two frames (3000)'),
            (1.0 <= self.robot_slowdown <= 1000.0, 'robot_slowdown', 'a factor from 1 to 1000'),
            (0.001 <= self.server_speed <= 1.0, 'server_speed', 'a share from 0.001 to 1'),
        )
        for holds, name, rule in rules:
            if not holds:
                raise ValueError(f'{name} must be {rule}, not {getattr(self, name)}')


class Testbed:
    """A context manager: the network is there inside `with`, and gone after it.

        with Testbed(mbit=93, rtt_s=0.0026, loss=0.005) as bed:
            server = bed.server.popen(['python3', 'server.py'])
            robot = bed.robot.popen(['python3', 'robot.py', bed.server.ip])
            bed.cut()

    The keyword arguments are the fields of `Settings`. However this process ends, the kernel ends
    every process of the hosts and takes the network down; several testbeds can be up at once.
    Raises ValueError for settings out of range, TestbedError when the machine cannot do it.
    """

    __test__ = False  # not a test, whatever its name begins with

    robot: Host
    server: Host

    def __init__(self, **settings: Any) -> None:
        self.settings = Settings(**settings)
        self._replay: threading.Thread | None = None
        self._end_replay = threading.Event()
        self._replay_error: TestbedError | None = None

    def __enter__(self) -> Testbed:
        lacking = unavailable()
        if lacking:
            raise TestbedError(lacking)
        quota.sweep()
        with contextlib.ExitStack() as stack:
            self._build(stack)
            self._stack = stack.pop_all()
        return self

    def _build(self, stack: contextlib.ExitStack) -> None:
        settings = self.settings
        group = ''
        if settings.cpu_quota is not None:
            limit = quota.CpuQuota(settings.cpu_quota)
            stack.callback(limit.close)
            group = limit.processes
        server_ip = link.ROUTED_SERVER_IP if settings.routed else link.SERVER_IP
        # Nothing leaves the testbed, so discovery may use all of it, whatever the shell's setting.
        shared = {'ROS_AUTOMATIC_DISCOVERY_RANGE': 'SUBNET'}
        cores: list[int | None] = [*sorted(os.sched_getaffinity(0))]
        if len(cores) < 2 or not settings.pinned:
            cores = [None, None]

        def add(*arguments: Any) -> Host:
            host = Host(*arguments)
            stack.callback(host.close)
            return host

        peers = {'ROS_STATIC_PEERS': server_ip} if settings.routed else {}
        pace = {'OFFLOAD_ROBOT_SLOWDOWN': f'{settings.robot_slowdown:g}'}
        self.robot = add('robot', link.ROBOT_IP, {**shared, **peers, **pace}, cores[0], group)
        peers = {'ROS_STATIC_PEERS': link.ROBOT_IP} if settings.routed else {}
        pace = {'OFFLOAD_SERVER_SPEED': f'{settings.server_speed:g}'}
        self.server = add('server', server_ip, {**shared, **peers, **pace}, cores[1])
        self.access_point = add('access point')
        up, down = (
            settings.mbit if mbit is None else mbit
            for mbit in (settings.up_mbit, settings.down_mbit)
        )
        self._link = link.Link(
            (self.robot, self.access_point, self.server),
            up_mbit=up,
            down_mbit=down,
            rtt_s=settings.rtt_s,
            loss=settings.loss,
            seed=settings.seed,
            queue_bytes=settings.queue_bytes,
            routed=settings.routed,
        )
        stack.callback(self._link.close)
        stack.callback(self.stop_replay)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def set_rate(
        self, mbit: float | None = None, *, up: float | None = None, down: float | None = None
    ) -> None:
        """New rate in Mbit/s, both ways or one way; ends a replay.

        0 means next to nothing (0.1 Mbit/s): frames queue; with cut() they vanish.
        Raises ValueError for a rate that is negative or not finite, or none at all.
        """
        up, down = (mbit if up is None else up), (mbit if down is None else down)
        if up is None and down is None:
            raise ValueError('set_rate needs a rate: set_rate(93), set_rate(up=20) or (down=20)')
        for rate in (up, down):
            if rate is not None:
                link.check_rate(rate)
        self.stop_replay()
        self._link.set_rates(up, down)

    def cut(self) -> None:
        """A Wi-Fi outage: every frame vanishes, while the interfaces of both hosts stay up."""
        self._link.cut()

    def restore(self) -> None:
        """End of the outage."""
        self._link.restore()

    def replay(self, trace: Trace) -> None:
        """Let the rate follow a trace both ways, from its beginning and round again at its end."""
        self.stop_replay()
        self._replay = threading.Thread(target=self._follow, args=[trace], daemon=True)
        self._replay.start()

    def stop_replay(self) -> None:
        """Keep the rate that the trace has reached; TestbedError if the replay had failed."""
        if self._replay is not None:
            self._end_replay.set()
            self._replay.join()
            self._end_replay.clear()
            self._replay = None
        error, self._replay_error = self._replay_error, None
        if error is not None:
            raise error

    def _follow(self, trace: Trace) -> None:
        start_s = time.monotonic() - trace.times_s[0]
        try:
            while True:
                for time_s, mbit in zip(trace.times_s, trace.mbit, strict=True):
                    if self._end_replay.wait(max(0.0, start_s + time_s - time.monotonic())):
                        return
                    self._link.set_rates(mbit, mbit)
                start_s += trace.duration_s
        except (TestbedError, OSError) as error:
            self._replay_error = TestbedError(f'the trace is no longer replayed: {error}')
