"""What the manager publishes for one accepted frame, good or bad."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
import math

import torch

from offload_ros.wire.directory import HeldModel


@dataclass(frozen=True)
class Answer:
    """Everything of ``msg/InferenceResult.msg`` but the header. ``error`` empty: status OK.
    ``computing_s``: of a fallback, how long the robot computed; ``held``: which model answered,
    where that is not the one loaded here."""

    seq: int
    strategy_requested: str
    strategy_used: str = ''
    plan: str = ''
    reason: str = ''
    fallback: bool = False
    late: bool = False
    error: str = ''
    exact: bool = False
    tolerance: float = 0.0
    outputs: Mapping[str, torch.Tensor] = field(default_factory=dict)
    robot_s: float = 0.0
    uplink_s: float = 0.0
    server_s: float = 0.0
    downlink_s: float = 0.0
    total_s: float = 0.0
    bytes_up: int = 0
    bytes_down: int = 0
    energy_j: float = math.nan
    computing_s: float = 0.0
    held: HeldModel | None = None
    model: str = ''
    model_hash: str = ''
    weights_trained: bool = False
