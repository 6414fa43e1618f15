"""What a strategy is: one way to run an inference. One file adds one (doc/own_strategy.md).

A strategy registers under a name with ``@register('name')``, in a module that ``models.yaml`` lists
under ``strategies`` or an installed package names as entry point; or is named
``package.module:Class`` in ``models.yaml``. The manager makes one object per model and strategy,
calls ``prepare`` once, ``run`` for each frame from one thread, and ``cancel`` from any thread.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
import importlib
from importlib import metadata
import math
from typing import TYPE_CHECKING, Any, Protocol

import torch

from offload_ros.fleet.followed import FollowedPlan
from offload_ros.models.errors import ConfigError

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
    sending need not copy. ``compute_at``: called with a time of that clock, has the robot begin to
    compute this frame then, unless it is answered before; without such a call it begins when the
    deadline wants it.
    """

    seq: int
    inputs: Mapping[str, torch.Tensor]
    received_s: float
    buffers: Mapping[str, array[int]] = field(default_factory=dict)
    compute_at: Callable[[float], None] = field(default=lambda at_s: None, compare=False)


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
    first frame and whenever that changes (``policy.goal``; see ``cuts.strategy``).
    ``usable(goal)``: whether strategy auto may choose it for the next frame. ``record(path)`` asks
    for a timeline of the next inference.
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


METHODS = ('prepare', 'predict', 'run', 'cancel', 'close')
ENTRY_POINTS = 'offload_ros.strategies'  # the group, for installed packages
# Of this package. Auto looks at its strategies in this order, then at others by name.
_BUILT_IN = (
    'offload_ros.baselines.device',
    'offload_ros.baselines.server',
    'offload_ros.intra_dp.strategy',
    'offload_ros.rrto.strategy',
    'offload_ros.amot.strategy',
    'offload_ros.cuts.strategy',
    'offload_ros.fleet.strategy',
    'offload_ros.policy.auto',
)
_REGISTRY: dict[str, Callable[[], Strategy]] = {}
_AUTOMATIC: set[str] = set()
_IMPORTED: set[str] = set()  # modules that registered something when they were imported


def register(name: str, automatic: bool = False) -> Callable[[type], type]:
    """Class decorator: make a strategy known under ``name``; where ``automatic``, strategy auto
    may choose it. ``ValueError`` for a name that is taken and for what is no strategy."""

    def add(kind: type) -> type:
        if not name.isidentifier():
            raise ValueError(f'strategy name {name!r} must be letters, digits and _')
        if name in _REGISTRY:
            raise ValueError(f"strategy '{name}' is registered twice: choose another name")
        if _missing(kind):
            raise ValueError(f"strategy '{name}' lacks the methods {', '.join(_missing(kind))}")
        if automatic and getattr(kind, 'chooses', False):
            raise ValueError(f"strategy '{name}' chooses by itself: it cannot be automatic")
        _REGISTRY[name] = kind
        if automatic:
            _AUTOMATIC.add(name)
        return kind

    return add


def import_strategies(modules: Iterable[str], listed_in: str) -> None:
    """Import modules that register strategies, as the file ``listed_in`` has them, and those that
    installed packages name as entry points of the group ``offload_ros.strategies``. ``ConfigError``
    when one does not import, or registers none."""
    strategy_names()  # the names of this package are taken first
    for module in modules:
        remedy = 'put its folder on PYTHONPATH, or build its package and source the workspace'
        _import(f"{listed_in}: strategies: module '{module}'", module, remedy)
    for point in metadata.entry_points(group=ENTRY_POINTS):
        distribution = point.dist.name if point.dist is not None else '?'
        where = f"entry point '{point.name}' of package '{distribution}': module '{point.module}'"
        _import(where, point.module, 'mend the package, or uninstall it')


def _import(where: str, module: str, remedy: str) -> None:
    before = set(_REGISTRY)
    try:
        importlib.import_module(module)
    except (Exception, SystemExit) as error:  # importing runs anybody's code
        for name in set(_REGISTRY) - before:  # half of it would be in the way of the next try
            del _REGISTRY[name]
            _AUTOMATIC.discard(name)
        raise ConfigError(
            f'{where} does not import: {type(error).__name__}: {error}: {remedy}'
        ) from error
    own = (each.__module__ for each in _REGISTRY.values())
    if set(_REGISTRY) - before or any(f'{each}.'.startswith(f'{module}.') for each in own):
        _IMPORTED.add(module)
    if module not in _IMPORTED:
        raise ConfigError(f"{where} registers no strategy: put @register('name') before the class")


def strategy_names() -> list[str]:
    """Names of all strategies that are known, sorted."""
    for module in _BUILT_IN:
        importlib.import_module(module)
    return sorted(_REGISTRY)


def automatic_strategies() -> list[str]:
    """Names of those that strategy auto may choose, in the order in which it tries them."""

    def place(name: str) -> tuple[int, str]:
        module = _REGISTRY[name].__module__
        return (_BUILT_IN.index(module) if module in _BUILT_IN else len(_BUILT_IN), name)

    return sorted((name for name in strategy_names() if name in _AUTOMATIC), key=place)


def make_strategy(name: str) -> Strategy:
    """A new strategy by its registered name or as ``package.module:Class``; ``StrategyRefused``
    otherwise. The second form imports that module: it must not come from elsewhere than this
    machine's files."""
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
    if not isinstance(kind, type) or _missing(kind):  # nothing but a strategy is ever called
        raise StrategyRefused(
            f"strategy '{name}' is not a class with the methods {', '.join(METHODS)}"
        )
    strategy: Strategy = kind()
    return strategy


def _missing(kind: Any) -> list[str]:
    return [method for method in METHODS if not callable(getattr(kind, method, None))]
