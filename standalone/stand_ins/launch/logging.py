# SPDX-License-Identifier: Apache-2.0
"""Lines on the screen and in the launch's log file."""

import datetime
import os
import pathlib
import socket
import sys
import time
from typing import Any, TextIO

_files: list[TextIO] = []  # the log file, once the launch runs


def start_log_file() -> None:
    """Open launch.log in a folder of its own where ROS 2 keeps logs; say where."""
    base = os.environ.get('ROS_LOG_DIR')
    home = os.environ.get('ROS_HOME') or pathlib.Path.home() / '.ros'
    stamp = datetime.datetime.now().strftime('%Y-%m-%d-%H-%M-%S-%f')
    folder = pathlib.Path(base or pathlib.Path(home) / 'log') / (
        f'{stamp}-{socket.gethostname()}-{os.getpid()}'
    )
    logger = get_logger()
    try:
        folder.mkdir(parents=True)
        log = (folder / 'launch.log').open('w', encoding='utf-8', buffering=1)
        _files.append(log)
    except OSError as error:  # a read-only home must not keep a robot from starting
        logger.warning(f'no log file: {error}')
        return
    logger.info(f'All log files can be found below {folder}')
    logger.info('Default logging verbosity is set to INFO')


def write(line: str, *, screen: bool = True, file: bool = True) -> None:
    """Write one line."""
    for log in _files if file else ():
        print(f'{time.time():.7f} {line}', file=log)
    if screen:
        try:
            print(line, flush=True)
        except BrokenPipeError:  # `ros2 launch ... | head`: go on without a reader
            sys.stdout = pathlib.Path(os.devnull).open('w')  # noqa: SIM115


class Logger:
    """A named source of lines."""

    def __init__(self, name: str) -> None:
        self.name = name

    def _log(self, level: str, text: Any, args: tuple[Any, ...]) -> None:
        write(
            f'[{level}] [{self.name}]: {str(text) % args if args else text}',
            screen=level != 'DEBUG',
        )

    def debug(self, text: Any, *args: Any) -> None:
        """Log for the file only."""
        self._log('DEBUG', text, args)

    def info(self, text: Any, *args: Any) -> None:
        """Log what happens."""
        self._log('INFO', text, args)

    def warning(self, text: Any, *args: Any) -> None:
        """Log what may surprise."""
        self._log('WARNING', text, args)

    def error(self, text: Any, *args: Any) -> None:
        """Log what failed."""
        self._log('ERROR', text, args)


def get_logger(name: str = 'launch') -> Logger:
    """Return the logger of a name."""
    return Logger(name)
