"""A room seen from above: a walking person, a robot with lidar and camera, no pictures.

Robot and walker are those of the simulated world (``offload_ros.sim``); camera and network are
replaced by positions with noise that come at the rate and with the delay of an offloaded network.
"""

from __future__ import annotations

from dataclasses import dataclass, field
import heapq
import math
import sys
import time

import numpy as np

from offload_ros.sim.config import PersonConfig, RobotConfig
from offload_ros.sim.freespace import FreeSpace, Obstacles
from offload_ros.sim.person import Walker
from offload_ros.sim.robot import Pose, Robot
from offload_ros.tracking.follow import Command, Follower, Scan, Target
from offload_ros.tracking.follow_config import FollowConfig
from offload_ros.tracking.occupancy import OccupancyMap
from offload_ros.tracking.rollouts import Motion
from offload_ros.tracking.tracker import PeopleTracker, TargetConfig, TrackerConfig
from offload_ros.tracking.tracks import Detection

STEP_S = 0.02
LEG_M = 0.07


@dataclass(frozen=True)
class FlatConfig:
    """The room, the walk, and how results come; one draw for each run and seed."""

    length_m: float = 10.0
    width_m: float = 8.0
    boxes: int = 6
    people: int = 1
    speed_mps: tuple[float, float] = (0.8, 1.0)
    pause_mean_s: float = 1.5
    detection_hz: tuple[float, float] = (5.0, 10.0)
    latency_s: tuple[float, float] = (0.1, 0.3)
    miss: float = 0.05
    view_rad: float = math.radians(65.0)
    far_m: float = 8.0
    range_sigma_m: float = 0.04
    bearing_sigma: float = 0.008
    appearance: bool = True
    lidar_sigma_m: float = 0.01
    polygons: tuple[np.ndarray, ...] = ()


@dataclass
class Record:
    """What happened, one entry for each control step."""

    time_s: list[float] = field(default_factory=list)
    distance_m: list[float] = field(default_factory=list)
    error_m: list[float] = field(default_factory=list)  # NaN while not estimated from a fresh view
    visible: list[bool] = field(default_factory=list)
    occluded: list[bool] = field(default_factory=list)
    mode: list[str] = field(default_factory=list)
    robot: list[tuple[float, float, float]] = field(default_factory=list)
    person: list[tuple[float, float]] = field(default_factory=list)
    command_s: list[float] = field(default_factory=list)
    whom: list[int] = field(default_factory=list)  # who is the target; -1: not clear
    speeds: list[tuple[float, float]] = field(default_factory=list)
    collisions: int = 0
    closest_m: float = math.inf

    def rms_m(self) -> float:
        """Return the root mean square of the position's error while the person is seen."""
        errors = np.array(self.error_m)
        return float(np.sqrt(np.nanmean(errors**2)))

    def kept(self, within_m: float = 0.5, set_point_m: float = 2.5) -> float:
        """Return the share of time within the bounds around the set point."""
        return float((np.abs(np.array(self.distance_m) - set_point_m) <= within_m).mean())

    def longest_loss_s(self, period_s: float) -> float:
        """Return the longest time without a detection; times of full occlusion do not count."""
        longest = lost = 0.0
        for visible, occluded in zip(self.visible, self.occluded, strict=True):
            if visible:
                lost = 0.0
            elif not occluded:
                lost += period_s
            longest = max(longest, lost)
        return longest


def box(x: float, y: float, length: float, width: float, yaw: float) -> np.ndarray:
    """Return the corners (4, 2) of a rectangle, counter-clockwise."""
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * [length / 2, width / 2]
    c, s = math.cos(yaw), math.sin(yaw)
    return corners @ np.array([[c, s], [-s, c]]) + [x, y]


def room(config: FlatConfig, rng: np.random.Generator) -> list[np.ndarray]:
    """Return walls and boxes as convex polygons."""
    half_x, half_y = config.length_m / 2, config.width_m / 2
    polygons = [
        box(half_x + 0.1, 0, 0.2, config.width_m + 0.4, 0),
        box(-half_x - 0.1, 0, 0.2, config.width_m + 0.4, 0),
        box(0, half_y + 0.1, config.length_m, 0.2, 0),
        box(0, -half_y - 0.1, config.length_m, 0.2, 0),
    ]
    for _ in range(config.boxes):
        size = rng.uniform(0.4, 1.3, 2)
        at = rng.uniform(-1, 1, 2) * [half_x - 0.5, half_y - 0.5]
        polygons.append(box(*at, *size, rng.uniform(-math.pi, math.pi)))
    return polygons


def legs(walker: Walker) -> list[np.ndarray]:
    """Return the middles (2,) of the legs near the floor, which swing as the person walks."""
    ahead = np.array([math.cos(walker.yaw), math.sin(walker.yaw)])
    side = np.array([-ahead[1], ahead[0]])
    swing = 0.28 * walker._swing * math.sin(walker._phase)
    return [walker.position + s * (0.09 * side + swing * ahead) for s in (1, -1)]


class FlatWorld:
    """The world and the robot's whole programme of tracking in it."""

    def __init__(
        self, seed: int, config: FlatConfig | None = None, follow: FollowConfig | None = None
    ) -> None:
        """Draw room, person, rates and noise from the seed."""
        self.config = config = config or FlatConfig()
        self.rng = rng = np.random.default_rng(seed)
        self.polygons = list(config.polygons) or room(config, rng)
        self.free = FreeSpace(config.length_m, config.width_m, Obstacles(self.polygons))
        starts = np.concatenate(self.polygons)
        ends = np.concatenate([np.roll(polygon, -1, 0) for polygon in self.polygons])
        self.segments = starts, ends - starts
        person = PersonConfig(pause_mean_s=config.pause_mean_s)
        self.walkers = []
        for index in range(config.people):
            own = np.random.default_rng([seed, index])
            place, speed = self.free.sample(0.5, own), float(rng.uniform(*config.speed_mps))
            walker = Walker(None, person, self.free, own, place, 0.0, speed)
            self.walkers.append(walker)
        self.looks = rng.dirichlet(np.full(12, 0.4), config.people)
        self.robot = Robot(RobotConfig(), self._start(), rng)
        self.hz = float(rng.uniform(*config.detection_hz))
        self.map = OccupancyMap()
        self.tracker = PeopleTracker(TrackerConfig(target=TargetConfig(choose='nearest')))
        self.follower = Follower(follow)
        self.record = Record()

    def _start(self) -> Pose:
        """Return a place with a view of the first person, looking there."""
        person = self.walkers[0].position
        for _ in range(500):
            place = self.free.sample(0.4, self.rng)
            if 1.8 < np.linalg.norm(place - person) < 4 and self._sight(place, person):
                break
        return Pose(*place, math.atan2(*(person - place)[::-1]))

    def cast(self, origin: np.ndarray, angles: np.ndarray, reach: float = 12.0) -> np.ndarray:
        """Return the distance (N,) to walls and boxes along angles (N,), inf beyond reach."""
        starts, along = self.segments
        d = np.stack([np.cos(angles), np.sin(angles)], 1)
        gap = starts - origin
        cross = d[:, None, 0] * along[None, :, 1] - d[:, None, 1] * along[None, :, 0]
        with np.errstate(divide='ignore', invalid='ignore'):
            t = (gap[:, 0] * along[:, 1] - gap[:, 1] * along[:, 0])[None] / cross
            u = (gap[None, :, 0] * d[:, None, 1] - gap[None, :, 1] * d[:, None, 0]) / cross
        t = np.where((t > 0) & (u >= 0) & (u <= 1), t, np.inf).min(1)
        return np.where(t <= reach, t, np.inf)

    def _sight(self, place: np.ndarray, person: np.ndarray) -> bool:
        """Return whether some of a body 0.4 m wide is in sight."""
        gap = person - place
        away = float(np.hypot(*gap))
        side = np.array([-gap[1], gap[0]]) / max(away, 1e-6)
        ends = [person + offset * side for offset in (-0.18, 0.0, 0.18)]
        angles = np.array([math.atan2(*(end - place)[::-1]) for end in ends])
        lengths = np.array([np.hypot(*(end - place)) for end in ends])
        return bool((self.cast(place, angles) >= lengths - 1e-6).any())

    def scan(self) -> np.ndarray:
        """Return the points (N, 2) of a lidar scan in the robot's frame, misses left out."""
        pose = self.robot.pose
        origin = np.array([pose.x, pose.y])
        angles = np.linspace(-math.pi, math.pi, 360, endpoint=False)
        ranges = self.cast(origin, angles + pose.yaw)
        for walker in self.walkers:
            for leg in legs(walker):
                gap = leg - origin
                away, bearing = float(np.hypot(*gap)), math.atan2(gap[1], gap[0]) - pose.yaw
                off = (angles - bearing + math.pi) % (2 * math.pi) - math.pi
                aside = away * np.sin(off)
                hit = (np.abs(aside) < LEG_M) & (np.abs(off) < math.pi / 2)
                depth = away * np.cos(off) - np.sqrt(np.clip(LEG_M**2 - aside**2, 0, None))
                ranges = np.where(hit & (depth < ranges), depth, ranges)
        ranges = ranges + self.rng.normal(0, self.config.lidar_sigma_m, len(ranges))
        known = np.isfinite(ranges)
        return np.stack([ranges * np.cos(angles), ranges * np.sin(angles)], 1)[known]

    def see(self, walker_index: int) -> tuple[bool, bool]:
        """Return whether the camera has a person in view, and whether obstacles hide them."""
        pose, walker = self.robot.pose, self.walkers[walker_index]
        place = np.array([pose.x, pose.y])
        gap = walker.position - place
        bearing = (math.atan2(gap[1], gap[0]) - pose.yaw + math.pi) % (2 * math.pi) - math.pi
        away = float(np.hypot(*gap))
        sight = self._sight(place, walker.position)
        in_view = abs(bearing) < self.config.view_rad / 2 and 0.5 < away < self.config.far_m
        return bool(sight and in_view), not sight

    def detections(self) -> list[tuple[int, Detection]]:
        """Return what the network finds in a picture of this moment."""
        config, pose, rng = self.config, self.robot.pose, self.rng
        found = []
        for index, walker in enumerate(self.walkers):
            if not self.see(index)[0] or rng.random() < config.miss:
                continue
            gap = walker.position - np.array([pose.x, pose.y])
            away = float(np.hypot(*gap)) + rng.normal(0, config.range_sigma_m)
            heading = math.atan2(gap[1], gap[0]) + rng.normal(0, config.bearing_sigma)
            at = np.array([pose.x, pose.y]) + away * np.array(
                [math.cos(heading), math.sin(heading)]
            )
            looks = None
            if config.appearance:
                looks = self.looks[index] * rng.uniform(0.8, 1.25, 12)
                looks = looks / looks.sum()
            bearing = (heading - pose.yaw + math.pi) % (2 * math.pi) - math.pi
            found.append((index, Detection(at, bearing, looks)))
        return found

    def run(self, duration_s: float, period_s: float = 0.1) -> Record:
        """Walk, look, track and drive; return the record."""
        next_photo, next_control, arriving = 0.3, 0.5, []
        newest_s, serial, now = -math.inf, 0, 0.0
        for step in range(round(duration_s / STEP_S)):
            now = step * STEP_S
            if now >= next_photo:
                next_photo += (1 / self.hz) * float(self.rng.uniform(0.9, 1.1))
                pose = self.robot.pose
                late = now + float(self.rng.uniform(*self.config.latency_s))
                serial += 1
                heapq.heappush(arriving, (late, serial, now, pose, self.detections()))
            while arriving and arriving[0][0] <= now:
                _, _, stamp, pose, found = heapq.heappop(arriving)
                self.tracker.add(stamp, tuple(d for _, d in found), (pose.x, pose.y))
                newest_s = max(newest_s, stamp)
                target = self.tracker.people.target
                if target is not None and target.seen_s < stamp:
                    self.follower.nobody((pose.x, pose.y, pose.yaw), self.map.view())
            if now >= next_control:
                next_control += period_s
                points = self.scan()
                self._insert(points)
                start = time.thread_time()
                command = self._control(now, points, newest_s)
                self.record.command_s.append(time.thread_time() - start)
                self.robot.command(command.linear_mps, command.angular_radps, now)
                self._note(now, command)
            self._move(now)
        return self.record

    def _insert(self, points: np.ndarray) -> None:
        pose = self.robot.pose
        c, s = math.cos(pose.yaw), math.sin(pose.yaw)
        ends = points @ np.array([[c, s], [-s, c]]) + [pose.x, pose.y]
        people = [track.filtered.belief.position for track in self.tracker.people.tracks]
        self.map.insert((pose.x, pose.y), ends, np.ones(len(ends), bool), people)

    def _control(self, now: float, points: np.ndarray, newest_s: float) -> Command:
        pose, robot = self.robot.pose, self.robot
        motion = Motion(pose.x, pose.y, pose.yaw, robot.linear_mps, robot.angular_radps)
        track = self.tracker.people.target
        target = Target.of(track) if track is not None else None
        scan = Scan(points, now)
        return self.follower.command(now, motion, now, scan, self.map.view(), target, newest_s)

    def _move(self, now: float) -> None:
        people = [(walker.position, walker.config.radius_m) for walker in self.walkers]
        self.robot.step(STEP_S, now + STEP_S, self.free.obstacles, people)
        self.record.collisions += self.robot.blocked
        at = np.array([self.robot.pose.x, self.robot.pose.y])
        for index, walker in enumerate(self.walkers):
            others = [(at, self.robot.config.radius_m)]
            others += [people[i] for i in range(len(people)) if i != index]
            walker.step(STEP_S, others)
        gap = float(self.free.obstacles.distance(at[None])[0]) - self.robot.config.radius_m
        self.record.closest_m = min(self.record.closest_m, gap)

    def _note(self, now: float, command: Command) -> None:
        record, pose, person = self.record, self.robot.pose, self.walkers[0].position
        visible, occluded = self.see(0)
        record.time_s.append(now)
        record.distance_m.append(float(np.hypot(*(person - [pose.x, pose.y]))))
        track = self.tracker.people.target
        error, whom = math.nan, -1
        if track is not None:
            at = track.at(max(now, track.seen_s)).position
            apart = [float(np.hypot(*(at - walker.position))) for walker in self.walkers]
            if now - track.seen_s < 0.5:
                error = apart[0]
                if min(apart) < 0.4 and sum(gap < 1.0 for gap in apart) == 1:
                    whom = int(np.argmin(apart))
        record.error_m.append(error)
        record.whom.append(whom)
        record.visible.append(visible)
        record.occluded.append(occluded)
        record.mode.append(command.mode)
        record.speeds.append((command.linear_mps, command.angular_radps))
        record.robot.append((pose.x, pose.y, pose.yaw))
        record.person.append((float(person[0]), float(person[1])))


def main() -> None:
    """Print the figures of some seeds: first, one past the last, seconds."""
    first, last, duration_s = (int(argument) for argument in sys.argv[1:4])
    figures = []
    for seed in range(first, last):
        record = FlatWorld(seed).run(duration_s)
        figures.append((record.rms_m(), record.kept(), record.longest_loss_s(0.1)))
        milliseconds = 1e3 * float(np.median(record.command_s))
        print(
            f'seed {seed}: rms {figures[-1][0]:.3f} m, kept {figures[-1][1]:.2f}, longest loss '
            f'{figures[-1][2]:.1f} s, collisions {record.collisions}, CPU {milliseconds:.1f} ms',
            flush=True,
        )
    rms, kept, loss = np.array(figures).T
    print(
        f'all: rms {np.sqrt((rms**2).mean()):.3f} m, kept {kept.mean():.3f}, '
        f'longest loss {loss.max():.1f} s, above 2 s in {(loss > 2.001).sum()} of {len(loss)}'
    )


if __name__ == '__main__':
    main()
