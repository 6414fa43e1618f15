"""Navigation as a whole, without ROS: lidar, odometry, goals, a network's results in, speeds out.

Everything comes with a stamp in seconds of one clock. It works with what was observed; results of a
network that completes the scene may come or not.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
import math

import numpy as np
import numpy.typing as npt

from offload_ros.navigation.driving import STAND, DriveConfig, Speeds, speeds_for
from offload_ros.navigation.plan_config import PlanConfig
from offload_ros.navigation.replan_config import ReplanConfig, Report
from offload_ros.navigation.replanning import Replanning
from offload_ros.navigation.space import AIRBORNE_M, Body
from offload_ros.navigation.voxel_map import VoxelMapConfig
from offload_ros.navigation.voxels import GridPose, VoxelGrid, packed
from offload_ros.tracking.checks import Floats, finite, require, within
from offload_ros.tracking.frames import FrameTree
from offload_ros.tracking.geometry import PoseMissing

_ASKED = 20  # inputs that a result is still waited for


@dataclass(frozen=True)
class NavigationConfig:
    """Frames, and the parts. grid: what the network takes, around the robot, level and turned as
    the fixed frame is; its low_m counts from the robot and the floor. obstacles_from: the first of
    the network's classes that is an obstacle. stall_s: without a finished step for so long, as
    when the other thread hangs, the robot stands.
    """

    fixed_frame: str = 'odom'
    base_frame: str = 'base_link'
    grid: VoxelGrid = field(
        default_factory=lambda: VoxelGrid(128, 16, 128, 0.15, (-9.6, -9.6, -0.15))
    )
    obstacles_from: int = 2
    stall_s: float = 2.0
    voxels: VoxelMapConfig = field(default_factory=VoxelMapConfig)
    body: Body = field(default_factory=Body)
    plan: PlanConfig = field(default_factory=PlanConfig)
    replan: ReplanConfig = field(default_factory=ReplanConfig)
    drive: DriveConfig = field(default_factory=DriveConfig)

    def __post_init__(self) -> None:
        require(bool(self.fixed_frame and self.base_frame), 'frames must have names')
        within('obstacles_from', self.obstacles_from, 1, 255)
        within('stall_s', self.stall_s, 0.1, 60.0)
        require(
            self.grid.height * self.grid.depth % 8 == 0,
            'a row of the grid must be whole bytes: height times depth is a multiple of 8',
        )


@dataclass(frozen=True, eq=False)
class Asked:
    """What a network is to complete: bits (W, H * D / 8) uint8 of the grid at ``pose``."""

    stamp_s: float
    bits: npt.NDArray[np.uint8]
    pose: GridPose


class Navigation:
    """Two threads may share it: what comes in and ``speeds`` belong to one, ``step`` and ``ask``,
    which may take a while, to the other. What comes in waits for the next step."""

    def __init__(self, config: NavigationConfig | None = None) -> None:
        """Begin without knowing anything."""
        self.config = config = config or NavigationConfig()
        self.frames = FrameTree()
        self.brain = Replanning(config.voxels, config.body, config.plan, config.replan)
        self._inbox: deque[Callable[[], None]] = deque()
        self._asked: OrderedDict[float, GridPose] = OrderedDict()
        # One tuple, so that another thread sees a place and a heading that belong together.
        self._pose: tuple[float, Floats, float] | None = None  # stamp, place, yaw
        self._stepped_s = -math.inf
        self.completed_s = -math.inf  # stamp of the newest result that was taken
        self.trouble = ''

    # ---- what comes in

    def odometry(self, stamp_s: float, velocity: npt.ArrayLike) -> None:
        """Take the robot's velocity (3,) in its own frame, m/s; its pose comes through
        ``frames``."""
        config = self.config
        speed = finite('velocity', velocity, (3,))
        try:
            pose = self.frames.lookup(config.fixed_frame, config.base_frame, stamp_s)
        except PoseMissing as error:
            self.trouble = f'the robot cannot be placed: {error}'
            return
        self.trouble = ''
        place, yaw = pose.translation.copy(), pose.yaw
        # Odometry may be a hair below the floor.
        place[2] = max(place[2], config.voxels.floor_m)
        self._pose = stamp_s, place, yaw
        c, s = math.cos(yaw), math.sin(yaw)
        moved = np.array([c * speed[0] - s * speed[1], s * speed[0] + c * speed[1], speed[2]])
        self._inbox.append(lambda: self._moved(stamp_s, place, moved))

    def _moved(self, stamp_s: float, place: Floats, velocity: Floats) -> None:
        if self.brain.pose(stamp_s, place, velocity):
            self._asked.clear()
            self.completed_s = -math.inf

    def cloud(self, stamp_s: float, frame: str, points: npt.ArrayLike) -> None:
        """Take a 3-D lidar's or depth camera's points (N, 3) in its own frame, the floor and
        all."""
        try:
            sensor = self.frames.lookup(self.config.fixed_frame, frame, stamp_s)
        except PoseMissing as error:
            self.trouble = f'the lidar cannot be placed: {error}'
            return
        self.trouble = ''
        ends = sensor.apply(np.asarray(points, np.float64))
        hit = np.ones(len(ends), np.bool_)
        self._inbox.append(lambda: self.brain.scan(stamp_s, sensor.translation, ends, hit))

    def goal(self, place: npt.ArrayLike | None) -> None:
        """Take a goal (3,) in the fixed frame; None: stop. ValueError if it is not finite."""
        where = None if place is None else finite('goal', place, (3,))
        self._inbox.append(lambda: self.brain.goal(where))

    def result(self, stamp_s: float, labels: npt.NDArray[np.uint8]) -> None:
        """Take the labels (W, H, D) of an input; what was not asked for or is out of date is left
        out. ValueError for another shape."""
        shape = self.config.grid.shape
        require(labels.shape == shape, f'labels must be {shape}, not {labels.shape}')
        self._inbox.append(lambda: self._complete(stamp_s, labels))

    def _complete(self, stamp_s: float, labels: npt.NDArray[np.uint8]) -> None:
        pose = self._asked.pop(stamp_s, None)
        if pose is None or stamp_s < self.completed_s:
            return
        solid = np.where(labels >= self.config.obstacles_from, labels, 0).astype(np.uint8)
        self.brain.complete(stamp_s, solid, self.config.grid, pose)
        self.completed_s = stamp_s

    # ---- what goes out

    def step(self, now_s: float) -> Report:
        """Take what has come, plan what is due; it returns at the latest after a plan's limit of
        time and what it takes to renew the map."""
        while self._inbox:
            self._inbox.popleft()()
        report = self.brain.step(now_s)
        self._stepped_s = now_s
        return report

    def ask(self) -> Asked | None:
        """Return what a network is to complete: all that was observed around the robot; None
        before its place is known."""
        if self._pose is None:
            return None
        stamp_s, place, _ = self._pose
        voxels, grid = self.brain.voxels, self.config.grid
        pose = GridPose(float(place[0]), float(place[1]), voxels.config.floor_m)
        bits = packed(grid.occupied(voxels.middles(voxels.occupied), pose))
        self._asked[stamp_s] = pose
        while len(self._asked) > _ASKED:
            self._asked.popitem(last=False)
        return Asked(stamp_s, bits.reshape(grid.width, -1), pose)

    def speeds(self, now_s: float) -> Speeds:
        """Return how to move now; standing while the robot's place is not known or old, or nobody
        watches the way."""
        known, config = self._pose, self.config
        if known is None or now_s - known[0] > config.replan.pose_timeout_s:
            return STAND
        if now_s - self._stepped_s > config.stall_s:
            return STAND
        _, place, yaw = known
        return speeds_for(self.brain.setpoint(now_s), place, yaw, self.airborne, config.drive)

    @property
    def place(self) -> Floats | None:
        """The robot's newest place (3,)."""
        return None if self._pose is None else self._pose[1]

    @property
    def airborne(self) -> bool:
        """Whether it flies, by its odometry."""
        place = self.place
        return place is not None and bool(place[2] - self.config.voxels.floor_m >= AIRBORNE_M / 2)
