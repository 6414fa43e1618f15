"""One model on the robot: newest frame in, exactly one answer out for each frame taken up.

Deadline: counted from receipt on the steady clock. While the requested strategy has not answered,
computing on the robot begins at deadline minus its recent 95th percentile, or earlier where the
strategy wants that (``Frame.compute_at``), and whichever ends first is published; it begins at once
when the strategy gives up (server lost). Where local computing cannot fit the deadline at all, it
begins at the deadline and its answer is marked late.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
import logging
import math
from pathlib import Path
import threading
import time
from typing import Any

import torch

from offload_ros.models.errors import InputError, ModelError
from offload_ros.models.model import Model
from offload_ros.policy.goal import Goal
from offload_ros.policy.power import PowerModel
from offload_ros.robot.answer import Answer
from offload_ros.robot.lane import Job
from offload_ros.robot.loaded import Loaded
from offload_ros.robot.statistics import Statistics
from offload_ros.strategy import (
    Frame,
    LeftToRobot,
    Link,
    Result,
    StrategyRefused,
    Unanswered,
)
from offload_ros.wire.directory import HeldModel

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
    ``InputError``; ``publish`` gets each answer with the parts that it answers. Both are called
    from the pipeline's thread. ``statistics`` may be those of an earlier pipeline: numbers of
    frames then go on.
    """

    def __init__(
        self,
        model: Model,
        link: Link,
        read: Callable[[Any], Inputs],
        publish: Callable[[Answer, Any], None],
        statistics: Statistics | None = None,
        strategy: str | None = None,
    ) -> None:
        self.statistics = statistics or Statistics()
        self.deadline_s = model.config.deadline_ms / 1000.0
        self.goal = model.config.goal
        self.strategy = strategy or model.config.strategy
        self._power = PowerModel()
        self._link = link
        self._read = read
        self._publish = publish
        self._condition = threading.Condition()
        self._waiting: _Waiting | None = None
        self._closed = False
        self._loaded = self._prepared(model)
        link.local[model.name] = self._loaded.local_durations
        self._in_hand: Loaded | None = None  # what the present frame runs on
        self.newest_inputs: Mapping[str, torch.Tensor] | None = None  # of the last good frame
        self._thread = threading.Thread(
            target=self._work, name=f'pipeline {model.name}', daemon=True
        )
        self._thread.start()

    @property
    def model(self) -> Model:
        """The model that the next frame runs on."""
        return self._loaded.model

    def offer(self, parts: Any, received_s: float | None = None) -> None:
        """A new frame; never blocks.

        It replaces one that still waits, which then counts as dropped.
        """
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
        """Make ``name`` ready; ``StrategyRefused`` names those that can run this model."""
        self._loaded.prepare(name)

    def admissible(self) -> list[str]:
        """Names of the strategies that can run this model."""
        return self._loaded.admissible()

    def set_strategy(self, name: str) -> None:
        """Use ``name`` from the next frame on; ``StrategyRefused`` when it cannot."""
        self._loaded.prepare(name)
        with self._condition:
            self.strategy = name

    def aim(self, goal: Goal, deadline_s: float) -> bool:
        """Another goal and deadline from the next frame on; whether the present strategy plans for
        any goal."""
        with self._condition:
            self.goal, self.deadline_s = goal, deadline_s
            loaded, name = self._loaded, self.strategy
        loaded.aim(goal, deadline_s)
        return bool(getattr(loaded.strategy(name), 'aims', False))

    def record(self, path: Path) -> None:
        """Write what happens when in the next inference to ``path``; ``StrategyRefused`` where the
        strategy cannot."""
        record = getattr(self._loaded.strategy(self.strategy), 'record', None)
        if record is None:
            raise StrategyRefused(
                f"strategy '{self.strategy}' records nothing; device, server, intra_dp and those "
                'of layer cuts do'
            )
        record(path)

    def replace_model(self, model: Model) -> None:
        """Run ``model`` (another variant) from the next frame on; ``StrategyRefused``.

        The frame in hand ends undisturbed on the old one.
        """
        prepared = self._prepared(model)
        with self._condition:
            old, self._loaded = self._loaded, prepared
            self._link.local[model.name] = prepared.local_durations
            if self._in_hand is old:
                return  # closed by the thread when it has answered the frame
        old.close()

    def close(self) -> None:
        """Finish the frame in hand and end the thread."""
        with self._condition:
            self._closed = True
            dropped, self._waiting = self._waiting is not None, None
            used = {self._loaded, self._in_hand or self._loaded}
            self._condition.notify()
        if dropped:
            self.statistics.frame_dropped()
        for loaded in used:
            loaded.close()
        if self._thread is not threading.current_thread():
            self._thread.join(timeout=10.0)

    def _prepared(self, model: Model) -> Loaded:
        loaded = Loaded(model, self._link)
        loaded.aim(self.goal, self.deadline_s)
        loaded.prepare(FALLBACK)
        loaded.prepare(self.strategy)
        return loaded

    def _work(self) -> None:
        while True:
            with self._condition:
                while self._waiting is None and not self._closed:
                    self._condition.wait()
                if self._closed:
                    return
                waiting, self._waiting = self._waiting, None
                # Together: the strategy that is asked for is prepared for this model.
                requested, loaded = self.strategy, self._loaded
                self._in_hand = loaded
            assert waiting is not None
            answer = self._answered(waiting, requested, loaded)
            with self._condition:
                self._in_hand = None
                replaced = loaded is not self._loaded
            if replaced:
                loaded.close()
            self.statistics.answered(answer)
            try:
                self._publish(answer, waiting.parts)
            except Exception as error:  # e.g. a strategy's outputs that no message can carry
                self._publish_failure(answer, waiting.parts, error)

    def _publish_failure(self, answer: Answer, parts: Any, error: Exception) -> None:
        """A result that cannot be published still becomes one that says why."""
        cause = f'the result cannot be published: {type(error).__name__}: {error}'
        try:
            self._publish(replace(answer, outputs={}, exact=False, error=cause), parts)
        except Exception:  # the next frame must find this thread alive
            logging.getLogger(__name__).exception(
                "model '%s', frame %d: no result", self.model.name, answer.seq
            )

    def _answered(self, waiting: _Waiting, requested: str, loaded: Loaded) -> Answer:
        """The one answer to a frame that was taken up, whatever happens."""
        seq = self.statistics.frame_accepted()
        allowed_s = self.deadline_s
        try:
            inputs, buffers = self._read(waiting.parts)
            loaded.model.check_inputs(inputs)
            self.newest_inputs = inputs
            frame = Frame(seq, inputs, waiting.received_s, buffers)
            answer = self._run(loaded, frame, requested, allowed_s)
        except (InputError, ModelError) as error:
            answer = Answer(seq, requested, error=str(error) or type(error).__name__)
        except Exception as error:  # a strategy's own fault must still give one result
            answer = Answer(seq, requested, error=f'{type(error).__name__}: {error}')
        total_s = time.monotonic() - waiting.received_s
        elsewhere_s = answer.uplink_s + answer.server_s + answer.downlink_s
        robot_s = max(0.0, total_s - elsewhere_s)
        held = answer.held or HeldModel(loaded.model.hash, loaded.model.weights_trained)
        return replace(
            answer,
            model=loaded.model.name,
            model_hash=held.hash,
            weights_trained=held.weights_trained,
            total_s=total_s,
            robot_s=robot_s,
            energy_j=math.nan if answer.error else self._energy_j(answer, total_s, robot_s),
            late=total_s > allowed_s,
        )

    def _energy_j(self, answer: Answer, total_s: float, robot_s: float) -> float:
        """Of the robot, by the power model: where a strategy gave up, it waited until it computed
        by itself."""
        computing_s = min(answer.computing_s, robot_s) if answer.fallback else robot_s
        link_s = answer.uplink_s + answer.downlink_s
        return self._power.energy_j(computing_s, link_s, max(0.0, total_s - computing_s - link_s))

    def _run(self, loaded: Loaded, frame: Frame, requested: str, allowed_s: float) -> Answer:
        deadline_s = frame.received_s + allowed_s
        strategy = loaded.strategy(requested)
        if requested == FALLBACK:
            return _answer(frame, requested, FALLBACK, strategy.run(frame, deadline_s))
        self._calibrate(loaded, frame)
        local_s = loaded.local_durations.percentile(95)

        def local_done(job: Job) -> None:
            if job.error is None:  # otherwise the strategy's answer is the only one left
                loaded.local_durations.add(job.duration_s)
                strategy.cancel(frame.seq)

        # The robot's own computation is queued for the moment at which it must begin; usually it
        # is taken back.
        hedge = self._link.lane.submit(
            lambda: loaded.model.run(frame.inputs),
            at_s=_local_start_s(deadline_s, allowed_s, local_s),
            done=local_done,
        )
        frame = replace(frame, compute_at=partial(self._link.lane.hurry, hedge))
        # Until then the strategy's answer is still sooner than the robot's own.
        patience_s = allowed_s if math.isnan(local_s) else local_s
        try:
            result = strategy.run(frame, deadline_s + patience_s)
        except Unanswered as error:
            why = str(error)
            if hedge.finished:
                why = f'strategy {requested} did not answer before the robot had to'
            self._link.lane.hurry(hedge)
            local = Result(hedge.result(), plan=f'robot {loaded.model.device}')
            if isinstance(error, LeftToRobot):
                left = replace(local, plan=str(error), reason=error.reason)
                return _answer(frame, requested, error.used or requested, left)
            answer = _answer(frame, requested, FALLBACK, local)
            return replace(answer, reason=why, fallback=True, computing_s=hedge.duration_s)
        finally:
            self._link.lane.cancel(hedge)
        return _answer(frame, requested, result.used or requested, result)

    def _calibrate(self, loaded: Loaded, frame: Frame) -> None:
        """Time the model on the robot once, in the background, so that fallbacks begin in time."""
        if loaded.calibrated:
            return
        loaded.calibrated = True

        def measure() -> None:
            try:
                began_s = time.monotonic()
                loaded.model.run(frame.inputs)
                if time.monotonic() - began_s < 1.0:  # a first run also allocates and compiles
                    began_s = time.monotonic()
                    loaded.model.run(frame.inputs)
            except ModelError:  # of this frame, which has its own answer: the next one is tried
                loaded.calibrated = False
                return
            # The lane paces this job as a whole, after it.
            took_s = (time.monotonic() - began_s) * self._link.lane.slowdown
            loaded.local_durations.add(took_s)

        self._link.lane.submit(measure)


def _local_start_s(deadline_s: float, allowed_s: float, local_s: float) -> float:
    """When the robot must begin to compute (steady clock); ``local_s`` NaN: not measured yet."""
    needed_s = allowed_s / 2.0 if math.isnan(local_s) else local_s + LOCAL_MARGIN_S
    return deadline_s - needed_s if needed_s < allowed_s else deadline_s


def _answer(frame: Frame, requested: str, used: str, result: Result) -> Answer:
    return Answer(
        seq=frame.seq,
        strategy_requested=requested,
        strategy_used=used,
        plan=result.plan,
        reason=result.reason,
        exact=result.exact,
        tolerance=result.tolerance,
        outputs=result.outputs,
        uplink_s=result.uplink_s,
        server_s=result.server_s,
        downlink_s=result.downlink_s,
        bytes_up=result.bytes_up,
        bytes_down=result.bytes_down,
        held=result.held,
    )
