"""What a strategy is: one way to run an inference. One file adds one.

A strategy registers under a name with ``@register('name')``, or is named ``package.module:Class``
in ``models.yaml``. The manager makes one object per model and strategy, calls ``prepare`` once,
``run`` for each frame from one thread, and ``cancel`` from any thread.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
import importlib
import math
from typing import TYPE_CHECKING, Protocol

import torch

from offload_ros.fleet.followed import FollowedPlan

if TYPE_CHECKING:
    from offload_ros.amot.options import AmotOptions
    from offload_ros.models.model import Model
    from offload_ros.policy.choice import Board
    from offload_ros.robot.lane import DeviceLane
    from offload_ros.robot.window import Window
    from offload_ros.wire.client import OffloadClient
    from offload_ros.wire.directory import HeldModel


@dataclass(frozen=True)
class Frame:
    """One input of a model. ``received_s``: the robot's steady clock when its last part arrived.

    ``inputs``: one tensor per input of the model, as the sensor gives it. ``buffers``: by input
    name, bytes that already hold exactly that tensor's data (the camera message's), so that
    sending need not copy.
    """

    seq: int
    inputs: Mapping[str, torch.Tensor]
    received_s: float
    buffers: Mapping[str, array[int]] = field(default_factory=dict)


@dataclass(frozen=True)
class Result:
    """What a strategy computed. Durations in seconds; what no machine spent is 0.

    ``exact``: bit-equal to the model on one machine; otherwise within ``tolerance`` (relative), or
    where that is NaN, within none: accuracy was traded (``amot``). ``used``: the strategy that ran
    instead of the one asked, and ``reason`` why; ``held``: the model that answered, where it is
    another variant.
    """

    outputs: Mapping[str, torch.Tensor]
    plan: str = ''
    exact: bool = True
    tolerance: float = 0.0
    uplink_s: float = 0.0
    server_s: float = 0.0
    downlink_s: float = 0.0
    bytes_up: int = 0
    bytes_down: int = 0
    used: str = ''
    reason: str = ''
    held: HeldModel | None = None


@dataclass(frozen=True)
class Prediction:
    """What a strategy expects of its next inference; NaN: not known yet. ``late_s``: its latency
    where the link is as bad as in one case of ten, of strategies that look at that themselves."""

    latency_s: float = math.nan
    energy_j: float = math.nan
    accuracy: float = math.nan
    robot_busy_s: float = 0.0
    uplink_busy_s: float = 0.0
    server_busy_s: float = 0.0
    downlink_busy_s: float = 0.0
    bytes_up: float = 0.0
    late_s: float = math.nan


@dataclass(frozen=True)
class LinkState:
    """The link as it is now, for ``predict``; NaN: not measured."""

    up_bytes_per_s: float = math.nan
    down_bytes_per_s: float = math.nan
    round_trip_s: float = math.nan


def _board() -> Board:
    from offload_ros.policy.choice import Board

    return Board()


@dataclass(frozen=True)
class Link:
    """What a strategy may use beside its model: the robot's accelerator and the way to the
    servers. ``amot``: by model name, what its parameters ask of A-MOT now; ``fleet``: the plan of a
    fleet planner. ``local``: by model name, how long the robot computed it; ``board``: where models
    with strategy auto choose together."""

    lane: DeviceLane
    client: OffloadClient
    amot: dict[str, AmotOptions] = field(default_factory=dict)
    fleet: FollowedPlan = field(default_factory=FollowedPlan)
    local: dict[str, Window] = field(default_factory=dict)
    board: Board = field(default_factory=_board)


class Unanswered(Exception):
    """The strategy gives no result for this frame, and why; the robot computes it by itself."""


class LeftToRobot(Unanswered):
    """The strategy means the robot to compute this frame, by the plan that is the text. ``used``,
    ``reason``: as in ``Result``."""

    def __init__(self, plan: str, used: str = '', reason: str = '') -> None:
        super().__init__(plan)
        self.used, self.reason = used, reason


class StrategyRefused(ValueError):
    """This strategy cannot run this model (or does not exist); the text names those that can."""


class Strategy(Protocol):
    """One way to run the inferences of one model.

    Optional: where ``aims`` is true, ``aim(goal, answer_s)`` tells what to plan for, before the
    first frame and whenever that changes (``policy.goal``; see ``cuts.strategy``). ``record(path)``
    asks for a timeline of the next inference.
    """

    def prepare(self, model: Model, link: Link) -> None:
        """Get ready; ``StrategyRefused`` when this model cannot be run this way."""

    def predict(self, state: LinkState) -> Prediction:
        """Expect of the next inference what is known now."""

    def run(self, frame: Frame, deadline_s: float) -> Result:
        """Compute one frame; ``Unanswered`` when that fails, at the latest at ``deadline_s``
        (steady clock)."""

    def cancel(self, seq: int) -> None:
        """End ``run`` of frame ``seq`` now with ``Unanswered``; nothing if it is not running."""

    def close(self) -> None:
        """Release what ``prepare`` took."""


_REGISTRY: dict[str, Callable[[], Strategy]] = {}


def register(name: str) -> Callable[[type], type]:
    """Class decorator: make a strategy known under ``name``."""

    def add(kind: type) -> type:
        if name in _REGISTRY:
            raise ValueError(f"strategy '{name}' is registered twice")
        _REGISTRY[name] = kind
        return kind

    return add


def strategy_names() -> list[str]:
    """Names of all strategies of this package, sorted."""
    importlib.import_module('offload_ros.amot.strategy')
    importlib.import_module('offload_ros.baselines.device')
    importlib.import_module('offload_ros.baselines.server')
    importlib.import_module('offload_ros.cuts.strategy')
    importlib.import_module('offload_ros.fleet.strategy')
    importlib.import_module('offload_ros.intra_dp.strategy')
    importlib.import_module('offload_ros.policy.auto')
    importlib.import_module('offload_ros.rrto.strategy')
    return sorted(_REGISTRY)


def make_strategy(name: str) -> Strategy:
    """A new strategy by its registered name or as ``package.module:Class``; ``StrategyRefused``
    otherwise."""
    known = strategy_names()
    if name in _REGISTRY:
        return _REGISTRY[name]()
    if ':' not in name:
        raise StrategyRefused(f"there is no strategy '{name}'; there are {', '.join(known)}")
    module_name, _, class_name = name.partition(':')
    try:
        kind = getattr(importlib.import_module(module_name), class_name)
    except Exception as error:  # importing runs anybody's code
        raise StrategyRefused(f"strategy '{name}': {type(error).__name__}: {error}") from error
    # Nothing but a strategy is ever called here: the name may come from a parameter.
    methods = ('prepare', 'predict', 'run', 'cancel', 'close')
    missing = [method for method in methods if not callable(getattr(kind, method, None))]
    if not isinstance(kind, type) or missing:
        raise StrategyRefused(
            f"strategy '{name}' is not a class with the methods {', '.join(methods)}"
        )
    strategy: Strategy = kind()
    return strategy
