"""Images for the classifier and the masked autoencoder: what a robot sees in simulated rooms.

    python -m offload_ros.amot.images FOLDER --jobs 2      about 20 minutes on two cores

Each image (128, 128, 3) shows one kind of object (or a person) as the thing most in view. Half of
them are easy (near, whole, well lit), half are hard (small, hidden in part, dim or glaring, noisy
or blurred). Worlds of one split are in no other. The same seed gives the same images; a run that
was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
import math
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from offload_ros.amot.dataset import SPLITS, Split, write_split
from offload_ros.sim.config import CameraConfig, PersonConfig, WorldConfig
from offload_ros.sim.gl import mujoco
from offload_ros.sim.objects import KINDS
from offload_ros.sim.photograph import Lighting, photographed
from offload_ros.sim.robot import Pose
from offload_ros.sim.scene import CAMERA, ROOM_KINDS
from offload_ros.sim.world import World
from offload_ros.training.worlds import Arrays, drawn

LABELS = (*sorted(KINDS), 'person')
IMAGE_PX = 128
PATCH_PX = 16
# The simulated robot's camera is four wide and three high; its pictures are squeezed to a square.
CAMERA_PX = (176, 132)
VIEWS = {'train': 64, 'calibration': 32, 'test': 32}  # of one world
COUNTS = {'train': 48_000, 'calibration': 1_984, 'test': 1_984}
FIRST_SEED = {'train': 100_000, 'calibration': 200_000, 'test': 300_000}
TRIES = 24  # poses tried for one view


@dataclass(frozen=True)
class Difficulty:
    """How a view is drawn.

    share: least and most of the picture, weighted towards its middle, that the object fills;
    lead: how many times as much as the next thing, at least; light: factor, as a power of two,
    least and most; noise: standard deviation of 255 levels, most; blur: of a Gaussian in pixels,
    most; aside: how far the camera looks past the object, standard deviation in radians.
    """

    share: tuple[float, float]
    lead: float
    light: tuple[float, float]
    noise: float
    blur: float
    aside: float


EASY = Difficulty((0.16, 0.8), 3.0, (-0.3, 0.3), 3.0, 0.0, 0.06)
HARD = Difficulty((0.05, 0.25), 1.4, (-1.0, 0.7), 10.0, 0.8, 0.14)


def _weights() -> npt.NDArray[np.float64]:
    """Weight of each pixel of the picture: a Gaussian about the middle, sum 1."""
    rows = np.linspace(-1, 1, IMAGE_PX)
    bell = np.exp(-0.5 * (rows / 0.55) ** 2)
    weights = bell[:, None] * bell[None, :]
    return np.asarray(weights / weights.sum())


WEIGHTS = _weights()


class Studio:
    """One world and the light in it, seen from wherever a view wants."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng([seed, 8])
        config = WorldConfig(
            length_m=float(self.rng.uniform(7, 11)),
            width_m=float(self.rng.uniform(6, 9)),
            object_count=int(self.rng.integers(16, 32)),
            inner_wall=bool(self.rng.random() < 0.5),
            camera=CameraConfig(width_px=CAMERA_PX[0], height_px=CAMERA_PX[1]),
            person=PersonConfig(count=2),
        )
        self.world = World(seed, config)
        model = self.world.model
        self._lighting = Lighting(model)
        self._camera = model.camera(CAMERA).id
        self._up = model.cam_quat[self._camera].copy()
        self._kind = np.full(len(self.world.kinds), -1)
        for entity, kind in enumerate(self.world.kinds):
            if entity >= len(ROOM_KINDS):
                self._kind[entity] = LABELS.index(kind)

    def targets(self) -> list[tuple[int, float, float, float, float]]:
        """(label, x, y, height of the middle, size) of all that may be looked at."""
        truth = self.world.truth()
        found = [
            (LABELS.index(o.kind), o.x, o.y, o.z + o.size[2] / 2, max(o.size))
            for o in truth.objects
        ]
        found += [(LABELS.index('person'), p.pose.x, p.pose.y, 0.9, 1.7) for p in truth.people]
        return found

    def look(self, target: tuple[int, float, float, float, float], how: Difficulty) -> bool:
        """Place the robot's camera so that the target may fill the share asked for."""
        rng, world = self.rng, self.world
        _, x, y, z, size = target
        share = math.exp(rng.uniform(math.log(how.share[0]), math.log(how.share[1])))
        distance = (
            size / (2 * math.tan(math.radians(32)) * math.sqrt(share)) * rng.uniform(0.6, 1.1)
        )
        distance = max(distance, 0.35 + size / 2)
        angle = rng.uniform(-math.pi, math.pi)
        px, py = x + distance * math.cos(angle), y + distance * math.sin(angle)
        room = world.config
        if abs(px) > room.length_m / 2 - 0.3 or abs(py) > room.width_m / 2 - 0.3:
            return False
        if world.layout.free.obstacles.distance(np.array([[px, py]]))[0] < 0.15:
            return False
        yaw = math.atan2(y - py, x - px) + rng.normal(0.0, how.aside)
        world.robot.pose = Pose(float(px), float(py), float(yaw))
        # A person who holds the robot, or a mast that tilts: the camera looks somewhat up or down.
        height = room.camera.height_m
        up = math.atan2(z - height, distance) * rng.uniform(0.5, 1.0) + rng.normal(0, how.aside / 2)
        turn, quat = np.empty(4), np.empty(4)
        mujoco.mju_axisAngle2Quat(turn, np.array([1.0, 0.0, 0.0]), float(np.clip(up, -0.6, 0.6)))
        mujoco.mju_mulQuat(quat, self._up, turn)
        world.model.cam_quat[self._camera] = quat
        world.model.cam_fovy[self._camera] = float(rng.uniform(44, 54))
        return True

    def view(self, how: Difficulty) -> tuple[Split, bool]:
        """One image with its label and the label of each patch; whether it is as wanted."""
        targets = self.targets()
        order = self.rng.permutation(len(targets))
        for attempt in range(TRIES):
            target = targets[int(order[attempt // 4 % len(order)])]
            if not self.look(target, how):
                continue
            entities = self.world.segmentation()
            rows = (np.arange(IMAGE_PX) + 0.5) * CAMERA_PX[1] / IMAGE_PX
            columns = (np.arange(IMAGE_PX) + 0.5) * CAMERA_PX[0] / IMAGE_PX
            kinds = self._kind[entities[rows.astype(int)[:, None], columns.astype(int)[None, :]]]
            seen = np.bincount(kinds.ravel() + 1, WEIGHTS.ravel(), len(LABELS) + 1)[1:]
            first = target[0]
            second = float(np.delete(seen, first).max())
            if how.share[0] <= seen[first] <= how.share[1] and seen[first] >= how.lead * second:
                self._lighting.draw(self.rng)
                image = self._photograph(how)
                return _one(image, first, how is HARD, kinds), True
        return _one(np.zeros((IMAGE_PX, IMAGE_PX, 3), np.uint8), 0, False, None), False

    def _photograph(self, how: Difficulty) -> npt.NDArray[np.uint8]:
        """Return the picture as the camera of a robot gives it: exposure, blur, noise."""
        picture = self.world.render_rgb()
        square = cv2.resize(picture, (IMAGE_PX, IMAGE_PX), interpolation=cv2.INTER_AREA)
        return photographed(np.asarray(square, np.uint8), self.rng, how.light, how.blur, how.noise)


def _one(
    image: npt.NDArray[np.uint8], label: int, hard: bool, kinds: npt.NDArray[np.int64] | None
) -> Split:
    side = IMAGE_PX // PATCH_PX
    parts = np.zeros((1, side * side), np.uint8)
    if kinds is not None:
        tiles = kinds.reshape(side, PATCH_PX, side, PATCH_PX).transpose(0, 2, 1, 3)
        for index, tile in enumerate(tiles.reshape(side * side, -1)):
            counts = np.bincount(tile + 1, minlength=len(LABELS) + 1)
            # What covers a sixth of a patch is worth knowing, even where more of it is wall.
            best = int(counts[1:].argmax()) + 1
            parts[0, index] = best if counts[best] * 6 >= tile.size else 0
    return Split(image[None], np.array([label], np.uint8), np.array([hard]), parts)


def of_world(seed: int, count: int) -> Split:
    """``count`` images of the world of ``seed``, easy and hard in turn."""
    studio = Studio(seed)
    found: list[Split] = []
    try:
        for _ in range(count * 3):
            studio.world.step(0.5)
            one, good = studio.view((EASY, HARD)[len(found) % 2])
            if good:
                found.append(one)
            if len(found) == count:
                break
    finally:
        studio.world.close()
    return Split.joined(found)


def worlds(split: str, count: int) -> Sequence[int]:
    """Seeds of the worlds of a split."""
    return range(FIRST_SEED[split], FIRST_SEED[split] + math.ceil(count / VIEWS[split]))


def _arrays(seed: int, count: int) -> Arrays:
    return of_world(seed, count).arrays()


def generate(folder: Path, counts: dict[str, int], jobs: int = 1) -> None:
    """Write all splits into ``folder``; worlds that are there already are not drawn again."""
    for split, count in counts.items():
        if (folder / f'{split}_images.npy').exists():
            continue
        seeds = worlds(split, count)
        paths = drawn(_arrays, seeds, VIEWS[split], folder / 'worlds', f'{split}: worlds', jobs)
        write_split(folder, split, (Split.read(path) for path in paths), count, LABELS)
        for path in paths:
            path.unlink()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or '').splitlines()[0])
    parser.add_argument('folder', type=Path)
    parser.add_argument('--jobs', type=int, default=1, help='processes')
    for split in SPLITS:
        parser.add_argument(f'--{split}', type=int, default=COUNTS[split], help='images')
    arguments = parser.parse_args()
    generate(
        arguments.folder, {split: getattr(arguments, split) for split in SPLITS}, arguments.jobs
    )


if __name__ == '__main__':
    main()
