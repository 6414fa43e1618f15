"""Run a Python program whose wall clock is ahead by the seconds in the file CLOCK_STEP, read anew
for every look at it: ``python stepped_clock.py PROGRAM [ARGUMENTS]``.

Of Python's own clock; what is written in C keeps the machine's.
"""

from __future__ import annotations

import os
from pathlib import Path
import runpy
import sys
import time

_gettime_ns = time.clock_gettime_ns


def clock_gettime_ns(clock: int) -> int:
    """As ``time.clock_gettime_ns``, with the step."""
    step_s = float(Path(os.environ['CLOCK_STEP']).read_text())
    return _gettime_ns(clock) + (int(step_s * 1e9) if clock == time.CLOCK_REALTIME else 0)


def main() -> None:
    """Step the clock, run the program."""
    time.clock_gettime_ns = clock_gettime_ns
    time.clock_gettime = lambda clock: clock_gettime_ns(clock) / 1e9
    time.time_ns = lambda: clock_gettime_ns(time.CLOCK_REALTIME)
    time.time = lambda: time.time_ns() / 1e9
    sys.argv = sys.argv[1:]
    runpy.run_path(sys.argv[0], run_name='__main__')


if __name__ == '__main__':
    main()
