"""Computes the requests of a batch, together where the model can be, and answers each."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import partial
import logging
import math
import threading
import time
from typing import Any

import torch

from offload_ros.models.batch import BatchTooLarge, NotBatched, difference
from offload_ros.models.errors import InputError, ModelError
from offload_ros.models.model import Model
from offload_ros.robot.pacing import Pacer
from offload_ros.server.backend import Backend, ReplicaLost
from offload_ros.server.durations import Durations
from offload_ros.server.fair_queue import Entry
from offload_ros.server.replies import Replies, give
from offload_ros.wire.exchange import Status

MAX_GROUPS = 256  # of which it is known whether they can be computed together
MAX_FAILED = 3  # batches in which a request failed by itself: then its group is batched no more
SAY_AGAIN_S = 5.0  # a model that fails on each frame is told so often
UNLIMITED = 1 << 16

Outputs = dict[str, torch.Tensor]
log = logging.getLogger(__name__)


@dataclass
class _Verdict:
    """Whether a group can be computed together: ``limit`` requests at most, 1: not at all."""

    tried: bool = False
    limit: int = UNLIMITED
    failed: int = 0


class Computing:
    """Used by all workers of an engine. ``find``: the model of a name and content hash;
    ``spent(began_s, ended_s)`` is told of all computing.

    The first batch of a group is computed both ways: each alone, which is what is answered, then
    together; only if the outputs agree (``models.batch.difference``) are later ones batches.
    """

    def __init__(
        self,
        replies: Replies,
        backend: Backend,
        pacer: Pacer,
        find: Callable[[str, str], Model | None],
        spent: Callable[[float, float], None],
    ) -> None:
        self.durations = Durations()
        self.batches = self.batched = 0  # computed so far, and requests in them
        self._replies, self._backend, self._pacer = replies, backend, pacer
        self._find, self._spent = find, spent
        self._lock = threading.Lock()
        self._verdicts: OrderedDict[Hashable, _Verdict] = OrderedDict()
        self._said_s: dict[str, float] = {}  # by model name

    def limit(self, group: Hashable) -> int:
        """How many requests of ``group`` can be computed together."""
        with self._lock:
            verdict = self._verdicts.get(group)
            return UNLIMITED if verdict is None else verdict.limit

    def run(self, worker: int, entries: list[Entry]) -> None:
        """Compute and answer requests of one group, whatever happens. ``ReplicaLost`` when the
        worker cannot go on; all are answered then too."""
        waiting = list(entries)  # for their answer

        def answer(entry: Entry, reply: Any) -> None:
            waiting.remove(entry)
            give(entry, reply)

        try:
            self._run(worker, entries, answer)
        except ReplicaLost as error:
            for entry in waiting:
                give(entry, self._replies.refusal(entry, Status.ERROR, str(error)))
            raise
        except Exception as error:  # e.g. no memory to compare a batch: the next one must find us
            log.exception("model '%s'", entries[0].request.model)
            detail = f'{type(error).__name__}: {error}'
            for entry in waiting:
                give(entry, self._replies.refusal(entry, Status.ERROR, detail))

    def _run(self, worker: int, entries: list[Entry], answer: Callable[[Entry, Any], None]) -> None:
        request = entries[0].request
        model = self._find(request.model, request.model_hash)
        if model is None:
            detail = f"model '{request.model}' was unloaded while the request waited"
            for entry in entries:
                waited_s = time.monotonic() - entry.received_s
                answer(entry, self._replies.refusal(entry, Status.ERROR, detail, waited_s))
            return
        ready = [entry for entry in entries if self._in_time(entry, answer)]
        if len(ready) < 2:
            for entry in ready:
                self._alone(worker, model, entry, answer)
            return
        verdict = self._verdict(ready[0].group)
        failure: NotBatched | None = None
        if verdict.tried:
            failure = self._together(worker, model, ready, answer)
            if failure is None:
                return
        alone = []
        for entry in ready:
            if self._in_time(entry, answer):
                outputs = self._alone(worker, model, entry, answer)
                alone.append((entry, outputs))
        wanted = [(entry, outputs) for entry, outputs in alone if outputs is not None]
        if failure is None and len(wanted) > 1:
            failure = self._try(worker, model, wanted, verdict)
        if failure is not None:
            # Of those that ran alone, one has failed: the batch may have failed by it.
            self._judge(model, verdict, failure, len(ready), len(wanted) < len(alone))

    def _in_time(self, entry: Entry, answer: Callable[[Entry, Any], None]) -> bool:
        """Whether its answer would be of use; answered otherwise."""
        queued_s = time.monotonic() - entry.received_s
        if queued_s <= entry.request.budget_s:
            return True
        late = (
            f'waited {queued_s * 1000:.0f} ms, the robot allowed '
            f'{entry.request.budget_s * 1000:.0f} ms'
        )
        answer(entry, self._replies.refusal(entry, Status.EXPIRED, late, queued_s))
        return False

    def _alone(
        self, worker: int, model: Model, entry: Entry, answer: Callable[[Entry, Any], None]
    ) -> Outputs | None:
        """Answer one; its outputs, or None where it has failed."""
        started_s = time.monotonic()
        run = partial(self._backend.run, worker, model, entry.request.inputs)
        try:
            outputs = self._pacer(run)
        except (InputError, ModelError) as error:
            if isinstance(error, ModelError):
                self._say(model.name, error)
            queued_s = started_s - entry.received_s
            answer(entry, self._replies.refusal(entry, Status.ERROR, str(error), queued_s))
            return None
        finally:
            ended_s = time.monotonic()
            self._spent(started_s, ended_s)
        self.durations.add(model.hash, 1, ended_s - started_s)
        answer(entry, self._replies.computed(entry, outputs, started_s, ended_s))
        return outputs

    def _say(self, model: str, error: ModelError) -> None:
        """The robot is told; so is who looks after the server."""
        now_s = time.monotonic()
        if now_s - self._said_s.get(model, -math.inf) >= SAY_AGAIN_S:
            self._said_s[model] = now_s
            log.error('%s', error)

    def _together(
        self, worker: int, model: Model, entries: list[Entry], answer: Callable[[Entry, Any], None]
    ) -> NotBatched | None:
        """Answer all by one forward; why not, and then none is answered."""
        started_s = time.monotonic()
        frames = [entry.request.inputs for entry in entries]
        try:
            outputs = self._pacer(partial(self._backend.run_batch, worker, model, frames))
        except NotBatched as error:
            return error
        finally:
            ended_s = time.monotonic()
            self._spent(started_s, ended_s)
        size = len(entries)
        self.durations.add(model.hash, size, ended_s - started_s)
        with self._lock:
            self.batches += 1
            self.batched += size
        for entry, each in zip(entries, outputs, strict=True):
            answer(entry, self._replies.computed(entry, each, started_s, ended_s, size))
        return None

    def _try(
        self,
        worker: int,
        model: Model,
        wanted: list[tuple[Entry, Outputs]],
        verdict: _Verdict,
    ) -> NotBatched | None:
        """Compute together what was answered already, and compare; why it cannot be used."""
        started_s = time.monotonic()
        frames = [entry.request.inputs for entry, _ in wanted]
        try:
            found = self._pacer(partial(self._backend.run_batch, worker, model, frames))
        except NotBatched as error:
            return error
        finally:
            self._spent(started_s, time.monotonic())
        for (_, single), each in zip(wanted, found, strict=True):
            why = difference(single, each)
            if why:
                return NotBatched(f'it computes something else: {why}')
        verdict.tried = True
        log.info("model '%s' is computed in batches from now on", model.name)
        return None

    def _judge(
        self, model: Model, verdict: _Verdict, failure: NotBatched, size: int, member: bool
    ) -> None:
        """What a failed batch of ``size`` means for later ones. ``member``: a request in it failed
        by itself too."""
        if isinstance(failure, BatchTooLarge) and size > 2:
            verdict.limit = min(verdict.limit, math.ceil(size / 2))
            log.warning("model '%s': %s: %d at most", model.name, failure, verdict.limit)
            return
        verdict.failed += 1
        if member and verdict.failed < MAX_FAILED:
            return
        verdict.limit = 1
        log.warning("model '%s' is computed one by one, not in batches: %s", model.name, failure)

    def _verdict(self, group: Hashable) -> _Verdict:
        with self._lock:
            verdict = self._verdicts.setdefault(group, _Verdict())
            self._verdicts.move_to_end(group)
            if len(self._verdicts) > MAX_GROUPS:
                self._verdicts.popitem(last=False)
            return verdict
