"""Images of people with the keypoints of COCO, for training and testing KAPAO: simulated rooms.

    python -m offload_ros.training.kapao.people_images FOLDER --jobs 2

Pictures (240, 320, 3) of the simulated robot's camera, its height and tilt varied: nobody to four
people 0.9 to 7.5 m away, walking, standing, gesturing or sitting, seen from all sides, of any
build and clothes, behind furniture and each other, in any light. Worlds of one split are in no
other. The same seed gives the same images; a run that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from offload_ros.sim.camera import Depth
from offload_ros.sim.config import CameraConfig, PersonConfig, WorldConfig
from offload_ros.sim.gl import mujoco
from offload_ros.sim.photograph import Lighting, photographed
from offload_ros.sim.robot import Pose
from offload_ros.sim.scene import CAMERA
from offload_ros.sim.shapes import Array
from offload_ros.sim.world import World
from offload_ros.training.kapao.people import (
    IGNORED,
    MOST,
    NOBODY,
    PERSON,
    SPLITS,
    Arrays,
    empty_labels,
    stacked,
    write,
)
from offload_ros.training.kapao.postures import Posed, Wardrobe, draw_posture
from offload_ros.training.worlds import drawn

WIDTH_PX, HEIGHT_PX = 320, 240
VIEWS = 50  # of one world
COUNTS = {'train': 16_000, 'calibration': 1_000, 'test': 1_000}
FIRST_SEED = {'train': 400_000, 'calibration': 500_000, 'test': 600_000}
PEOPLE_SHARES = (0.06, 0.44, 0.28, 0.15, 0.07)  # of images with nobody, one, ... four
NEAR_M, FAR_M = 0.9, 7.5
CLEAR_SHARE = 0.6
TRIES, CAMERA_TRIES = 12, 20  # places tried for one person, and for the camera
# Who counts as a person: so many pixels, and so many labelled keypoints; below, nobody is asked to
# find them, and down to so few pixels nobody is blamed for it either.
LEAST_PX, LEAST_KEYPOINTS, SEEN_PX = 250, 5, 30
BEHIND_M = 0.1  # a keypoint lies inside the body: its surface is so much nearer at most


class Studio:
    """One world with four people who take any posture, seen from wherever the robot may stand."""

    def __init__(self, seed: int) -> None:
        self.rng = rng = np.random.default_rng([seed, 9])
        config = WorldConfig(
            length_m=float(rng.uniform(7, 12)),
            width_m=float(rng.uniform(6, 10)),
            object_count=int(rng.integers(8, 30)),
            inner_wall=bool(rng.random() < 0.5),
            camera=CameraConfig(width_px=WIDTH_PX, height_px=HEIGHT_PX),
            person=PersonConfig(count=MOST, clearance_m=0.3),
        )
        self.world = World(seed, config)
        model = self.world.model
        self.people = [
            Posed(w.body, w.config, w.free, rng, w.position, w.yaw, 1.0) for w in self.world.walkers
        ]
        self._wardrobes = [
            Wardrobe(model, index, each.body) for index, each in enumerate(self.people)
        ]
        self.world.walkers[:] = self.people
        self._lighting = Lighting(model)
        self._camera = model.camera(CAMERA).id
        self._mount = (model.cam_quat[self._camera].copy(), model.cam_pos[self._camera].copy())

    def view(self) -> tuple[npt.NDArray[np.uint8], Arrays]:
        """One picture and its labels."""
        rng = self.rng
        count = int(rng.choice(len(PEOPLE_SHARES), p=PEOPLE_SHARES))
        places: list[Array] = []
        for _ in range(CAMERA_TRIES):  # until there is a place for the first person
            self._set_camera()
            first = self._place(places) if count else None
            if first is not None:
                places.append(first)
            if places or not count:
                break
        for index, person in enumerate(self.people):
            place = None
            if index < len(places):
                place = places[index]
            elif index < count:
                place = self._place(places)
                if place is not None:
                    places.append(place)
            person.away = place is None
            if place is None:
                continue
            person.position, person.yaw = place, float(rng.uniform(-math.pi, math.pi))
            person.posture = draw_posture(rng)
            person.body = self._wardrobes[index].dress(rng)
        self._lighting.draw(rng)
        rgb, depth = self.world.render()
        entities = self.world.segmentation()
        labels = self._labels(entities, depth)
        return photographed(rgb, rng, (-0.9, 0.6), 0.8, 9.0), labels

    def _set_camera(self) -> None:
        """Stand somewhere, look anywhere; half of the time the mount is another than the usual."""
        rng, world, camera = self.rng, self.world, self._camera
        at = world.layout.free.sample(0.3, rng)
        world.robot.pose = Pose(float(at[0]), float(at[1]), float(rng.uniform(-math.pi, math.pi)))
        quaternion, position = self._mount
        model = world.model
        usual = rng.random() < 0.5
        up = 0.0 if usual else float(rng.normal(0.0, 0.07))
        raised = 0.0 if usual else float(rng.uniform(-0.2, 0.4))
        model.cam_pos[camera] = position + np.array([0.0, 0.0, raised])
        turn, turned = np.empty(4), np.empty(4)
        mujoco.mju_axisAngle2Quat(turn, np.array([1.0, 0.0, 0.0]), up)
        mujoco.mju_mulQuat(turned, quaternion, turn)
        model.cam_quat[camera] = turned
        focal = world.config.camera.focal_px * (1.0 if usual else float(rng.uniform(0.85, 1.2)))
        model.cam_fovy[camera] = math.degrees(2 * math.atan(HEIGHT_PX / 2 / focal))

    @property
    def focal_px(self) -> float:
        """Of the camera as it is now."""
        fovy = math.radians(float(self.world.model.cam_fovy[self._camera]))
        return HEIGHT_PX / 2 / math.tan(fovy / 2)

    def _place(self, others: Sequence[Array]) -> Array | None:
        """A place on free floor in front of the camera, not inside somebody; for the first person
        mostly one with nothing in between."""
        rng, world = self.rng, self.world
        clear = not others and rng.random() < CLEAR_SHARE
        pose, size = world.robot.pose, world.config
        for _ in range(TRIES):
            away = rng.uniform(NEAR_M, FAR_M)
            angle = pose.yaw + rng.uniform(-0.62, 0.62)
            place = np.array([pose.x + away * math.cos(angle), pose.y + away * math.sin(angle)])
            if abs(place[0]) > size.length_m / 2 - 0.25 or abs(place[1]) > size.width_m / 2 - 0.25:
                continue
            if any(np.linalg.norm(place - other) < 0.4 for other in others):
                continue
            if world.layout.free.obstacles.distance(place[None])[0] < 0.2:
                continue
            if not clear or world.layout.free.sees(np.array([pose.x, pose.y]), place):
                return place
        return None

    def _labels(self, entities: npt.NDArray[np.int32], depth: Depth) -> Arrays:
        labels = empty_labels()
        position, rotation = self.world.camera_pose()
        near = np.where(np.isfinite(depth), depth, np.inf)
        slot = 0
        for person, truth in zip(self.people, self.world.truth().people, strict=True):
            mask = entities == truth.id
            pixels = int(mask.sum())
            if person.away or pixels < SEEN_PX:
                continue
            camera = (truth.keypoints - position) @ rotation
            keypoints = self._seen(camera, truth.id, entities, near)
            counted = pixels >= LEAST_PX and keypoints[:, 2].sum() >= LEAST_KEYPOINTS
            rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            labels['state'][slot] = PERSON if counted else IGNORED
            labels['boxes'][slot] = (
                columns[0] - 0.5,
                rows[0] - 0.5,
                columns[-1] + 0.5,
                rows[-1] + 0.5,
            )
            labels['keypoints'][slot] = keypoints
            labels['heights'][slot] = self.focal_px * person.body.height / camera[:, 2].mean()
            slot += 1
        assert (labels['state'][slot:] == NOBODY).all()
        return labels

    def _seen(
        self,
        points: Array,
        entity: int,
        entities: npt.NDArray[np.int32],
        near: npt.NDArray[np.float32],
    ) -> npt.NDArray[np.float32]:
        """Keypoints (17, 3) in the picture of points (17, 3) in the optical frame."""
        centre = self.world.config.camera.centre_px
        z = np.maximum(points[:, 2], 1e-3)
        x = self.focal_px * points[:, 0] / z + centre[0]
        y = self.focal_px * points[:, 1] / z + centre[1]
        inside = (points[:, 2] > 0.05) & (x > -0.5) & (x < WIDTH_PX - 0.5)
        inside &= (y > -0.5) & (y < HEIGHT_PX - 0.5)
        column = np.clip(np.rint(x), 0, WIDTH_PX - 1).astype(int)
        row = np.clip(np.rint(y), 0, HEIGHT_PX - 1).astype(int)
        own = entities[row, column] == entity
        clear = near[row, column] > points[:, 2] - BEHIND_M
        return np.stack([x, y, inside & (own | clear)], 1).astype(np.float32)


def of_world(seed: int, count: int) -> Arrays:
    """``count`` images of the world of ``seed``, arrays of ``People``."""
    studio = Studio(seed)
    try:
        views = [studio.view() for _ in range(count)]
    finally:
        studio.world.close()
    return stacked([image for image, _ in views], [labels for _, labels in views])


def generate(folder: Path, counts: dict[str, int], jobs: int = 1) -> None:
    """Write all splits into ``folder``; worlds that are there already are not drawn again."""
    for split, count in counts.items():
        if not count or (folder / f'{split}_images.npy').exists():
            continue
        seeds = range(FIRST_SEED[split], FIRST_SEED[split] + math.ceil(count / VIEWS))
        paths = drawn(of_world, seeds, VIEWS, folder / 'worlds', f'{split}: worlds', jobs)
        write(folder, split, paths, count)
        for path in paths:
            path.unlink()


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found: Any = argparse.ArgumentParser(description=(__doc__ or '').splitlines()[0])
    found.add_argument('folder', type=Path)
    found.add_argument('--jobs', type=int, default=1, help='processes')
    for split in SPLITS:
        found.add_argument(f'--{split}', type=int, default=COUNTS[split], help='images')
    return found  # type: ignore[no-any-return]


def main() -> None:
    arguments = parser().parse_args()
    generate(
        arguments.folder, {split: getattr(arguments, split) for split in SPLITS}, arguments.jobs
    )


if __name__ == '__main__':
    main()
