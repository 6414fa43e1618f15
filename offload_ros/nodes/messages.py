"""Heartbeats, answers and status to ROS messages and back: field by field, no logic."""

from __future__ import annotations

from dataclasses import fields
import json
import struct
from typing import Any

from offload_ros.msg import (
    InferenceResult,
    LinkStatus,
    ModelInfo,
    ModelStatus,
    ServerHeartbeat,
    Tensor,
)
from offload_ros.robot.answer import Answer
from offload_ros.robot.pipeline import Pipeline
from offload_ros.server.engine import Engine
from offload_ros.wire.directory import HeldModel, ServerState
from offload_ros.wire.link_monitor import LinkEstimate
from offload_ros.wire.tensors import encode

MAX_MODELS = 1000  # of one server; beyond it a heartbeat would hold the robot up


def heartbeat_message(
    engine: Engine, runtime: str, device: str, closing: bool = False
) -> ServerHeartbeat:
    """The server's state now."""
    message = ServerHeartbeat()
    message.server = engine.name
    message.session = engine.session
    message.runtime = runtime
    message.device = device
    message.queue_length = engine.queue_length
    message.queue_limit = engine.queue_limit
    message.busy = engine.busy_share()
    message.closing = closing
    message.models = [
        ModelInfo(
            name=model.name,
            variant=model.variant,
            hash=model.hash,
            weights_trained=model.weights_trained,
        )
        for model in engine.models
    ]
    return message


def heartbeat_fields(message: Any) -> bytes:
    """All that a heartbeat says, in one form, for its proof."""
    return json.dumps(
        [
            message.server,
            message.session,
            message.runtime,
            message.device,
            message.queue_length,
            message.queue_limit,
            struct.pack('<f', message.busy).hex(),  # as it travels
            message.closing,
            [[info.name, info.variant, info.hash, info.weights_trained] for info in message.models],
        ]
    ).encode()


def message_to_server_state(message: Any) -> ServerState:
    """A received heartbeat."""
    hashes: dict[str, set[str]] = {}
    variants = {}
    for info in message.models[:MAX_MODELS]:
        hashes.setdefault(info.name, set()).add(info.hash)
        variants[info.name, info.variant] = HeldModel(info.hash, info.weights_trained)
    return ServerState(
        name=message.server,
        session=message.session,
        runtime=message.runtime,
        device=message.device,
        queue_length=message.queue_length,
        queue_limit=message.queue_limit,
        busy=message.busy,
        models={name: frozenset(each) for name, each in hashes.items()},
        variants=variants,
    )


def answer_to_message(answer: Answer, header: Any) -> InferenceResult:
    """The result of one frame; ``header``: of the frame's (first) input."""
    message = InferenceResult()
    message.header = header
    message.model = answer.model
    message.model_hash = answer.model_hash
    message.weights_trained = answer.weights_trained
    message.seq = answer.seq
    message.strategy_requested = answer.strategy_requested
    message.strategy_used = answer.strategy_used
    message.plan = answer.plan
    message.reason = answer.reason
    message.status = InferenceResult.ERROR if answer.error else InferenceResult.OK
    message.fallback = answer.fallback
    message.late = answer.late
    message.detail = answer.error
    message.exact = answer.exact
    message.tolerance = answer.tolerance
    message.outputs = [encode(Tensor(), name, tensor) for name, tensor in answer.outputs.items()]
    message.robot_s = answer.robot_s
    message.uplink_s = answer.uplink_s
    message.server_s = answer.server_s
    message.downlink_s = answer.downlink_s
    message.total_s = answer.total_s
    message.bytes_up = answer.bytes_up
    message.bytes_down = answer.bytes_down
    message.energy_j = answer.energy_j
    return message


def model_status_message(pipeline: Pipeline, server: str) -> ModelStatus:
    """What one model did lately; ``server``: name of the one that would be used now, or empty."""
    statistics, last = pipeline.statistics, pipeline.statistics.last
    message = ModelStatus()
    message.model = pipeline.model.name
    message.variant = pipeline.model.variant
    message.model_hash = pipeline.model.hash
    message.weights_trained = pipeline.model.weights_trained
    message.strategy_requested = pipeline.strategy
    message.server = server
    if last is not None:
        message.strategy_used = last.strategy_used
        message.plan = last.plan
        message.reason = last.error or last.reason
    message.rate_hz = statistics.rate_hz()
    message.robot_ms = 1000.0 * statistics.median('robot_s')
    message.uplink_ms = 1000.0 * statistics.median('uplink_s')
    message.server_ms = 1000.0 * statistics.median('server_s')
    message.downlink_ms = 1000.0 * statistics.median('downlink_s')
    message.total_ms = 1000.0 * statistics.median('total_s')
    message.total_p95_ms = 1000.0 * statistics.p95_total_s()
    message.energy_j = statistics.median('energy_j')
    for name in (
        'bytes_up',
        'bytes_down',
        'accepted',
        'results',
        'dropped',
        'fallbacks',
        'late',
        'errors',
    ):
        setattr(message, name, getattr(statistics, name))
    return message


def link_status_message(robot: str, server: str, link: LinkEstimate) -> LinkStatus:
    """The link to one server as it is now."""
    message = LinkStatus(robot=robot, server=server)
    for field in fields(link):
        setattr(message, field.name, getattr(link, field.name))
    return message
