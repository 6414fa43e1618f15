"""Images of people with boxes and keypoints, on disk and in memory.

A folder has, per split, ``<split>_images.npy`` (N, H, W, 3) uint8 RGB and ``<split>_people.npz``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
import zipfile

import numpy as np
import numpy.typing as npt

from offload_ros.models.kapao_network import KEYPOINTS

SPLITS = ('train', 'calibration', 'test')
MOST = 4  # people in an image
NOBODY, PERSON, IGNORED = 0, 1, 2
LABELS = ('state', 'boxes', 'keypoints', 'heights')
Arrays = dict[str, npt.NDArray]


@dataclass(frozen=True)
class People:
    """``images`` (N, H, W, 3) uint8; of each up to four people, ``state`` (N, 4) uint8 (nobody, a
    person, one too hidden or far to count), ``boxes`` (N, 4, 4: x1, y1, x2, y2) of what is seen,
    ``keypoints`` (N, 4, 17, 3: x, y, 1 if labelled else 0), and ``heights`` (N, 4), how tall the
    whole body would be where it is; all in pixels, float32.

    Labelled are keypoints inside the image that nothing but the own body hides. Pixel centres are
    whole numbers.
    """

    images: npt.NDArray[np.uint8]
    state: npt.NDArray[np.uint8]
    boxes: npt.NDArray[np.float32]
    keypoints: npt.NDArray[np.float32]
    heights: npt.NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.images)

    def arrays(self) -> Arrays:
        return {'images': self.images, **{name: getattr(self, name) for name in LABELS}}

    def some(self, count: int) -> People:
        """``count`` of them, evenly spread."""
        at = np.linspace(0, len(self) - 1, min(count, len(self))).round().astype(np.int64)
        return People(**{name: np.asarray(each)[at] for name, each in self.arrays().items()})


def empty_labels() -> Arrays:
    """Labels of one image without anybody."""
    return {
        'state': np.zeros(MOST, np.uint8),
        'boxes': np.zeros((MOST, 4), np.float32),
        'keypoints': np.zeros((MOST, KEYPOINTS, 3), np.float32),
        'heights': np.zeros(MOST, np.float32),
    }


def stacked(images: list[npt.NDArray[np.uint8]], labels: list[Arrays]) -> Arrays:
    """Arrays of a ``People``."""
    return {
        'images': np.stack(images),
        **{name: np.stack([each[name] for each in labels]) for name in LABELS},
    }


def write(folder: Path, split: str, paths: Iterable[Path], count: int) -> None:
    """Join the first ``count`` images of several files; the images last, so that they tell that the
    split is complete. One file at a time is in memory."""
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f'{split}_images.part'
    target: np.memmap | None = None
    labels: dict[str, list[npt.NDArray]] = {name: [] for name in LABELS}
    done = 0
    for arrays in _read(paths):
        take = min(len(arrays['images']), count - done)
        if target is None:
            shape = (count, *arrays['images'].shape[1:])
            target = np.lib.format.open_memmap(part, 'w+', np.uint8, shape)
        target[done : done + take] = arrays['images'][:take]
        for name, each in labels.items():
            each.append(arrays[name][:take])
        done += take
    if target is None or done < count:
        raise ValueError(f'{split}: {done} of {count} images could be drawn')
    target.flush()
    with (folder / f'{split}_people.npz').open('wb') as file:
        np.savez(
            file,
            allow_pickle=False,
            **{name: np.concatenate(each) for name, each in labels.items()},
        )
    part.rename(folder / f'{split}_images.npy')


def _read(paths: Iterable[Path]) -> Iterator[Arrays]:
    for path in paths:
        with np.load(path, allow_pickle=False) as data:
            yield dict(data)


def load(folder: Path, split: str) -> People:
    """One split; images stay on disk until they are used. ``ValueError`` says what is wrong."""
    images, labels = folder / f'{split}_images.npy', folder / f'{split}_people.npz'
    if not images.exists():
        raise ValueError(
            f'{folder} has no {images.name}: draw images with '
            'python -m offload_ros.training.kapao.people_images'
        )
    try:
        with np.load(labels, allow_pickle=False) as data:
            people = People(
                np.load(images, mmap_mode='r', allow_pickle=False), *(data[n] for n in LABELS)
            )
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f'{labels} does not belong to images of people: {error}') from None
    if people.images.ndim != 4 or len(people.state) != len(people.images):
        raise ValueError(f'{images.name} and {labels.name} in {folder} do not fit together')
    return people
