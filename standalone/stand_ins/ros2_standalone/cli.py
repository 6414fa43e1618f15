# SPDX-License-Identifier: Apache-2.0
"""From the words after `ros2` to the module and function that do it."""

import argparse
import importlib
import signal
import sys
from typing import Any, NoReturn

# A command without verbs is a module with add_arguments(parser) and main(args); one with verbs
# has VERBS: {name: (help, add_arguments, main)}.
COMMANDS = {
    'launch': 'Run a launch file',
    'param': 'Various param related sub-commands',
    'pkg': 'Various package related sub-commands',
    'run': 'Run a package specific executable',
    'topic': 'Various topic related sub-commands',
}


def _end(number: int, frame: Any) -> NoReturn:
    raise SystemExit(128 + number)


def main(argv: list[str] | None = None) -> Any:
    """Run a command; return what `sys.exit` takes: a number, or the text of an error."""
    argv = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(
        prog='ros2',
        description='ros2 is a command-line tool for ROS 2. These commands work '
        'without a ROS 2 installation; the others need one.',
    )
    commands = parser.add_subparsers(
        title='Commands',
        metavar='command',
        dest='command',
        description='Call `ros2 <command> -h` for more detailed usage.',
    )
    chosen = next((word for word in argv if not word.startswith('-')), None)
    main_of: Any = None
    for name, text in COMMANDS.items():
        sub = commands.add_parser(name, help=text, description=text)
        if name != chosen:
            continue  # reading every module would make `ros2 --help` slow
        module = importlib.import_module(f'ros2_standalone.{name}')
        if not hasattr(module, 'VERBS'):
            module.add_arguments(sub)
            sub.set_defaults(main=module.main)
            continue
        verbs = sub.add_subparsers(
            title='Verbs',
            metavar='verb',
            dest='verb',
            description=f'Call `ros2 {name} <verb> -h` for more detailed usage.',
        )
        for verb, (text, add_arguments, main_of) in module.VERBS.items():
            verb_parser = verbs.add_parser(verb, help=text, description=text)
            add_arguments(verb_parser)
            verb_parser.set_defaults(main=main_of)
        sub.set_defaults(main=lambda args, sub=sub: sub.print_help())
    args = parser.parse_args(argv)
    if args.command is None:
        parser.print_help()
        return 0
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    signal.signal(signal.SIGTERM, _end)
    try:
        return args.main(args)
    except KeyboardInterrupt:
        return int(signal.SIGINT)
    except BrokenPipeError:  # `ros2 ... | head`
        sys.stdout = None  # type: ignore[assignment]
        return 1
    except RuntimeError as error:
        return str(error)
