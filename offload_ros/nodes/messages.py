"""Requests, replies, heartbeats, answers and status to ROS messages and back: field by field, no
logic."""

from __future__ import annotations

import math
from typing import Any

from offload_ros.msg import (
    InferenceReply,
    InferenceRequest,
    InferenceResult,
    ModelInfo,
    ModelStatus,
    ServerHeartbeat,
    Tensor,
)
from offload_ros.robot.answer import Answer
from offload_ros.robot.pipeline import Pipeline
from offload_ros.server.engine import Engine
from offload_ros.wire.directory import ServerState
from offload_ros.wire.exchange import Kind, Reply, Request, Status
from offload_ros.wire.tensors import Limits, WireError, decode_all, encode

MAX_MODELS = 1000  # of one server; beyond it a heartbeat would hold the robot up


def request_to_message(request: Request) -> InferenceRequest:
    """A request ready to be published."""
    message = InferenceRequest()
    message.kind = int(request.kind)
    message.robot = request.robot
    message.session = request.session
    message.server_session = request.server_session
    message.seq = request.seq
    message.model = request.model
    message.model_hash = request.model_hash
    message.budget_s = request.budget_s
    message.priority = request.priority
    message.inputs = [
        encode(Tensor(), name, tensor, request.buffers.get(name))
        for name, tensor in request.inputs.items()
    ]
    return message


def message_to_request(message: Any, limits: Limits) -> Request:
    """A received request; ``WireError`` when its tensors contradict themselves or exceed
    ``limits``."""
    inputs = decode_all(message.inputs, limits)
    try:
        kind = Kind(message.kind)
    except ValueError:
        raise WireError(f'request kind {message.kind} is unknown') from None
    return Request(
        robot=message.robot,
        session=message.session,
        server_session=message.server_session,
        seq=message.seq,
        model=message.model,
        model_hash=message.model_hash,
        budget_s=message.budget_s if math.isfinite(message.budget_s) else 0.0,
        inputs=inputs,
        priority=message.priority,
        kind=kind,
    )


def reply_to_message(reply: Reply) -> InferenceReply:
    """A reply ready to be published."""
    message = InferenceReply()
    message.server = reply.server
    message.server_session = reply.server_session
    message.session = reply.session
    message.seq = reply.seq
    message.status = int(reply.status)
    message.detail = reply.detail
    message.queue_s = reply.queue_s
    message.compute_s = reply.compute_s
    message.server_s = reply.server_s
    message.outputs = [encode(Tensor(), name, tensor) for name, tensor in reply.outputs.items()]
    return message


def message_to_reply(message: Any, limits: Limits) -> Reply:
    """A received reply; one whose tensors are bad becomes an ERROR reply that says so."""
    try:
        status, detail = Status(message.status), message.detail
        outputs = decode_all(message.outputs, limits)
    except ValueError as error:  # an unknown status, or WireError
        status, detail, outputs = Status.ERROR, f'bad reply: {error}', {}
    return Reply(
        server=message.server,
        server_session=message.server_session,
        session=message.session,
        seq=message.seq,
        status=status,
        detail=detail,
        queue_s=message.queue_s,
        compute_s=message.compute_s,
        server_s=message.server_s,
        outputs=outputs,
    )


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


def message_to_server_state(message: Any) -> ServerState:
    """A received heartbeat."""
    hashes: dict[str, set[str]] = {}
    for info in message.models[:MAX_MODELS]:
        hashes.setdefault(info.name, set()).add(info.hash)
    return ServerState(
        name=message.server,
        session=message.session,
        runtime=message.runtime,
        device=message.device,
        queue_length=message.queue_length,
        queue_limit=message.queue_limit,
        busy=message.busy,
        models={name: frozenset(each) for name, each in hashes.items()},
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
        message.reason = last.error or last.reason
    message.rate_hz = statistics.rate_hz()
    message.robot_ms = 1000.0 * statistics.median_s('robot_s')
    message.uplink_ms = 1000.0 * statistics.median_s('uplink_s')
    message.server_ms = 1000.0 * statistics.median_s('server_s')
    message.downlink_ms = 1000.0 * statistics.median_s('downlink_s')
    message.total_ms = 1000.0 * statistics.median_s('total_s')
    message.total_p95_ms = 1000.0 * statistics.p95_total_s()
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
