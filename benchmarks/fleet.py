"""J3O against the exact program and simpler methods, on random fleets.

    python benchmarks/fleet.py            about half an hour; goes on where it was stopped

Half of the instances are drawn evenly from 3 to 50 robots, 1 to 5 servers, 2 to 8 tasks and 4 to 20
models, half from the upper end of these ranges, where the exact program takes seconds; one in five
each has ample limits, scarce computing, scarce memory, thin links, or all of these. The exact
program (HiGHS) has a gap of 1e-4 and 60 s of its own; where it does not finish, answers are
compared with its bound, which no answer exceeds. It has no batches, so ratios are those of J3O
without batches. Times are of one process on one core, in processor seconds: other work on the
machine does not count, and the exact program's limit, which is one of the clock, is longer by as
much as other work slows the process. A verifier that shares no code with the methods checks all
limits in every answer.

Prints a table, writes ``benchmarks/results/fleet.json`` and a picture.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from functools import partial
import json
from pathlib import Path
import sys
import time
from typing import Any, TypeVar

import numpy as np
from rich.console import Console

# Behind an installed offload_ros.
sys.path.append(str(Path(__file__).resolve().parents[1]))
from benchmarks import fleet_report
from offload_ros.fleet.assignment import Assignment
from offload_ros.fleet.baselines import BASELINES
from offload_ros.fleet.exact import GAP, exact
from offload_ros.fleet.instances import LIMITS, Size, random_problem
from offload_ros.fleet.j3o import J3oOptions, j3o
from offload_ros.fleet.options import Options
from offload_ros.fleet.problem import Problem
from offload_ros.fleet.verify import violations

Found = TypeVar('Found')
RESULTS = Path(__file__).parent / 'results'
SEED = 30_000  # others were used while J3O was made
MOST_SLOWED = 8.0  # times that other work may slow the process with the exact program's limit kept
LARGEST = Size(robots=1000, servers=5, tasks=4, models=10, limits='tight')
BATCHES = J3oOptions(time_limit_s=1e4)  # it ends by itself
ONE_BY_ONE = replace(BATCHES, batching=False)


class Broken(RuntimeError):
    """An answer that breaks a limit."""


def size_of(seed: int, instance: int) -> Size:
    """Even numbers from the whole ranges, odd ones from their upper end."""
    rng = np.random.default_rng((seed, instance))
    limits = LIMITS[instance // 2 % len(LIMITS)]
    if instance % 2 == 0:
        return Size.random(rng, limits)
    return Size(
        robots=int(rng.integers(40, 51)),
        servers=int(rng.integers(3, 6)),
        tasks=int(rng.integers(6, 9)),
        models=int(rng.integers(10, 21)),
        cloud=bool(rng.random() < 0.5),
        limits=limits,
    )


def timed(work: Callable[[], Found]) -> tuple[Found, float]:
    """What it gives, and its processor seconds."""
    began_s = time.process_time()
    return work(), time.process_time() - began_s


def checked(problem: Problem, assignment: Assignment, method: str) -> float:
    """Right answers per s; ``Broken`` where a limit is."""
    broken = violations(problem, assignment)
    if broken:
        raise Broken(f'{method}: {broken[0]}')
    return assignment.value(problem)


def measure(seed: int, instance: int, limit_s: float) -> dict[str, Any]:
    """All methods on one instance."""
    size = size_of(seed, instance)
    problem = random_problem((seed, instance, 1), size)
    began_s = time.perf_counter()
    planned, j3o_s = timed(lambda: j3o(problem, ONE_BY_ONE))
    batched, batched_s = timed(lambda: j3o(problem, BATCHES))
    slowed = (time.perf_counter() - began_s) / (j3o_s + batched_s)
    limit_s *= min(max(1.0, slowed), MOST_SLOWED)
    optimum, exact_s = timed(lambda: exact(problem, limit_s, GAP))
    return {
        'limits': size.limits,
        'robots': size.robots,
        'servers': size.servers,
        'cloud': size.cloud,
        'tasks': size.tasks,
        'models': size.models,
        'options': len(Options.of(problem)),
        'asked': problem.queries_per_s,
        'exact': checked(problem, optimum.assignment, 'exact'),
        'bound': optimum.bound,
        'optimal': bool(optimum.optimal),
        'exact_s': exact_s,
        'exact_wall_s': optimum.took_s,
        'j3o': checked(problem, planned.assignment, 'j3o'),
        'j3o_s': j3o_s,
        'rounds': planned.rounds,
        'batched': checked(problem, batched.assignment, 'j3o with batches'),
        'batched_s': batched_s,
        'batched_answered': batched.assignment.answered(problem),
        'answered': planned.assignment.answered(problem),
        'others': {
            name: checked(problem, method(problem, instance), name)
            for name, method in BASELINES.items()
            if name != 'j3o_one_by_one'  # is ``j3o`` above
        },
    }


def measure_largest(seed: int) -> dict[str, Any]:
    """A thousand robots."""
    problem = random_problem((seed, 1), LARGEST)
    found: dict[str, Any] = {'options': len(Options.of(problem))}
    for name, chosen in (('one_by_one', ONE_BY_ONE), ('batched', BATCHES)):
        planned, used_s = timed(partial(j3o, problem, chosen))
        value = checked(problem, planned.assignment, f'1000 robots, {name}')
        found[name] = {
            'processor_s': used_s,
            'wall_s': planned.took_s,
            'accuracy': value / problem.queries_per_s,
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or '').splitlines()[0])
    parser.add_argument('--instances', type=int, default=240)
    parser.add_argument('--limit', type=float, default=60.0, help='of the exact program, s')
    parser.add_argument('--seed', type=int, default=SEED)
    parser.add_argument('--json', type=Path, default=RESULTS / 'fleet.json')
    parser.add_argument('--fresh', action='store_true', help='forget what an earlier run measured')
    arguments = parser.parse_args()
    if arguments.instances < 1:
        parser.error('at least one instance')
    console = Console()
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    path = arguments.json.with_suffix('.work.json')
    key = f'{arguments.seed} {arguments.limit:g}'
    runs: dict[str, Any] = {}
    if path.exists() and not arguments.fresh:
        kept = json.loads(path.read_text())
        runs = kept['runs'] if kept['key'] == key else {}

    def put(name: str, value: dict[str, Any]) -> None:
        runs[name] = value
        part = path.with_suffix('.part')
        part.write_text(json.dumps({'key': key, 'runs': runs}))
        part.replace(path)

    try:
        for instance in range(arguments.instances):
            if str(instance) not in runs:
                run = measure(arguments.seed, instance, arguments.limit)
                put(str(instance), run)
                console.print(
                    f'{instance}: {run["limits"]}, {run["robots"]} robots, '
                    f'{run["j3o"] / fleet_report.reference(run):.4f} of the optimum, '
                    f'{run["j3o_s"]:.2f} s against {run["exact_s"]:.2f} s',
                    highlight=False,
                )
        if 'largest' not in runs:
            put('largest', measure_largest(arguments.seed))
    except Broken as error:
        sys.exit(f'fleet: {error}')
    measured = [runs[str(instance)] for instance in range(arguments.instances)]
    content = fleet_report.content(measured, runs['largest'], arguments.seed, arguments.limit)
    arguments.json.write_text(json.dumps(content, indent=1) + '\n')
    fleet_report.draw(measured, arguments.json.with_suffix('.png'))
    fleet_report.show(content, console)
    path.unlink()


if __name__ == '__main__':
    main()
