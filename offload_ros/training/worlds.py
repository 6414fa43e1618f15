"""Data sets from simulated worlds: each world is drawn in a process of its own and kept on disk, so
that a run that was stopped goes on where it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
from rich.progress import track

Arrays = dict[str, npt.NDArray]


def drawn(
    of_world: Callable[[int, int], Arrays],
    seeds: Sequence[int],
    views: int,
    folder: Path,
    text: str,
    jobs: int = 1,
) -> list[Path]:
    """Files (npz), one for each seed, with what ``of_world(seed, views)`` gives; those that are in
    ``folder`` already are not drawn again."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f'{seed}.npz' for seed in seeds]
    missing = [(seed, path) for seed, path in zip(seeds, paths, strict=True) if not path.exists()]
    work = partial(_written, of_world, views)
    for _ in track(_run(work, missing, jobs), text, total=len(missing)):
        pass
    return paths


def _written(of_world: Callable[[int, int], Arrays], views: int, task: tuple[int, Path]) -> None:
    seed, path = task
    arrays = of_world(seed, views)
    part = path.with_suffix('.part')
    with part.open('wb') as file:
        np.savez(file, allow_pickle=False, **arrays)
    part.rename(path)


def _run(
    work: Callable[[tuple[int, Path]], None], tasks: list[tuple[int, Path]], jobs: int
) -> Iterator[None]:
    if jobs == 1:
        yield from map(work, tasks)
        return
    with ProcessPoolExecutor(jobs) as pool:
        yield from pool.map(work, tasks, chunksize=4)
