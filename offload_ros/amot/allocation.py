"""Who gets how many patches in the second round, within a budget (A-MOT's SLO-adaptive module).

Images are told apart by the interval that their first pass's confidence is in. Calibration measures
for each interval which share of its images is first correct at which option, a number of patches of
the second round (``Distributions``). The allocation gives each interval an option: for a batch at
once (``allocate``; the paper's equations 3 and 4), or image by image of a stream
(``StreamBudget``).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

VERSION = 1
FLOATS = npt.NDArray[np.float64]
CELLS = 50_000_000  # of the dynamic programme's table


class DistributionsError(ValueError):
    """A file of distributions cannot be used; the text says why."""


@dataclass(frozen=True, eq=False)
class Distributions:
    """What calibration measured for one ratio of the first round.

    edges: K + 1 confidences from 0 to 1, ascending; options: J numbers of patches of the second
    round, ascending, the first 0; p (K, J): share of an interval's images that are first correct at
    an option (option 0: after the first round); counts (K,): images of calibration in each
    interval; correct (K, J): share that is correct at an option, which is less than the sum of p
    up to it where images are lost again. Without ``correct`` it is taken to be that sum.
    """

    first_ratio: float
    edges: tuple[float, ...]
    options: tuple[int, ...]
    p: FLOATS
    counts: tuple[int, ...] = ()
    correct: FLOATS | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, 'p', np.asarray(self.p, np.float64))
        if not self.counts:
            object.__setattr__(self, 'counts', (1,) * len(self.p))
        correct = np.asarray(self.p.cumsum(1) if self.correct is None else self.correct, np.float64)
        object.__setattr__(self, 'correct', correct)
        intervals = len(self.edges) - 1
        if not 0.0 < self.first_ratio <= 1.0:
            raise ValueError(f'first_ratio is above 0 and at most 1, not {self.first_ratio!r}')
        if intervals < 1 or self.edges[0] != 0.0 or self.edges[-1] != 1.0 or _falls(self.edges):
            raise ValueError('edges ascend from 0 to 1')
        if not self.options or self.options[0] != 0 or _falls(self.options):
            raise ValueError('options ascend from 0')
        for name, table in (('p', self.p), ('correct', correct)):
            if table.shape != (intervals, len(self.options)):
                raise ValueError(
                    f'{name} has {intervals} rows (intervals) of {len(self.options)} (options)'
                )
            if not np.isfinite(table).all() or (table < 0).any() or (table > 1 + 1e-9).any():
                raise ValueError(f'{name} has shares from 0 to 1')
        if (self.p.sum(1) > 1 + 1e-6).any():
            raise ValueError('the shares of one interval in p are at most 1 together')
        if len(self.counts) != intervals or min(self.counts) < 0:
            raise ValueError(f'counts has {intervals} numbers from 0')

    def interval(self, confidence: float) -> int:
        """The interval that a confidence is in; the greatest confidence is in the last."""
        inner = np.asarray(self.edges[1:-1])
        return int(np.searchsorted(inner, confidence, side='right'))

    def histogram(self, confidences: npt.ArrayLike) -> npt.NDArray[np.int64]:
        """How many of confidences (B,) are in each interval: (K,)."""
        inside = np.searchsorted(np.asarray(self.edges[1:-1]), confidences, side='right')
        return np.bincount(np.atleast_1d(inside), minlength=len(self.p)).astype(np.int64)

    def net(self) -> FLOATS:
        """Like p, (K, J), with what is lost again subtracted: sums of it are ``correct``."""
        assert self.correct is not None
        return np.diff(self.correct, axis=1, prepend=0.0)

    def document(self) -> dict[str, Any]:
        """For JSON."""
        assert self.correct is not None
        return {
            'first_ratio': self.first_ratio,
            'edges': list(self.edges),
            'options': list(self.options),
            'p': np.round(self.p, 6).tolist(),
            'counts': list(self.counts),
            'correct': np.round(self.correct, 6).tolist(),
        }

    @staticmethod
    def of_document(document: Any) -> Distributions:
        """Of parsed JSON; ``ValueError`` says what is wrong."""
        keys = {'first_ratio', 'edges', 'options', 'p', 'counts', 'correct'}
        if not isinstance(document, dict) or set(document) != keys:
            raise ValueError(f'an object with {", ".join(sorted(keys))}')
        try:
            return Distributions(
                float(document['first_ratio']),
                tuple(float(edge) for edge in document['edges']),
                tuple(_whole(option) for option in document['options']),
                np.asarray(document['p'], np.float64),
                tuple(_whole(count) for count in document['counts']),
                np.asarray(document['correct'], np.float64),
            )
        except TypeError as error:
            raise ValueError(f'not numbers: {error}') from error

    def write(self, path: Path) -> None:
        """Write a file of this one alone."""
        write_all(path, [self])

    @staticmethod
    def read(path: Path, first_ratio: float | None = None) -> Distributions:
        """Those of a file for the ratio nearest to ``first_ratio`` (default: the file's first)."""
        found = read_all(path)
        if first_ratio is None:
            return found[0]
        return min(found, key=lambda each: abs(each.first_ratio - first_ratio))


def write_all(path: Path, distributions: Sequence[Distributions]) -> None:
    """Write one file for several ratios of the first round."""
    content = {'version': VERSION, 'distributions': [each.document() for each in distributions]}
    part = path.with_suffix('.part')
    part.write_text(json.dumps(content, indent=1) + '\n')
    part.replace(path)


def read_all(path: Path) -> tuple[Distributions, ...]:
    """All of a file; ``DistributionsError`` says why it cannot be used."""
    try:
        content = json.loads(path.read_text())
        if not isinstance(content, dict) or content.get('version') != VERSION:
            raise ValueError(f'not version {VERSION} of this format: calibrate again')
        found = tuple(Distributions.of_document(each) for each in content['distributions'])
        if not found:
            raise ValueError('nothing in it')
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DistributionsError(f'{path}: {error}') from error
    return found


def _falls(values: Sequence[float]) -> bool:
    return any(b <= a for a, b in pairwise(values))


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f'{value!r} is no whole number')
    return value


def allocate(
    p: npt.ArrayLike,
    options: Sequence[int],
    counts: Sequence[int] | npt.NDArray[np.int64],
    budget: float,
    weighted: bool,
) -> list[int]:
    """The option of each interval: exact solution of A-MOT's equations 3 and 4.

    Maximises the sum over intervals k of ``p[k, :x_k + 1].sum()`` where ``options[x_k] *
    counts[k]`` are at most ``budget`` together: a multiple-choice knapsack, by dynamic programming.
    ``weighted`` False is the objective as the paper prints it, in which an interval counts as much
    as any other; True multiplies each by its number of images, so that the sum is the number of
    images expected to be correct.

    p (K, J); options: J numbers of patches, the first 0; counts (K,): images of the batch in each
    interval; budget: patches of all second rounds together (all patches less the first rounds').
    Among equally good solutions one with the fewest patches.
    """
    gains = np.asarray(p, np.float64)
    images = np.asarray(counts, np.int64)
    if gains.ndim != 2 or gains.shape != (len(images), len(options)):
        raise ValueError(f'p is (intervals, options), not {gains.shape}')
    if not len(options) or options[0] != 0 or min(options) < 0 or (images < 0).any():
        raise ValueError('the first option is 0; options and counts are not below 0')
    if not budget >= 0:
        raise ValueError(f'a budget is at least 0 patches, not {budget!r}')
    values = gains.cumsum(1) * (images[:, None] if weighted else 1)
    costs = images[:, None] * np.asarray(options, np.int64)[None, :]
    unit = max(1, int(np.gcd.reduce(costs, axis=None)))
    costs //= unit
    room = int(min(budget // unit, costs.max(1).sum())) if len(images) else 0
    if (room + 1) * len(images) > CELLS:
        raise ValueError('the batch is too large to allocate exactly: split it')
    return _solved(values, costs, room)


def _solved(values: FLOATS, costs: npt.NDArray[np.int64], room: int) -> list[int]:
    """The multiple-choice knapsack: a column of each row, costs at most ``room`` together."""
    best = np.zeros(room + 1)  # of the rows so far, by what they may cost at most
    chosen = np.zeros((len(values), room + 1), np.int16)
    for row, (gains, weights) in enumerate(zip(values, costs, strict=True)):
        found = np.full(room + 1, -math.inf)
        for column, (gain, weight) in enumerate(zip(gains, weights, strict=True)):
            if weight > room:
                continue
            candidate = best[: room + 1 - weight] + gain
            better = candidate > found[weight:]
            found[weight:][better] = candidate[better]
            chosen[row, weight:][better] = column
        best = found
    at = int(np.argmax(best))  # the first of equals: the cheapest
    picked: list[int] = []
    for row in range(len(values) - 1, -1, -1):
        picked.append(int(chosen[row, at]))
        at -= int(costs[row, picked[-1]])
    return picked[::-1]


class StreamBudget:
    """Patches of second rounds of a stream of images, whose average is limited.

    A bucket: each image brings what is granted for it (``choose``), images that need nothing leave
    theirs to others. All that was spent is never more than all that was granted, and within any
    stretch of the stream never more than what was granted in it plus ``burst`` patches. What an
    image gets is the exact allocation for the last ``window`` images (at first those of
    calibration) with the mean of what is granted, corrected by what the bucket holds.

    burst: patches that the bucket holds at most, at least the greatest option (default: eight times
    that). confidence: from it
    on images get nothing. weighted, net: see ``allocate`` and ``Distributions.net``.
    """

    HORIZON = 24  # images over which the bucket comes back to half full

    def __init__(
        self,
        distributions: Distributions,
        burst: int | None = None,
        confidence: float = math.inf,
        weighted: bool = True,
        net: bool = False,
        window: int = 256,
    ) -> None:
        most = distributions.options[-1]
        self.burst = 8 * most if burst is None else burst
        if self.burst < most:
            raise ValueError(f'burst is at least the greatest option, {most} patches')
        if window < 1:
            raise ValueError('window is at least 1 image')
        self.distributions, self.confidence, self.weighted = distributions, confidence, weighted
        self.level = 0.0  # patches that may be spent now
        self._p = distributions.net() if net else distributions.p
        self._window = window
        self._seen: deque[int | None] = deque(self._calibrated(), maxlen=window)
        self._granted: deque[float] = deque(maxlen=window)
        self._solution: tuple[tuple[tuple[int, ...], int], list[int]] | None = None

    def _calibrated(self) -> list[int | None]:
        """``window`` intervals (None: confident) as frequent as in calibration."""
        counts = np.asarray(self.distributions.counts, np.float64)
        if not counts.sum():
            return []
        upto = np.round(counts.cumsum() / counts.sum() * self._window).astype(int)
        shares = np.diff(upto, prepend=0)
        intervals = np.repeat(np.arange(len(counts)), shares)
        low = self.distributions.edges
        # Those of an interval that only begins below the limit may or may not be asked for.
        asked = [None if low[each] >= self.confidence else int(each) for each in intervals]
        return [asked[int(at)] for at in np.random.default_rng(0).permutation(len(asked))]

    def choose(self, confidence: float, granted: float) -> int:
        """Patches (one of the options) for an image with this confidence, and spend them.

        granted: patches that came with it: the mean per image, or patches per second times the time
        since the last image, less what first rounds took; below 0 where those took more.
        """
        if not math.isfinite(granted):
            raise ValueError(f'granted is a finite number of patches, not {granted!r}')
        self.level = min(self.level + granted, float(self.burst))
        self._granted.append(granted)
        if confidence >= self.confidence:
            self._seen.append(None)
            return 0
        interval = self.distributions.interval(confidence)
        self._seen.append(interval)
        wanted = self.distributions.options[self._solved()[interval]]
        affordable = [
            each for each in self.distributions.options if each <= min(wanted, self.level)
        ]
        spent = affordable[-1] if affordable else 0
        self.level -= spent
        return spent

    def _solved(self) -> list[int]:
        """Options of the intervals for the images in the window."""
        seen = [each for each in self._seen if each is not None]
        counts = np.bincount(np.asarray(seen, np.int64), minlength=len(self._p))
        mean = sum(self._granted) / len(self._granted)
        mean += (self.level - self.burst / 2) / self.HORIZON
        budget = max(0, math.floor(mean * len(self._seen)))
        key = (tuple(counts.tolist()), budget)
        if self._solution is None or self._solution[0] != key:
            options = self.distributions.options
            self._solution = key, allocate(self._p, options, counts, budget, self.weighted)
        return self._solution[1]
