"""The person follower in the simulated room: true keypoints instead of a network, depth as seen."""

import math

import numpy as np

from offload_ros.sim import World
from offload_ros.tracking.system import PersonFollowing, SystemConfig

CAMERA, LASER, LIDAR = 'camera_optical_frame', 'laser_link', 'lidar_link'
BASE, ODOM = 'base_link', 'odom'


class Room:
    """One world and a follower in it, step by step."""

    def __init__(self, world: World, config: SystemConfig | None = None, late_s: float = 0.15):
        self.world = world
        self.following = PersonFollowing(config)
        self.late_s = late_s
        self.rng = np.random.default_rng(0)
        self.waiting = []
        self.seen = []
        self.people = {}  # where they were, (N, 2) in the odometry's frame, by stamp
        place, (w, x, y, z) = world.camera_mount()
        frames = self.following.frames
        frames.fixed(BASE, CAMERA, place, (x, y, z, w))
        frames.fixed(BASE, LIDAR, (0, 0, world.config.lidar.cloud_height_m), (0, 0, 0, 1))
        frames.fixed(BASE, LASER, (0, 0, world.config.lidar.scan_height_m), (0, 0, 0, 1))

    def camera_info(self) -> None:
        camera = self.world.config.camera
        cx, cy = camera.centre_px
        k = (camera.focal_px, 0, cx, 0, camera.focal_px, cy, 0, 0, 1)
        self.following.camera(k, camera.width_px, camera.height_px)

    def odometry(self) -> None:
        robot, now = self.world.robot, self.world.time_s
        pose = robot.odometry
        turn = (0, 0, math.sin(pose.yaw / 2), math.cos(pose.yaw / 2))
        self.following.frames.moving(ODOM, BASE, now, (pose.x, pose.y, 0), turn)
        self.following.odometry(now, robot.linear_mps, robot.angular_radps)

    def scan(self) -> None:
        ranges, lidar = self.world.scan().astype(float), self.world.config.lidar
        angles = -math.pi + 2 * math.pi / len(ranges) * np.arange(len(ranges))
        hit = np.isfinite(ranges)
        ranges = np.where(hit, ranges, lidar.range_max_m)
        ends = np.stack([ranges * np.cos(angles), ranges * np.sin(angles), 0 * ranges], 1)
        self.following.rays(self.world.time_s, LASER, ends, hit)

    def cloud(self) -> None:
        points = self.world.point_cloud().astype(float)
        self.following.cloud(self.world.time_s, LIDAR, points)

    def poses(self) -> tuple[np.ndarray, np.ndarray]:
        """What a good network would find in the picture of now, from the image's corner."""
        camera = self.world.config.camera
        position, rotation = self.world.camera_pose()
        entities = self.world.segmentation()
        poses, boxes = [], []
        for person in self.world.truth().people:
            at = (person.keypoints - position) @ rotation
            if (entities == person.id).sum() < 250 or at[:, 2].min() < 0.2:
                continue
            pixels = camera.focal_px * at[:, :2] / at[:, 2:] + camera.centre_px
            pixels += self.rng.normal(0, 1.0, pixels.shape) + 0.5
            inside = (pixels > 0).all(1) & (pixels < (camera.width_px, camera.height_px)).all(1)
            poses.append(np.concatenate([pixels, 0.8 * inside[:, None]], 1))
            boxes.append((*pixels.min(0), *pixels.max(0), 0.9))
        return np.array(poses).reshape(-1, 17, 3), np.array(boxes).reshape(-1, 5)

    def look(self) -> None:
        now = self.world.time_s
        rgb, depth = self.world.render()
        robot = self.world.robot
        start = robot.odometry.then(robot.pose.inverse())
        c, s = math.cos(start.yaw), math.sin(start.yaw)
        people = np.array([walker.position for walker in self.world.walkers])
        self.people[now] = people @ np.array([[c, s], [-s, c]]) + [start.x, start.y]
        self.following.image(now, rgb)
        self.seen += self.following.depth(now, CAMERA, depth)
        self.waiting.append((now, *self.poses()))

    def run(self, seconds: float) -> list:
        """Ten times a second everything; returns (time, distance, error, command)."""
        notes = []
        for _ in range(round(seconds * 10)):
            for _ in range(3):
                self.world.step(0.1 / 3)
                self.odometry()
            now = self.world.time_s
            self.following.clock(now)
            self.scan()
            if len(self.people) % 2:
                self.cloud()
            self.look()
            while self.waiting and self.waiting[0][0] + self.late_s <= now:
                self.seen += self.following.result(*self.waiting.pop(0))
            command = self.following.command()
            self.world.command(command.linear_mps, command.angular_radps)
            notes.append(self._note(now, command))
        return notes

    def _note(self, now, command):
        """Where things are, in the frame of the odometry."""
        robot, person = self.world.robot, self.world.walkers[0].position
        here = self.people[now][0]
        target = self.following.target
        error = math.nan
        if target is not None and now - target.seen_s < 0.5:
            error = float(np.hypot(*(target.at(now).position - here)))
        distance = float(np.hypot(*(person - [robot.pose.x, robot.pose.y])))
        return now, distance, error, command
