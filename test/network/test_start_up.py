"""The line that a node says when it starts: only when something hurts, and one at most."""

from dataclasses import replace
from pathlib import Path

import pytest

from offload_ros.doctor.host import SharedMemory
from offload_ros.network.start_up import Machine, start_up_warnings

SHARE = Path(__file__).parents[2] / 'config' / 'dds'
NEW = 'FASTDDS_DEFAULT_PROFILES_FILE'
LAN, UDP, LOCAL = ({NEW: str(SHARE / name)} for name in ('lan.xml', 'udp.xml', 'fastdds.xml'))
LOCAL = {**LOCAL, 'ROS_AUTOMATIC_DISCOVERY_RANGE': 'LOCALHOST'}
TUNED = Machine(4 << 20, 4 << 20, 3, 4 << 20, SharedMemory(8000.0, 7000.0))
STOCK = Machine(212_992, 212_992, 30, 4 << 20, SharedMemory(8000.0, 7000.0))
DOCKER = replace(TUNED, shm=SharedMemory(64.0, 64.0))
FRAGMENTS = replace(TUNED, ipfrag_time_s=30)


@pytest.mark.parametrize(
    ('env', 'machine', 'text'),
    [
        (LAN, TUNED, ''),
        (LOCAL, STOCK, ''),  # nothing leaves the machine: socket buffers do not matter
        (UDP, TUNED, ''),
        (LAN, FRAGMENTS, ''),  # TCP has no IP fragments
        (LAN, Machine(), ''),  # nothing is readable: nothing is known
        (LAN, STOCK, 'sudo sysctl -w net.core.rmem_max=4194304 net.core.wmem_max=4194304'),
        (UDP, FRAGMENTS, 'net.ipv4.ipfrag_time=3'),
        (LOCAL, DOCKER, 'docker run --shm-size 1g'),
        (LAN, DOCKER, 'docker run --shm-size 1g'),
        ({}, TUNED, 'dds profile: none'),
        ({**LAN, 'ROS_AUTOMATIC_DISCOVERY_RANGE': 'LOCALHOST'}, TUNED, 'replaces the transports'),
        ({'FASTDDS_BUILTIN_TRANSPORTS': 'LARGE_DATA'}, FRAGMENTS, ''),
        ({NEW: '/nowhere.xml'}, TUNED, 'no such file'),
        ({NEW: __file__}, TUNED, 'not a readable XML file'),
    ],
)
def test_one_line_at_most_with_what_to_do(env, machine, text):
    found = start_up_warnings('rmw_fastrtps_cpp', env, machine)
    assert len(found) == bool(text)
    assert all(text in line and 'ros2 run offload_ros doctor' in line for line in found)
    assert not any('\n' in line for line in found)


def test_other_middleware_is_one_warning():
    (line,) = start_up_warnings('rmw_zenoh_cpp', {}, STOCK)
    assert line.startswith('rmw_zenoh_cpp instead of Fast DDS: everything works')


def test_this_machine_can_be_looked_at():
    assert len(start_up_warnings('rmw_fastrtps_cpp')) <= 1
    assert Machine.this(Path('/nowhere')).receive_buffer is None
