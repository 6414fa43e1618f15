"""What one inference on both machines gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from offload_ros.intra_dp.run_timeline import Timeline


@dataclass(frozen=True)
class Ran:
    """Outputs by name, as the graph gives them, and what became of the time (s) and the link
    (bytes).

    ``completed_locally``: operators of which the robot computed rows in the server's place, which
    came late or not at all; ``why_local`` says which. Such a run says little about its plan.
    """

    outputs: Mapping[str, torch.Tensor]
    total_s: float
    robot_s: float  # computing
    server_s: float  # computing; 0 where the last values overtook what the server says of it
    bytes_up: int
    bytes_down: int
    completed_locally: int = 0
    why_local: str = ''
    timeline: Timeline | None = None
    node_s: Mapping[int, float] = field(default_factory=dict)  # of the server, if it was timed
