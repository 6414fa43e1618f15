"""The robot's accelerator: one computation at a time, at once or at a given time."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
import logging
import math
import threading
import time
from typing import Any

from offload_ros.robot.pacing import Pacer


class Job:
    """One computation: waits for its time, runs, holds its value or error."""

    def __init__(
        self, compute: Callable[[], Any], due_s: float, done: Callable[[Job], None] | None
    ) -> None:
        self._compute = compute
        self._done = done
        self._finished = threading.Event()
        self.due_s = due_s
        self.started_s: float | None = None
        self.duration_s = 0.0
        self.cancelled = False
        self.value: Any = None
        self.error: BaseException | None = None

    @property
    def finished(self) -> bool:
        """Whether a value or error is there (never true of a cancelled job that had not begun)."""
        return self._finished.is_set()

    def result(self) -> Any:
        """Wait for the value and return it, or raise the error of the computation."""
        self._finished.wait()
        if self.error is not None:
            raise self.error
        return self.value

    def run(self) -> None:
        """Compute; called by the lane."""
        self.started_s = time.monotonic()
        try:
            self.value = self._compute()
        except BaseException as error:  # handed to whoever asks for the result
            self.error = error
        self.duration_s = time.monotonic() - self.started_s
        self._finish()

    def abort(self, error: BaseException) -> None:
        """End without computing; called by the lane when it closes."""
        self.error = error
        self._finish()

    def _finish(self) -> None:
        self._finished.set()
        if self._done is not None:
            try:
                self._done(self)
            except Exception:  # nobody waits for it here, and the lane serves others as well
                logging.getLogger(__name__).exception('after a job of the device lane')


class DeviceLane:
    """Runs jobs one after another in one thread, each not before its due time, earliest due
    first. ``pacer`` makes it a slower accelerator, for benchmarks."""

    def __init__(self, pacer: Pacer | None = None) -> None:
        self._pacer = pacer or Pacer()
        self._condition = threading.Condition()
        self._jobs: list[Job] = []
        self._closed = False
        self._wakes_s = math.inf  # when the thread looks at the jobs next
        self._thread = threading.Thread(target=self._work, name='device lane', daemon=True)
        self._thread.start()

    @property
    def slowdown(self) -> float:
        """How many times as long everything takes here as on the machine itself."""
        return self._pacer.slowdown

    def submit(
        self,
        compute: Callable[[], Any],
        at_s: float | None = None,
        done: Callable[[Job], None] | None = None,
    ) -> Job:
        """Queue ``compute`` for ``at_s`` (steady clock; default: now). ``done`` is called in the
        lane's thread."""
        if self._pacer.slowdown > 1.0:
            compute = partial(self._pacer, compute)
        job = Job(compute, time.monotonic() if at_s is None else at_s, done)
        with self._condition:
            if self._closed:
                raise RuntimeError('the device lane is closed')
            self._jobs.append(job)
            self._wake_for(job)
        return job

    def hurry(self, job: Job, at_s: float | None = None) -> None:
        """Make a waiting job due at ``at_s`` (steady clock; default: now), if not before."""
        with self._condition:
            job.due_s = min(job.due_s, time.monotonic() if at_s is None else at_s)
            self._wake_for(job)

    def cancel(self, job: Job) -> bool:
        """Take a job back; False when it has begun already (it then runs to its end, unheard)."""
        with self._condition:
            job.cancelled = True
            if job in self._jobs:
                self._jobs.remove(job)
                return True
            return False

    def close(self) -> None:
        """End the thread after the running job; jobs that wait end with an error."""
        with self._condition:
            self._closed = True
            waiting, self._jobs = self._jobs, []
            self._condition.notify()
        for job in waiting:
            job.abort(RuntimeError('the device lane was closed'))
        if self._thread is not threading.current_thread():
            self._thread.join()

    def _wake_for(self, job: Job) -> None:
        # Most jobs wait for a later time and are taken back before: each needless switch to the
        # lane's thread costs the frame 0.2 ms.
        if job.due_s < self._wakes_s:
            self._condition.notify()

    def _work(self) -> None:
        while True:
            with self._condition:
                while not self._closed:
                    job = min(self._jobs, key=lambda waiting: waiting.due_s, default=None)
                    wait_s = math.inf if job is None else job.due_s - time.monotonic()
                    if wait_s <= 0:
                        break
                    self._wakes_s = math.inf if job is None else job.due_s
                    self._condition.wait(None if job is None else wait_s)
                if self._closed or job is None:
                    return
                self._wakes_s = -math.inf  # looks again by itself when the job is done
                self._jobs.remove(job)
            job.run()
