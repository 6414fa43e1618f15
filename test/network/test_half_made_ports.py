"""Shared memory of ports that a killed process left half made."""

from __future__ import annotations

import logging
import os
from pathlib import Path
import subprocess
import sys
import time

import pytest

from offload_ros.network.half_made_ports import remove_half_made_ports


def made(folder: Path, name: str, start: bytes, age_s: float = 3600.0) -> Path:
    """A file like those in /dev/shm."""
    file = folder / name
    file.write_bytes(start + bytes(100 if start else 0))
    then = time.time() - age_s
    os.utime(file, (then, then))
    return file


@pytest.mark.parametrize('start', (b'', b'\0\0\0\0', b'\1\0\0\0'))
@pytest.mark.parametrize('name', ('fastdds_port55913', 'fastrtps_port7411'))
def test_half_made_is_removed_and_said(tmp_path, caplog, name, start):
    file = made(tmp_path, name, start)
    remove_half_made_ports(tmp_path)
    assert not file.exists()
    (told,) = caplog.records
    assert told.levelno == logging.WARNING
    assert str(file) in told.getMessage()


@pytest.mark.parametrize(
    ('name', 'start', 'age_s'),
    (
        ('fastdds_port7411', b'\2\0\0\0', 3600.0),  # complete
        ('fastdds_port7411', b'\3\0\0\0', 3600.0),  # given up: who opens it hears of that
        ('fastdds_port7411', b'\0\0\0\0', 0.0),  # somebody may be at it
        ('fastdds_port7411_el', b'', 3600.0),  # a lock
        ('fastdds_0123456789abcdef', b'\0\0\0\0', 3600.0),  # nobody else opens it
        ('sem.fastdds_port7411_mutex', b'\0\0\0\0', 3600.0),
        ('other', b'\0\0\0\0', 3600.0),
    ),
)
def test_others_stay(tmp_path, caplog, name, start, age_s):
    file = made(tmp_path, name, start, age_s)
    remove_half_made_ports(tmp_path)
    assert file.exists()
    assert not caplog.records


def test_what_cannot_be_read_or_removed_stops_nobody(tmp_path, caplog, monkeypatch):
    remove_half_made_ports(tmp_path / 'none')
    file = made(tmp_path, 'fastdds_port7411', b'\0\0\0\0')

    def refused(self: Path) -> None:
        raise PermissionError(13, 'Permission denied')

    monkeypatch.setattr(Path, 'unlink', refused)
    remove_half_made_ports(tmp_path)
    assert f'sudo rm {file}' in caplog.text


def test_a_node_starts_where_one_was_killed_while_it_started():
    """Really: without this, the participant waits for the port's file for ever."""
    domain = 232  # no other test's
    first = 7400 + 250 * domain + 10  # what the first participants of a domain listen at
    files = [made(Path('/dev/shm'), f'fastdds_port{first + n}', bytes(4)) for n in range(30)]
    code = (
        'import os, rclpy\n'
        'from offload_ros.network.half_made_ports import remove_half_made_ports\n'
        'remove_half_made_ports()\n'
        'rclpy.init(args=[])\n'
        'rclpy.create_node("one")\n'
        'print("made", flush=True)\n'
        'os._exit(0)\n'
    )
    env = os.environ | {'ROS_DOMAIN_ID': str(domain)}
    try:
        ran = subprocess.run(
            [sys.executable, '-c', code], env=env, capture_output=True, text=True,
            timeout=60.0, check=False,
        )  # fmt: skip
        assert ran.stdout == 'made\n', ran.stderr
    finally:
        for file in files:
            file.unlink(missing_ok=True)
