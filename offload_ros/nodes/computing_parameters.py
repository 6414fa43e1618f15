"""Parameters of the server that say how requests are computed: in batches, in replicas."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rclpy.node import Node
import torch

from offload_ros.models.errors import ConfigError
from offload_ros.nodes.parameters import declare, value_of
from offload_ros.server.backend import Backend
from offload_ros.server.batching import Batching

MAX_BATCH, GATHER_MS = 'batch.max', 'batch.gather_ms'
IN_PROCESS, RAY = 'in_process', 'ray'
READ_ONCE = ('backend', 'replicas')


def declare_computing(node: Node) -> None:
    """All of them."""
    declare(
        node,
        MAX_BATCH,
        1,
        'requests of several robots for one model that are computed together, at most; 1: none',
        1,
        1024,
    )
    declare(
        node,
        GATHER_MS,
        2.0,
        f'where {MAX_BATCH} is above 1: how long a request may wait for others (ms)',
        0.0,
        1000.0,
    )
    declare(
        node,
        'backend',
        IN_PROCESS,
        f'what computes: {IN_PROCESS}, or {RAY}: replicas of the models in processes of their own; '
        'read when activated',
    )
    declare(node, 'replicas', 1, f'processes of backend {RAY}; read when activated', 1, 64)


def batching_of(node: Node, changes: Mapping[str, Any] | None = None) -> Batching:
    """As the parameters say, or ``changes`` of them that are about to be set."""
    values = {MAX_BATCH: value_of(node, MAX_BATCH), GATHER_MS: value_of(node, GATHER_MS)}
    values.update({name: each for name, each in (changes or {}).items() if name in values})
    return Batching(values[MAX_BATCH], values[GATHER_MS] / 1000.0)


def backend_of(node: Node, models_file: str, device: str) -> Backend | None:
    """Replicas where they are asked for; ``ConfigError`` when there can be none."""
    backend, replicas = value_of(node, 'backend'), value_of(node, 'replicas')
    if backend == RAY:
        from offload_ros.server.ray_replicas import RayReplicas

        return RayReplicas(models_file, device, replicas, torch.get_num_threads())
    if backend != IN_PROCESS:
        raise ConfigError(f"backend '{backend}' is not one: {IN_PROCESS}, {RAY}")
    if replicas > 1:
        raise ConfigError(f'replicas is {replicas}: more than one needs backend {RAY}')
    return None
