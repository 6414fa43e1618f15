"""What the nodes tell on /diagnostics, once a second."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue

from offload_ros.msg import OffloadStatus
from offload_ros.server.engine import Engine

BUSY = 0.9


def manager_diagnostics(status: OffloadStatus, names: Sequence[str]) -> DiagnosticArray:
    """One entry for the link to servers and one per model; ``names``: all configured models."""
    array = DiagnosticArray()
    array.header.stamp = status.header.stamp
    servers = ', '.join(server.server for server in status.servers)
    array.status.append(
        _entry(
            f'{status.robot}: servers',
            DiagnosticStatus.OK if servers else DiagnosticStatus.WARN,
            servers or 'no server is there: this robot computes by itself',
            {server.server: f'queue {server.queue_length}' for server in status.servers},
        )
    )
    running = {model.model: model for model in status.models}
    for name in names:
        model = running.get(name)
        level, text = _judged(model)
        values = {} if model is None else _values(model)
        array.status.append(_entry(f'{status.robot}: {name}', level, text, values))
    return array


def server_diagnostics(engine: Engine, robots: int, stamp: Any) -> DiagnosticArray:
    """One entry for the server."""
    array = DiagnosticArray()
    array.header.stamp = stamp
    busy, length = engine.busy_share(), engine.queue_length
    batches, batched = engine.batches
    overloaded = length >= engine.queue_limit or busy > BUSY
    array.status.append(
        _entry(
            f'{engine.name}: load',
            DiagnosticStatus.WARN if overloaded else DiagnosticStatus.OK,
            f'{100 * busy:.0f} % busy, {length} of {engine.queue_limit} wait',
            {
                'busy': f'{busy:.3f}',
                'queue_length': str(length),
                'queue_limit': str(engine.queue_limit),
                'robots': str(robots),
                'batches': str(batches),
                'requests_in_batches': str(batched),
                'models': ', '.join(f'{model.name}/{model.variant}' for model in engine.models),
            },
        )
    )
    return array


def _judged(model: Any) -> tuple[bytes, str]:
    if model is None:
        return DiagnosticStatus.OK, 'not loaded'
    if not model.strategy_used:
        if model.results:
            return DiagnosticStatus.ERROR, model.reason
        return DiagnosticStatus.OK, 'no frames yet'
    if model.rate_hz == 0.0:
        return DiagnosticStatus.STALE, 'no frames lately'
    if model.strategy_used != model.strategy_requested:
        why = f': {model.reason}' if model.reason else ''
        return DiagnosticStatus.WARN, f'{model.strategy_used}, not {model.strategy_requested}{why}'
    return DiagnosticStatus.OK, f'{model.strategy_used}, {model.rate_hz:.1f} Hz'


def _values(model: Any) -> dict[str, str]:
    return {
        'strategy': model.strategy_used,
        'server': model.server,
        'rate_hz': f'{model.rate_hz:.2f}',
        'total_ms': f'{model.total_ms:.2f}',
        'total_p95_ms': f'{model.total_p95_ms:.2f}',
        'results': str(model.results),
        'dropped': str(model.dropped),
        'fallbacks': str(model.fallbacks),
        'late': str(model.late),
        'errors': str(model.errors),
    }


def _entry(name: str, level: bytes, text: str, values: dict[str, str]) -> DiagnosticStatus:
    return DiagnosticStatus(
        name=name,
        level=level,
        message=text,
        hardware_id='offload_ros',
        values=[KeyValue(key=key, value=value) for key, value in values.items()],
    )
