"""What a killed process left in shared memory, for which every later node would wait for ever.

Fast DDS keeps a file in /dev/shm for each port of a domain, and Boost marks in its first four bytes
whether whoever made it has come to the end (2). A process that is killed, or loses power, in
between leaves it at 0 or 1; who opens it then waits in a loop without limit, before its node exists
and can say anything (Fast DDS 3.2, Boost's ``managed_open_or_create_impl``).
"""

from __future__ import annotations

import logging
from pathlib import Path
import re
import time

SHARED_MEMORY = Path('/dev/shm')
STARTING = (0, 1)  # the first four bytes of a file that is being made
AGE_S = 10.0  # to make one takes milliseconds
_PORT = re.compile(r'fast(?:dds|rtps)_port\d+')


def remove_half_made_ports(folder: Path = SHARED_MEMORY) -> None:
    """To be called before a process makes its first node. Never raises; warns about what it
    removed, and with the command about what it may not remove."""
    log = logging.getLogger(__name__)
    for file in _half_made(folder):
        try:
            file.unlink()
        except FileNotFoundError:
            continue
        except OSError as error:
            text = '%s: nodes wait for it for ever, and it cannot be removed (%s): sudo rm %s'
            log.warning(text, file, error.strerror, file)
        else:
            log.warning('%s removed: a killed process left it half made', file)


def _half_made(folder: Path) -> list[Path]:
    found = []
    try:
        for file in folder.iterdir():
            if _PORT.fullmatch(file.name) and _is_half_made(file):
                found.append(file)
    except OSError:  # no shared memory here, or it is not readable: then Fast DDS goes without
        pass
    return found


def _is_half_made(file: Path) -> bool:
    try:
        if time.time() - file.stat().st_mtime < AGE_S:
            return False
        with file.open('rb') as opened:
            start = opened.read(4)
    except OSError:
        return False
    # Still empty: made, and not yet as long as it will be.
    return len(start) < 4 or int.from_bytes(start, 'little') in STARTING
