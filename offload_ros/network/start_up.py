"""What a node says once when it starts: settings of this machine that will slow it down."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
import os
from pathlib import Path
import xml.etree.ElementTree as ElementTree

from offload_ros.doctor.finding import Finding, Level, warn
from offload_ros.doctor.host import (
    SharedMemory,
    check_buffers,
    check_fragments,
    check_shared_memory,
    number,
    shared_memory,
)
from offload_ros.doctor.middleware import FAST_DDS, file_problem, this_machine_only
from offload_ros.doctor.shell import TRANSPORTS, profile_of, profile_variable

WITHOUT_UDP_DATA = ('LARGE_DATA', 'TCPv4')  # in a profile: tensors do not travel in datagrams


@dataclass(frozen=True)
class Machine:
    """Limits of the kernel (bytes, seconds; None: not readable) and /dev/shm (None: not there)."""

    receive_buffer: int | None = None
    send_buffer: int | None = None
    ipfrag_time_s: int | None = None
    ipfrag_high_bytes: int | None = None
    shm: SharedMemory | None = None

    @classmethod
    def this(cls, net: Path = Path('/proc/sys/net')) -> Machine:
        """The machine that this runs on."""
        return cls(
            number(net / 'core/rmem_max'),
            number(net / 'core/wmem_max'),
            number(net / 'ipv4/ipfrag_time'),
            number(net / 'ipv4/ipfrag_high_thresh'),
            shared_memory(),
        )


def start_up_warnings(
    rmw: str, env: Mapping[str, str] | None = None, machine: Machine | None = None
) -> list[str]:
    """At most one line: what hurts most on this network, and the command that mends it.

    ``rmw``: ``rclpy.get_rmw_implementation_identifier()``. ``env``: default the process's own.
    ``machine``: default this one. Never raises: nothing here may keep a node from starting.
    """
    env = os.environ if env is None else env
    if rmw not in FAST_DDS:
        return [
            f'{rmw} instead of Fast DDS: everything works, but network profiles do not apply and '
            'large images may be slow; unset RMW_IMPLEMENTATION on all machines for the tested one'
        ]
    found = next(_findings(env, machine or Machine.this()), None)
    if found is None:
        return []
    return [
        f'{found.name}: {found.text}: {found.remedy}; ros2 run offload_ros doctor tells more',
    ]


def _findings(env: Mapping[str, str], machine: Machine) -> Iterator[Finding]:
    """What is wrong, the most harmful first."""
    profile, variable = profile_of(env), profile_variable(env)
    problem = file_problem(profile)
    start = 'start the nodes by ros2 launch'
    if problem:
        yield warn('dds profile', f'{variable}={profile}: {problem}', f'unset {variable}; {start}')
        return
    if not profile and not env.get(TRANSPORTS):
        yield warn('dds profile', 'none, so large images take several times longer', start)
    transports = _transports(profile, env)
    udp = not any(word in transports for word in WITHOUT_UDP_DATA)
    if 'LARGE_DATA' in transports and env.get('ROS_AUTOMATIC_DISCOVERY_RANGE') == 'LOCALHOST':
        yield warn(
            'discovery',
            'ROS_AUTOMATIC_DISCOVERY_RANGE=LOCALHOST replaces the transports of LARGE_DATA',
            'export ROS_AUTOMATIC_DISCOVERY_RANGE=SUBNET, or launch with network:=localhost',
        )
    checks = [check_shared_memory(machine.shm, bool(env.get('OFFLOAD_ROS_STANDALONE')))]
    if not this_machine_only(env):
        checks.insert(0, check_buffers(machine.receive_buffer, machine.send_buffer))
        if udp:
            checks.append(
                check_fragments(machine.ipfrag_time_s, machine.ipfrag_high_bytes, far_server=True)
            )
    yield from (each for each in checks if each.level in (Level.WARN, Level.FAIL))


def _transports(profile: str, env: Mapping[str, str]) -> str:
    if not profile:
        return env.get(TRANSPORTS, '')
    return ' '.join(ElementTree.parse(profile).getroot().itertext())  # without its comments
