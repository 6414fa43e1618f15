"""States and settings of replanning, and what it reports."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from offload_ros.navigation.destination import Destination
from offload_ros.navigation.planner import Status
from offload_ros.tracking.checks import within


class State(Enum):
    """What it is doing."""

    BLIND = 'it does not know where the robot or what around it is'
    WAITING = 'it waits for a goal'
    PLANNING = 'it plans a motion from rest'
    FOLLOWING = 'the robot follows a motion'
    REPLANNING = 'the robot follows a motion while the next one is planned'
    STOPPING = 'the robot brakes'


class Outcome(Enum):
    """What became of the last goal."""

    OPEN = 'not decided'
    ARRIVED = 'arrived'
    GIVEN_UP = 'given up'
    CANCELLED = 'cancelled'


@dataclass(frozen=True)
class ReplanConfig:
    """When to plan again and when to stop.

    period_s: from plan to plan while all is well. lead_s: a motion planned on the way begins so
    long after planning began, which is the time planning has. retry_s: after a plan that failed;
    give_up_s: after the first of a row of them. air_price: a second in the air counts as so many
    when two motions are compared; keep: a new one must cost less than this share of the old.
    goal_moved_m: a new goal nearer to the old one changes nothing. arrived_m, settle_s: how near
    to the goal and how long after the motion's end. off_motion_m: robot from where it should be.
    still_mps: slower is standing. jump_m: besides what twice the top speed explains.
    """

    period_s: float = 1.0
    lead_s: float = 0.5
    retry_s: float = 0.5
    give_up_s: float = 20.0
    air_price: float = 3.0
    keep: float = 0.95
    goal_moved_m: float = 0.2
    arrived_m: float = 0.25
    settle_s: float = 2.0
    off_motion_m: float = 0.6
    still_mps: float = 0.1
    jump_m: float = 0.5
    pose_timeout_s: float = 0.5
    scan_timeout_s: float = 1.0

    def __post_init__(self) -> None:
        for name in ('period_s', 'lead_s', 'retry_s', 'settle_s', 'pose_timeout_s'):
            within(name, getattr(self, name), 0.05, 60.0)
        within('scan_timeout_s', self.scan_timeout_s, 0.05, 60.0)
        within('give_up_s', self.give_up_s, 0.0, 3600.0)
        within('air_price', self.air_price, 1.0, 100.0)
        within('keep', self.keep, 0.0, 1.0)
        for name in ('goal_moved_m', 'arrived_m', 'off_motion_m', 'jump_m', 'still_mps'):
            within(name, getattr(self, name), 0.01, 10.0)


@dataclass(frozen=True)
class Report:
    """State, why, the last plan's status, where the motion ends, what became of the goal."""

    state: State
    reason: str
    status: Status | None
    end: Destination | None
    outcome: Outcome
