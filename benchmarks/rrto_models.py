"""RRTO on public models: what an unmodified program costs in waits for the server and in messages.

The programs of test/rrto/families (models of transformers, small and with random weights, each a
text for `cuda`) run on the CPU and, their text unchanged, on an offloaded device whose server is a
thread of the same process. `equal`: every inference gave the CPU's bits in every mode. Per
inference, in the mean of the second half of the inferences: `operators` that are called,
`blocking` waits for the server, control bytes (all that is sent but tensors' values), messages to
the server. `from`: the first inference from which on whole inferences are replayed.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
from pathlib import Path
import platform
import statistics
import subprocess
import sys
import tempfile
from typing import Any

from rich.console import Console
from rich.table import Table
import torch
import transformers

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / 'benchmarks' / 'results'
FAMILIES = ROOT / 'test' / 'rrto' / 'families'
MODES = ('plain', 'rpc', 'pipelined', 'replay')
ROUND_TRIP_MS = 2.6  # in replay, as between robot and server: else reads come before they are asked
LONGER = {'gpt2_stops': 4}  # times as many inferences: texts of each length have to come

sys.path.insert(0, str(FAMILIES))
import runner  # noqa: E402


def run(mode: str, names: list[str], inferences: int, folder: Path) -> dict[str, Any]:
    """The outcome of the programs in a process of their own."""
    out = folder / f'{mode}.pt'
    command = [sys.executable, runner.__file__, '--mode', mode, '--out', str(out)]
    if mode == 'replay':
        command += ['--round-trip-ms', str(ROUND_TRIP_MS)]
    command += [f'{name}:{inferences * LONGER.get(name, 1)}' for name in names]
    environment = {**os.environ, 'OMP_NUM_THREADS': '1'}
    subprocess.run(command, env=environment, check=True)
    outcome: dict[str, Any] = torch.load(out, weights_only=False)  # of our own process
    for name, each in outcome.items():
        if 'error' in each:
            raise SystemExit(f'{name}, {mode}: {each["error"]}')
    return outcome


def replayed_from(rows: list[dict[str, Any]]) -> int | None:
    """The first inference (counted from 1) from which on next to all operators are replayed; None
    when that is so for less than the second half."""
    single = [row['operators'] - row['replayed'] for row in rows]
    most = max(2.0, 0.02 * statistics.median(row['operators'] for row in rows if row['operators']))
    # Inferences that repeat as a pair are counted when the pair is complete.
    last = max((n for n, count in enumerate(single) if count > most), default=-1)
    return last + 2 if last + 1 <= len(rows) // 2 else None


def summary(name: str, outcomes: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """One row of the table."""
    expected = outcomes['plain'][name]['results']
    equal = all(
        runner.same(one, other)
        for mode in MODES[1:]
        for one, other in zip(outcomes[mode][name]['results'], expected, strict=True)
    )
    row: dict[str, Any] = {
        'program': name,
        'about': ast.get_docstring(ast.parse((runner.PROGRAMS / f'{name}.py').read_text())),
        'inferences': len(expected),
        'equal': equal,
    }
    for mode in MODES[1:]:
        rows = outcomes[mode][name]['rows']
        half = rows[len(rows) // 2 :]
        row[mode] = {
            key: round(statistics.fmean(each[key] for each in half), 1)
            for key in half[0]
            if key != 'seconds'
        }
    row['reads'] = row['pipelined']['reads']
    row['replayed_from'] = replayed_from(outcomes['replay'][name]['rows'])
    row['why_not'] = why_not(row)
    return row


def why_not(row: dict[str, Any]) -> str:
    """What keeps a program from being replayed whole."""
    unknown = row['replay']['of_unknown_shape']
    if unknown:
        return f'{unknown:.0f} results whose shape depends on values'
    if row['replayed_from'] is not None:
        return ''
    if row['pipelined']['blocking'] > row['reads'] + 1:
        return 'shapes that have not been before'
    return 'no sequence repeats'


def report(rows: list[dict[str, Any]], path: Path) -> None:
    """Print the table and write the JSON."""
    table = Table(title='per inference; control bytes without the values of tensors')
    table.add_column('program')
    headings = ('equal', 'operators', 'rpc blocking', 'reads', 'pipelined blocking', 'control kB')
    for heading in (*headings, 'replayed from', 'blocking', 'messages', 'control B'):
        table.add_column(heading, justify='right')
    table.add_column('not replayed whole')
    for row in rows:
        rpc, pipelined, replay = (row[mode] for mode in MODES[1:])
        cells = ['yes' if row['equal'] else 'NO', f'{rpc["operators"]:.0f}']
        cells += [f'{rpc["blocking"]:.0f}', f'{row["reads"]:.0f}', f'{pipelined["blocking"]:.0f}']
        cells += [f'{pipelined["control_bytes"] / 1e3:.1f}', str(row['replayed_from'] or '-')]
        cells += [f'{replay["blocking"]:.1f}', f'{replay["messages"]:.1f}']
        cells += [f'{replay["control_bytes"]:.0f}']
        table.add_row(row['program'], *cells, row['why_not'])
    Console(width=150).print(table)
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        'schema': 1,
        'machine': f'{platform.machine()}, {os.cpu_count()} cores',
        'torch': torch.__version__,
        'transformers': transformers.__version__,
        'rows': rows,
    }
    path.write_text(json.dumps(content, indent=1) + '\n')


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--json', type=Path, default=RESULTS / 'rrto_models.json')
    parser.add_argument('--inferences', type=int, default=12)
    parser.add_argument('programs', nargs='*', help='all if none are named')
    arguments = parser.parse_args()
    names = arguments.programs or runner.names()
    with tempfile.TemporaryDirectory() as folder:
        outcomes = {mode: run(mode, names, arguments.inferences, Path(folder)) for mode in MODES}
    report([summary(name, outcomes) for name in names], arguments.json)


if __name__ == '__main__':
    main()
