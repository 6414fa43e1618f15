"""One model on the robot: newest frame in, exactly one answer out for each frame taken up.

Deadline: counted from receipt on the steady clock. While the requested strategy has not answered,
computing on the robot begins at deadline minus its recent 95th percentile, and whichever ends
first is published; it begins at once when the strategy gives up (server lost). Where local
computing cannot fit the deadline at all, it begins at the deadline and its answer is marked late.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
import math
import threading
import time
from typing import Any

import torch

from offload_ros.models.model import Model
from offload_ros.models.preprocess import InputError
from offload_ros.models.sources import ModelError
from offload_ros.robot.answer import Answer
from offload_ros.robot.lane import Job
from offload_ros.robot.statistics import Statistics
from offload_ros.robot.window import Window
from offload_ros.strategy import (
    Frame,
    Link,
    Result,
    Strategy,
    StrategyRefused,
    Unanswered,
    make_strategy,
    strategy_names,
)

Inputs = tuple[Mapping[str, torch.Tensor], Mapping[str, 'array[int]']]
FALLBACK = 'device'
# Between the end of computing and publication, and until a waiting thread runs.
LOCAL_MARGIN_S = 0.01


@dataclass(frozen=True)
class _Waiting:
    parts: Any
    received_s: float


class Pipeline:
    """Runs one model in a thread of its own.

    ``read`` turns the parts given to ``offer`` (messages) into tensors and their buffers, raising
    ``InputError``;
    ``publish`` gets each answer with the parts that it answers. Both are called from the
    pipeline's thread.
    """

    def __init__(
        self,
        model: Model,
        link: Link,
        read: Callable[[Any], Inputs],
        publish: Callable[[Answer, Any], None],
    ) -> None:
        self.model = model
        self.statistics = Statistics()
        self._link = link
        self._read = read
        self._publish = publish
        self._condition = threading.Condition()
        self._waiting: _Waiting | None = None
        self._closed = False
        self._seq = 0
        self._local_durations = Window(50)
        self._calibrated = False
        self._strategies: dict[str, Strategy] = {}
        self.deadline_s = model.config.deadline_ms / 1000.0
        self.strategy = model.config.strategy
        self.prepare_strategy(FALLBACK)
        self.prepare_strategy(self.strategy)
        self._thread = threading.Thread(
            target=self._work, name=f'pipeline {model.name}', daemon=True
        )
        self._thread.start()

    def offer(self, parts: Any, received_s: float | None = None) -> None:
        """A new frame; it replaces one that still waits, which then counts as dropped. Never
        blocks."""
        waiting = _Waiting(parts, time.monotonic() if received_s is None else received_s)
        with self._condition:
            if self._closed:
                return
            dropped = self._waiting is not None
            self._waiting = waiting
            self._condition.notify()
        if dropped:
            self.statistics.frame_dropped()

    def prepare_strategy(self, name: str) -> None:
        """Make ``name`` ready for this model; ``StrategyRefused`` names the strategies that can
        run it."""
        if name in self._strategies:
            return
        try:
            strategy = make_strategy(name)
            strategy.prepare(self.model, self._link)
        except StrategyRefused as error:
            admissible = ', '.join(self.admissible())
            raise StrategyRefused(
                f"model '{self.model.name}': {error}; admissible: {admissible}"
            ) from None
        self._strategies[name] = strategy

    def admissible(self) -> list[str]:
        """Names of the strategies that can run this model."""
        names = []
        for name in strategy_names():
            trial = make_strategy(name)
            try:
                trial.prepare(self.model, self._link)
            except StrategyRefused:
                continue
            finally:
                trial.close()
            names.append(name)
        return names

    def set_strategy(self, name: str) -> None:
        """Use ``name`` from the next frame on; ``StrategyRefused`` when it cannot run this
        model."""
        self.prepare_strategy(name)
        self.strategy = name

    def close(self) -> None:
        """Finish the frame in hand and end the thread."""
        with self._condition:
            self._closed = True
            self._condition.notify()
        for strategy in self._strategies.values():
            strategy.close()
        if self._thread is not threading.current_thread():
            self._thread.join(timeout=10.0)

    def _work(self) -> None:
        while True:
            with self._condition:
                while self._waiting is None and not self._closed:
                    self._condition.wait()
                if self._closed:
                    return
                waiting, self._waiting = self._waiting, None
            assert waiting is not None
            self._seq += 1
            self.statistics.frame_accepted()
            requested, deadline_s = self.strategy, waiting.received_s + self.deadline_s
            try:
                inputs, buffers = self._read(waiting.parts)
                frame = Frame(self._seq, inputs, waiting.received_s, buffers)
                self.model.check_inputs(inputs)
                answer = self._answer(frame, requested, deadline_s)
            except (InputError, ModelError) as error:
                answer = Answer(self._seq, requested, error=str(error))
            except (
                Exception
            ) as error:  # a strategy's or converter's own fault must still give one result
                answer = Answer(self._seq, requested, error=f'{type(error).__name__}: {error}')
            total_s = time.monotonic() - waiting.received_s
            elsewhere_s = answer.uplink_s + answer.server_s + answer.downlink_s
            answer = replace(
                answer,
                total_s=total_s,
                robot_s=max(0.0, total_s - elsewhere_s),
                late=total_s > self.deadline_s,
            )
            self.statistics.answered(answer)
            self._publish(answer, waiting.parts)

    def _answer(self, frame: Frame, requested: str, deadline_s: float) -> Answer:
        strategy = self._strategies[requested]
        if requested == FALLBACK:
            result = strategy.run(frame, deadline_s)
            return _answered(frame, requested, FALLBACK, result)
        self._calibrate(frame)
        # The robot's own computation is queued for the moment at which it must begin; usually it
        # is taken back.
        hedge = self._link.lane.submit(
            lambda: self.model.run(frame.inputs),
            at_s=self._local_start_s(deadline_s),
            done=lambda job: self._local_done(job, strategy, frame.seq),
        )
        try:
            result = strategy.run(frame, deadline_s + self._patience_s())
        except Unanswered as error:
            why = str(error)
            if hedge.finished:
                why = f'strategy {requested} did not answer before the robot had to'
            self._link.lane.hurry(hedge)
            local = Result(hedge.result(), plan=f'robot {self.model.device}')
            return replace(_answered(frame, requested, FALLBACK, local), reason=why, fallback=True)
        finally:
            self._link.lane.cancel(hedge)
        return _answered(frame, requested, requested, result)

    def _local_start_s(self, deadline_s: float) -> float:
        local_s = self._local_durations.percentile(95) + LOCAL_MARGIN_S
        if math.isnan(local_s):
            local_s = self.deadline_s / 2.0
        return deadline_s - local_s if local_s < self.deadline_s else deadline_s

    def _patience_s(self) -> float:
        """How much later than the deadline the strategy's answer is still sooner than the robot's
        own."""
        local_s = self._local_durations.percentile(95)
        return self.deadline_s if math.isnan(local_s) else local_s

    def _local_done(self, job: Job, strategy: Strategy, seq: int) -> None:
        if job.error is None:
            self._local_durations.add(job.duration_s)
        strategy.cancel(seq)

    def _calibrate(self, frame: Frame) -> None:
        """Time the model on the robot once, in the background, so that fallbacks can begin in
        time."""
        if self._calibrated:
            return
        self._calibrated = True

        def measure() -> None:
            began_s = time.monotonic()
            self.model.run(frame.inputs)
            if (
                time.monotonic() - began_s < 1.0
            ):  # the first run also allocates and compiles kernels
                began_s = time.monotonic()
                self.model.run(frame.inputs)
            self._local_durations.add(time.monotonic() - began_s)

        self._link.lane.submit(measure)


def _answered(frame: Frame, requested: str, used: str, result: Result) -> Answer:
    return Answer(
        seq=frame.seq,
        strategy_requested=requested,
        strategy_used=used,
        plan=result.plan,
        exact=result.exact,
        tolerance=result.tolerance,
        outputs=result.outputs,
        uplink_s=result.uplink_s,
        server_s=result.server_s,
        downlink_s=result.downlink_s,
        bytes_up=result.bytes_up,
        bytes_down=result.bytes_down,
    )
