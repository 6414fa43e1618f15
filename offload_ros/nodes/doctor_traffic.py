"""What the doctor received, and the plain values of it that checks judge."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import pairwise
import time
from typing import Any

from rcl_interfaces.msg import ParameterType

from offload_ros.doctor.seen import Frame, ModelSeen, ResultsSeen, ServerModel, ServerSeen
from offload_ros.models.config import InputSpec
from offload_ros.msg import InferenceResult


class Traffic:
    """Messages of one topic with their times of receipt, since ``clear``."""

    def __init__(self, limit: int = 1000) -> None:
        self.messages: list[Any] = []
        self.received_s: list[float] = []
        self._limit = limit

    def add(self, message: Any) -> None:
        """Callback of a subscription."""
        if len(self.messages) < self._limit:
            self.messages.append(message)
            self.received_s.append(time.monotonic())

    def clear(self) -> None:
        """Begin to measure."""
        self.messages.clear()
        self.received_s.clear()

    def rate_hz(self, window_s: float) -> float:
        """Between the first and the last; over the window where there is one or none."""
        count = len(self.received_s)
        if count > 1 and self.received_s[-1] > self.received_s[0]:
            return (count - 1) / (self.received_s[-1] - self.received_s[0])
        return count / window_s


class InputTraffic:
    """Frames of one input: their stamps, and the last one itself."""

    def __init__(
        self, model: str, spec: InputSpec, topic: str, sim_s: Callable[[], float | None]
    ) -> None:
        self.model, self.spec, self.topic = model, spec, topic
        self.frames: list[Frame] = []
        self.last: Any = None
        self.traffic = Traffic()
        self._sim_s = sim_s

    def add(self, message: Any) -> None:
        """Callback of the subscription."""
        stamp = message.header.stamp
        self.frames.append(Frame(stamp.sec + 1e-9 * stamp.nanosec, time.time(), self._sim_s()))
        self.last = message
        self.traffic.add(None)

    def clear(self) -> None:
        """Begin to measure."""
        self.frames.clear()
        self.traffic.clear()


def value(parameter: Any) -> Any:
    """The field of a ParameterValue that is set, of the simple types."""
    field = {
        ParameterType.PARAMETER_BOOL: 'bool_value',
        ParameterType.PARAMETER_INTEGER: 'integer_value',
        ParameterType.PARAMETER_DOUBLE: 'double_value',
        ParameterType.PARAMETER_STRING: 'string_value',
    }.get(parameter.type)
    return getattr(parameter, field) if field else None


def model_seen(status: Any) -> ModelSeen:
    """A ModelStatus."""
    return ModelSeen(
        status.model,
        status.variant,
        status.model_hash,
        status.weights_trained,
        status.strategy_requested,
        status.strategy_used,
        status.reason,
        status.server,
        status.rate_hz,
    )


def server_seen(traffic: Traffic, age_s: float, window_s: float) -> ServerSeen:
    """The heartbeats of one server."""
    last = traffic.messages[-1]
    return ServerSeen(
        last.server,
        traffic.rate_hz(window_s),
        age_s,
        last.device,
        last.busy,
        last.queue_length,
        last.queue_limit,
        tuple(
            ServerModel(info.name, info.variant, info.hash, info.weights_trained)
            for info in last.models
        ),
        last.closing,
        _alternate([message.session for message in traffic.messages]),
    )


def _alternate(sessions: list[str]) -> bool:
    """Whether one comes again after another: a restart changes them once only."""
    changes = sum(a != b for a, b in pairwise(sessions))
    return changes > len(set(sessions)) - 1


def results_seen(model: str, traffic: Traffic, window_s: float) -> ResultsSeen:
    """The results of one model."""
    results = traffic.messages
    times_ms = sorted(1000.0 * result.total_s for result in results)
    reasons = Counter(result.reason for result in results if result.reason)
    used = Counter(result.strategy_used for result in results if result.strategy_used)
    details = [result.detail for result in results if result.detail]
    return ResultsSeen(
        model,
        len(results),
        traffic.rate_hz(window_s),
        sum(result.fallback for result in results),
        sum(result.late for result in results),
        sum(result.status == InferenceResult.ERROR for result in results),
        times_ms[len(times_ms) // 2] if times_ms else 0.0,
        tuple(name for name, _ in used.most_common()),
        tuple(reason for reason, _ in reasons.most_common()),
        ' '.join(details[-1].split()) if details else '',
    )
