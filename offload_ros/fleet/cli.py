"""``ros2 run offload_ros fleet``: what to load where, and where queries go."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
import json
import math
import os
from pathlib import Path
import sys
from typing import NoReturn

from rich.console import Console

from offload_ros.fleet.assignment import Assignment
from offload_ros.fleet.baselines import BASELINES
from offload_ros.fleet.exact import exact
from offload_ros.fleet.j3o import J3oOptions, j3o
from offload_ros.fleet.problem import Problem
from offload_ros.fleet.problem_file import load_problem
from offload_ros.fleet.reasons import remarks
from offload_ros.fleet.report import draw, print_assignment

METHODS = ('j3o', 'exact', *BASELINES)
WIDTH = 120  # of tables where the output is no terminal
WRONG_INPUT = 2  # exit status, as of a wrong option


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line, without the usage."""
        self.exit(WRONG_INPUT, f'{self.prog}: {message}\n')


def _seconds(text: str) -> float:
    value = float(text)
    if not (value > 0.0 and math.isfinite(value)):
        raise argparse.ArgumentTypeError(f'a finite number above 0, not {text}')
    return value


def _seed(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f'at least 0, not {text}')
    return value


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog='fleet',
        description='Decides which models are loaded where in a fleet, and where its queries go.',
    )
    parser.add_argument(
        '--problem', required=True, metavar='F', help='YAML file (config/fleet.yaml)'
    )
    parser.add_argument('--method', choices=METHODS, default='j3o', help='default: j3o')
    parser.add_argument(
        '--time-limit',
        type=_seconds,
        default=60.0,
        metavar='S',
        help='of j3o and exact, above 0 (default: 60)',
    )
    parser.add_argument(
        '--seed', type=_seed, default=0, help='of method random, at least 0 (default: 0)'
    )
    parser.add_argument('--json', action='store_true', help='the assignment as JSON, no tables')
    parser.add_argument('--plot', type=Path, metavar='FILE', help='draw the assignment (.png, ...)')
    return parser


def solve(problem: Problem, arguments: argparse.Namespace) -> tuple[Assignment, str]:
    """By the method that was asked for; and what there is to say of how it went, or nothing."""
    if arguments.method == 'j3o':
        planned = j3o(problem, J3oOptions(time_limit_s=arguments.time_limit))
        return planned.assignment, f'j3o: {planned.took_s:.2f} s'
    if arguments.method == 'exact':
        found = exact(problem, arguments.time_limit)
        text = f'exact, without batching: {found.took_s:.2f} s'
        if not found.optimal:
            asked = problem.queries_per_s
            text += f', not proven: the optimum is at most {100 * found.bound / asked:.2f} %'
        return found.assignment, text
    return BASELINES[arguments.method](problem, arguments.seed), ''


def run(arguments: argparse.Namespace) -> None:
    """``ValueError`` (wrong input), ``RuntimeError`` (the solver gives up) with one line."""
    problem = load_problem(arguments.problem)
    assignment, text = solve(problem, arguments)
    if arguments.json:
        document = {
            'accuracy': assignment.accuracy(problem) if problem.queries_per_s else None,
            **assignment.document(),
            'remarks': list(remarks(problem, assignment)),
        }
        print(json.dumps(document))
    else:
        console = Console(width=None if sys.stdout.isatty() else WIDTH)
        print_assignment(problem, assignment, console)
        if text:
            console.print(text, soft_wrap=True, highlight=False, markup=False)
    if arguments.plot is not None:
        draw(problem, assignment, arguments.plot)


def main(argv: Sequence[str] | None = None) -> int:
    """The command; 0, or with one line on stderr 2 (wrong input) or 1."""
    words = list(sys.argv[1:] if argv is None else argv)
    if '--ros-args' in words:  # of no meaning here, but some tools add them
        words = words[: words.index('--ros-args')]
    arguments = _parser().parse_args(words)
    try:
        run(arguments)
    except (ValueError, RuntimeError) as error:
        print(f'fleet: {error}', file=sys.stderr)
        return WRONG_INPUT if isinstance(error, ValueError) else 1
    except BrokenPipeError:  # the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        return 130
    return 0
