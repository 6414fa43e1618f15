# SPDX-License-Identifier: Apache-2.0
"""From the words after `ros2` to the module and function that do it."""

import argparse
import importlib
import signal
import sys

COMMANDS = {
    'interface': 'packages', 'launch': 'packages', 'lifecycle': 'node', 'node': 'node',
    'param': 'param', 'pkg': 'packages', 'run': 'packages', 'service': 'node', 'topic': 'topic'}
# A module has under a command's name in capitals (main, ARGUMENTS), or {verb: (main, ARGUMENTS)}.
# ARGUMENTS are words: 'name', 'optional?', 'one_or_more+', 'any*', 'the_rest...', '--flag',
# '-o,--option=default' of the default's type; without a default text, or None.
_NUMBER = {'?': '?', '+': '+', '*': '*', '.': argparse.REMAINDER}

def _add_arguments(parser, words):
    for word in words.split():
        names, has_value, default = word.partition('=')
        if has_value:
            kind = float if '.' in default else int if default else str
            default = kind(default) if default else None
            parser.add_argument(*names.split(','), type=kind, default=default)
        elif word.startswith('-'):
            parser.add_argument(*names.split(','), action='store_true')
        else:
            parser.add_argument(word.rstrip('?+*.'), nargs=_NUMBER.get(word[-1]))

def _parse(argv):
    parser = argparse.ArgumentParser(
        prog='ros2', description='These commands of ros2 work without a ROS 2 installation; they '
        'are described in the documentation of ROS 2.')
    commands = parser.add_subparsers(metavar='command', dest='command', required=True)
    for name, module in COMMANDS.items():
        command = commands.add_parser(name, help=f'see ros2 {name} -h')
        if name not in argv[:1]:
            continue  # reading every module would make `ros2 --help` slow
        found = getattr(importlib.import_module(f'ros2_standalone.{module}'), name.upper())
        parsers = [(command, found)]
        if isinstance(found, dict):
            verbs = command.add_subparsers(metavar='verb', dest='verb', required=True)
            parsers = [(verbs.add_parser(verb, help=f'see ros2 {name} {verb} -h'), entry)
                       for verb, entry in found.items()]
        for sub, (main, words) in parsers:
            _add_arguments(sub, words)
            sub.set_defaults(main=main)
    return parser.parse_args(argv)

def _end(number, frame):
    raise SystemExit(128 + number)

def main():
    """Run a command; return what `sys.exit` takes: a number, or the text of an error."""
    args = _parse(sys.argv[1:])
    sys.stdout.reconfigure(line_buffering=True)
    signal.signal(signal.SIGTERM, _end)
    try:
        return args.main(args)
    except KeyboardInterrupt:
        return int(signal.SIGINT)
    except BrokenPipeError:  # `ros2 ... | head`
        sys.stdout = None
        return 1
    except RuntimeError as error:
        return str(error)
