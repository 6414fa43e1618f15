"""How well a KAPAO network finds people: recall, precision, and keypoints within a tenth of the
person's height.

    python -m offload_ros.training.kapao.evaluate config/networks/kapao_t.safetensors --data DATA
    python -m offload_ros.training.kapao.evaluate ... --split calibration --thresholds

A person is found by a detection whose box overlaps that of what is seen of the person by an IoU of
at least a half. A keypoint is right within a tenth of the person's whole height (PCK at 0.1);
those of people who were not found are wrong. Nobody is asked for those who are hardly in the
picture (``people_images``), nor blamed for finding them.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
import itertools
import json
from pathlib import Path
import sys

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.progress import track
from rich.table import Table
import torch

from offload_ros.models.errors import ModelError
from offload_ros.models.kapao import PoseSettings
from offload_ros.models.kapao_network import KEYPOINTS, KapaoNetwork
from offload_ros.models.kapao_poses import detect_poses
from offload_ros.models.kapao_weights import load_network
from offload_ros.sim.person_body import KEYPOINTS as NAMES
from offload_ros.training.kapao.batches import letterboxed, letterboxed_px
from offload_ros.training.kapao.people import IGNORED, PERSON, SPLITS, People, load

FOUND_IOU, RIGHT_SHARE = 0.5, 0.1
BATCH = 32
# Chosen on the split calibration; pixels are those of the simulated camera's images, four times
# smaller than those of the published settings.
SETTINGS = PoseSettings(0.2, 0.45, 0.5, 0.45, 0.2, 12.0)
FLOOR = 0.05  # of scores that are tried
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Figures:
    """Over all people who count: share found, share of detections that are people, share of
    labelled keypoints that are right, of those found only, and by keypoint (17,)."""

    people: int
    recall: float
    precision: float
    pck: float
    pck_of_found: float
    by_keypoint: tuple[float, ...]

    def as_json(self) -> dict[str, object]:
        """For a file."""
        return {**vars(self), 'by_keypoint': dict(zip(NAMES, self.by_keypoint, strict=True))}


def overlaps(one: Floats, other: Floats) -> tuple[Floats, Floats]:
    """IoU (N, M) of boxes (N, 4) and (M, 4: x1, y1, x2, y2); which share of N lies inside M."""
    low = np.maximum(one[:, None, :2], other[None, :, :2])
    high = np.minimum(one[:, None, 2:], other[None, :, 2:])
    common = np.clip(high - low, 0, None).prod(2)
    areas = [(each[:, 2:] - each[:, :2]).prod(1) for each in (one, other)]
    union = areas[0][:, None] + areas[1][None] - common
    return common / np.maximum(union, 1e-9), common / np.maximum(areas[0][:, None], 1e-9)


class Count:
    """Adds up over images."""

    def __init__(self) -> None:
        self.people = self.found = self.detections = self.wrong = 0
        self.labelled, self.right = np.zeros(KEYPOINTS, int), np.zeros(KEYPOINTS, int)
        self.labelled_found = 0

    def add(
        self,
        poses: Floats,
        boxes: Floats,
        state: npt.NDArray[np.uint8],
        true_boxes: Floats,
        keypoints: Floats,
        heights: Floats,
    ) -> None:
        """One image: what was found (N, 17, 3) and (N, 5), and what is there, as in ``People``."""
        real = np.flatnonzero(state == PERSON)
        ignored = np.flatnonzero(state == IGNORED)
        iou, _ = overlaps(boxes[:, :4], true_boxes[real])
        _, inside = overlaps(boxes[:, :4], true_boxes[ignored])
        free = np.ones(len(real), bool)
        self.people += len(real)
        self.labelled += keypoints[real, :, 2].sum(0).astype(int)
        for index in range(len(boxes)):  # strongest first
            best = int(np.where(free, iou[index], -1).argmax()) if free.any() else -1
            if best < 0 or iou[index, best] < FOUND_IOU:
                hidden = len(ignored) and inside[index].max() >= 0.5
                self.detections += not hidden
                self.wrong += not hidden
                continue
            free[best] = False
            self.detections += 1
            self.found += 1
            person = real[best]
            apart = np.hypot(*(poses[index, :, :2] - keypoints[person, :, :2]).T)
            labelled = keypoints[person, :, 2] > 0
            self.labelled_found += int(labelled.sum())
            self.right += labelled & (apart <= RIGHT_SHARE * heights[person])

    def figures(self) -> Figures:
        """All together."""
        return Figures(
            self.people,
            self.found / max(self.people, 1),
            1.0 - self.wrong / max(self.detections, 1),
            float(self.right.sum() / max(self.labelled.sum(), 1)),
            float(self.right.sum() / max(self.labelled_found, 1)),
            tuple((self.right / np.maximum(self.labelled, 1)).tolist()),
        )


@torch.inference_mode()
def candidates(network: KapaoNetwork, people: People, floor: float = FLOOR) -> list[torch.Tensor]:
    """Of each image those (M, 57) whose objectness is above ``floor``."""
    found = []
    for begin in track(range(0, len(people), BATCH), 'images', transient=True):
        images = letterboxed(np.asarray(people.images[begin : begin + BATCH]))
        rows = network.candidates(network(images.float() / 255.0))
        found += [each[each[:, 4] > floor].clone() for each in rows]
    return found


def evaluate(found: Sequence[torch.Tensor], people: People, settings: PoseSettings) -> Figures:
    """Of all images; ``found`` as ``candidates`` gives them."""
    count = Count()
    height, width = people.images.shape[1:3]
    rows, columns = letterboxed_px(height, width)
    # Labels have pixel centres at whole numbers, results count from the corner.
    left, top = (columns - width) // 2 + 0.5, (rows - height) // 2 + 0.5
    for index, each in enumerate(found):
        poses, boxes = detect_poses(each, **vars(settings), left=left, top=top)
        count.add(
            poses.numpy().astype(float),
            boxes.numpy().astype(float),
            people.state[index],
            people.boxes[index].astype(float),
            people.keypoints[index].astype(float),
            people.heights[index].astype(float),
        )
    return count.figures()


def thresholds(found: Sequence[torch.Tensor], people: People) -> Table:
    """What other thresholds give."""
    table = Table('person score', 'keypoint score', 'tolerance', 'recall', 'precision', 'PCK')
    for person, keypoint, tolerance in itertools.product(
        (0.2, 0.3, 0.4, 0.5), (0.1, 0.2, 0.35, 0.5), (6.0, 12.0, 24.0)
    ):
        changed = replace(
            SETTINGS, person_score=person, keypoint_score=keypoint, tolerance_px=tolerance
        )
        got = evaluate(found, people, changed)
        shares = (f'{each:.3f}' for each in (got.recall, got.precision, got.pck))
        table.add_row(f'{person:g}', f'{keypoint:g}', f'{tolerance:g}', *shares)
    return table


def show(got: Figures, console: Console) -> None:
    """As a table."""
    table = Table('people', 'recall', 'precision', 'PCK at 0.1', '... of those found')
    table.add_row(
        str(got.people),
        *(f'{each:.3f}' for each in (got.recall, got.precision, got.pck, got.pck_of_found)),
    )
    console.print(table)
    each = ', '.join(f'{n} {s:.2f}' for n, s in zip(NAMES, got.by_keypoint, strict=True))
    console.print(f'PCK by keypoint: {each}')


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or '').split('\n\n')[0])
    parser.add_argument('weights', type=Path)
    parser.add_argument('--data', type=Path, required=True)
    parser.add_argument('--split', choices=SPLITS, default='test')
    parser.add_argument('--images', type=int, default=0, help='default: all')
    parser.add_argument('--thresholds', action='store_true', help='try other thresholds')
    parser.add_argument('--json', type=Path, help='write the figures there')
    arguments = parser.parse_args()
    try:
        network, _ = load_network(arguments.weights)
        people = load(arguments.data, arguments.split)
    except (ModelError, ValueError) as error:
        sys.exit(f'evaluate: {error}')
    people = people.some(arguments.images) if arguments.images else people
    found = candidates(network.fuse(), people)
    console = Console()
    if arguments.thresholds:
        console.print(thresholds(found, people))
    got = evaluate(found, people, SETTINGS)
    show(got, console)
    if arguments.json:
        arguments.json.write_text(json.dumps(got.as_json(), indent=1) + '\n')


if __name__ == '__main__':
    main()
