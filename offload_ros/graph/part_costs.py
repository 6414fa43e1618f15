"""What parts of operators cost on one machine, by a profile: one rule for all evaluators.

Some of an operator's rows cost max(share of the rows * time, floor). Where a machine was measured
with parts, the share of the time follows its curve (``Side.share_curve``), or each operator has its
own line: ``ProfiledOperator.robot_part`` and ``server_part``. All rows at once cost the whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from offload_ros.graph.profile import Floats, Profile, Side


@dataclass(frozen=True)
class PartCosts:
    """Of the n operators of a profile on ``machine``; (n,) each, in s. ``fixed`` and ``rate``: of
    those that were measured in parts (``lines``)."""

    machine: Side
    whole: Floats
    floor: Floats
    fixed: Floats
    rate: Floats
    lines: np.ndarray

    @classmethod
    def of(cls, profile: Profile, side: str) -> PartCosts:
        """``side``: 'robot' or 'server'."""
        whole, floor = profile.times(side)
        own = [getattr(operator, f'{side}_part') for operator in profile.operators]
        lines = np.array([each is not None for each in own])
        fixed, rate = np.array([each or (0.0, 0.0) for each in own]).T
        return cls(getattr(profile, side), whole, floor, fixed, rate, lines)

    def seconds(self, share: Floats) -> Floats:
        """(n, P) of shares (n, P) of the rows; nothing costs nothing."""
        return self._of(slice(None), share, (slice(None), None))

    def of_steps(self, places: Sequence[int], shares: Sequence[float]) -> list[float]:
        """Of a share of the operator at each place."""
        found: list[float] = self._of(np.array(places, dtype=int), np.array(shares)).tolist()
        return found

    def _of(self, places: object, share: Floats, shape: object = ...) -> Floats:
        def column(values: np.ndarray) -> np.ndarray:
            each: np.ndarray = values[places][shape]  # type: ignore[call-overload]
            return each

        whole, lines = column(self.whole), column(self.lines)
        seconds = self.machine.part_factor(share) * whole
        if lines.any():
            line = column(self.fixed) + column(self.rate) * share
            seconds = np.where(lines & (share < 1.0), line, np.where(lines, whole, seconds))
        seconds = np.maximum(seconds, column(self.floor))
        return np.where(share > 0.0, seconds, 0.0)

    @property
    def lines_of(self) -> list[tuple[float, float]]:
        """Of each operator a line through its parts: seconds of any part, and of all rows in
        parts. A curve counts as the line from its value at half the rows to the whole."""
        half = float(self.machine.part_factor(np.array(0.5)))
        slope = 2.0 * (1.0 - half)
        return [
            (fixed, rate) if line else ((1.0 - slope) * whole, slope * whole)
            for line, fixed, rate, whole in zip(
                self.lines.tolist(),
                self.fixed.tolist(),
                self.rate.tolist(),
                self.whole.tolist(),
                strict=True,
            )
        ]
