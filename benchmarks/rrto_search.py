"""Operator sequence search: time and result on synthetic logs, beside the dependency search.

A log: initialisation (weights are uploaded and prepared), then inferences of one upload, layers
and reads evenly among them; in some logs random operators between the inferences. ``search_ms``:
all that happens at reads in the whole log; ``append_us``: any other call; ``repeat_us``: logging a
replayed unit; ``steps_us``: making one step's object, once per unit that is used. The dependency
search (``offload_ros.rrto.dependency_search``) looks at the whole log at each read, as the paper
has it, also in a clean log, of the inferences alone; it is given up after a few seconds.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
import json
import os
from pathlib import Path
import platform
import random
import statistics
import time
from typing import Any

from rich.console import Console
from rich.table import Table

from offload_ros.rrto.dependency_search import find_sequence
from offload_ros.rrto.search import Entry, Kind, OperatorSequence, SequenceSearch

RESULTS = Path(__file__).parent / 'results'
INFERENCES = 6
FACTORY, UPLOAD, READ, LAYER, NOISE = 1, 2, 3, 10, 1 << 20
GIVE_UP_S = 5.0


@dataclass(frozen=True)
class Log:
    """``initial`` operators, then inferences of ``unit`` operators of which ``reads`` are reads,
    and ``noise`` random operators after each."""

    initial: int
    unit: int
    reads: int
    noise: int = 0

    @property
    def name(self) -> str:
        """As in the tables: initial/unit/reads."""
        noise = f' + {self.noise} random' if self.noise else ''
        return f'{self.initial}/{self.unit}/{self.reads}{noise}'

    def entries(self, seed: int = 0) -> list[Entry]:
        """The calls."""
        rng, log = random.Random(seed), list[Entry]()

        def call(signature: int, *arguments: int, kind: Kind = Kind.OP) -> int:
            log.append(Entry(len(log), signature, arguments, kind, signature == FACTORY))
            return log[-1].number << 16

        def upload() -> int:
            tensor = call(FACTORY)
            call(UPLOAD, tensor, kind=Kind.IN)
            return tensor

        weights = [upload()]
        while len(log) + 3 <= self.initial:
            weights.append(call(LAYER + rng.randrange(50), upload()))
        while len(log) < self.initial:
            call(LAYER, weights[-1])
        layers = self.unit - 2 - self.reads
        read_after = {layers * (index + 1) // self.reads - 1 for index in range(self.reads)}
        for _ in range(INFERENCES):
            tensor = earlier = upload()
            for layer in range(layers):
                weight = weights[layer % len(weights)]
                tensor, earlier = call(LAYER + layer % 97, tensor, earlier, weight), tensor
                if layer in read_after:
                    call(READ, tensor, kind=Kind.GET)
            for _ in range(self.noise):
                tensor = call(NOISE + rng.randrange(1 << 20), tensor)
        return log


LOGS = (
    Log(1000, 250, 1),
    Log(10_000, 2000, 6),
    Log(100_000, 5000, 1),
    Log(1000, 250, 1, noise=3),
    Log(100_000, 5000, 6, noise=3),
)


def found_at(log: Log, sequences: list[OperatorSequence | None]) -> int | None:
    """After how many inferences the whole one was found; ``sequences``: at each read."""
    for index, found in enumerate(sequences):
        if found is not None and len(found) == log.unit:
            return index // log.reads + 1
    return None


def two_level(log: Log, entries: list[Entry]) -> dict[str, Any]:
    """One pass of the log through ``SequenceSearch``."""
    search, sequences, ends_s = SequenceSearch(), [], []
    began_s = time.perf_counter()
    for entry in entries:
        if entry.kind == Kind.GET:
            end_began_s = time.perf_counter()
            sequences.append(search.append(entry))
            ends_s.append(time.perf_counter() - end_began_s)
        else:
            search.append(entry)
    rest_s = time.perf_counter() - began_s - sum(ends_s)
    figures = {
        'search_ms': 1e3 * sum(ends_s),
        'longest_ms': 1e3 * max(ends_s),
        'append_us': 1e6 * rest_s / len(entries),
        'found_after': found_at(log, sequences),
    }
    unit = sequences[-1]
    if unit is not None:
        next_ = entries[-1].number + 1
        began_s = time.perf_counter()
        search.repeat(unit, range(next_, next_ + len(unit)), unit.numbers)
        figures['repeat_us'] = 1e6 * (time.perf_counter() - began_s)
        began_s = time.perf_counter()
        count = len(unit.steps)  # made here
        figures['steps_us'] = 1e6 * (time.perf_counter() - began_s) / count
    return figures


def dependency(log: Log, entries: list[Entry]) -> dict[str, Any]:
    """The paper's search at each read."""
    sequences, took_s, gave_up = [], 0.0, False
    for index, entry in enumerate(entries, 1):
        if entry.kind != Kind.GET:
            continue
        if took_s > GIVE_UP_S:
            gave_up = True
            break
        began_s = time.perf_counter()
        sequences.append(find_sequence(entries[:index]))
        took_s += time.perf_counter() - began_s
    return {
        'search_ms': round(1e3 * took_s, 3),
        'found_after': found_at(log, sequences),
        'gave_up': gave_up,
    }


def measure(log: Log, repeats: int) -> dict[str, Any]:
    """Medians of ``repeats`` passes; the dependency search once for each log."""
    entries = log.entries()
    passes = [two_level(log, entries) for _ in range(repeats)]
    figures = {key: statistics.median(each[key] for each in passes) for key in passes[0]}
    clean = Log(0, log.unit, log.reads)
    clean_entries = clean.entries()[2:]  # without the upload of its one weight
    return {
        'log': log.name,
        'entries': len(entries),
        'two_level': {key: round(value, 3) for key, value in figures.items()},
        'dependency': dependency(log, entries),
        'dependency_clean_log': dependency(clean, clean_entries),
    }


def report(rows: list[dict[str, Any]], path: Path) -> None:
    """Print the table and write the JSON."""
    table = Table(title=f'{INFERENCES} inferences; initial/unit/reads')
    for heading in ('log', 'search ms', 'longest', 'append us', 'repeat us', 'found after'):
        table.add_column(heading, justify='left' if heading == 'log' else 'right')
    for heading in ('dependency ms', 'found after', 'clean log ms', 'found after'):
        table.add_column(heading, justify='right')
    for row in rows:
        two = row['two_level']
        cells = [f'{two["search_ms"]:.2f}', f'{two["longest_ms"]:.2f}', f'{two["append_us"]:.2f}']
        cells += [f'{two["repeat_us"]:.0f}', f'{two["found_after"] or 0:.0f}']
        for key in ('dependency', 'dependency_clean_log'):
            cells += [f'{row[key]["search_ms"]:.0f}', str(row[key]['found_after'] or '-')]
        table.add_row(row['log'], *cells)
    Console(width=130).print(table)
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        'schema': 1,
        'machine': f'{platform.machine()}, {os.cpu_count()} cores',
        'inferences': INFERENCES,
        'rows': rows,
    }
    path.write_text(json.dumps(content, indent=1) + '\n')


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--json', type=Path, default=RESULTS / 'rrto_search.json')
    parser.add_argument('--repeats', type=int, default=5)
    arguments = parser.parse_args()
    report([measure(log, arguments.repeats) for log in LOGS], arguments.json)


if __name__ == '__main__':
    main()
