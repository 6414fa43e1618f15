"""Which host this is, as far as shared memory reaches."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from offload_ros.models.errors import ConfigError
from offload_ros.wire.link_monitor import LinkMonitor
from offload_ros.wire.window import Credit

# Set by launch files: UDP has no congestion control, and access points hold some 300 kB.
MAX_WINDOW = 'OFFLOAD_MAX_WINDOW_BYTES'
BOOT_ID = Path('/proc/sys/kernel/random/boot_id')
SHARED_MEMORY = Path('/dev/shm')
LOCAL_CHUNK_BYTES = 2 << 20  # shared memory: few messages, and both sides copy at a time
LOCAL_WINDOW_BYTES = 16 << 20
LOCAL_PROBE_BYTES = 240_000  # there is little to learn, and a probe travels as one packet


def host_token() -> str:
    """Equal for two processes that see the same shared memory; empty when that cannot be told.

    Two containers of one machine with a ``/dev/shm`` each are two hosts. It tells nothing else
    about the machine, and changes when that starts again.
    """
    try:
        text = f'{BOOT_ID.read_text().strip()} {os.stat(SHARED_MEMORY).st_dev}'
    except OSError:
        return ''
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def credit_for(own: str, peer: str) -> Credit:
    """Chunks and window for a peer with this token; the network profile may have set a limit.

    ``ConfigError`` when that is no number.
    """
    if own and own == peer:
        return Credit(LOCAL_CHUNK_BYTES, LOCAL_WINDOW_BYTES)
    limit = os.environ.get(MAX_WINDOW)
    if not limit:
        return Credit()
    try:
        return Credit(max_window_bytes=int(limit))
    except ValueError:
        raise ConfigError(f'{MAX_WINDOW} is {limit!r}, a number of bytes is wanted') from None


def monitor_for(own: str, peer: str) -> LinkMonitor:
    """What learns the link to a peer with this token."""
    return LinkMonitor(max_probe_bytes=LOCAL_PROBE_BYTES) if own and own == peer else LinkMonitor()
