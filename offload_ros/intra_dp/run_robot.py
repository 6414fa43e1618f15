"""The robot's part of one inference by steps: computes its rows while pieces come and go."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
import enum
from functools import partial
import logging
import math
import threading
import time
from typing import Any

import numpy as np
import torch
from torch import Tensor

from offload_ros.cuts.errors import CutFailed
from offload_ros.cuts.messages import Answer, Answered
from offload_ros.cuts.robot_side import LATE, RobotSide, Send
from offload_ros.cuts.values import size_refusal, value_from_bytes, value_to_buffers
from offload_ros.graph.execute import Executor
from offload_ros.graph.graph import Reference
from offload_ros.intra_dp.lower import Work
from offload_ros.intra_dp.pieces import Compute, RowSet
from offload_ros.intra_dp.run import put_inputs, results, run_received
from offload_ros.intra_dp.run_held import Held
from offload_ros.intra_dp.run_late import Patience, completion, last_reads
from offload_ros.intra_dp.run_timeline import Event, Kind, events_from_bytes
from offload_ros.robot.lane import DeviceLane, Job
from offload_ros.wire.codecs import RAW
from offload_ros.wire.errors import WireError
from offload_ros.wire.incoming import Incoming, State

log = logging.getLogger(__name__)
SLACK = 1.2  # what remains to be computed is taken for so many times as long
AT_ONCE = 32  # operators of one job where the robot completes a run: a cancel waits for no more


class _Then(enum.Enum):
    """What the thread that wants the result does next."""

    SEND = 'send'
    ARRANGE = 'arrange'  # a segment that computes nothing
    FINISH = 'finish'
    COMPLETE = 'complete'  # what is missing


class SplitRun(RobotSide):
    """See ``RobotSide``. When pieces are late (``patience``) or the server fails, the robot
    computes what is missing itself: ``completed`` counts operators, ``why_local`` says why.

    ``codecs``: by node, or -1, -2, ... for inputs, how pieces for the server are coded.
    """

    def __init__(
        self,
        work: Work,
        executor: Executor,
        lane: DeviceLane,
        send: Send,
        patience: Patience,
        codecs: Mapping[int, int] | None = None,
        recorded: bool = False,
    ) -> None:
        super().__init__(lane, send)
        self.completed = 0
        self.why_local = ''
        self.server_events: tuple[Event, ...] = ()
        self.events: list[Event] = []
        self._recorded = recorded
        self._plan = work
        self._executor = executor
        self._patience = patience
        self._codecs = codecs or {}
        self._arrived: dict[int, np.ndarray] = {}
        self._known: set[int] = set()
        self._failed: str | None = None
        self._answered = threading.Event()
        self._began_s = time.monotonic()
        self._held = Held(work.rows, executor, work.robot.buffers)
        self._position = 0
        self._job: Job | None = None
        self._outgoing: list[tuple[int, Tensor]] = []
        self._error: BaseException | None = None
        self._due_s = math.inf  # from when the deadline may leave no time to wait
        self._over = False  # no segment is begun any more

    def work(self, inputs: Mapping[str, Tensor], deadline_s: float) -> dict[str, Any]:
        """The outputs; ``CutFailed`` when the run was ended, or at ``deadline_s``.

        One segment follows another in the lane's thread, without a switch to this one, which codes
        and sends meanwhile.
        """
        put_inputs(self._held, self._plan.rows, inputs)
        self._due_s = deadline_s - self._patience.whole_s
        try:
            while True:
                then = self._next(deadline_s)
                self._give()
                if then is _Then.FINISH:
                    return results(self._plan.rows, self._held)
                if then is _Then.COMPLETE:
                    return self._complete(deadline_s)
                if then is _Then.ARRANGE:
                    self._arrange()
        finally:
            with self._changed:
                self._over = True
                job, self._job = self._job, None
            if job is not None:
                self._lane.cancel(job)

    def _next(self, deadline_s: float) -> _Then:
        """Wait for something to do in this thread."""
        with self._changed:
            self._advance()
            while True:
                if self._why is not None:
                    raise CutFailed(self._why)
                if self._error is not None:
                    return self._after(self._error)
                if self._outgoing:
                    return _Then.SEND
                now_s, until_s = time.monotonic(), deadline_s
                if now_s >= deadline_s:
                    self.end(LATE)
                    continue
                if self._job is None:
                    if self._position == len(self._plan.robot.segments):
                        return _Then.FINISH
                    waits = self._plan.robot.segments[self._position].waits
                    if self._has(waits):
                        return _Then.ARRANGE
                    if self._is_over_late(waits, now_s, deadline_s):
                        return _Then.COMPLETE
                    until_s = min(self._late_s(waits), self._due_s)
                left_s = until_s - now_s
                self._changed.wait(left_s if math.isfinite(left_s) else None)

    def _after(self, error: BaseException) -> _Then:
        if not isinstance(error, WireError):
            raise CutFailed(f'on the robot: {type(error).__name__}: {error}') from error
        self.fail(f'the server sent a bad piece: {error}')
        self.why_local = self._failed or ''
        return _Then.COMPLETE

    def _late_s(self, waits: Sequence[int]) -> float:
        missing = [place for place in waits if place not in self._arrived]
        return self._began_s + self._patience.of(missing)

    def _is_over_late(self, waits: Sequence[int], now_s: float, deadline_s: float) -> bool:
        """Whether the robot waits for the server no longer; nothing is being computed."""
        if self._failed is not None:
            self.why_local = self._failed
        elif now_s >= self._late_s(waits):
            self.why_local = 'pieces of the server are late'
        elif now_s >= self._due_s:  # it would be, had nothing been computed
            self._due_s = deadline_s - SLACK * self._rest_s()
            if now_s >= self._due_s:
                self.why_local = 'the deadline leaves no time to wait for the server'
        return bool(self.why_local)

    def _advance(self) -> None:
        """Begin the next segment that computes, if its pieces are there; the lock is held."""
        segments = self._plan.robot.segments
        if self._over or self._job is not None or self._position == len(segments):
            return
        segment = segments[self._position]
        if not segment.computes or not self._has(segment.waits) or self._error is not None:
            return
        arrived = {place: self._arrived.pop(place) for place in segment.waits}
        compute = partial(run_received, self._plan, segment, self._held, arrived)
        try:
            self._job = self._lane.submit(compute, done=self._done)
        except RuntimeError as error:  # the lane is closed
            self._error = error

    def _done(self, job: Job) -> None:
        """In the lane's thread."""
        with self._changed:
            if self._job is not job:  # it was given up
                return
            self._job = None
            self.compute_s += job.duration_s
            self._note_job(Kind.COMPUTE, self._position, job)
            if job.error is not None:
                self._error = job.error
            else:
                self._outgoing += job.value
                self._position += 1
                self._advance()
            if self._outgoing or self._job is None:
                self._changed.notify_all()

    def _arrange(self) -> None:
        """A segment that computes nothing is done by this thread."""
        segment = self._plan.robot.segments[self._position]
        with self._changed:
            arrived = {place: self._arrived.pop(place) for place in segment.waits}
        try:
            leaving = run_received(self._plan, segment, self._held, arrived)
        except WireError as error:
            self._error = error
            return
        with self._changed:
            self._outgoing += leaving
            self._position += 1
            self._advance()

    def fail(self, why: str) -> None:
        """See ``RobotSide``: the robot does the rest."""
        with self._changed:
            if self._failed is None:
                self._failed = why or 'the server failed'
            self._changed.notify_all()

    def answered(self, answer: Answered) -> None:
        """See ``RobotSide``."""
        super().answered(answer)
        if answer.answer is Answer.DONE and self._recorded:
            try:
                self.server_events = events_from_bytes(answer.data)
            except WireError as error:
                log.warning('the server sent a bad timeline: %s', error)
        self._answered.set()

    def wait_for_answer(self, timeout_s: float) -> None:
        """The last pieces may overtake what the server says of its part."""
        self._answered.wait(timeout_s)

    def refusal(self, place: int, total: int) -> str:
        """Why a piece of this place and size is not taken; empty when it is."""
        if not self._plan.up <= place < len(self._plan.pieces):
            return 'it does not come from the server'
        with self._changed:
            if place in self._known:
                return 'it came before'
            self._known.add(place)
        return size_refusal(self._plan.rows.spec(self._plan.pieces[place]), total)

    def take(self, place: int, incoming: Incoming) -> None:
        """A piece of the server has ended; what is wrong with it shows when it is read."""
        if incoming.state is not State.DONE:
            self.fail(f'a piece of the server did not arrive: {incoming.why}')
            return
        with self._changed:
            self._arrived[place] = incoming.buffer
            self.bytes_down += incoming.total
            self._note(Kind.RECEIVE, place)
            self._advance()
            if self._job is None:
                self._changed.notify_all()

    def _has(self, places: Sequence[int]) -> bool:
        return all(place in self._arrived for place in places)

    def _give(self) -> None:
        with self._changed:
            leaving, self._outgoing = self._outgoing, []
        for place, tensor in leaving:
            if self._failed is not None:
                return
            piece = self._plan.pieces[place]
            self._note(Kind.SEND, place)
            codec = self._codecs.get(self._plan.rows.id_of(piece.value), RAW)
            buffers = value_to_buffers(self._plan.rows.spec(piece), tensor, codec)
            self.bytes_up += sum(map(len, buffers))
            self._send(place, buffers, self._on_sent)

    def _rest_s(self) -> float:
        """About how long the robot computes if nothing more comes; the lock is held."""
        arrived = [self._plan.pieces[place] for place in self._arrived]

        def has(value: Reference) -> RowSet:
            rows = self._held.has(value)
            for piece in arrived:
                if piece.value == value:
                    rows.add(*piece.rows)
            return rows

        return self._patience.duration_s(self._plan.rows, completion(self._plan.rows, has))

    def _complete(self, deadline_s: float) -> dict[str, Any]:
        """The outputs, from what is here."""
        self.fail(self.why_local)  # nothing more is sent
        rows, held = self._plan.rows, self._held
        with self._changed:
            self._over = True
            arrived, self._arrived = self._arrived, {}
        for place, data in arrived.items():
            piece = self._plan.pieces[place]
            with suppress(WireError):
                held.put(*piece, value_from_bytes(rows.spec(piece), data))
        computes = completion(rows, held.has)
        self.completed = len({each.node for each in computes})
        drops = last_reads(rows, computes)
        for start in range(0, len(computes), AT_ONCE):
            part = range(start, min(start + AT_ONCE, len(computes)))
            job = self._submit(partial(_compute, held, computes, drops, part))
            self._finished(job, deadline_s)
            if job.error is not None:
                raise CutFailed(f'on the robot: {type(job.error).__name__}: {job.error}')
            self._note_job(Kind.COMPLETE, len(part), job)
        return results(rows, held)

    def _note(self, kind: Kind, place: int) -> None:
        if self._recorded:
            now_s = time.monotonic() - self._began_s
            self.events.append(Event(kind, place, now_s, now_s))

    def _note_job(self, kind: Kind, index: int, job: Job) -> None:
        if self._recorded and job.started_s is not None:
            start_s = job.started_s - self._began_s
            self.events.append(Event(kind, index, start_s, start_s + job.duration_s))


def _compute(
    held: Held, computes: Sequence[Compute], drops: Mapping[int, list[Reference]], places: range
) -> None:
    with torch.no_grad():
        for place in places:
            held.compute(computes[place])
            for value in drops.get(place, ()):
                held.drop(value)
