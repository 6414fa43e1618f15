# SPDX-License-Identifier: Apache-2.0
"""Lines on the screen."""

import os
import pathlib
import sys

def write(line):
    """Write one line."""
    try:
        print(line, flush=True)
    except BrokenPipeError:  # `ros2 launch ... | head`: go on without a reader
        sys.stdout = pathlib.Path(os.devnull).open('w')  # noqa: SIM115

class Logger:
    """A named source of lines."""

    def __init__(self, name):
        self.name = name

    def info(self, text):
        write(f'[INFO] [{self.name}]: {text}')

    def warning(self, text):
        write(f'[WARNING] [{self.name}]: {text}')

    def error(self, text):
        write(f'[ERROR] [{self.name}]: {text}')

get_logger = Logger
