"""The server's work: requests of all robots, run one at a time, each answered exactly once."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
import logging
import math
import threading
import time
from typing import Any

from offload_ros.models.errors import InputError, ModelError
from offload_ros.models.model import Model
from offload_ros.robot.lane import Job
from offload_ros.robot.pacing import Pacer
from offload_ros.robot.window import Window
from offload_ros.server.fair_queue import Entry, FairQueue
from offload_ros.wire.exchange import Reply, Request, Status

BUSY_SPAN_S = 1.0
TYPICAL_OF = 5  # a model's duration is expected to be the median of so many: slow spells show soon


class Engine:
    """Runs requests of all robots on the models of one server.

    ``submit`` never blocks; the answer is called from the engine's thread, or at once when the
    request is refused. A cancelled request, and one of a robot that is gone, gets no answer.
    ``pacer`` makes it a slower accelerator, for benchmarks.
    """

    def __init__(
        self,
        name: str,
        session: str,
        models: Iterable[Model],
        queue_limit: int = 32,
        pacer: Pacer | None = None,
    ) -> None:
        self.name = name
        self.session = session
        self._pacer = pacer or Pacer()
        self._condition = threading.Condition()
        self._queue = FairQueue(queue_limit)
        self._lent: deque[Job] = deque()  # what runs when no request waits
        self._in_turn: deque[Job] = deque()  # what runs next, by turns with requests
        self._closed = False
        self._busy: deque[tuple[float, float]] = deque(maxlen=1000)
        self._running: tuple[Entry, float] | None = None  # and when it began
        # Name -> content hash -> model; inner ones are replaced, never changed, for the readers.
        self._models: dict[str, dict[str, Model]] = {}
        self._changing = threading.Lock()  # models are added by threads that load them
        self._durations: dict[str, Window] = {}  # content hash -> computing, seconds
        for model in models:
            self.add(model)
        self._thread = threading.Thread(target=self._work, name='engine', daemon=True)
        self._thread.start()

    @property
    def models(self) -> list[Model]:
        """What can be asked for now."""
        return [model for same in list(self._models.values()) for model in list(same.values())]

    def find(self, name: str, content_hash: str) -> Model | None:
        """The model of this name and content, if it is here."""
        return self._models.get(name, {}).get(content_hash)

    def add(self, model: Model) -> None:
        """Serve ``model`` too; another variant of a name is kept beside it."""
        with self._changing:
            self._durations.setdefault(model.hash, Window(TYPICAL_OF))
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
        return len(kept) < len(same)

    @property
    def queue_length(self) -> int:
        """Requests that wait."""
        with self._condition:
            return len(self._queue)

    @property
    def queue_limit(self) -> int:
        """How many may wait."""
        return self._queue.limit

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
            self._condition.notify()
        return job.result()

    def busy_share(self) -> float:
        """Share of the last second that was spent computing, 0 to 1."""
        now = time.monotonic()
        with self._condition:
            spans = list(self._busy)
            if self._running is not None:
                spans.append((self._running[1], now))
        recent = [
            min(end_s, now) - max(begin_s, now - BUSY_SPAN_S)
            for begin_s, end_s in spans
            if end_s > now - BUSY_SPAN_S
        ]
        return min(1.0, sum(recent) / BUSY_SPAN_S)

    def submit(self, request: Request, answer: Callable[[Reply], None]) -> None:
        """Queue ``request``; refused at once with the cause when it cannot be run (in time)."""
        entry = Entry(request, answer, time.monotonic())
        refusal = self._refusal(request)
        if refusal:
            answer(self._reply(entry, Status.ERROR, refusal))
            return
        refused: Entry | None = entry
        with self._condition:
            cause = 'server is closing' if self._closed else self._too_late(request)
            if not cause:
                cause = f'queue is full ({self._queue.limit} requests wait)'
                refused = self._queue.push(entry)
                self._condition.notify()
        if refused is not None:
            _give(refused, self._reply(refused, Status.BUSY, cause))

    def cancel(self, session: str, seq: int) -> bool:
        """The robot needs no answer any more: True when its computing is saved."""
        with self._condition:
            return self._queue.cancel(session, seq)

    def drop(self, session: str) -> None:
        """A robot is gone: so is all that it asked for."""
        with self._condition:
            self._queue.drop(session)

    def close(self) -> None:
        """Answer what waits with BUSY and end the thread after the running request."""
        with self._condition:
            self._closed = True
            waiting = self._queue.clear()
            lent = [*self._in_turn, *self._lent]
            self._in_turn, self._lent = deque(), deque()
            self._condition.notify()
        for job in lent:
            job.abort(RuntimeError('the server is closing'))
        for entry in waiting:
            _give(entry, self._reply(entry, Status.BUSY, 'server is closing'))
        if self._thread is not threading.current_thread():
            self._thread.join(timeout=10.0)

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

    def _too_late(self, request: Request) -> str:
        """Why there is no point in waiting, from recent durations; empty when there may be.

        An idle server takes everything: what it measured of a slow spell must not shut it for good.
        """
        ahead = self._queue.ahead_of(request.session, request.priority)
        if self._running is None and not ahead:
            return ''
        wait_s = sum(self._typical_s(entry.request) for entry in ahead)
        if self._running is not None:
            entry, began_s = self._running
            typical_s, so_far_s = self._typical_s(entry.request), time.monotonic() - began_s
            # One that takes longer than usual is expected to take as long again.
            wait_s += typical_s - so_far_s if so_far_s < typical_s else so_far_s
        needed_s = wait_s + self._typical_s(request)
        if needed_s <= request.budget_s:
            return ''
        return (
            f'server is busy: it would take {needed_s * 1000:.0f} ms, the robot allows '
            f'{request.budget_s * 1000:.0f} ms'
        )

    def _typical_s(self, request: Request) -> float:
        window = self._durations.get(request.model_hash)
        median_s = window.percentile(50) if window is not None else math.nan
        return 0.0 if math.isnan(median_s) else median_s

    def _work(self) -> None:
        for model in self.models:
            try:
                model.warm_up()  # this thread's first run is slow: it must not be a robot's request
            except (InputError, ModelError):  # whoever asks for it is told why
                logging.getLogger(__name__).exception("model '%s' does not warm up", model.name)
        turn = False  # whether a request has just run
        while True:
            with self._condition:
                self._running = None
                entry, job = self._next(turn)
                if entry is None and job is None:
                    return
                if entry is not None:
                    self._running = (entry, time.monotonic())
            turn = entry is not None
            if entry is not None:
                _give(entry, self._run(entry))
            elif job is not None:
                job.run()
                if job.started_s is not None:
                    with self._condition:
                        self._busy.append((job.started_s, job.started_s + job.duration_s))

    def _next(self, turn: bool) -> tuple[Entry | None, Job | None]:
        """What runs next, waiting for it; neither when the engine is closed. The lock is held."""
        while True:
            if turn and self._in_turn:
                return None, self._in_turn.popleft()
            entry = self._queue.pop()
            if entry is not None:
                return entry, None
            for jobs in (self._in_turn, self._lent):
                if jobs:
                    return None, jobs.popleft()
            if self._closed:
                return None, None
            self._condition.wait()

    def _run(self, entry: Entry) -> Reply:
        request = entry.request
        started_s = time.monotonic()
        queued_s = started_s - entry.received_s
        if queued_s > request.budget_s:
            late = (
                f'waited {queued_s * 1000:.0f} ms, the robot allowed '
                f'{request.budget_s * 1000:.0f} ms'
            )
            return self._reply(entry, Status.EXPIRED, late, queue_s=queued_s)
        model = self._models.get(request.model, {}).get(request.model_hash)
        if model is None:
            unloaded = f"model '{request.model}' was unloaded while the request waited"
            return self._reply(entry, Status.ERROR, unloaded, queue_s=queued_s)
        try:
            outputs = self._pacer(partial(model.run, request.inputs))
        except (InputError, ModelError) as error:
            return self._reply(entry, Status.ERROR, str(error), queue_s=queued_s)
        finally:
            ended_s = time.monotonic()
            with self._condition:
                self._busy.append((started_s, ended_s))
        self._durations[model.hash].add(ended_s - started_s)
        return Reply(
            server=self.name,
            server_session=self.session,
            session=request.session,
            seq=request.seq,
            status=Status.OK,
            queue_s=queued_s,
            compute_s=ended_s - started_s,
            server_s=time.monotonic() - entry.received_s,
            outputs=outputs,
        )

    def _reply(self, entry: Entry, status: Status, detail: str, queue_s: float = 0.0) -> Reply:
        return Reply(
            server=self.name,
            server_session=self.session,
            session=entry.request.session,
            seq=entry.request.seq,
            status=status,
            detail=detail,
            queue_s=queue_s,
            server_s=time.monotonic() - entry.received_s,
        )


def _give(entry: Entry, reply: Reply) -> None:
    try:
        entry.answer(reply)
    except Exception:  # one robot's fault must not end the others' service
        logging.getLogger(__name__).exception('reply %d could not be given', reply.seq)
