"""Scenes for training and testing SCONet: what a lidar has seen of a room, and what is there.

    python -m offload_ros.training.sconet.scenes FOLDER --jobs 2

Rooms of the simulated world with furniture and no people, seen by its 3-D lidar from a random
place: one sweep, or up to eight along a short drive. A grid is turned as the robot is. Rooms of one
split are in no other. In the test split objects have other sizes than their like in training, all
of a room a fifth to a third smaller or larger, and rooms are larger and fuller on the whole. The
same seed gives the same scenes; a run that was stopped goes on.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import numpy as np
import numpy.typing as npt

from offload_ros.navigation.voxels import GridPose, VoxelGrid, packed, unpacked
from offload_ros.sim.config import PersonConfig, WorldConfig
from offload_ros.sim.robot import Pose
from offload_ros.sim.shapes import Array
from offload_ros.sim.solids import all_filled
from offload_ros.sim.world import World
from offload_ros.training.worlds import Arrays, drawn

GRID = VoxelGrid(128, 16, 128, 0.15, (-9.6, -9.6, -0.15))
EMPTY, FLOOR, STRUCTURE, OBJECT, UNKNOWN = 0, 1, 2, 3, 255
CLASSES = 4
SPLITS = ('train', 'calibration', 'test')
WORLDS = {'train': 400, 'calibration': 25, 'test': 40}
FIRST_SEED = {'train': 700_000, 'calibration': 800_000, 'test': 900_000}
VIEWS = 10  # of one room
SWEEPS = (1, 1, 2, 4, 8)
STEP_M = 0.25  # between two sweeps
KEEP_M = 0.3  # the robot's distance from everything
SPACING_M = 0.05  # of the points that fill a solid, a third of a voxel
PLANES = ('seen', 'floor', 'structure', 'object', 'room')


def world_of(split: str, seed: int) -> World:
    """A room; in the test split larger and fuller ones than in training, though some alike, and
    objects of other sizes."""
    rng = np.random.default_rng([seed, 10])
    wide, narrow, objects = (
        ((7, 11), (6, 9), (8, 26)) if split != 'test' else ((9, 13), (7, 10), (12, 34))
    )
    config = WorldConfig(
        length_m=float(rng.uniform(*wide)),
        width_m=float(rng.uniform(*narrow)),
        object_count=int(rng.integers(*objects)),
        inner_wall=bool(rng.random() < 0.5),
        object_scale=_scale(split, rng),
        person=PersonConfig(count=0),
    )
    return World(seed, config)


def _scale(split: str, rng: np.random.Generator) -> float:
    """Of objects, whose sizes vary by some 15 % around the middle of their kind in training."""
    if split != 'test':
        return 1.0
    return float(rng.uniform(*((0.70, 0.80), (1.20, 1.30))[int(rng.integers(2))]))


class Scenes:
    """Grids of one room. The room does not change, so its solids are filled with points once."""

    def __init__(self, split: str, seed: int) -> None:
        self.world = world_of(split, seed)
        self.rng = np.random.default_rng([seed, 11])
        self._structure = all_filled(self.world.room.parts, SPACING_M)
        self._objects = np.concatenate(
            [
                _placed(all_filled(each.shape.parts, SPACING_M), each.x, each.y, each.z, each.yaw)
                for each in self.world.objects
            ]
            or [np.empty((0, 3))]
        )

    def view(self) -> Arrays:
        """Bit-packed grids, by the names in ``PLANES``."""
        cloud, pose = self._seen()
        where = GridPose(pose.x, pose.y, 0.0, pose.yaw)
        room = self._room(where)
        found = {
            'seen': GRID.occupied(cloud, where) & room,
            'structure': GRID.occupied(self._structure, where) & room,
            'object': GRID.occupied(self._objects, where) & room,
            'floor': np.zeros(GRID.shape, np.uint8),
            'room': room,
        }
        found['floor'][:, 0] = room[:, 0]
        return {name: packed(found[name]) for name in PLANES}

    def _seen(self) -> tuple[Array, Pose]:
        """Points (N, 3) in the map of some sweeps, and the robot's pose at the last one."""
        world, rng = self.world, self.rng
        at = world.layout.free.sample(KEEP_M, rng)
        yaw = float(rng.uniform(-math.pi, math.pi))
        clouds = []
        for sweep in range(int(rng.choice(SWEEPS))):
            if sweep:
                yaw += float(rng.normal(0.0, 0.4))
                ahead = at + STEP_M * np.array([math.cos(yaw), math.sin(yaw)])
                if world.layout.free.obstacles.distance(ahead[None])[0] > KEEP_M:
                    at = ahead
            world.robot.pose = Pose(float(at[0]), float(at[1]), yaw)
            points = world.point_cloud().astype(np.float64)
            points[:, 2] += world.config.lidar.cloud_height_m
            # 1 cm of noise along the ray, as lidars of this kind have.
            points[:, :2] *= 1 + rng.normal(0.0, 0.01, (len(points), 1)) / np.maximum(
                np.linalg.norm(points[:, :2], axis=1, keepdims=True), 0.1
            )
            clouds.append(_placed(points, float(at[0]), float(at[1]), 0.0, yaw))
        # A lidar's floor is a little above or below: it belongs into the lowest voxels.
        cloud = np.concatenate(clouds)
        cloud[:, 2] -= 0.02
        return cloud, world.robot.pose

    def _room(self, where: GridPose) -> npt.NDArray[np.uint8]:
        """1 in the columns whose middle is in the room or its walls: what is beyond is unknown."""
        column = np.zeros(GRID.shape, np.uint8)
        column[:, 0] = 1
        middles = GRID.middles(column, where)
        config = self.world.config
        wall = 0.1
        fits = (np.abs(middles[:, 0]) <= config.length_m / 2 + wall) & (
            np.abs(middles[:, 1]) <= config.width_m / 2 + wall
        )
        flat = np.zeros((GRID.width, GRID.depth), np.uint8)
        flat[tuple(np.argwhere(column)[:, (0, 2)].T)] = fits
        return np.repeat(flat[:, None], GRID.height, 1)


def _placed(points: Array, x: float, y: float, z: float, yaw: float) -> Array:
    c, s = math.cos(yaw), math.sin(yaw)
    found: Array = points @ np.array([[c, s, 0.0], [-s, c, 0.0], [0.0, 0.0, 1.0]]) + (x, y, z)
    return found


def labels_of(planes: Arrays) -> npt.NDArray[np.uint8]:
    """(W, H, D) uint8 classes, UNKNOWN outside of the room; of overlapping ones the object."""
    grids = {name: unpacked(planes[name], GRID.shape) for name in PLANES}
    labels = np.zeros(GRID.shape, np.uint8)
    for name, value in (('floor', FLOOR), ('structure', STRUCTURE), ('object', OBJECT)):
        labels[grids[name] > 0] = value
    labels[grids['room'] == 0] = UNKNOWN
    return labels


def scenes_of(split: str, seed: int, views: int) -> Arrays:
    """Planes (views, bytes) of one room."""
    scenes = Scenes(split, seed)
    with scenes.world:
        found = [scenes.view() for _ in range(views)]
    return {name: np.stack([each[name] for each in found]) for name in PLANES}


def train_scenes(seed: int, views: int) -> Arrays:
    return scenes_of('train', seed, views)


def calibration_scenes(seed: int, views: int) -> Arrays:
    return scenes_of('calibration', seed, views)


def test_scenes(seed: int, views: int) -> Arrays:
    return scenes_of('test', seed, views)


def load(folder: Path, split: str) -> Arrays:
    """Planes (N, bytes) of a split. ``FileNotFoundError`` says how to make it."""
    path = folder / f'{split}.npz'
    if not path.exists():
        raise FileNotFoundError(
            f'{path} is missing: python -m offload_ros.training.sconet.scenes {folder}'
        )
    with np.load(path, allow_pickle=False) as arrays:
        return {name: arrays[name] for name in PLANES}


def write(folder: Path, split: str, worlds: int, jobs: int) -> None:
    """Draw one split."""
    of_world = {
        'train': train_scenes,
        'calibration': calibration_scenes,
        'test': test_scenes,
    }[split]
    seeds = range(FIRST_SEED[split], FIRST_SEED[split] + worlds)
    paths = drawn(of_world, seeds, VIEWS, folder / 'worlds' / split, split, jobs)
    parts = []
    for path in paths:
        with np.load(path, allow_pickle=False) as arrays:
            parts.append({name: arrays[name] for name in PLANES})
    with (folder / f'{split}.npz').open('wb') as file:
        np.savez(
            file,
            allow_pickle=False,
            **{name: np.concatenate([part[name] for part in parts]) for name in PLANES},
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or '').splitlines()[0])
    parser.add_argument('folder', type=Path)
    parser.add_argument('--jobs', type=int, default=1, help='processes')
    parser.add_argument('--share', type=float, default=1.0, help='of the rooms of each split')
    arguments = parser.parse_args()
    for split in SPLITS:
        write(
            arguments.folder, split, max(1, round(arguments.share * WORLDS[split])), arguments.jobs
        )


if __name__ == '__main__':
    main()
