"""The testbed's link: what lies between robot and server, all of it in the access point.

    robot eth0 - robot [cell] air_robot - air_server [lan] server - eth0 server

`cell` and `lan` are bridges; `air_robot` and `air_server` are the two ends of the air: a veth pair,
or two TAP interfaces with bridge.py between them when there is delay or loss. Rates hold at the
entries of the air, so that a frame is first queued for the link, then travels, then may be lost:
what is lost has used the link, and bridge.py never sees more than the link's rate.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
import select
import subprocess
import sys
from typing import Any

from .host import Host, HostProcess, TestbedError, call

MTU = 1500  # bytes
# A full frame over the TCP payload in it (20 B IP, 20 B TCP, 12 B time stamps): rates are given as
# what a TCP transfer gets, as iperf prints them, and tbf counts frames.
FRAME_PER_PAYLOAD = (MTU + 14) / (MTU - 52)
LOWEST_MBIT = 0.1  # tbf has no zero; one full frame per 0.12 s
# A sender hands its kernel bundles of frames. tbf takes apart those above the burst; one that has
# queued and is above the burst of a later, lower rate would be held for ever. So bundles are
# limited, and every burst takes one, and what a timer that comes late would forfeit. After a pause
# the burst passes at once: 0.3 ms of 450 Mbit/s, 0.7 of 93, 2.6 of 20.
_BUNDLE_FRAMES = 4  # single frames would cost the sender a third of 450 Mbit/s
_LATE_S = 2e-4
ROBOT_IP, SERVER_IP = '10.77.0.1', '10.77.0.2'
ROUTED_SERVER_IP = '10.77.1.2'
_ROBOT_GATEWAY, _SERVER_GATEWAY = '10.77.0.254', '10.77.1.254'
_BRIDGE = 'type bridge stp_state 0 forward_delay 0 mcast_snooping 0'


def shaping(device: str, mbit: float, queue_bytes: int) -> str:
    """The arguments of `tc qdisc add` or `change` that set a device to `mbit` of TCP payload."""
    bits_per_s = max(mbit, LOWEST_MBIT) * 1e6 * FRAME_PER_PAYLOAD
    burst = _BUNDLE_FRAMES * (MTU + 14) + math.ceil(bits_per_s / 8 * _LATE_S)
    return (
        f'dev {device} root tbf rate {round(bits_per_s)}bit burst {burst} '
        f'limit {max(queue_bytes, burst)}'
    )


def check_rate(mbit: float) -> float:
    """`mbit` itself; ValueError unless it is finite and not negative."""
    if not (math.isfinite(mbit) and mbit >= 0.0):
        raise ValueError(f'a rate must be a number of Mbit/s, 0 or more, not {mbit}')
    return mbit


def _said(process: subprocess.Popen[Any]) -> str:
    """What an ended helper left on its standard error, which its own child may still hold open."""
    assert process.stderr is not None
    if not select.select([process.stderr], [], [], 0.0)[0]:
        return f'exit status {process.returncode}'
    said = os.read(process.stderr.fileno(), 10_000).decode(errors='replace').strip()
    return said or f'exit status {process.returncode}'


class Link:
    """Joins robot and server through the access point and changes the link while it is used.

    up_mbit, down_mbit: rates in Mbit/s of TCP payload. rtt_s: added round-trip time, half of it
    each way. loss: probability that a frame is lost, each way. queue_bytes: the queue in front of
    the air, each way. routed: two subnets with a router instead of one, so no multicast.
    Raises TestbedError when the interfaces cannot be made.
    """

    def __init__(
        self,
        hosts: tuple[Host, Host, Host],
        *,
        up_mbit: float,
        down_mbit: float,
        rtt_s: float,
        loss: float,
        seed: int,
        queue_bytes: int,
        routed: bool,
    ) -> None:
        robot, self._point, server = hosts
        self._queue_bytes = queue_bytes
        self._bridge: HostProcess | None = None
        self._tc: subprocess.Popen[str] | None = None
        self._ip(
            f'link add robot type veth peer name eth0 netns {robot.pid}',
            f'link add server type veth peer name eth0 netns {server.pid}',
            f'link add cell {_BRIDGE}',
            f'link add lan {_BRIDGE}',
        )
        if rtt_s > 0.0 or loss > 0.0:
            self._start_bridge(rtt_s / 2, loss, seed)
        else:
            self._ip('link add air_robot type veth peer name air_server')
        self._ip(
            'link set air_robot master cell',
            'link set air_server master lan',
            'link set robot master cell',
            *([] if routed else ['link set server master lan']),
            *(
                f'link set {device} up'
                for device in ('cell', 'lan', 'robot', 'server', 'air_robot', 'air_server')
            ),
        )
        if routed:
            self._ip(
                f'address add {_ROBOT_GATEWAY}/24 dev lan',
                f'address add {_SERVER_GATEWAY}/24 dev server',
            )
            # Only `lan` may answer for the gateway: `cell` would lead past the air.
            self._sysctl(self._point, 'conf/all/arp_ignore', 'ip_forward')
        for host, gateway in ((robot, _ROBOT_GATEWAY), (server, _SERVER_GATEWAY)):
            self._address(host, gateway if routed else None)
        directions = (('air_robot', up_mbit), ('air_server', down_mbit))
        lines = [f'qdisc add {shaping(d, m, queue_bytes)}' for d, m in directions]
        call(self._point.tool('tc', '-batch', '-'), lines)
        self._tc = subprocess.Popen(
            self._point.tool('tc', '-batch', '-'),
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            bufsize=1,
            start_new_session=True,
        )

    def _ip(self, *lines: str) -> None:
        call(self._point.tool('ip', '-batch', '-'), lines)

    def _start_bridge(self, delay_s: float, loss: float, seed: int) -> None:
        script = [sys.executable, '-I', str(Path(__file__).with_name('bridge.py'))]
        self._bridge = self._point.popen(
            [*script, 'air_robot', 'air_server', str(delay_s), str(loss), str(seed)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self._bridge.stdout is not None and self._bridge.stderr is not None
        if self._bridge.stdout.readline() != 'ready\n':
            reason = self._bridge.stderr.read().strip().splitlines()[-1:] or ['it ended']
            raise TestbedError(
                f'delay and loss need TAP interfaces (/dev/net/tun), but: {reason[0]}'
            )

    @staticmethod
    def _sysctl(host: Host, *names: str) -> None:
        for name in names:
            call(host.tool('sh', '-c', f'echo 1 >/proc/sys/net/ipv4/{name}'))

    def _address(self, host: Host, gateway: str | None) -> None:
        lines = [
            f'address add {host.ip}/24 dev eth0',
            f'link set eth0 gso_max_segs {_BUNDLE_FRAMES} up',
        ]
        if gateway is not None:
            lines.append(f'route add default via {gateway}')
        lines.append('route add 224.0.0.0/4 dev eth0')  # DDS discovery
        call(host.tool('ip', '-batch', '-'), lines)
        # A connection must not start with what an earlier one learned about the link.
        self._sysctl(host, 'tcp_no_metrics_save')

    def check(self) -> None:
        """Raise TestbedError when a helper of the link has died."""
        for process, name in ((self._bridge, 'bridge'), (self._tc, 'tc')):
            if process is not None and process.poll() is not None:
                raise TestbedError(f'the {name} of the link has ended: {_said(process)}')

    def set_rates(self, up_mbit: float | None, down_mbit: float | None) -> None:
        """New rates in Mbit/s of TCP payload, in force within some milliseconds; None keeps one."""
        self.check()
        assert self._tc is not None and self._tc.stdin is not None
        for device, mbit in (('air_robot', up_mbit), ('air_server', down_mbit)):
            if mbit is not None:
                self._tc.stdin.write(f'qdisc change {shaping(device, mbit, self._queue_bytes)}\n')
        self._tc.stdin.flush()

    def cut(self) -> None:
        """Every frame vanishes from now on; the interfaces of robot and server stay up."""
        self._ip('link set air_robot nomaster')

    def restore(self) -> None:
        """End of the cut."""
        self._ip('link set air_robot master cell')

    def close(self) -> None:
        """End the helper of the rates; the rest goes with the access point."""
        if self._tc is not None:
            assert self._tc.stdin is not None and self._tc.stderr is not None
            with self._tc:
                self._tc.stdin.close()
