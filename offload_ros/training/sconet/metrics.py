"""How well a scene was completed: occupancy IoU, and precision and recall of what was not seen."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.ndimage import binary_dilation

Flags = npt.NDArray[np.bool_]
BINS = 1000  # of the probability that a voxel is occupied
AT_PRECISION = 0.8
AROUND = np.ones((3, 3, 3), bool)


@dataclass
class Scores:
    """Sums over scenes. Of voxels above the floor, in the room: how many are in the intersection
    and the union of truth and grid, and histograms (2: free, occupied; BINS) of probabilities, for
    voxels beside observed ones and for those further away."""

    seen: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(2, np.int64))
    completed: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(2, np.int64))
    beside: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros((2, BINS), np.int64))
    hidden: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros((2, BINS), np.int64))

    def add(
        self,
        seen: Flags,
        occupied: Flags,
        counted: Flags,
        probability: npt.NDArray[np.float32],
        threshold: float = 0.5,
    ) -> None:
        """One scene, all (W, H, D): what was seen, what is there, where it counts, and what the
        network says. Completed is what was seen, or is more probable than ``threshold``."""
        seen = seen & counted
        occupied = occupied & counted
        for sums, grid in (
            (self.seen, seen),
            (self.completed, seen | (counted & (probability > threshold))),
        ):
            sums += (int((grid & occupied).sum()), int((grid | occupied).sum()))
        near = binary_dilation(seen, AROUND)
        bins = np.minimum((probability * BINS).astype(np.int64), BINS - 1)
        for sums, where in (
            (self.beside, counted & near & ~seen),
            (self.hidden, counted & ~near),
        ):
            for value in (0, 1):
                at = where & (occupied == bool(value))
                sums[value] += np.bincount(bins[at], minlength=BINS)

    def figures(self) -> dict[str, Any]:
        """By name: IoU of both grids, and of unseen voxels the recall at precision 0.8."""
        both = self.beside + self.hidden
        return {
            'iou_seen': _ratio(*self.seen),
            'iou_completed': _ratio(*self.completed),
            'recall': recall_at(both),
            'recall_beside': recall_at(self.beside),
            'recall_hidden': recall_at(self.hidden),
            'threshold': threshold_at(both),
            'occupied_beside': int(self.beside[1].sum()),
            'occupied_hidden': int(self.hidden[1].sum()),
        }


def _ratio(part: int, whole: int) -> float:
    return float(part / whole) if whole else 0.0


def _curve(
    counts: npt.NDArray[np.int64],
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Precision and recall (BINS,) of what is at least as probable as each bin."""
    wrong, right = counts[:, ::-1].cumsum(1)[:, ::-1].astype(np.float64)
    precision = right / np.maximum(right + wrong, 1.0)
    return precision, right / max(1.0, float(counts[1].sum()))


def threshold_at(counts: npt.NDArray[np.int64], precision: float = AT_PRECISION) -> float:
    """The lowest probability from which on voxels are occupied in at least this share; 1.0 where
    there is none."""
    good = np.flatnonzero(_curve(counts)[0] >= precision)
    return float(good[0] / BINS) if len(good) else 1.0


def recall_at(counts: npt.NDArray[np.int64], precision: float = AT_PRECISION) -> float:
    """Share of occupied voxels found at this precision; 0.0 where it is not reached."""
    found, recall = _curve(counts)
    good = recall[found >= precision]
    return float(good.max()) if len(good) else 0.0
