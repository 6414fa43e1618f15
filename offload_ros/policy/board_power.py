"""A Jetson's own power sensors: INA3221 monitors on the module or its carrier, read from sysfs.

Two drivers exist. ``ina3221`` (JetPack 5 and later, and upstream Linux) is a hwmon device with
labels ``in<k>_label``, millivolts ``in<k>_input`` and milliamperes ``curr<k>_input`` for k = 1..3;
``ina3221x`` (JetPack 4) is an iio device with ``rail_name_<k>`` and milliwatts
``in_power<k>_input`` for k = 0..2.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
import math
from pathlib import Path
import threading
import time

# Rails through which all of the module's power comes; where one is there, the others are parts
# of it.
TOTAL_RAILS = ('VDD_IN', 'POM_5V_IN')
# Fed by another measured rail, or by nothing.
PARTIAL_RAILS = ('NC', 'VDDQ_VDD2_1V8AO')
_KEPT_S = 120.0


@dataclass(frozen=True)
class Rail:
    """One monitored supply: the files of its power in mW, or of its voltage (mV) and current
    (mA)."""

    label: str
    power: Path | None = None
    voltage: Path | None = None
    current: Path | None = None

    def read_w(self) -> float:
        """Watts now; OSError or ValueError when the sensor does not answer."""
        if self.power is not None:
            return float(self.power.read_text()) / 1e3
        assert self.voltage is not None and self.current is not None
        return float(self.voltage.read_text()) * float(self.current.read_text()) / 1e6


class BoardPower:
    """The board's input power, from the rail that carries all of it or the sum of all rails."""

    def __init__(self, rails: list[Rail]) -> None:
        whole = [rail for name in TOTAL_RAILS for rail in rails if rail.label == name]
        self.rails = whole[:1] or [rail for rail in rails if rail.label not in PARTIAL_RAILS]
        if not self.rails:
            raise ValueError('a board needs at least one power rail')

    @classmethod
    def find(cls, root: Path = Path('/sys')) -> BoardPower | None:
        """The sensors below ``root``; None where there are none that can be read."""
        drivers = root / 'bus/i2c/drivers'
        rails = [
            rail
            for driver in sorted(drivers.glob('ina3221*'))
            for device in sorted(driver.glob('*-*'))
            for rail in (*_hwmon_rails(device), *_iio_rails(device))
        ]
        readable = [rail for rail in rails if _is_readable(rail)]
        return cls(readable) if any(r.label not in PARTIAL_RAILS for r in readable) else None

    def read_w(self) -> float:
        """Watts now; OSError or ValueError when a sensor does not answer."""
        return sum(rail.read_w() for rail in self.rails)


def _hwmon_rails(device: Path) -> list[Rail]:
    found = []
    for folder in sorted(device.glob('hwmon/hwmon*')):
        for channel in (1, 2, 3):
            voltage = folder / f'in{channel}_input'
            current = folder / f'curr{channel}_input'
            label = _text(folder / f'in{channel}_label')
            if label is not None and voltage.is_file() and current.is_file():
                found.append(Rail(label, voltage=voltage, current=current))
    return found


def _iio_rails(device: Path) -> list[Rail]:
    found = []
    for folder in sorted(device.glob('iio:device*')):
        for channel in (0, 1, 2):
            power = folder / f'in_power{channel}_input'
            label = _text(folder / f'rail_name_{channel}')
            if label is not None and power.is_file():
                found.append(Rail(label, power=power))
    return found


def _text(file: Path) -> str | None:
    try:
        return file.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return None


def _is_readable(rail: Rail) -> bool:
    try:
        return math.isfinite(rail.read_w())
    except (OSError, ValueError):
        return False


class EnergyMeter:
    """Samples a board's power in a thread, every ``period_s``; joules between two moments.

    ``read_w`` gives watts (``BoardPower.read_w``); a sample that fails is left out. The last two
    minutes are kept. Moments are of ``time.monotonic``.
    """

    def __init__(self, read_w: Callable[[], float], period_s: float = 0.02) -> None:
        if not period_s > 0.0:
            raise ValueError(f'period_s must be above 0, not {period_s}')
        self._read_w = read_w
        self._period_s = period_s
        self._samples: deque[tuple[float, float]] = deque(maxlen=math.ceil(_KEPT_S / period_s))
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name='energy meter', daemon=True)

    def start(self) -> None:
        """Begin to sample."""
        self._thread.start()

    def close(self) -> None:
        """End the thread."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()

    def add(self, moment_s: float, watts: float) -> None:
        """One sample."""
        with self._lock:
            self._samples.append((moment_s, watts))

    def energy_j(self, begin_s: float, end_s: float) -> float:
        """Joules from ``begin_s`` to ``end_s``: the samples joined by lines, the first and last
        one held beyond. NaN without a sample near (ten periods)."""
        with self._lock:
            samples = list(self._samples)
        if not end_s > begin_s:
            return 0.0 if end_s == begin_s else math.nan
        near = 10.0 * self._period_s
        inside = [each for each in samples if begin_s < each[0] < end_s]
        before = [each for each in samples if begin_s - near <= each[0] <= begin_s][-1:]
        after = [each for each in samples if end_s <= each[0] <= end_s + near][:1]
        points = [*before, *inside, *after]
        if not points:
            return math.nan
        cuts = [begin_s, *(moment for moment, _ in inside), end_s]
        watts = [_between(points, moment) for moment in cuts]
        return math.fsum(
            0.5 * (watts[k] + watts[k + 1]) * (cuts[k + 1] - cuts[k]) for k in range(len(cuts) - 1)
        )

    def _run(self) -> None:
        while not self._ended.wait(self._period_s):
            moment_s = time.monotonic()
            try:
                watts = self._read_w()
            except (OSError, ValueError):
                continue
            self.add(0.5 * (moment_s + time.monotonic()), watts)


def _between(points: list[tuple[float, float]], moment_s: float) -> float:
    """Watts at a moment, on the line between the samples around it."""
    if moment_s <= points[0][0]:
        return points[0][1]
    for (left_s, left), (right_s, right) in pairwise(points):
        if moment_s <= right_s:
            if right_s == left_s:
                return right
            return left + (right - left) * (moment_s - left_s) / (right_s - left_s)
    return points[-1][1]
