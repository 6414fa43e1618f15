"""The robot's end of the process that plans (``plan_worker``): started when needed, and ended."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
import contextlib
import json
import logging
import os
import subprocess
import sys
import threading
from typing import Any

from offload_ros.graph.profile import Profile
from offload_ros.graph.profile_file import profile_document

log = logging.getLogger(__name__)
MOST_FAILURES = 3  # of the process; then there are no more plans
MOST_ANSWER_CHARS = 64 << 20
Answer = Mapping[str, Any]


class Planning:
    """Of one profile. ``on_answer`` is called in a thread of this object, with one answer of
    ``plan_worker`` at a time; a process that died leaves ``why`` it did."""

    def __init__(self, profile: Profile, on_answer: Callable[[Answer], None]) -> None:
        self._profile = json.dumps(profile_document(profile))
        self._on_answer = on_answer
        self._condition = threading.Condition()
        self._tasks: deque[dict[str, Any]] = deque()
        self._process: subprocess.Popen[str] | None = None
        self._running = self._closed = False
        self._failures = 0
        self.why = ''

    def ask(self, tasks: list[dict[str, Any]], urgent: bool = False) -> None:
        """Plan these, in this order; ``urgent`` ones before all others."""
        with self._condition:
            if self._closed or not tasks:
                return
            if urgent:
                self._tasks.extendleft(reversed(tasks))
            else:
                self._tasks.extend(tasks)
            if not self._running:
                self._running = True
                threading.Thread(target=self._work, name='planning', daemon=True).start()

    @property
    def waiting(self) -> int:
        """How many tasks have not been begun."""
        with self._condition:
            return len(self._tasks)

    def close(self) -> None:
        """Plan no more; ends the process."""
        with self._condition:
            self._closed = True
            self._tasks.clear()
            process = self._process
        if process is not None:
            process.terminate()

    def _work(self) -> None:
        while True:
            with self._condition:
                if self._closed or not self._tasks or self._failures >= MOST_FAILURES:
                    self._running = False
                    return
            try:
                self._with_process()
            except OSError as error:
                self._failed(str(error))

    def _with_process(self) -> None:
        """Feed one process until nothing is left to plan."""
        process = subprocess.Popen(
            [sys.executable, '-m', 'offload_ros.intra_dp.plan_worker'],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=_environment(),
            start_new_session=True,  # Ctrl-C is for the robot
        )
        assert process.stdin is not None and process.stdout is not None
        with self._condition:
            self._process = process
            if self._closed:
                process.terminate()
        try:
            process.stdin.write(self._profile + '\n')
            while (task := self._next()) is not None:
                process.stdin.write(json.dumps(task) + '\n')
                process.stdin.flush()
                line = process.stdout.readline(MOST_ANSWER_CHARS)
                if not line:
                    raise BrokenPipeError('the process that plans has ended')
                self._told(json.loads(line))
        except (OSError, ValueError) as error:
            process.kill()
            self._failed(f'{error} {_last_line(process)}'.strip())
        finally:
            with contextlib.suppress(OSError):
                process.stdin.close()
            process.stdout.close()
            if process.stderr is not None:
                process.stderr.close()
            process.wait()
            with self._condition:
                self._process = None

    def _next(self) -> dict[str, Any] | None:
        with self._condition:
            return self._tasks.popleft() if self._tasks and not self._closed else None

    def _told(self, answer: Answer) -> None:
        try:
            self._on_answer(answer)
        except Exception:  # one plan that cannot be used; the others may
            log.exception('%s', answer.get('step'))

    def _failed(self, why: str) -> None:
        with self._condition:
            if self._closed:
                return
            self._failures += 1
            self.why = why
        log.warning('planning failed: %s', why)


def _environment() -> dict[str, str]:
    """Modules are found where this process finds them; one core is enough."""
    path = os.pathsep.join(each for each in sys.path if each)
    one = {'OMP_NUM_THREADS': '1', 'OPENBLAS_NUM_THREADS': '1'}
    return {**os.environ, **one, 'PYTHONPATH': path}


def _last_line(process: subprocess.Popen[str]) -> str:
    lines = process.stderr.read(10_000).split('\n') if process.stderr is not None else []
    return next((each for each in reversed(lines) if each.strip()), '')
