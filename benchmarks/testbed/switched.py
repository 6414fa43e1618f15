"""Several machines on one switch, each behind a link of its own rate."""

from __future__ import annotations

from collections.abc import Mapping
import contextlib
from types import TracebackType

from .host import Host, TestbedError, call, unavailable
from .link import check_rate, shaping

_NETWORK = '10.78.0'
_QUEUE_BYTES = 400_000


class Switched:
    """A context manager: hosts by name, as long as it lasts.

        with Switched({'robot1': 93.0, 'edge1': 900.0, 'cloud': 20.0}) as bed:
            bed.hosts['edge1'].popen(['python3', 'server.py'])

    The numbers are rates in Mbit/s of TCP payload, both ways. However this process ends, the kernel
    ends every process of the hosts and takes the network down. ValueError for a rate that is none,
    TestbedError when the machine cannot do it.
    """

    def __init__(self, mbit: Mapping[str, float]) -> None:
        if not 0 < len(mbit) < 200:
            raise ValueError(f'1 to 199 hosts fit on a switch, not {len(mbit)}')
        self._mbit = {name: check_rate(each) for name, each in mbit.items()}
        self.hosts: dict[str, Host] = {}

    def __enter__(self) -> Switched:
        lacking = unavailable()
        if lacking:
            raise TestbedError(lacking)
        with contextlib.ExitStack() as stack:
            self._build(stack)
            self._stack = stack.pop_all()
        return self

    def _build(self, stack: contextlib.ExitStack) -> None:
        switch = Host('switch')
        stack.callback(switch.close)
        call(
            switch.tool('ip', '-batch', '-'),
            [
                'link add lan type bridge stp_state 0 forward_delay 0 mcast_snooping 0',
                'link set lan up',
            ],
        )
        for number, (name, mbit) in enumerate(self._mbit.items(), 1):
            # Nothing leaves the testbed, so discovery may use all of it.
            host = Host(name, f'{_NETWORK}.{number}', {'ROS_AUTOMATIC_DISCOVERY_RANGE': 'SUBNET'})
            stack.callback(host.close)
            self.hosts[name] = host
            port = f'port{number}'
            call(
                switch.tool('ip', '-batch', '-'),
                [
                    f'link add {port} type veth peer name eth0 netns {host.pid}',
                    f'link set {port} master lan',
                    f'link set {port} up',
                ],
            )
            call(
                host.tool('ip', '-batch', '-'),
                [
                    f'address add {host.ip}/24 dev eth0',
                    'link set eth0 up',
                    'route add 224.0.0.0/4 dev eth0',  # DDS discovery
                ],
            )
            for machine, device in ((switch, port), (host, 'eth0')):
                call(
                    machine.tool('tc', '-batch', '-'),
                    [f'qdisc add {shaping(device, mbit, _QUEUE_BYTES)}'],
                )

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()
