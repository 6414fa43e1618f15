"""Labelled images on disk: arrays that the generator wrote, or any folder of pictures by class.

A generated folder has, per split, ``<split>_images.npy`` (N, H, W, 3) uint8, ``<split>_labels.npy``
(N,) uint8, ``<split>_hard.npy`` (N,) bool, ``<split>_parts.npy`` (N, patches) uint8 (0: nothing,
else label + 1), and ``labels.json``. Any other folder holds ``<split>/<class>/*.jpg`` or ``.png``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
import json
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

SPLITS = ('train', 'calibration', 'test')
NAMES = ('images', 'labels', 'hard', 'parts')
PICTURES = ('.jpg', '.jpeg', '.png', '.webp', '.bmp')


@dataclass(frozen=True)
class Split:
    """Images (N, H, W, 3) uint8, labels (N,), hard (N,) bool, parts (N, patches) or (N, 0)."""

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.uint8]
    hard: npt.NDArray[np.bool_]
    parts: npt.NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.labels)

    def arrays(self) -> dict[str, npt.NDArray]:
        return {name: getattr(self, name) for name in NAMES}

    @staticmethod
    def joined(splits: Sequence[Split]) -> Split:
        return Split(*(np.concatenate([getattr(s, name) for s in splits]) for name in NAMES))

    @staticmethod
    def read(path: Path) -> Split:
        with np.load(path, allow_pickle=False) as data:
            return Split(*(data[name] for name in NAMES))


def write_split(
    folder: Path, name: str, parts: Iterable[Split], count: int, labels: Sequence[str]
) -> None:
    """Write a split of at most ``count`` images; images last, so that they tell it is complete."""
    everything = Split.joined(list(parts))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / 'labels.json').write_text(json.dumps(list(labels)))
    for array in reversed(NAMES):
        path = folder / f'{name}_{array}.npy'
        part = path.with_suffix('.part')
        with part.open('wb') as file:
            np.save(file, getattr(everything, array)[:count])
        part.rename(path)


def load_split(folder: Path, name: str, image_px: int) -> tuple[Split, tuple[str, ...]]:
    """(the split, names of its classes); ValueError says what is wrong with the folder."""
    if (folder / f'{name}_images.npy').exists():
        arrays = [
            np.load(folder / f'{name}_{array}.npy', mmap_mode='r', allow_pickle=False)
            for array in NAMES
        ]
        if arrays[0].shape[1:] != (image_px, image_px, 3):
            size = 'x'.join(map(str, arrays[0].shape[1:]))
            raise ValueError(f'{folder}: images are {size}, wanted is {image_px}x{image_px}x3')
        labels = tuple(json.loads((folder / 'labels.json').read_text()))
        return Split(*arrays), labels
    classes = sorted(path for path in (folder / name).glob('*') if path.is_dir())
    if len(classes) < 2:
        raise ValueError(
            f'{folder} has no {name}_images.npy, nor folders {name}/<class> with pictures: '
            'generate images with python -m offload_ros.amot.images'
        )
    images, answers = [], []
    for index, path in enumerate(classes):
        for file in sorted(path.iterdir()):
            if file.suffix.lower() in PICTURES:
                images.append(_picture(file, image_px))
                answers.append(index)
    count = len(images)
    if not count:
        raise ValueError(f'{folder / name} has no pictures ({", ".join(PICTURES)})')
    split = Split(
        np.stack(images),
        np.array(answers, np.uint8),
        np.zeros(count, bool),
        np.zeros((count, 0), np.uint8),
    )
    return split, tuple(path.name for path in classes)


def _picture(path: Path, image_px: int) -> npt.NDArray[np.uint8]:
    """Read a picture, cut its middle square, scale it."""
    picture = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if picture is None:
        raise ValueError(f'{path} is not a picture that OpenCV reads')
    edge = min(picture.shape[:2])
    top, left = (picture.shape[0] - edge) // 2, (picture.shape[1] - edge) // 2
    square = picture[top : top + edge, left : left + edge, ::-1]
    how = cv2.INTER_AREA if edge > image_px else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(square, (image_px, image_px), interpolation=how), np.uint8)
