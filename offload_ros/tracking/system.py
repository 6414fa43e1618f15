"""The person follower as a whole, without ROS: results, depth, lidar and poses in, speeds out.

Everything comes with a stamp in seconds of one clock. ``PersonFollowing.problem`` says in words
what is missing while something is.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass, field, replace
import math

import numpy as np
import numpy.typing as npt

from offload_ros.tracking.appearance import torso_histogram
from offload_ros.tracking.checks import Floats, array, require, within
from offload_ros.tracking.depth import DepthImage
from offload_ros.tracking.follow import STALE, Command, Follower, Scan, Target
from offload_ros.tracking.follow_config import Eye, FollowConfig
from offload_ros.tracking.frames import FrameTree
from offload_ros.tracking.geometry import PoseMissing
from offload_ros.tracking.locate import Intrinsics, LocateConfig, Located, believed, locate
from offload_ros.tracking.occupancy import MapConfig, OccupancyMap
from offload_ros.tracking.overhangs import OverhangConfig, Overhangs, nearest_by_direction
from offload_ros.tracking.rollouts import Motion
from offload_ros.tracking.sync import StampPairs
from offload_ros.tracking.tracker import PeopleTracker, TrackerConfig
from offload_ros.tracking.tracks import Detection, Key, Track

OFF = 'off'
KEYPOINTS = 17
_IMAGES = 40
_RATE_S = 2.0
_JUMP_S = 1.0  # a clock that goes back so far has begun anew
_MOST_PEOPLE = 50


@dataclass(frozen=True)
class SystemConfig:
    """Frames, and the parts. slop_s: how far apart the stamps of result and depth may be."""

    fixed_frame: str = 'odom'
    base_frame: str = 'base_link'
    slop_s: float = 0.1
    drive: bool = True
    locate: LocateConfig = field(default_factory=LocateConfig)
    tracker: TrackerConfig = field(default_factory=TrackerConfig)
    follow: FollowConfig = field(default_factory=FollowConfig)
    grid: MapConfig = field(default_factory=MapConfig)
    overhangs: OverhangConfig = field(default_factory=OverhangConfig)

    def __post_init__(self) -> None:
        require(bool(self.fixed_frame and self.base_frame), 'frames must have names')
        within('slop_s', self.slop_s, 0.0, 5.0)


@dataclass(frozen=True, eq=False)
class Seen:
    """The people of one result: poses (N, 17, 3: x, y in pixels from the image's corner,
    confidence), scores (N,), and of each its place, or None, and its track, or None."""

    stamp_s: float
    poses: Floats
    scores: Floats
    located: tuple[Located | None, ...]
    tracks: tuple[Track | None, ...]


@dataclass(frozen=True, eq=False)
class _Result:
    poses: Floats
    scores: Floats


class PersonFollowing:
    """Everything from results to speeds. Use it from one thread."""

    def __init__(self, config: SystemConfig | None = None) -> None:
        """Begin without knowing anything."""
        self.config = config or SystemConfig()
        self.frames = FrameTree()
        self._camera: Intrinsics | None = None
        self._camera_trouble = 'no camera_info has come'
        self._trouble: dict[str, str] = {}
        self._now_s = -math.inf
        self._begin()

    def _begin(self) -> None:
        config = self.config
        self.grid = OccupancyMap(config.grid)
        self._overhangs = Overhangs(config.overhangs)
        self.tracker = PeopleTracker(config.tracker)
        self._follower = Follower(self._follow_config())
        self._pairs: StampPairs[_Result, tuple[str, DepthImage]] = StampPairs(config.slop_s)
        self._images: OrderedDict[float, npt.NDArray[np.uint8]] = OrderedDict()
        self._scans: dict[str, tuple[float, Floats]] = {}  # by frame: stamp, points in the map
        self._motion: tuple[float, Motion] | None = None
        self._result_s = self._depth_s = self._came_s = -math.inf
        self._placed: deque[float] = deque(maxlen=200)

    def _follow_config(self) -> FollowConfig:
        follow = self.config.follow
        if self._camera is None:
            return follow
        half = math.atan(self._camera.width_px / 2 / self._camera.fx)
        eye: Eye = replace(follow.eye, view_rad=min(2 * half, 6.28))
        return replace(follow, eye=eye)

    def configure(self, config: SystemConfig) -> None:
        """Change what may change while it runs: how it locates and follows."""
        fixed = replace(config, locate=self.config.locate, follow=self.config.follow, drive=True)
        now = replace(self.config, drive=True)
        require(fixed == now, 'only locate, follow and drive may change while it runs')
        self.config = config
        self._follower.reconfigure(self._follow_config())

    # ---- what comes in

    def clock(self, now_s: float) -> bool:
        """Tell the time; True where it went back, as when a simulation begins anew: all is
        forgotten."""
        back = now_s < self._now_s - _JUMP_S
        self._now_s = now_s
        if back:
            self.frames.clear()
            self._begin()
        return back

    def camera(self, k: npt.ArrayLike, width_px: int, height_px: int) -> None:
        """Take camera_info; ValueError where it is not calibrated."""
        try:
            camera = Intrinsics.of_k(k, width_px, height_px)
        except ValueError as error:
            self._camera_trouble = f'camera_info: {error}'
            raise
        self._camera_trouble = ''
        if camera != self._camera:
            self._camera = camera
            self._follower.reconfigure(self._follow_config())

    def image(self, stamp_s: float, rgb: npt.NDArray[np.uint8]) -> None:
        """Keep a picture (H, W, 3) uint8, so that people can be told apart by their clothes."""
        self._images[stamp_s] = rgb
        while len(self._images) > _IMAGES:
            self._images.popitem(last=False)

    def image_at(self, stamp_s: float) -> npt.NDArray[np.uint8] | None:
        """The picture of a stamp, if it is still there."""
        return self._images.get(stamp_s)

    def result(self, stamp_s: float, poses: npt.ArrayLike, boxes: npt.ArrayLike) -> list[Seen]:
        """Take a result's outputs ``poses`` (N, 17, 3) and ``boxes`` (N, 5); returns what is
        complete with depth now. ValueError for other shapes."""
        found, scores = (
            array('poses', poses, (None, KEYPOINTS, 3)),
            array('boxes', boxes, (None, 5)),
        )
        require(len(found) == len(scores), f'{len(found)} poses and {len(scores)} boxes')
        self._came_s = max(self._came_s, stamp_s)
        people = _Result(found[:_MOST_PEOPLE], scores[:_MOST_PEOPLE, 4])
        return self._placing(self._pairs.add_first(stamp_s, people))

    def depth(self, stamp_s: float, frame: str, image: DepthImage) -> list[Seen]:
        """Take a depth image (H, W) in metres, NaN for holes, of an optical frame."""
        self._depth_s = max(self._depth_s, stamp_s)
        return self._placing(self._pairs.add_second(stamp_s, (frame, image)))

    def odometry(self, stamp_s: float, linear_mps: float, angular_radps: float) -> None:
        """Take the robot's speeds; its pose comes through ``frames``."""
        config = self.config
        try:
            pose = self.frames.lookup(config.fixed_frame, config.base_frame, stamp_s)
        except PoseMissing as error:
            self._trouble['pose'] = str(error)
            return
        self._trouble.pop('pose', None)
        x, y, _ = pose.translation.tolist()
        self._motion = stamp_s, Motion(x, y, pose.yaw, linear_mps, angular_radps)

    def rays(self, stamp_s: float, frame: str, ends: Floats, hit: npt.NDArray[np.bool_]) -> None:
        """Take the lidar: ends (N, 3) of its rays in its own frame, and whether each met something.

        Into the map go rays of any height that the caller lets through.
        """
        config = self.config
        try:
            base = self.frames.lookup(config.base_frame, frame, stamp_s)
            pose = self.frames.lookup(config.fixed_frame, config.base_frame, stamp_s)
        except PoseMissing as error:
            self._trouble['scan'] = f'the lidar cannot be placed: {error}'
            return
        self._trouble.pop('scan', None)
        in_base = base.apply(ends)
        in_map = pose.apply(in_base)[:, :2]
        self._scans[frame] = stamp_s, in_map[hit]
        self.grid.insert(pose.apply(base.translation)[:2], in_map, hit, self._people())

    def cloud(self, stamp_s: float, frame: str, points: Floats) -> None:
        """Take a 3-D lidar's points (N, 3) in its own frame, the floor and all: for what the 2-D
        scan passes below."""
        try:
            lidar = self.frames.lookup(self.config.fixed_frame, frame, stamp_s)
        except PoseMissing as error:
            self._trouble['cloud'] = f'the 3-D lidar cannot be placed: {error}'
            return
        self._trouble.pop('cloud', None)
        in_map = lidar.apply(points)
        self._overhangs.insert(lidar.translation, in_map, self._people())
        self.grid.mark(self._overhangs.points)
        solid = nearest_by_direction(self._overhangs.obstacles(in_map), lidar.translation)
        self._scans[frame] = stamp_s, solid[:, :2]

    def _people(self) -> list[Floats]:
        return [track.filtered.belief.position for track in self.tracker.people.tracks]

    def _scan(self, motion: Motion) -> Scan | None:
        """Return all that the lidars showed last, as seen from where the robot is now; its stamp is
        that of the older one."""
        if not self._scans:
            return None
        points = np.concatenate([each for _, each in self._scans.values()])
        c, s = math.cos(motion.yaw), math.sin(motion.yaw)
        in_base = (points - (motion.x_m, motion.y_m)) @ np.array([[c, -s], [s, c]])
        return Scan(in_base, min(stamp for stamp, _ in self._scans.values()))

    # ---- what goes out

    def command(self) -> Command:
        """Return the speeds for the time that ``clock`` told last."""
        now_s = self._now_s
        if not self.config.drive:
            return Command(0.0, 0.0, OFF, 'parameter drive is false')
        motion_s, motion = self._motion or (-math.inf, Motion(0.0, 0.0, 0.0))
        people = self.tracker.people
        target = None if people.target is None else Target.of(people.target)
        command = self._follower.command(
            now_s, motion, motion_s, self._scan(motion), self.grid.view(), target, self._result_s
        )
        if command.mode == STALE:
            return replace(command, reason=self.problem() or command.reason)
        return command

    @property
    def target(self) -> Track | None:
        """Return whom it follows, as last seen."""
        return self.tracker.people.target

    @property
    def result_s(self) -> float:
        """Stamp of the newest result that was placed; minus infinity before the first."""
        return self._result_s

    @property
    def motion(self) -> Motion | None:
        """The robot's newest pose and speeds."""
        return self._motion[1] if self._motion else None

    def result_hz(self) -> float:
        """Placed results a second, over the last two seconds."""
        return sum(self._now_s - each <= _RATE_S for each in self._placed) / _RATE_S

    def problem(self) -> str:
        """Return what keeps people from being placed, or the robot from driving; '' for nothing."""
        old_s = self.config.follow.result_timeout_s
        if not self._now_s - self._came_s <= old_s:
            return 'no results of the network come'
        if self._camera is None or self._camera_trouble:
            return f'{self._camera_trouble}: people cannot be placed'
        if not self._now_s - self._depth_s <= old_s:
            return 'no depth images come: people cannot be placed'
        return next(iter(self._trouble.values()), '')

    def _placing(self, pairs: list[tuple[float, _Result, tuple[str, DepthImage]]]) -> list[Seen]:
        found = [self._place(stamp, people, *depth) for stamp, people, depth in pairs]
        return [each for each in found if each is not None]

    def _place(self, stamp_s: float, people: _Result, frame: str, depth: DepthImage) -> Seen | None:
        config = self.config
        if self._camera is None:
            return None
        rgb = self.image_at(stamp_s)
        # Results count pixels from the image's corner, cameras from the first pixel's centre.
        poses = people.poses - (0.5, 0.5, 0.0)
        try:
            camera = self._camera
            if rgb is not None:
                camera = camera.resized(rgb.shape[1], rgb.shape[0])
            optical = self.frames.lookup(config.fixed_frame, frame, stamp_s)
            base = self.frames.lookup(config.fixed_frame, config.base_frame, stamp_s)
            placed = believed(poses, people.scores, config.locate)
            located = locate(placed, depth, camera, optical, config.locate)
        except PoseMissing as error:
            self._trouble['place'] = f'the camera cannot be placed: {error}'
            return None
        except ValueError as error:
            self._trouble['place'] = f'depth and camera do not fit together: {error}'
            return None
        self._trouble.pop('place', None)
        seen = [
            Detection(
                each.position[:2],
                each.bearing,
                None if rgb is None else torso_histogram(rgb, pose, config.locate.least(score)),
            )
            for each, pose, score in zip(located, poses, people.scores, strict=True)
            if each is not None
        ]
        x, y = optical.translation[:2].tolist()
        added = self.tracker.add(stamp_s, tuple(seen), (x, y))
        if added:
            self._result_s = max(self._result_s, stamp_s)
            self._placed.append(stamp_s)
            target = self.tracker.people.target
            if target is not None and target.seen_s < stamp_s:
                self._follower.nobody((x, y, base.yaw), self.grid.view())
        return Seen(stamp_s, people.poses, people.scores, tuple(located), self._tracks(located))

    def _tracks(self, located: list[Located | None]) -> tuple[Track | None, ...]:
        """Return the track that took each detection of the newest frame."""
        people = self.tracker.people
        fresh = {track.bearing: track for track in people.tracks if track.seen_s == people.stamp_s}
        return tuple(None if each is None else fresh.get(each.bearing) for each in located)

    def number(self, key: Key) -> int:
        """Return a small number for a track."""
        return self.tracker.number(key)
