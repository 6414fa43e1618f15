"""Rounds of several robots that wait at the same time are computed as one batch."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
import logging
import threading
import time
from typing import Any

from offload_ros.robot.window import Window

ACTIVE_S = 1.0  # who asked so lately may be about to ask again
TIDY_S = 1.0
TYPICAL_OF = 5
MAX_GROUPS = 256  # whose durations are known


@dataclass(eq=False)
class Work:
    """One image of one robot.

    group: what may be computed together, of which all have an equal ``compute``: it gets the
    ``given`` of each and returns a result for each. source: who asked. ``done(result, seconds)``
    or ``failed(why)`` is called in the batcher's thread. Times on the steady clock.
    """

    group: Hashable
    source: Hashable
    given: Any
    compute: Callable[[Sequence[Any]], Sequence[Any]]
    done: Callable[[Any, float], None]
    failed: Callable[[str], None]
    expires_s: float
    received_s: float = field(default_factory=time.monotonic)


class Batcher:
    """Computes what waits, most urgent first and with it what can go along, in one thread.

    A batch waits for more no longer than ``gather_s`` after its first part came, nor when that
    would make it late, nor when all who asked lately are in it; both may be changed while it runs.
    ``lend`` runs a function on the accelerator and returns its value. ``tidy`` is called about
    every second.
    """

    def __init__(
        self,
        lend: Callable[[Callable[[], Any]], Any],
        gather_s: float = 0.002,
        max_batch: int = 16,
        tidy: Callable[[], None] = lambda: None,
    ) -> None:
        if gather_s < 0 or max_batch < 1:
            raise ValueError('gather_s is at least 0, max_batch at least 1')
        self.batches = self.images = 0  # computed so far
        self._lend, self.gather_s, self.max_batch, self._tidy = lend, gather_s, max_batch, tidy
        self._condition = threading.Condition()
        self._waiting: list[Work] = []
        self._heard_s: dict[Hashable, float] = {}
        self._durations: dict[Hashable, Window] = {}
        self._closed = False
        self._thread = threading.Thread(target=self._run, name='patches', daemon=True)
        self._thread.start()

    def submit(self, work: Work) -> None:
        """Compute it with what can go along."""
        with self._condition:
            if not self._closed:
                self._heard_s[work.source] = work.received_s
                self._waiting.append(work)
                self._condition.notify()
                return
        work.failed('the server is closing')

    def withdraw(self, given: Any) -> None:
        """Nothing is needed any more of work for this ``given``."""
        with self._condition:
            self._waiting = [each for each in self._waiting if each.given is not given]

    def close(self) -> None:
        """End the thread; what waits fails."""
        with self._condition:
            self._closed = True
            waiting, self._waiting = self._waiting, []
            self._condition.notify()
        for work in waiting:
            _tell(work.failed, 'the server is closing')
        if self._thread is not threading.current_thread():
            self._thread.join(10.0)

    def _run(self) -> None:
        tidied_s = time.monotonic()
        while True:
            late, batch = self._next(tidied_s + TIDY_S)
            if self._closed:
                return
            for work in late:
                waited_ms = (time.monotonic() - work.received_s) * 1000.0
                _tell(work.failed, f'the server is busy: patches waited {waited_ms:.0f} ms')
            if batch:
                self._compute(batch)
            if time.monotonic() - tidied_s > TIDY_S:
                tidied_s = time.monotonic()
                _tell(self._tidy)

    def _next(self, until_s: float) -> tuple[list[Work], list[Work]]:
        """(what is too late, what to compute now), by ``until_s`` at the latest."""
        with self._condition:
            while not self._closed:
                now_s = time.monotonic()
                late = [each for each in self._waiting if each.expires_s <= now_s]
                self._waiting = [each for each in self._waiting if each.expires_s > now_s]
                batch, at_s = self._batch(now_s)
                if late or (batch and at_s <= now_s):
                    batch = batch if at_s <= now_s else []
                    self._waiting = [each for each in self._waiting if each not in batch]
                    return late, batch
                if now_s >= until_s:
                    break
                self._condition.wait(min(at_s, until_s) - now_s)
            return [], []

    def _batch(self, now_s: float) -> tuple[list[Work], float]:
        """The batch of the most urgent, and when it is to be computed."""
        if not self._waiting:
            return [], float('inf')
        first = min(self._waiting, key=lambda each: each.expires_s)
        batch = [each for each in self._waiting if each.group == first.group][: self.max_batch]
        if first not in batch:  # it came after as many others
            batch[-1] = first
        self._heard_s = {
            source: at_s for source, at_s in self._heard_s.items() if now_s - at_s < ACTIVE_S
        }
        waiting = {each.source for each in self._waiting}
        if len(batch) == self.max_batch or self._heard_s.keys() <= waiting:
            return batch, now_s
        window = self._durations.get(first.group)
        typical_s = window.percentile(50) if window is not None else 0.0
        oldest_s = min(each.received_s for each in batch)
        return batch, min(oldest_s + self.gather_s, first.expires_s - typical_s)

    def _compute(self, batch: list[Work]) -> None:
        given = [each.given for each in batch]

        def timed() -> tuple[Sequence[Any], float]:
            began_s = time.monotonic()
            results = batch[0].compute(given)
            return results, time.monotonic() - began_s

        try:
            results, took_s = self._lend(timed)
        except Exception as error:  # e.g. no memory for it: the next batch may be smaller
            logging.getLogger(__name__).warning('patches of %d images: %s', len(batch), error)
            for work in batch:
                _tell(work.failed, f'on the server: {type(error).__name__}: {error}')
            return
        self.batches += 1
        self.images += len(batch)
        if len(self._durations) >= MAX_GROUPS:
            self._durations.clear()
        self._durations.setdefault(batch[0].group, Window(TYPICAL_OF)).add(took_s)
        for work, result in zip(batch, results, strict=True):
            _tell(work.done, result, took_s)


def _tell(call: Callable[..., None], *arguments: Any) -> None:
    """One robot's fault must not end the others' service."""
    try:
        call(*arguments)
    except Exception:
        logging.getLogger(__name__).exception('patches could not be answered')
