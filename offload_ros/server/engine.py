"""The server's work: requests of all robots, each answered exactly once; one computation at a time
in this process, or one in each of several others (``server.backend``)."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable
from functools import partial
import heapq
import logging
import math
import threading
import time
from typing import Any, NamedTuple

from offload_ros.models.errors import InputError, ModelError
from offload_ros.models.model import Model
from offload_ros.robot.lane import Job
from offload_ros.robot.pacing import Pacer
from offload_ros.server.backend import Backend, InProcess, ReplicaLost
from offload_ros.server.batching import Batching, Turns, group_of
from offload_ros.server.computing import Computing
from offload_ros.server.fair_queue import Entry, FairQueue
from offload_ros.server.replies import Replies, give
from offload_ros.wire.exchange import Reply, Request, Status

BUSY_SPAN_S = 1.0
RESTORE_S = 1.0  # between attempts to replace a replica
CLOSE_S = 10.0  # what runs may take so long to end


class _Running(NamedTuple):
    """``size`` requests for a model, computed since ``began_s`` (steady clock)."""

    model_hash: str
    size: int
    began_s: float


class Engine:
    """Runs requests of all robots on the models of one server.

    ``submit`` never blocks; the answer is called from the engine's thread, or at once when the
    request is refused. A cancelled request, and one of a robot that is gone, gets no answer.
    ``pacer`` makes it a slower accelerator, for benchmarks.

    Requests of several robots for one model are computed together as ``batching`` says, which may
    be set at any time. ``ModelError`` when ``backend`` (default: this process) cannot have a model.
    """

    def __init__(
        self,
        name: str,
        session: str,
        models: Iterable[Model],
        queue_limit: int = 32,
        pacer: Pacer | None = None,
        backend: Backend | None = None,
    ) -> None:
        self.name = name
        self.session = session
        self._pacer = pacer or Pacer()
        self._backend = backend or InProcess()
        self._replies = Replies(name, session)
        self._condition = threading.Condition()
        self._queue = FairQueue(queue_limit)
        self._lent: deque[Job] = deque()  # what runs when no request waits
        self._in_turn: deque[Job] = deque()  # what runs next, by turns with requests
        self._closed = False
        self._busy: deque[tuple[float, float]] = deque(maxlen=1000)
        self._running: dict[int, _Running] = {}  # by worker
        self._down: set[int] = set()  # workers whose replica is being replaced
        # Name -> content hash -> model; inner ones are replaced, never changed, for the readers.
        self._models: dict[str, dict[str, Model]] = {}
        self._changing = threading.Lock()  # models are added by threads that load them
        self._computing = Computing(
            self._replies, self._backend, self._pacer, self.find, self._spent
        )
        self._turns = Turns(self._queue, self._computing.durations, self._computing.limit)
        try:
            for model in models:
                self.add(model)
        except ModelError:
            self._backend.close()
            raise
        remote = self._backend.remote
        names = ['engine', *(f'engine {each}' for each in range(1, self._backend.workers))]
        self._threads = [
            threading.Thread(target=self._work, args=(each, not remote), name=name, daemon=True)
            for each, name in enumerate(names)
        ]
        if remote:  # what is lent is of this process
            self._threads.append(
                threading.Thread(target=self._work, args=(None, True), name='lent', daemon=True)
            )
        for thread in self._threads:
            thread.start()

    @property
    def models(self) -> list[Model]:
        """What can be asked for now."""
        return [model for same in list(self._models.values()) for model in list(same.values())]

    def find(self, name: str, content_hash: str) -> Model | None:
        """The model of this name and content, if it is here."""
        return self._models.get(name, {}).get(content_hash)

    def add(self, model: Model) -> None:
        """Serve ``model`` too; another variant of a name is kept beside it. ``ModelError`` when
        the backend cannot have it."""
        self._backend.add(model)
        with self._changing:
            self._models[model.name] = {**self._models.get(model.name, {}), model.hash: model}

    def remove(self, name: str, variant: str) -> bool:
        """Serve a variant no more; what runs on it ends well. False when it was not there."""
        with self._changing:
            same = self._models.get(name, {})
            kept = {key: model for key, model in same.items() if model.variant != variant}
            if kept:
                self._models[name] = kept
            else:
                self._models.pop(name, None)
        for key in same.keys() - kept.keys():
            self._backend.remove(same[key])
        return len(kept) < len(same)

    @property
    def batching(self) -> Batching:
        """How requests are put together, from the next batch on."""
        return self._turns.batching

    @batching.setter
    def batching(self, batching: Batching) -> None:
        with self._condition:
            self._turns.batching = batching
            self._condition.notify_all()

    @property
    def batches(self) -> tuple[int, int]:
        """Batches of several requests that were computed so far, and the requests in them."""
        return self._computing.batches, self._computing.batched

    @property
    def queue_length(self) -> int:
        """Requests that wait."""
        with self._condition:
            return len(self._queue)

    @property
    def queue_limit(self) -> int:
        """How many may wait; another one counts from the next request on."""
        return self._queue.limit

    @queue_limit.setter
    def queue_limit(self, limit: int) -> None:
        with self._condition:
            self._queue.limit = limit

    @property
    def slowdown(self) -> float:
        """How many times as long everything takes here as on the machine itself."""
        return self._pacer.slowdown

    def lend(self, compute: Callable[[], Any], in_turn: bool = False) -> Any:
        """Run a short piece of other work in the engine's thread, when no request waits;
        ``in_turn``: after the running request, so that what robots wait for is not held up.

        Waits for its value, or raises its error; ``RuntimeError`` when the engine closes.
        """
        job = Job(partial(self._pacer, compute), time.monotonic(), None)
        with self._condition:
            if self._closed:
                raise RuntimeError('the server is closing')
            (self._in_turn if in_turn else self._lent).append(job)
            self._condition.notify_all()
        return job.result()

    def busy_share(self) -> float:
        """Share of the last second that was spent computing, 0 to 1; of all replicas."""
        now = time.monotonic()
        with self._condition:
            spans = list(self._busy)
            spans += [(running.began_s, now) for running in self._running.values()]
        recent = [
            min(end_s, now) - max(begin_s, now - BUSY_SPAN_S)
            for begin_s, end_s in spans
            if end_s > now - BUSY_SPAN_S
        ]
        return min(1.0, sum(recent) / (BUSY_SPAN_S * self._backend.workers))

    def submit(self, request: Request, answer: Callable[[Reply], None]) -> None:
        """Queue ``request``; refused at once with the cause when it cannot be run (in time)."""
        entry = Entry(request, answer, time.monotonic(), group_of(request))
        refusal = self._refusal(request)
        if refusal:
            answer(self._replies.refusal(entry, Status.ERROR, refusal))
            return
        refused: Entry | None = entry
        with self._condition:
            cause = 'server is closing' if self._closed else self._too_late(entry)
            if not cause:
                cause = f'queue is full ({self._queue.limit} requests wait)'
                refused = self._queue.push(entry)
                self._turns.heard(entry)
                self._condition.notify_all()
        if refused is not None:
            give(refused, self._replies.refusal(refused, Status.BUSY, cause))

    def cancel(self, session: str, seq: int) -> bool:
        """The robot needs no answer any more: True when its computing is saved."""
        with self._condition:
            return self._queue.cancel(session, seq)

    def drop(self, session: str) -> None:
        """A robot is gone: so is all that it asked for."""
        with self._condition:
            self._queue.drop(session)
            self._turns.forget(session)

    def close(self) -> None:
        """Answer what waits with BUSY and end the threads after what runs."""
        with self._condition:
            self._closed = True
            waiting = self._queue.clear()
            lent = [*self._in_turn, *self._lent]
            self._in_turn, self._lent = deque(), deque()
            self._condition.notify_all()
        for job in lent:
            job.abort(RuntimeError('the server is closing'))
        for entry in waiting:
            give(entry, self._replies.refusal(entry, Status.BUSY, 'server is closing'))
        end_s = time.monotonic() + CLOSE_S
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(max(0.0, end_s - time.monotonic()))
        self._backend.close()

    def _refusal(self, request: Request) -> str:
        same = self._models.get(request.model)
        if same is None:
            listed = ', '.join(sorted(self._models)) or 'none'
            return (
                f"no model '{request.model}' here (there are: {listed}): add it to the "
                "server's models.yaml"
            )
        model = same.get(request.model_hash)
        if model is None:
            theirs = ', '.join(key[:8] for key in same)
            return (
                f"model '{request.model}' differs: {theirs} here, {request.model_hash[:8]} on the "
                'robot: use the same weights, source and preprocessing on both'
            )
        try:
            model.check_inputs(request.inputs)
        except InputError as error:
            return str(error)
        return ''

    def _too_late(self, entry: Entry) -> str:
        """Why there is no point in waiting, from recent durations; empty when there may be.

        An idle server takes everything: what it measured of a slow spell must not shut it for good.
        """
        workers = [each for each in range(self._backend.workers) if each not in self._down]
        if not workers:
            return 'the replicas of the models are being started again'
        request = entry.request
        ahead = self._queue.ahead_of(request.session, request.priority)
        if not ahead and len(self._running) < len(workers):
            return ''
        now_s = time.monotonic()
        free_s = [self._left_s(self._running.get(each), now_s) for each in workers]
        heapq.heapify(free_s)
        needed_s = 0.0
        for computing_s in self._computations_s([*ahead, entry]):
            needed_s = heapq.heappop(free_s) + computing_s
            heapq.heappush(free_s, needed_s)
        if needed_s <= request.budget_s:
            return ''
        return (
            f'server is busy: it would take {needed_s * 1000:.0f} ms, the robot allows '
            f'{request.budget_s * 1000:.0f} ms'
        )

    def _left_s(self, running: _Running | None, now_s: float) -> float:
        if running is None:
            return 0.0
        typical_s = self._computing.durations.typical_s(running.model_hash, running.size)
        so_far_s = now_s - running.began_s
        # One that takes longer than usual is expected to take as long again.
        return typical_s - so_far_s if so_far_s < typical_s else so_far_s

    def _computations_s(self, entries: list[Entry]) -> list[float]:
        """What each of the batches of ``entries`` is expected to take; the last one's is the
        last."""
        sizes = Counter(entry.group for entry in entries)
        own = entries[-1]
        hashes = {entry.group: entry.request.model_hash for entry in entries}
        found: list[float] = []
        for group in [*(each for each in sizes if each != own.group), own.group]:
            full, rest = divmod(sizes[group], self._turns.largest(group))
            parts = [self._turns.largest(group)] * full + [rest] * bool(rest)
            found += [self._computing.durations.typical_s(hashes[group], each) for each in parts]
        return found

    def _spent(self, began_s: float, ended_s: float) -> None:
        with self._condition:
            self._busy.append((began_s, ended_s))

    def _work(self, worker: int | None, lent: bool) -> None:
        """One thread: takes requests if it is a ``worker``, and what is ``lent``."""
        for model in self.models if worker is not None else ():
            try:
                # This thread's first run is slow: it must not be a robot's request.
                self._backend.warm_up(worker or 0, model)
            except (InputError, ModelError):  # whoever asks for it is told why
                logging.getLogger(__name__).exception("model '%s' does not warm up", model.name)
            except ReplicaLost:
                self._replace(worker or 0)
        turn = False  # whether a request has just run
        while True:
            with self._condition:
                if worker is not None:
                    self._running.pop(worker, None)
                entries, job = self._next(turn, worker is not None, lent)
                if entries and worker is not None:
                    request = entries[0].request
                    self._running[worker] = _Running(
                        request.model_hash, len(entries), time.monotonic()
                    )
            if not entries and job is None:
                return
            turn = bool(entries)
            if job is not None:
                job.run()
                if job.started_s is not None:
                    self._spent(job.started_s, job.started_s + job.duration_s)
            elif worker is not None:
                try:
                    self._computing.run(worker, entries)
                except ReplicaLost as error:
                    logging.getLogger(__name__).warning('%s', error)
                    self._replace(worker)

    def _next(self, turn: bool, requests: bool, lent: bool) -> tuple[list[Entry], Job | None]:
        """What this thread runs next, waiting for it; nothing when the engine is closed. The lock
        is held."""
        while True:
            if lent and turn and self._in_turn:
                return [], self._in_turn.popleft()
            now_s = time.monotonic()
            again_s = math.inf
            if requests:
                idle = not (lent and (self._in_turn or self._lent))
                entries, again_s = self._turns.next(now_s, may_wait=idle)
                if entries:
                    return entries, None
            for jobs in (self._in_turn, self._lent) if lent else ():
                if jobs:
                    return [], jobs.popleft()
            if self._closed:
                return [], None
            self._condition.wait(None if again_s == math.inf else again_s - now_s)

    def _replace(self, worker: int) -> None:
        """Wait until the worker's replica runs again; with none at all, nobody waits for it."""
        with self._condition:
            self._running.pop(worker, None)
            self._down.add(worker)
            waiting = self._queue.clear() if len(self._down) == self._backend.workers else []
        detail = 'the replicas of the models are being started again'
        for entry in waiting:
            give(entry, self._replies.refusal(entry, Status.BUSY, detail))
        while not self._backend.restore(worker):
            with self._condition:
                if self._closed:
                    return
                self._condition.wait(RESTORE_S)
        with self._condition:
            self._down.discard(worker)
