# SPDX-License-Identifier: Apache-2.0
"""ros2 run: an executable of a package."""

import argparse
import contextlib
import ctypes
import os
import shlex
import signal
import subprocess
from typing import Any

from .pkg import executable_paths


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command line."""
    parser.add_argument('--prefix', help='Command that goes before the executable')
    parser.add_argument('package_name', help='Name of the ROS package')
    parser.add_argument('executable_name', help='Name of the executable')
    parser.add_argument('argv', nargs=argparse.REMAINDER, help='Arguments of the executable')


def main(args: argparse.Namespace) -> Any:
    """Run it and return its exit code."""
    paths = executable_paths(args.package_name)
    if paths is None:
        return f"Package '{args.package_name}' not found"
    paths = [path for path in paths if os.path.basename(path) == args.executable_name]
    if not paths:
        return 'No executable found'
    if len(paths) > 1:
        return '\n- '.join(['Multiple executables found:', *paths])
    libc = ctypes.CDLL(None)
    process = subprocess.Popen(
        [*shlex.split(args.prefix or ''), paths[0], *args.argv],
        # Linux sends SIGTERM should this process be killed: PR_SET_PDEATHSIG is 1
        preexec_fn=lambda: libc.prctl(1, signal.SIGTERM),  # noqa: PLW1509
    )
    # A terminal sends Ctrl-C to both; SIGTERM comes to this process alone and is passed on.
    signal.signal(signal.SIGTERM, lambda number, frame: process.terminate())
    while process.poll() is None:
        with contextlib.suppress(KeyboardInterrupt):
            process.wait()
    code = process.returncode
    if code:
        print(
            '[ros2run]:',
            signal.strsignal(-code)
            if -code in signal.valid_signals()
            else f'Process exited with failure {code}',
        )
    return code
