"""Images with what is in them, for training and testing multi-task networks: simulated rooms.

    python -m offload_ros.training.multitask.images FOLDER --jobs 1

Pictures of the simulated robot's camera (320 x 240) from where it may stand, mostly towards an
object or a person, in any light, as the network sees them (128 x 96). The ground truth is the
renderer's own: the entity and the depth in every pixel. Kinds of objects that a picture of that
size cannot tell apart, or that are rare, are one class (``CLASS_OF_KIND``). Worlds of one split
are in no other. The same seed gives the same images; a run that was stopped goes on.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.ndimage import find_objects
import torch

from offload_ros.models.config import Preprocess
from offload_ros.models.multitask_network import CLASSES, STRIDE
from offload_ros.models.preprocess import ImagePreprocess
from offload_ros.sim.config import PersonConfig, WorldConfig
from offload_ros.sim.photograph import Lighting, photographed
from offload_ros.sim.robot import Pose
from offload_ros.sim.scene import ROOM_KINDS
from offload_ros.sim.world import World
from offload_ros.training.worlds import Arrays, drawn

HEIGHT_PX, WIDTH_PX = 96, 128  # of the network's input
VIEWS = 30  # of one world
COUNTS = {'train': 4500, 'calibration': 450, 'test': 900}
FIRST_SEED = {'train': 1_000_000, 'calibration': 1_100_000, 'test': 1_200_000}
MOST = 24  # objects in an image, the largest ones
# Pixels of the camera's image of an object that is asked for; of one that is smaller, down to so
# few, neither finding nor missing it counts.
LEAST_PX, SEEN_PX = 120, 12
NOTHING = 255  # class of what is no object, and of pixels beyond the room
TRIES = 30

_MERGED = {
    'chair': ('chair', 'stool'),
    'sofa': ('sofa', 'bed'),
    'table': ('table',),
    'cabinet': ('shelf', 'fridge', 'washing_machine', 'tv'),  # large and flat, at a wall
    'plant': ('plant',),
    'container': ('box', 'bin', 'suitcase', 'bucket', 'barrel'),
    'frame': ('ladder', 'door_frame', 'bicycle', 'cart', 'lamp', 'fan', 'sign'),  # thin parts
    'small': ('ball', 'bottle', 'mug', 'vase', 'teddy', 'cone', 'fire_extinguisher', 'laptop'),
}
# The class, by its place in CLASSES, of every kind of the simulated world.
CLASS_OF_KIND = {
    'none': NOTHING,
    **{name: CLASSES.index(name) for name in (*ROOM_KINDS[1:], 'person')},
    **{kind: CLASSES.index(name) for name, kinds in _MERGED.items() for kind in kinds},
}
_seen = ImagePreprocess(Preprocess(resize=(HEIGHT_PX, WIDTH_PX), scale=1.0))


def labels_of(
    entities: npt.NDArray[np.int32], depth: npt.NDArray[np.float32], kinds: tuple[str, ...]
) -> Arrays:
    """Labels of one picture, entities and depth of the camera's pixels (H, W).

    ``classes`` (24, 32) uint8, the one with most pixels of a cell, NOTHING beyond the room;
    ``depth`` (24, 32) float16, the median of a cell in metres, 0 where nothing is in range; of up
    to 24 objects ``boxes`` (24, 4: x1, y1, x2, y2) float32, around what is seen, in pixels of the
    network's input, ``kind`` (24,) uint8 as in CLASSES or NOTHING, ``counted`` (24,) bool.
    """
    rows, columns = HEIGHT_PX // STRIDE, WIDTH_PX // STRIDE
    class_of = np.array([CLASS_OF_KIND[kind] for kind in kinds], np.uint8)
    cells = _cells(class_of[entities], rows, columns)
    counts = np.stack([(cells == each).sum(-1) for each in range(len(CLASSES))], -1)
    classes = np.where(counts.any(-1), counts.argmax(-1), NOTHING).astype(np.uint8)
    ordered = np.sort(_cells(depth, rows, columns), -1)  # NaN last
    known = np.isfinite(ordered).sum(-1)
    middle = np.take_along_axis(ordered, np.maximum(known - 1, 0)[..., None] // 2, -1)[..., 0]
    found: Arrays = {
        'classes': classes,
        'depth': np.where(known > 0, middle, 0.0).astype(np.float16),
        'boxes': np.zeros((MOST, 4), np.float32),
        'kind': np.full(MOST, NOTHING, np.uint8),
        'counted': np.zeros(MOST, np.bool_),
    }
    scale = np.array([WIDTH_PX / entities.shape[1], HEIGHT_PX / entities.shape[0]] * 2)
    pixels = np.bincount(entities.reshape(-1), minlength=len(kinds))
    pixels[: len(ROOM_KINDS)] = 0
    places = find_objects(entities)
    largest = np.argsort(-pixels, kind='stable')[:MOST]
    for slot, entity in enumerate(largest[pixels[largest] >= SEEN_PX]):
        down, along = places[entity - 1]
        found['boxes'][slot] = scale * (along.start, down.start, along.stop, down.stop)
        found['kind'][slot] = class_of[entity]
        found['counted'][slot] = pixels[entity] >= LEAST_PX
    return found


def _cells(picture: npt.NDArray, rows: int, columns: int) -> npt.NDArray:
    """(H, W) to (rows, columns, pixels of a cell)."""
    high, wide = picture.shape[0] // rows, picture.shape[1] // columns
    blocks = picture.reshape(rows, high, columns, wide).transpose(0, 2, 1, 3)
    found: npt.NDArray = blocks.reshape(rows, columns, high * wide)
    return found


def of_world(seed: int, count: int) -> Arrays:
    """``images`` (count, 96, 128, 3) uint8 of the world of ``seed``, and ``labels_of`` each."""
    rng = np.random.default_rng([seed, 12])
    config = WorldConfig(
        length_m=float(rng.uniform(7, 12)),
        width_m=float(rng.uniform(6, 10)),
        object_count=int(rng.integers(10, 28)),
        inner_wall=bool(rng.random() < 0.5),
        person=PersonConfig(count=int(rng.integers(1, 5)), clearance_m=0.3),
    )
    views = []
    with World(seed, config) as world:
        lighting = Lighting(world.model)
        for _ in range(count):
            world.step(float(rng.uniform(0.2, 0.8)))
            world.robot.pose = _standpoint(world, rng)
            lighting.draw(rng)
            rgb, depth = world.render()
            photograph = photographed(rgb, rng, (-0.7, 0.5), 0.7, 7.0)
            seen = _seen(torch.from_numpy(photograph))[0].round().to(torch.uint8)
            labels = labels_of(world.segmentation(), depth, world.kinds)
            views.append({'images': seen.permute(1, 2, 0).numpy(), **labels})
    return {name: np.stack([each[name] for each in views]) for name in views[0]}


def _standpoint(world: World, rng: np.random.Generator) -> Pose:
    """Free floor in front of an object or a person, which is looked at, more or less."""
    truth = world.truth()
    targets = [(each.x, each.y) for each in truth.objects]
    targets += [(each.pose.x, each.pose.y) for each in truth.people] * 2
    x, y = targets[int(rng.integers(len(targets)))]
    for _ in range(TRIES):
        place = world.layout.free.sample(0.35, rng)
        if 0.7 < math.hypot(x - place[0], y - place[1]) < rng.uniform(1.0, 6.0):
            break
    yaw = math.atan2(y - place[1], x - place[0]) + float(rng.normal(0.0, 0.3))
    return Pose(float(place[0]), float(place[1]), yaw)


def load(folder: Path, split: str) -> Arrays:
    """Arrays (N, ...) of a split, by name. ``ValueError`` says how to make it."""
    path = folder / f'{split}.npz'
    if not path.exists():
        raise ValueError(
            f'{path} is missing: python -m offload_ros.training.multitask.images {folder}'
        )
    with np.load(path, allow_pickle=False) as arrays:
        return dict(arrays)


def generate(folder: Path, counts: dict[str, int], jobs: int = 1) -> None:
    """Write all splits into ``folder``; worlds that are there already are not drawn again."""
    for split, count in counts.items():
        path = folder / f'{split}.npz'
        if not count or path.exists():
            continue
        seeds = range(FIRST_SEED[split], FIRST_SEED[split] + math.ceil(count / VIEWS))
        paths = drawn(of_world, seeds, VIEWS, folder / 'worlds', f'{split}: worlds', jobs)
        worlds = []
        for each in paths:
            with np.load(each, allow_pickle=False) as arrays:
                worlds.append(dict(arrays))
        whole = {
            name: np.concatenate([each[name] for each in worlds])[:count] for name in worlds[0]
        }
        part = path.with_suffix('.part')
        with part.open('wb') as file:
            np.savez(file, allow_pickle=False, **whole)
        part.rename(path)
        for each in paths:
            each.unlink()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or '').splitlines()[0])
    parser.add_argument('folder', type=Path)
    parser.add_argument('--jobs', type=int, default=1, help='processes')
    for split, count in COUNTS.items():
        parser.add_argument(f'--{split}', type=int, default=count, help='images')
    arguments = parser.parse_args()
    counts = {split: getattr(arguments, split) for split in COUNTS}
    generate(arguments.folder, counts, arguments.jobs)


if __name__ == '__main__':
    main()
