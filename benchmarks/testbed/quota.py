"""A share of a CPU core for the robot, as a Linux control group (version 1 or 2).

Control groups are the one thing that outlives a killed testbed. Their names carry the process id,
and every start removes those whose process is gone.
"""

from __future__ import annotations

import contextlib
from itertools import count
import os
from pathlib import Path
import time

from .host import TestbedError

PERIOD_US = 10_000  # short, so that a share is a slow core rather than one that pauses for 0.1 s
_PREFIX = 'offload_testbed_'
_numbers = count()


def controller() -> tuple[Path, int]:
    """(folder of the cpu controller, version of the interface). TestbedError when there is none."""
    for line in Path('/proc/mounts').read_text().splitlines():
        _, folder, kind, options, *_ = line.split()
        if kind == 'cgroup' and 'cpu' in options.split(','):
            return Path(folder), 1
        if kind == 'cgroup2':
            root = Path(folder)
            if 'cpu' in (root / 'cgroup.controllers').read_text().split():
                return root, 2
    raise TestbedError(
        'a CPU quota needs the cpu controller of cgroup v1 or v2, which is not mounted here: '
        'slow the robot with robot_slowdown instead'
    )


def sweep() -> None:
    """Remove the groups that killed testbeds left behind."""
    with contextlib.suppress(TestbedError):
        for folder in controller()[0].glob(f'{_PREFIX}*'):
            pid = folder.name.removeprefix(_PREFIX).split('_')[0]
            if pid.isdigit() and not Path('/proc', pid).exists():
                with contextlib.suppress(OSError):  # still in use by another container's testbed
                    folder.rmdir()


class CpuQuota:
    """A control group whose processes together get `share` of one core.

    share: CPU time per time, 0.1 to the number of cores. ValueError outside.
    """

    def __init__(self, share: float) -> None:
        if not 0.1 <= share <= (os.cpu_count() or 1):  # below, the kernel's 1 ms floor of a quota
            raise ValueError(f'a CPU quota is a share of a core, 0.1 or more, not {share}')
        root, version = controller()
        self._folder = root / f'{_PREFIX}{os.getpid()}_{next(_numbers)}'
        quota_us = round(share * PERIOD_US)
        try:
            if version == 2:
                (root / 'cgroup.subtree_control').write_text('+cpu')
            self._folder.mkdir()
            if version == 2:
                (self._folder / 'cpu.max').write_text(f'{quota_us} {PERIOD_US}')
            else:
                (self._folder / 'cpu.cfs_period_us').write_text(str(PERIOD_US))
                (self._folder / 'cpu.cfs_quota_us').write_text(str(quota_us))
        except OSError as error:
            self.close()
            raise TestbedError(f'the CPU quota could not be set: {error}') from error

    @property
    def processes(self) -> str:
        """The file to which a process writes 0 to join."""
        return str(self._folder / 'cgroup.procs')

    def close(self) -> None:
        """Remove the group once its processes are gone."""
        for _ in range(100):
            if not self._folder.exists():
                return
            with contextlib.suppress(OSError):  # a killed process counts until it is reaped
                self._folder.rmdir()
                return
            time.sleep(0.01)
