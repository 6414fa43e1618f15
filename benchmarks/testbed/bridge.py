"""Delay and loss of the testbed's link: carries Ethernet frames between two TAP interfaces.

    python -I bridge.py TAP_ROBOT TAP_SERVER DELAY_S LOSS SEED

Makes the two interfaces in the network namespace where it is started, writes one line when they are
there, and forwards until it is killed: one process per direction. Each frame arrives DELAY_S later
or, with probability LOSS, never; losses are independent and, frame for frame, the same for an equal
SEED. Standard library only: it is started as a plain file.
"""

from __future__ import annotations

from collections import deque
import contextlib
import fcntl
import gc
import math
import os
from random import Random
import select
import signal
import struct
import sys
import time

_TUNSETIFF = 0x400454CA  # linux/if_tun.h
_IFF_TAP_NO_PI = 0x0002 | 0x1000
_FRAME = 2048  # bytes; more than an Ethernet frame at MTU 1500
_BATCH = 128  # frames read before those that are due are sent
_QUANTUM_S = 2e-4  # while frames wait, look for new ones this often: wake-ups cost more than frames


def open_tap(name: str) -> int:
    """Make a TAP interface that lives as long as the returned file descriptor."""
    descriptor = os.open('/dev/net/tun', os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(descriptor, _TUNSETIFF, struct.pack('16sH14x', name.encode(), _IFF_TAP_NO_PI))
    return descriptor


def frames_to_next_loss(loss: float, random: Random) -> float:
    """Frames that pass before the next one is lost: geometric, so one draw per loss."""
    if loss <= 0.0:
        return math.inf
    return math.floor(math.log(1.0 - random.random()) / math.log1p(-loss))


def forward(source: int, sink: int, delay_s: float, loss: float, random: Random) -> None:
    """Carry frames from one descriptor to the other for ever."""
    waiting: deque[tuple[float, bytes]] = deque()  # (when it is due, frame)
    passing = frames_to_next_loss(loss, random)
    delay_s = max(0.0, delay_s - _QUANTUM_S / 2)  # a frame is seen that much late, on average
    read, write, monotonic, sleep = os.read, os.write, time.monotonic, time.sleep
    while True:
        if waiting:
            pause_s = waiting[0][0] - monotonic()
            if pause_s > 0.0:
                sleep(min(pause_s, _QUANTUM_S))
        else:
            select.select([source], [], [])
        now_s = monotonic()
        with contextlib.suppress(BlockingIOError):
            for _ in range(_BATCH):
                frame = read(source, _FRAME)
                if passing > 0:
                    passing -= 1
                    waiting.append((now_s + delay_s, frame))
                else:
                    passing = frames_to_next_loss(loss, random)
        while waiting and waiting[0][0] <= now_s:
            # An interface that is down takes nothing: the frame is lost, as on the air.
            with contextlib.suppress(OSError):
                write(sink, waiting.popleft()[1])


def prefer() -> None:
    """Be scheduled before the benchmark, so that its load does not become delay of the link."""
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    except OSError:  # no real-time share in this control group
        with contextlib.suppress(OSError):
            os.nice(-19)
    with contextlib.suppress(OSError), open('/proc/self/timerslack_ns', 'w') as slack:
        slack.write('1000')  # sleep to the microsecond, not to the default 50


def main(robot: str, server: str, delay_s: str, loss: str, seed: str) -> None:
    """See the module."""
    taps = open_tap(robot), open_tap(server)
    print('ready', flush=True)
    gc.disable()  # nothing here makes cycles
    signal.signal(signal.SIGCHLD, lambda *_: os._exit(1))  # one direction alone is no link
    uplink = os.fork() == 0
    prefer()
    source, sink = taps if uplink else reversed(taps)
    forward(source, sink, float(delay_s), float(loss), Random(f'{seed} {uplink}'))


if __name__ == '__main__':
    main(*sys.argv[1:])
