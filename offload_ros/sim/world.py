"""The simulated world: one room, its objects, walking people and a robot with sensors."""

from __future__ import annotations

from dataclasses import dataclass, replace
import math
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from offload_ros.sim.air_ground import AirGround, Solids
from offload_ros.sim.camera import Camera, Depth, Rgb
from offload_ros.sim.config import WorldConfig
from offload_ros.sim.gl import mujoco
from offload_ros.sim.layout import Layout, Placed, build_layout
from offload_ros.sim.lidar import cast, cloud_directions, scan_directions
from offload_ros.sim.patrol import Patrol
from offload_ros.sim.person import Walker
from offload_ros.sim.person_body import JOINTS, KEYPOINTS, draw_body
from offload_ros.sim.photograph import Lighting
from offload_ros.sim.robot import Pose, Robot
from offload_ros.sim.room import build_room
from offload_ros.sim.scene import CAMERA, ROBOT, ROOM_KINDS, build_scene, person_name
from offload_ros.sim.shapes import Array, Quaternion, Vector, rotation_matrix, turned

STEP_S = 0.01
GOAL_ROOM_M = 0.5


@dataclass(frozen=True)
class ObjectTruth:
    """An object: its number in segmentation images, base pose in the map frame, size in metres."""

    id: int
    kind: str
    x: float
    y: float
    z: float
    yaw: float
    size: tuple[float, float, float]


@dataclass(frozen=True)
class PersonTruth:
    """A person: pose on the floor, velocity (2,) and COCO keypoints (17, 3), in the map frame."""

    id: int
    pose: Pose
    velocity: Array
    walking: bool
    keypoints: Array


@dataclass(frozen=True)
class Truth:
    """Everything as it really is at time_s."""

    time_s: float
    robot: Pose
    linear_mps: float
    angular_radps: float
    blocked: bool
    people: tuple[PersonTruth, ...]
    objects: tuple[ObjectTruth, ...]
    height_m: float = 0.0
    energy_j: float = 0.0
    in_air_mps: tuple[float, float] = (0.0, 0.0)  # to the left, upwards


class World:
    """A world that is the same whenever seed, configuration and calls are the same.

    Frames follow REP-103: x to the front, y to the left, z up; map has its origin in the middle of
    the floor. Use a world from one thread, and close it (or use ``with``) when done.
    """

    def __init__(self, seed: int = 0, config: WorldConfig | None = None) -> None:
        """Build the world; raises ValueError for a negative seed or a room without free floor."""
        if seed < 0:
            raise ValueError(f'seed must not be negative, not {seed}')
        self.seed = seed
        self.config = config or WorldConfig()
        keep = self.config.person.clearance_m
        self.room = build_room(self.config, self._generator('room'))
        self.layout: Layout = build_layout(self.config, self.room, self._generator('layout'))
        free = self.layout.free
        self.walkers: list[Walker] = []
        for index in range(self.config.person.count):
            rng = self._generator('person', index)
            body, place = draw_body(rng), self._place_apart(rng, keep)
            yaw = float(rng.uniform(-math.pi, math.pi))
            speed = self.config.person.speed_mps
            self.walkers.append(Walker(body, self.config.person, free, rng, place, yaw, speed))
        bodies = [walker.body for walker in self.walkers]
        self._scene = build_scene(
            self.config, self.room, self.layout.objects, bodies, self._generator('scene')
        )
        self.model: Any = self._scene.model
        if self.config.light:
            Lighting(self.model).draw(np.random.default_rng(self.config.light))
        self.data: Any = mujoco.MjData(self.model)
        self.robot = self._new_robot()
        self.patrol = Patrol(free, self._generator('patrol'), self.config.robot.radius_m + 0.15)
        self.motion = 'cmd_vel'
        self._time_s = 0.0
        self._camera = Camera(self.model, self.config.camera)
        self._scan_directions = scan_directions(self.config.lidar)
        self._cloud_directions = cloud_directions(self.config.lidar)
        self._wire()

    def _generator(self, purpose: str, index: int = 0) -> np.random.Generator:
        """Return a generator of its own, so that one part's draws never change another part."""
        return np.random.default_rng([self.seed, index, *purpose.encode()])

    def _place_apart(self, rng: np.random.Generator, keep: float) -> Array:
        """Return a free place away from the people placed so far."""
        place = self.layout.free.sample(keep, rng)
        for _ in range(50):
            if all(np.linalg.norm(place - w.position) > 1.5 for w in self.walkers):
                break
            place = self.layout.free.sample(keep, rng)
        return place

    def _new_robot(self) -> Robot:
        """Return a robot on free floor that looks at the first person, or at the middle."""
        rng = self._generator('robot')
        place = target = np.zeros(2)
        for _ in range(50):
            place = self._place_apart(rng, self.config.robot.radius_m + 0.15)
            target = self.walkers[0].position if self.walkers else np.zeros(2)
            if 1.5 < np.linalg.norm(place - target) < 4.5:
                break
        yaw = math.atan2(target[1] - place[1], target[0] - place[0])
        pose = Pose(float(place[0]), float(place[1]), yaw)
        drift = self._generator('drift')
        if self.config.air is None:
            return Robot(self.config.robot, pose, drift)
        solids = Solids(self.room, self.layout.objects)
        return AirGround(self.config.robot, pose, drift, air=self.config.air, solids=solids)

    def _wire(self) -> None:
        """Look up where joints and keypoints are kept."""
        address = self.model.jnt_qposadr
        axes = ('x', 'y', 'yaw') if self.config.air is None else ('x', 'y', 'yaw', 'z')
        self._robot_at = [int(address[self.model.joint(f'{ROBOT}_{name}').id]) for name in axes]
        self._people_at = [
            [int(address[self.model.joint(f'{person_name(i)}_{name}').id]) for name in JOINTS]
            for i in range(len(self.walkers))
        ]
        self._keypoints_at = [
            [self.model.site(f'{person_name(i)}_{name}').id for name in KEYPOINTS]
            for i in range(len(self.walkers))
        ]
        first = len(ROOM_KINDS)
        self._objects = tuple(
            ObjectTruth(first + i, o.kind, o.x, o.y, o.z, o.yaw, o.size)
            for i, o in enumerate(self.layout.objects)
        )

    @property
    def kinds(self) -> tuple[str, ...]:
        """Return the kind of every number of a segmentation image."""
        return self._scene.kinds

    @property
    def objects(self) -> tuple[Placed, ...]:
        """Return the placed objects, with shapes and footprints."""
        return self.layout.objects

    @property
    def time_s(self) -> float:
        """Return the simulated time."""
        return self._time_s

    @property
    def height_m(self) -> float:
        """Return how high the robot is above the floor."""
        return self.robot.z_m if isinstance(self.robot, AirGround) else 0.0

    def command(
        self,
        linear_mps: float,
        angular_radps: float,
        lateral_mps: float = 0.0,
        climb_mps: float = 0.0,
    ) -> None:
        """Tell the robot how to move; ValueError for values that are not finite.

        Sideways and upwards are for a robot that flies, and nothing to another one.
        """
        if isinstance(self.robot, AirGround):
            self.robot.command(linear_mps, angular_radps, self._time_s, lateral_mps, climb_mps)
        else:
            self.robot.command(linear_mps, angular_radps, self._time_s)

    def step(self, dt_s: float = STEP_S, cmd: tuple[float, float] | None = None) -> None:
        """Move everything on by dt_s, in steps of at most 10 ms.

        cmd (linear m/s, angular rad/s) is a new command; without one the last holds until the
        watchdog stops the robot.
        """
        if not (math.isfinite(dt_s) and dt_s > 0):
            raise ValueError(f'dt_s must be positive, not {dt_s!r}')
        if cmd is not None:
            self.command(*cmd)
        count = max(1, math.ceil(dt_s / STEP_S - 1e-9))
        for _ in range(count):
            self._advance(dt_s / count)

    def _advance(self, dt_s: float) -> None:
        self._time_s = round(self._time_s + dt_s, 9)
        people = [walker.position for walker in self.walkers]
        if self.motion == 'patrol':
            objects = [np.array([o.x, o.y]) for o in self._objects]
            command = self.patrol.command(
                dt_s, self.robot.pose, self.robot.blocked, people, objects
            )
            self.robot.command(*command, self._time_s)
        radius = self.config.person.radius_m
        discs = [(position, radius) for position in people]
        self.robot.step(dt_s, self._time_s, self.layout.free.obstacles, discs)
        robot = (np.array([self.robot.pose.x, self.robot.pose.y]), self.config.robot.radius_m)
        for index, walker in enumerate(self.walkers):
            others = [robot, *(d for i, d in enumerate(discs) if i != index)]
            walker.step(dt_s, others)
            discs[index] = (walker.position, radius)

    def destination(self, apart_m: float, rng: np.random.Generator) -> tuple[float, float]:
        """Return a random place in the map frame with half a metre of free floor around it, at
        least apart_m from the robot if one of fifty is."""
        here = np.array([self.robot.pose.x, self.robot.pose.y])
        for _ in range(50):
            place = self.layout.free.sample(GOAL_ROOM_M, rng)
            if np.linalg.norm(place - here) >= apart_m:
                break
        return float(place[0]), float(place[1])

    def place(self) -> None:
        """Let MuJoCo know where everything is now; every sensor does so by itself."""
        qpos, pose = self.data.qpos, self.robot.pose
        place = (pose.x, pose.y, pose.yaw, self.height_m)
        qpos[self._robot_at] = place[: len(self._robot_at)]
        for at, walker in zip(self._people_at, self.walkers, strict=True):
            joints = walker.joints()
            qpos[at] = [joints[name] for name in JOINTS]
        mujoco.mj_kinematics(self.model, self.data)
        mujoco.mj_camlight(self.model, self.data)

    def render(self) -> tuple[Rgb, Depth]:
        """Return colour (H, W, 3) uint8 and depth (H, W) float32 metres, NaN out of range."""
        self.place()
        return self._camera.rgb_and_depth(self.data)

    def render_rgb(self) -> Rgb:
        """Return the camera's picture, (H, W, 3) uint8."""
        return self.render()[0]

    def render_depth(self) -> Depth:
        """Return the distance along the optical axis, (H, W) float32 metres, NaN out of range."""
        return self.render()[1]

    def segmentation(self) -> npt.NDArray[np.int32]:
        """Return the number of the entity in every pixel, (H, W) int32; see ``kinds``."""
        self.place()
        return self._camera.entities(self.data, self._scene.geom_entity)

    def overview(
        self,
        width_px: int = 640,
        height_px: int = 480,
        view: tuple[float, ...] = (0, 0, 0, 11, 90, -55),
    ) -> Rgb:
        """Return a picture from outside, without ceiling; view as in ``Camera.overview``."""
        self.place()
        return self._camera.overview(self.data, width_px, height_px, view)

    def cast(
        self, origin: Array, directions: Array, reach_m: float = 100.0
    ) -> tuple[Array, npt.NDArray[np.int32]]:
        """Return distances (N,) in metres (inf for no hit) and entities (N,) int32 of rays.

        origin (3,) and unit vectors directions (N, 3) are in the map frame.
        """
        self.place()
        distances, geoms = cast(self.model, self.data, origin, directions, reach_m)
        entities = np.where(geoms < 0, 0, self._scene.geom_entity[geoms])
        return distances, entities.astype(np.int32)

    def scan(self) -> npt.NDArray[np.float32]:
        """Return ranges (N,) float32 in metres, bearing -pi first; inf for no hit (REP-117)."""
        lidar = self.config.lidar
        distances = self._ranges(self._scan_directions, lidar.scan_height_m)
        return distances.astype(np.float32)

    def point_cloud(self) -> npt.NDArray[np.float32]:
        """Return the points (N, 3) float32 that the 3-D lidar sees, metres, in its own frame."""
        distances = self._ranges(self._cloud_directions, self.config.lidar.cloud_height_m)
        hit = np.isfinite(distances)
        return (self._cloud_directions[hit] * distances[hit, None]).astype(np.float32)

    def _ranges(self, directions: Array, height_m: float) -> Array:
        self.place()
        pose, lidar = self.robot.pose, self.config.lidar
        turn = rotation_matrix(turned(yaw_deg=math.degrees(pose.yaw)))
        origin = np.array([pose.x, pose.y, height_m + self.height_m])
        distances, _ = cast(self.model, self.data, origin, directions @ turn.T, lidar.range_max_m)
        # REP-117: -inf for what is too close to be measured.
        distances[distances < lidar.range_min_m] = -np.inf
        return distances

    def camera_pose(self) -> tuple[Array, Array]:
        """Return position (3,) and rotation (3, 3) of the optical frame in the map frame.

        The optical frame has x to the right, y down and z to the front (REP-103).
        """
        self.place()
        index = self.model.camera(CAMERA).id
        rotation = self.data.cam_xmat[index].reshape(3, 3) * (1, -1, -1)
        return self.data.cam_xpos[index].copy(), rotation

    def camera_mount(self) -> tuple[Vector, Quaternion]:
        """Return position (3,) and quaternion (w, x, y, z) of the optical frame in base_link."""
        camera = self.config.camera
        up = math.radians(camera.pitch_up_deg)
        axes = np.array(
            [
                [0.0, math.sin(up), math.cos(up)],
                [-1.0, 0.0, 0.0],
                [0.0, -math.cos(up), math.sin(up)],
            ]
        )
        quaternion = np.empty(4)
        mujoco.mju_mat2Quat(quaternion, axes.ravel())
        w, x, y, z = quaternion.tolist()
        return (camera.forward_m, 0.0, camera.height_m), (w, x, y, z)

    def truth(self) -> Truth:
        """Return everything as it really is now."""
        self.place()
        first = len(ROOM_KINDS) + len(self._objects)
        people = tuple(
            PersonTruth(
                first + index,
                Pose(float(w.position[0]), float(w.position[1]), w.yaw),
                w.velocity.copy(),
                w.walking,
                self.data.site_xpos[self._keypoints_at[index]].copy(),
            )
            for index, w in enumerate(self.walkers)
        )
        robot = self.robot
        truth = Truth(
            self._time_s,
            robot.pose,
            robot.linear_mps,
            robot.angular_radps,
            robot.blocked,
            people,
            self._objects,
        )
        if not isinstance(robot, AirGround):
            return truth
        in_air_mps = robot.lateral_mps, robot.climb_mps
        return replace(truth, height_m=robot.z_m, energy_j=robot.energy_j, in_air_mps=in_air_mps)

    def close(self) -> None:
        """Free the camera."""
        self._camera.close()

    def __enter__(self) -> World:
        """Return the world."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the world."""
        self.close()
