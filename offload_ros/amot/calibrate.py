"""Measure what second rounds are worth: the distributions of A-MOT's SLO-adaptive module.

    python -m offload_ros.amot.calibrate config/networks/scene --data DATA

For each ratio of the first round, all images of the split ``calibration`` go through it, and then
through second rounds of 0, 5, ... 40 % of the patches. What comes of it is written into the folder
of the networks (``distributions.json``), where the strategy and the benchmarks find it.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from offload_ros.amot.allocation import Distributions, write_all
from offload_ros.amot.bundle import Bundle, BundleError, load
from offload_ros.amot.dataset import load_split
from offload_ros.amot.evaluate import FirstRound, Images, run_first, run_second
from offload_ros.amot.patches import count_of

FILE = 'distributions.json'
FIRST_RATIOS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8)
STEP, MOST = 0.05, 0.4  # options of the second round, as shares of the patches
INTERVALS = 8  # below the bundle's confidence; two more above it
FEWEST = 30  # images in an interval
RUNS = 2  # draws of the first round's sample
FIRST_RUN = 1_000  # their seeds: none that a benchmark draws


def options_of(patches: int, first: int) -> tuple[int, ...]:
    """Numbers of patches of the second round after ``first`` of ``patches``: none that is not
    there."""
    shares = [STEP * step for step in range(round(MOST / STEP) + 1)]
    counts = {min(round(share * patches), patches - first) for share in shares}
    return tuple(sorted(counts))


def edges_of(
    confidences: npt.NDArray[np.float64], confidence: float, intervals: int = INTERVALS
) -> tuple[float, ...]:
    """Edges of confidence intervals with equally many images each below ``confidence``."""
    below = confidences[confidences < confidence]
    wanted = max(1, min(intervals, len(below) // FEWEST))
    inner = np.quantile(below, np.arange(1, wanted) / wanted) if len(below) else np.empty(0)
    edges = {0.0, 1.0, confidence, (1.0 + confidence) / 2, *np.round(inner, 4).tolist()}
    return tuple(sorted(edges))


def distributions_of(
    first_ratio: float,
    options: Sequence[int],
    edges: tuple[float, ...],
    confidences: npt.NDArray[np.float64],
    right: npt.NDArray[np.bool_],
) -> Distributions:
    """Of what was measured: confidences (M,), and whether image m is right at option j (M, J)."""
    intervals, count = len(edges) - 1, len(options)
    inside = np.searchsorted(np.asarray(edges[1:-1]), confidences, side='right')
    images = np.bincount(inside, minlength=intervals)
    first = np.where(right.any(1), right.argmax(1), count)  # count: never
    p, correct = np.zeros((intervals, count)), np.zeros((intervals, count))
    for interval in np.flatnonzero(images):
        mine = inside == interval
        p[interval] = np.bincount(first[mine], minlength=count + 1)[:count] / images[interval]
        correct[interval] = right[mine].mean(0)
    counts = tuple(int(each) for each in images)
    return Distributions(first_ratio, edges, tuple(options), p, counts, correct)


def measure(
    bundle: Bundle,
    images: Images,
    first_ratio: float,
    runs: int = RUNS,
    tell: Callable[[int], None] = lambda done: None,
) -> Distributions:
    """Distributions for one ratio. ``tell``: called with the number of images that are done."""
    count = count_of(first_ratio, bundle.patches)
    options = options_of(bundle.patches, count)
    confidences, right = [], []
    for run in range(FIRST_RUN, FIRST_RUN + runs):
        rounds = run_first(bundle, images, count, run, tell=tell)
        confidences.append(rounds.confidence)
        right.append(_right(bundle, images, rounds, options, tell))
    together = np.concatenate(confidences)
    edges = edges_of(together, bundle.confidence)
    return distributions_of(first_ratio, options, edges, together, np.concatenate(right))


def _right(
    bundle: Bundle,
    images: Images,
    rounds: FirstRound,
    options: Sequence[int],
    tell: Callable[[int], None],
) -> npt.NDArray[np.bool_]:
    """(M, J): confident images too, as the limit may be another later."""
    found = []
    for option in options:
        counts = np.full(len(images), option, np.int64)
        found.append(run_second(bundle, images, rounds, counts) == images.labels)
        tell(len(images))
    return np.stack(found, 1)


def calibrate(
    folder: Path, data: Path, first_ratios: Sequence[float], runs: int = RUNS
) -> list[Distributions]:
    """Measure for all ratios, write ``distributions.json`` into ``folder``."""
    bundle = load(folder)
    if bundle.second is None:
        raise BundleError(f'{folder} has no second_pass: there is nothing to allocate')
    split, labels = load_split(data, 'calibration', bundle.image_px)
    if labels != bundle.labels:
        raise ValueError(f'{data} has other classes than the networks in {folder}')
    images = Images.of(split, bundle.patch_px)
    found = []
    with Progress() as progress:
        for ratio in first_ratios:
            options = options_of(bundle.patches, count_of(ratio, bundle.patches))
            passes = len(images) * runs * (1 + len(options))
            task = progress.add_task(f'first round of {ratio:.0%}', total=passes)
            found.append(
                measure(bundle, images, ratio, runs, lambda done: progress.advance(task, done))  # noqa: B023
            )
    write_all(folder / FILE, found)
    return found


def table_of(found: Sequence[Distributions]) -> Table:
    """Accuracy of all images with the first round alone, and with second rounds for all."""
    table = Table(title='accuracy on the calibration split, %')
    table.add_column('first round')
    options = sorted({option for each in found for option in each.options})
    for option in options:
        table.add_column(f'+ {option}', justify='right')
    for each in found:
        weights = np.asarray(each.counts) / max(1, sum(each.counts))
        assert each.correct is not None
        values = dict(zip(each.options, weights @ each.correct, strict=True))
        cells = [f'{100 * values[at]:.1f}' if at in values else '' for at in options]
        table.add_row(f'{each.first_ratio:.0%}', *cells)
    return table


def ratios(text: str) -> tuple[float, ...]:
    """Comma-separated shares; ``ArgumentTypeError`` where they are none."""
    try:
        values = tuple(float(part) for part in text.split(','))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f'{text!r} are no numbers') from error
    if not all(math.isfinite(value) and 0 < value <= 1 for value in values):
        raise argparse.ArgumentTypeError('shares are above 0 and at most 1')
    return values


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or '').splitlines()[0])
    parser.add_argument('folder', type=Path, help='networks; gets distributions.json')
    parser.add_argument('--data', type=Path, required=True, help='images, split calibration')
    parser.add_argument(
        '--first-ratios',
        type=ratios,
        default=FIRST_RATIOS,
        help=f'shares of the patches (default {",".join(map(str, FIRST_RATIOS))})',
    )
    parser.add_argument('--runs', type=int, default=RUNS, help='draws of the sample of each image')
    arguments = parser.parse_args()
    try:
        found = calibrate(
            arguments.folder, arguments.data, arguments.first_ratios, max(1, arguments.runs)
        )
    except ValueError as error:
        parser.error(str(error))
    Console().print(table_of(found))


if __name__ == '__main__':
    main()
