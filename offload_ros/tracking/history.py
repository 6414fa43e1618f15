"""Runs a step function over inputs by stamp, also over those that come late."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable
import math
from typing import Generic, TypeVar

from offload_ros.tracking.checks import require, within

State = TypeVar('State')
Input = TypeVar('Input')


class History(Generic[State, Input]):
    """The latest inputs with the state after each.

    A late input is put where it belongs, and every newer one is run again: the result is, bit for
    bit, that of the inputs in order, provided that ``step(state, stamp_s, input)`` is a pure
    function of immutable states. Inputs older than ``span_s`` before the newest one, or than the
    last ``limit`` inputs, cannot be changed any more.
    """

    def __init__(
        self,
        start: State,
        step: Callable[[State, float, Input], State],
        span_s: float = 2.0,
        limit: int = 100,
    ) -> None:
        """Begin with the state ``start`` before any input."""
        within('span_s', span_s, 0.0, 3600.0)
        within('limit', limit, 1, 100_000)
        self._start, self._step = start, step
        self._span_s, self._limit = span_s, limit
        self._floor_s = -math.inf
        self._stamps: list[float] = []
        self._inputs: list[Input] = []
        self._states: list[State] = []

    def __len__(self) -> int:
        """Return how many inputs can still be preceded by others."""
        return len(self._stamps)

    @property
    def newest_s(self) -> float:
        """Return the newest stamp, minus infinity before the first."""
        return self._stamps[-1] if self._stamps else self._floor_s

    @property
    def state(self) -> State:
        """Return the state after the newest input."""
        return self._states[-1] if self._states else self._start

    def state_at(self, stamp_s: float) -> State:
        """Return the state after the inputs up to a stamp; the oldest kept for older stamps."""
        place = bisect_right(self._stamps, stamp_s)
        return self._states[place - 1] if place else self._start

    def add(self, stamp_s: float, value: Input) -> bool:
        """Put an input in; False if its stamp is known already or too old, and nothing is done."""
        require(math.isfinite(stamp_s), 'a stamp must be finite')
        place = bisect_left(self._stamps, stamp_s)
        if place < len(self._stamps) and self._stamps[place] == stamp_s:
            return False
        if stamp_s <= self._floor_s or stamp_s < self.newest_s - self._span_s:
            return False
        if place == 0 and len(self._stamps) >= self._limit:
            return False
        state = self._states[place - 1] if place else self._start
        states = []
        for stamp, each in zip(
            (stamp_s, *self._stamps[place:]), (value, *self._inputs[place:]), strict=True
        ):
            state = self._step(state, stamp, each)
            states.append(state)
        # Nothing is kept of an input whose step raised.
        self._stamps.insert(place, stamp_s)
        self._inputs.insert(place, value)
        self._states[place:] = states
        self._forget()
        return True

    def _forget(self) -> None:
        old = bisect_left(self._stamps, self._stamps[-1] - self._span_s)
        old = max(old, len(self._stamps) - self._limit)
        if old > 0:
            self._floor_s, self._start = self._stamps[old - 1], self._states[old - 1]
            del self._stamps[:old], self._inputs[:old], self._states[:old]
