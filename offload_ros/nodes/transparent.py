"""``ros2 run offload_ros transparent -- python3 app.py``: the program believes in a CUDA device."""

from __future__ import annotations

import argparse
from dataclasses import asdict
import json
import os
from pathlib import Path
import shutil
import sys

from offload_ros.nodes import hook
from offload_ros.rrto.options import FALLBACKS, MODES, OPTIONS, PLACEMENTS, Options
from offload_ros.wire.key_file import load_key


def main() -> None:
    """Start the command with the hook in its environment; this process becomes the command."""
    options, command = _arguments(sys.argv[1:])
    if shutil.which(command[0]) is None:
        print(f'error: there is no command {command[0]!r}', file=sys.stderr)
        sys.exit(127)
    environment = dict(os.environ)
    environment[OPTIONS] = json.dumps(asdict(options))
    paths = [str(Path(hook.__file__).parent), environment.get('PYTHONPATH', '')]
    environment['PYTHONPATH'] = os.pathsep.join(path for path in paths if path)
    sys.stdout.flush()
    try:
        os.execvpe(command[0], command, environment)
    except OSError as error:
        print(f'error: {command[0]}: {error.strerror}', file=sys.stderr)
        sys.exit(126)


def _arguments(argv: list[str]) -> tuple[Options, list[str]]:
    parser = argparse.ArgumentParser(
        prog='transparent',
        description='Run a program on this machine and its operators on an offload server.',
        usage='ros2 run offload_ros transparent [options] -- command ...',
    )
    defaults = Options()
    parser.add_argument('--mode', choices=MODES, default=defaults.mode, help='default: replay')
    parser.add_argument('--server', default='', help='node name of the server; default: any')
    parser.add_argument('--key-file', default='', help='pre-shared key of robot and server')
    parser.add_argument(
        '--wait-s', type=float, default=defaults.wait_s, help='for a server to be there (seconds)'
    )
    parser.add_argument(
        '--max-message-mb',
        type=float,
        default=defaults.max_message_mb,
        help='the largest tensor that the program may read (MB)',
    )
    parser.add_argument(
        '--fallback',
        choices=FALLBACKS,
        default=defaults.fallback,
        help='local: when the server is lost, or none is there, the program goes on on this '
        'machine (keeps a copy of what the program uploads); none: it gets an error; default: none',
    )
    parser.add_argument(
        '--placement',
        metavar='|'.join(PLACEMENTS),
        default=defaults.placement,
        help='auto (with --fallback local): recorded inferences run on this machine, or are cut '
        'between this and the server, when measured times and the link predict that this is '
        'faster (auto:METHOD: cut by another method than layer_cut); whole: they are not cut; '
        'default: server',
    )
    parser.add_argument('--quiet', action='store_true', help='print nothing at the end')
    # `ros2 run` may have taken the -- away.
    parser.add_argument('command', nargs=argparse.REMAINDER, help='the program, as in a shell')
    given = parser.parse_args(argv)
    command = given.command[1:] if given.command[:1] == ['--'] else given.command
    if not command:
        parser.error('no command: ros2 run offload_ros transparent -- python3 app.py')
    key_file = os.path.abspath(given.key_file) if given.key_file else ''
    try:
        if key_file:
            load_key(key_file)
        options = Options(
            given.mode,
            given.server,
            key_file,
            given.wait_s,
            given.max_message_mb,
            given.quiet,
            given.fallback,
            given.placement,
        )
    except ValueError as error:
        parser.error(str(error))
    return options, command


if __name__ == '__main__':
    main()
