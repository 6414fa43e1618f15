"""Bandwidth over time: recorded (CSV) or generated, to be replayed on the testbed's link.

The recordings behind the papers of this package are not public; their means are: 93 Mbit/s indoors
and 73 Mbit/s outdoors, there with drops to almost nothing, sampled every 0.1 s over five minutes.
The generators have these means, and the spread and correlation of the first five minutes of
`benchmarks/data/indoors_recorded.csv`, reconstructed from the logs of one of them.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Rates = NDArray[np.float64]
STEP_S = 0.1
_SLOW_S, _FAST_S = 40.0, 0.3  # correlation times: where the robot is, and what the air does
_FAST_SHARE = 0.25  # of the variance


@dataclass(frozen=True)
class Trace:
    """Rates in Mbit/s (of TCP payload), each from its time in s until the next one's.

    Raises ValueError for no rates at all, times that do not grow, and rates that are negative or
    not finite.
    """

    times_s: tuple[float, ...]
    mbit: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.times_s or len(self.times_s) != len(self.mbit):
            raise ValueError('a trace needs at least one row of (time in s, rate in Mbit/s)')
        before_s = -math.inf
        for row, (time_s, mbit) in enumerate(zip(self.times_s, self.mbit, strict=True), 1):
            if not (math.isfinite(time_s) and time_s > before_s):
                raise ValueError(f'row {row}: time {time_s} s does not come after {before_s} s')
            if not (math.isfinite(mbit) and mbit >= 0.0):
                raise ValueError(f'row {row}: a rate must be 0 Mbit/s or more, not {mbit}')
            before_s = time_s

    @property
    def duration_s(self) -> float:
        """From the first time to the end of the last rate, as long as the one before it."""
        if len(self.times_s) == 1:
            return STEP_S
        return 2 * self.times_s[-1] - self.times_s[-2] - self.times_s[0]

    @property
    def mean_mbit(self) -> float:
        """Mean over time in Mbit/s."""
        lengths = np.diff([*self.times_s, self.times_s[0] + self.duration_s])
        return float(np.average(self.mbit, weights=lengths))

    def steps(self) -> list[tuple[float, float]]:
        """(seconds from the first, bytes/s), as ``wire.shaper.LinkShape`` takes them."""
        begin_s = self.times_s[0]
        steps = [
            (at_s - begin_s, mbit * 1e6 / 8)
            for at_s, mbit in zip(self.times_s, self.mbit, strict=True)
        ]
        return steps if len(steps) > 1 else [*steps, (STEP_S, steps[0][1])]

    def write(self, path: Path) -> None:
        """Write the file that ``read`` reads."""
        rows = zip(self.times_s, self.mbit, strict=True)
        lines = (f'{time_s:.6g},{mbit:.6g}\n' for time_s, mbit in rows)
        path.write_text('time_s,mbit\n' + ''.join(lines))

    @classmethod
    def read(cls, path: Path) -> Trace:
        """Read a CSV file: time in s, rate in Mbit/s; a first line of names and # lines may stand.

        Raises ValueError, naming the file and the line or row, when it is not such a file.
        """
        times_s: list[float] = []
        rates: list[float] = []
        try:
            with path.open(newline='') as file:
                lines = csv.reader(line for line in file if not line.startswith('#'))
                for row in lines:
                    try:
                        time_s, mbit = (float(cell) for cell in row)
                    except ValueError:
                        if not row or (not times_s and lines.line_num == 1):
                            continue
                        raise ValueError(
                            f'row {len(times_s) + 1}: two numbers are needed, time in s and rate '
                            f'in Mbit/s, not {",".join(row)!r}'
                        ) from None
                    times_s.append(time_s)
                    rates.append(mbit)
            return cls(tuple(times_s), tuple(rates))
        except OSError as error:
            raise ValueError(f'the trace {path} cannot be read: {error.strerror}') from error
        except (ValueError, csv.Error) as error:
            raise ValueError(f'the trace {path} is not usable: {error}') from error


def _autoregressive(count: int, time_s: float, rng: np.random.Generator) -> Rates:
    """(count,) of a stationary first-order autoregressive process, variance 1."""
    keep = math.exp(-STEP_S / time_s)
    noise = rng.standard_normal(count) * math.sqrt(1.0 - keep * keep)
    values = np.empty(count)
    value = rng.standard_normal()
    for index in range(count):
        value = keep * value + noise[index]
        values[index] = value
    return values


def _with_mean(shape: Rates, mean: float, lowest: float, highest: float) -> Rates:
    """`shape` scaled so that its mean is `mean` after clipping to [lowest, highest]."""
    factor = mean / shape.mean()
    for _ in range(50):
        factor *= mean / np.clip(shape * factor, lowest, highest).mean()
    scaled: Rates = np.clip(shape * factor, lowest, highest)
    return scaled


def _trace(rates: Rates) -> Trace:
    times = np.arange(len(rates)) * STEP_S
    return Trace(tuple(np.round(times, 3).tolist()), tuple(rates.tolist()))


def _fading(count: int, spread: float, rng: np.random.Generator) -> Rates:
    """(count,) around 1 with standard deviation `spread`, never below 0."""
    slow = _autoregressive(count, _SLOW_S, rng)
    slow -= slow.mean()  # five minutes hold few slow swings: without this, spreads differ by seed
    slow /= slow.std()
    fast = _autoregressive(count, _FAST_S, rng)
    mixed = math.sqrt(1.0 - _FAST_SHARE) * slow + math.sqrt(_FAST_SHARE) * fast
    return np.maximum(1.0 + spread * mixed, 0.0)


def indoors(seed: int = 0, duration_s: float = 300.0) -> Trace:
    """A robot walking through rooms: mean 93 Mbit/s, standard deviation about 34, no outage."""
    rng = np.random.default_rng([seed, 1])
    shape = _fading(round(duration_s / STEP_S), 0.37, rng)
    return _trace(_with_mean(shape, 93.0, 8.0, 232.0))


def outdoors(seed: int = 0, duration_s: float = 300.0) -> Trace:
    """Fewer walls to reflect, more to block: mean 73 Mbit/s, and every 10 s or so almost none.

    A drop to 0-2 Mbit/s lasts 0.2 s to some seconds.
    """
    rng = np.random.default_rng([seed, 2])
    count = round(duration_s / STEP_S)
    blocked = np.zeros(count, dtype=bool)
    start_s = rng.exponential(5.0)
    while start_s < duration_s:
        length_s = max(0.2, rng.lognormal(math.log(0.6), 0.7))
        blocked[round(start_s / STEP_S) : round((start_s + length_s) / STEP_S)] = True
        start_s += length_s + rng.exponential(10.0)
    near_zero = rng.uniform(0.0, 2.0, count)
    open_mean = (73.0 * count - near_zero[blocked].sum()) / max(1, count - blocked.sum())
    rates = near_zero
    shape = _fading(count, 0.45, rng)[~blocked]
    rates[~blocked] = _with_mean(shape, open_mean, 2.0, 232.0)
    return _trace(rates)


GENERATORS = {'indoor': indoors, 'outdoor': outdoors}
