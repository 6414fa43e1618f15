"""The server's work: a bounded queue of requests, run one at a time, each answered exactly once."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
import threading
import time

from offload_ros.models.model import Model
from offload_ros.models.preprocess import InputError
from offload_ros.models.sources import ModelError
from offload_ros.wire.exchange import Reply, Request, Status

BUSY_SPAN_S = 1.0


@dataclass(frozen=True)
class _Entry:
    request: Request
    answer: Callable[[Reply], None]
    received_s: float


class Engine:
    """Runs requests of all robots on the models of one server.

    ``submit`` never blocks; the answer is called from the engine's thread, or at once when the
    request is refused.
    """

    def __init__(
        self, name: str, session: str, models: Mapping[str, Model], queue_limit: int = 32
    ) -> None:
        if queue_limit < 1:
            raise ValueError('queue_limit must be at least 1')
        self.name = name
        self.session = session
        self.models = dict(models)
        self.queue_limit = queue_limit
        self._condition = threading.Condition()
        self._queue: deque[_Entry] = deque()
        self._closed = False
        self._busy: deque[tuple[float, float]] = deque(maxlen=1000)
        self._thread = threading.Thread(target=self._work, name='engine', daemon=True)
        self._thread.start()

    @property
    def queue_length(self) -> int:
        """Requests that wait."""
        return len(self._queue)

    def busy_share(self) -> float:
        """Share of the last second that was spent computing, 0 to 1."""
        now = time.monotonic()
        spans = [
            min(end_s, now) - max(begin_s, now - BUSY_SPAN_S)
            for begin_s, end_s in list(self._busy)
            if end_s > now - BUSY_SPAN_S
        ]
        return min(1.0, sum(spans) / BUSY_SPAN_S)

    def submit(self, request: Request, answer: Callable[[Reply], None]) -> None:
        """Queue ``request``; refused at once with the cause when it cannot be run here."""
        entry = _Entry(request, answer, time.monotonic())
        refusal = self._refusal(request)
        if refusal:
            answer(self._reply(entry, Status.ERROR, refusal))
            return
        with self._condition:
            full = len(self._queue) >= self.queue_limit
            if not full and not self._closed:
                self._queue.append(entry)
                self._condition.notify()
        if full or self._closed:
            cause = (
                f'queue is full ({self.queue_limit} requests wait)' if full else 'server is closing'
            )
            answer(self._reply(entry, Status.BUSY, cause))

    def close(self) -> None:
        """Answer what waits with BUSY and end the thread after the running request."""
        with self._condition:
            self._closed = True
            waiting, self._queue = self._queue, deque()
            self._condition.notify()
        for entry in waiting:
            entry.answer(self._reply(entry, Status.BUSY, 'server is closing'))
        if self._thread is not threading.current_thread():
            self._thread.join(timeout=10.0)

    def _refusal(self, request: Request) -> str:
        model = self.models.get(request.model)
        if model is None:
            listed = ', '.join(sorted(self.models)) or 'none'
            return (
                f"no model '{request.model}' here (there are: {listed}): add it to the "
                "server's models.yaml"
            )
        if model.hash != request.model_hash:
            return (
                f"model '{request.model}' differs: {model.hash[:8]} here, "
                f'{request.model_hash[:8]} on the robot: '
                'use the same weights, source and preprocessing on both'
            )
        try:
            model.check_inputs(request.inputs)
        except InputError as error:
            return str(error)
        return ''

    def _work(self) -> None:
        for model in self.models.values():
            model.warm_up()  # this thread's first run is slow, and must not be a robot's request
        while True:
            with self._condition:
                while not self._queue and not self._closed:
                    self._condition.wait()
                if self._closed:
                    return
                entry = self._queue.popleft()
            entry.answer(self._run(entry))

    def _run(self, entry: _Entry) -> Reply:
        request = entry.request
        started_s = time.monotonic()
        queued_s = started_s - entry.received_s
        if queued_s > request.budget_s:
            late = (
                f'waited {queued_s * 1000:.0f} ms, the robot allowed '
                f'{request.budget_s * 1000:.0f} ms'
            )
            return self._reply(entry, Status.EXPIRED, late, queue_s=queued_s)
        try:
            outputs = self.models[request.model].run(request.inputs)
        except (InputError, ModelError) as error:
            return self._reply(entry, Status.ERROR, str(error), queue_s=queued_s)
        finally:
            ended_s = time.monotonic()
            self._busy.append((started_s, ended_s))
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

    def _reply(self, entry: _Entry, status: Status, detail: str, queue_s: float = 0.0) -> Reply:
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
