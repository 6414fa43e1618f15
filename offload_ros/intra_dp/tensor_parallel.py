"""Tensor parallelism between robot and server, for comparison (Intra-DP paper, Fig. 6).

As in DINA and in data centres: the output channels of every layer are shared between both sides,
and after every layer both get all of them, because the next one reads all channels. In the one
evaluator it is a plan whose every part reads its whole inputs. Sending shares of channels both ways
is what an all-gather costs; an all-reduce of partial sums would send more. Layers are those of
``baselines.layers``, which merges convolutions of one size: that spares it some exchanges. There is
one share for all layers, the best of a grid.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from offload_ros.baselines.problem import Subject
from offload_ros.graph.profile import Profile, ProfiledOperator
from offload_ros.graph.schedule import Evaluator, Link
from offload_ros.graph.split_plan import Plan
from offload_ros.graph.timeline import Schedule

PARTS = 1000  # into which a layer's channels are divided: any share
SHARES = np.arange(0.02, 1.0, 0.02)  # of the robot


@dataclass(frozen=True)
class TensorParallel:
    """``robot_share`` of the channels of every layer, and all that happens when."""

    robot_share: float
    schedule: Schedule


def tensor_parallel(subject: Subject, link: Link) -> TensorParallel:
    """The best share at ``link``; both sides take part in every layer."""
    profile = by_channels(subject.layers.profile)
    evaluator = Evaluator(profile)
    inputs = np.array([each.is_input for each in profile.operators])[:, None]
    border = np.where(inputs, PARTS, np.round(SHARES * PARTS)[None])
    zero = np.zeros_like(border)
    robot = np.stack([zero, border], axis=1)
    server = np.stack([border, np.full_like(border, PARTS)], axis=1)
    latency_s = evaluator.costs(robot, server, link).latency_s
    best = int(np.argmin(latency_s))
    plan = Plan(profile, robot[..., best], server[..., best])
    return TensorParallel(float(SHARES[best]), evaluator.schedule(plan, link))


def by_channels(profile: Profile) -> Profile:
    """The same layers, each in ``PARTS`` parts that read whole inputs."""
    return replace(profile, operators=tuple(map(_by_channels, profile.operators)))


def _by_channels(operator: ProfiledOperator) -> ProfiledOperator:
    # A window over everything: no part of a layer can do with a part of its inputs.
    return replace(
        operator, width=PARTS, split=True, kernel=3.0 * PARTS, stride=1.0, padding=float(PARTS)
    )
