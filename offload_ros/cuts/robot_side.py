"""What any run has on the robot: it waits, computes in the lane, and is ended by anybody."""

from __future__ import annotations

from collections.abc import Callable
import math
import threading
import time
from typing import Any

from offload_ros.cuts.errors import CutFailed
from offload_ros.cuts.messages import Answer, Answered
from offload_ros.robot.lane import DeviceLane, Job
from offload_ros.wire.incoming import State
from offload_ros.wire.outgoing import Outgoing

LATE = 'the deadline has passed'
Send = Callable[[int, list[bytes | memoryview], Callable[[Outgoing], None]], None]


class RobotSide:
    """One inference; the thread of whoever wants the result works, all others may call the rest.

    ``send(place, buffers, on_end)`` queues a value for the server. Computing takes turns with all
    else in ``lane``.
    """

    def __init__(self, lane: DeviceLane, send: Send) -> None:
        self.compute_s = self.server_s = 0.0
        self.bytes_up = self.bytes_down = 0
        self._lane = lane
        self._send = send
        self._changed = threading.Condition()
        self._why: str | None = None

    def end(self, why: str) -> None:
        """No result is needed any more."""
        with self._changed:
            if self._why is None:
                self._why = why or 'ended'
            self._changed.notify_all()

    def fail(self, why: str) -> None:
        """The server's part will not come."""
        self.end(why)

    def answered(self, answer: Answered) -> None:
        """What the server says of its part."""
        if answer.answer is Answer.DONE:
            self.server_s = answer.compute_s
        else:
            self.fail(answer.why or answer.answer.name)

    def _on_sent(self, sent: Outgoing) -> None:
        if sent.state is State.EXPIRED:
            self.end(LATE)
        elif sent.state not in (State.DONE, State.CANCELLED):
            self.fail(f'a value did not reach the server: {sent.why}')

    def _submit(self, compute: Callable[[], Any]) -> Job:
        try:
            return self._lane.submit(compute, done=lambda job: self._notify())
        except RuntimeError as error:  # the lane is closed
            raise CutFailed(str(error)) from None

    def _finished(self, job: Job, deadline_s: float) -> None:
        """Wait for it; what it raised is its ``error``."""
        try:
            self._until(lambda: job.finished, deadline_s)
        finally:
            self._lane.cancel(job)
        self.compute_s += job.duration_s

    def _notify(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _until(self, condition: Callable[[], bool], deadline_s: float) -> None:
        """``CutFailed`` when the run was ended, or at ``deadline_s``."""
        if not self._waited(condition, deadline_s):
            self.end(LATE)
        with self._changed:
            if self._why is not None:
                raise CutFailed(self._why)

    def _waited(self, condition: Callable[[], bool], until_s: float) -> bool:
        """Whether it became true, or the run was ended, before ``until_s``."""
        with self._changed:
            while self._why is None and not condition():
                left_s = until_s - time.monotonic()
                if left_s <= 0.0:
                    return False
                self._changed.wait(left_s if math.isfinite(left_s) else None)
            return True
