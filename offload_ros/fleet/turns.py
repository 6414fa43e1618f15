"""Whose turn it is: shares kept exactly, the same each time."""

from __future__ import annotations

from collections.abc import Sequence
import math

LEFT = -1  # the turn of what shares leave of 1
DIGITS = 9  # of deficits: rounding errors below are ties


class Turns:
    """Weighted round robin, largest deficit first.

    After n turns the deficit of a share s that had k of them is n s - k; the next turn is of the
    largest one, of equal ones the first. Where all n s are whole numbers, all k are equal to them.
    """

    def __init__(self, shares: Sequence[float]) -> None:
        """``shares``: add up to at most 1."""
        left = 1.0 - math.fsum(shares)
        self._shares = [*shares, left if round(left, DIGITS) > 0.0 else 0.0]
        self._had = [0] * len(self._shares)
        self._turns = 0

    def next(self) -> list[int]:
        """Places in ``shares``, or ``LEFT``: whose turn it is, which is counted, then the others
        by their deficits."""
        self._turns += 1
        deficits = [
            round(share * self._turns - had, DIGITS)
            for share, had in zip(self._shares, self._had, strict=True)
        ]
        order = sorted(range(len(deficits)), key=lambda at: -deficits[at])
        order = [at for at in order if self._shares[at] > 0.0]
        self._had[order[0]] += 1
        last = len(self._shares) - 1
        return [LEFT if at == last else at for at in order]
