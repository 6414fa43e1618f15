"""How well the networks of a fleet answer, how large they are and how long they take.

    python -m offload_ros.training.multitask.evaluate WORK --data DATA

Accuracies, all 0 to 1, in rooms of the split ``test``, which no training image shows:
detection: F1, over all objects of at least 120 of the camera's 76,800 pixels, of boxes with an IoU
of at least 0.5 and the right class, at the score that is best on the split ``calibration`` (beside
it, mean average precision at the same IoU over classes, which needs no score);
segmentation: mean IoU over classes; depth: share of cells whose depth is wrong by less than a
factor of 1.25 (delta1).

Times are those of the whole network, resizing of camera images included, on one thread: ``alpha_s +
beta_s * b`` for a batch of b, fitted to medians of batches of 1, 2, 4 and 8. They are processor
time, in which other programs on the machine do not count.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
import json
from pathlib import Path
import statistics
import sys
import time
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.progress import track
from rich.table import Table
import torch

from offload_ros.models.config import Preprocess
from offload_ros.models.errors import ModelError
from offload_ros.models.multitask import load_weights
from offload_ros.models.multitask_network import (
    CLASSES,
    OBJECTS,
    ROOM,
    SIZES,
    TASKS,
    MultitaskNetwork,
)
from offload_ros.models.preprocess import ImagePreprocess
from offload_ros.training.kapao.evaluate import overlaps
from offload_ros.training.multitask.batches import images_of
from offload_ros.training.multitask.images import HEIGHT_PX, NOTHING, WIDTH_PX, load
from offload_ros.training.multitask.train import NETWORKS
from offload_ros.training.worlds import Arrays

FOUND_IOU, FACTOR = 0.5, 1.25
BATCH = 32
TIMED = (1, 2, 4, 8)
CAMERA = (240, 320, 3)
Floats = npt.NDArray[np.floating[Any]]
RESULTS = Path('benchmarks/results/multitask.json')


class Detections:
    """Adds up boxes over images."""

    def __init__(self) -> None:
        self.objects = np.zeros(len(CLASSES), int)
        self._found: list[tuple[float, int, bool]] = []  # score, class, right

    def add(
        self,
        rows: Floats,
        boxes: Floats,
        kind: npt.NDArray[np.uint8],
        counted: npt.NDArray[np.bool_],
    ) -> None:
        """One image: what was found (K, 6), strongest first, and what is there, as in
        ``images.labels_of``. A box on an object that does not count is neither right nor wrong."""
        self.objects += np.bincount(kind[counted], minlength=len(CLASSES))
        free = counted.copy()
        for row in rows[rows[:, 4] > 0]:
            its = int(row[5])
            alike = kind == its
            iou, inside = (each[0] for each in overlaps(row[None, :4], boxes.astype(np.float64)))
            best = int(np.where(alike & free, iou, -1.0).argmax())
            right = bool(alike[best] and free[best] and iou[best] >= FOUND_IOU)
            free[best] &= not right
            hidden = alike & ~counted & ((iou >= FOUND_IOU) | (inside >= 0.5))
            if right or not hidden.any():
                self._found.append((float(row[4]), its, right))

    def best_score(self) -> float:
        """From which score on boxes have the highest F1."""
        ordered = sorted(self._found, key=lambda each: -each[0])
        right = np.cumsum([each[2] for each in ordered])
        if not len(right):
            return 1.0
        f1 = 2 * right / (self.objects.sum() + np.arange(1, len(right) + 1))
        return ordered[int(f1.argmax())][0]

    def figures(self, score: float) -> dict[str, Any]:
        """F1, precision and recall of boxes from ``score`` on; average precision of all."""
        objects = int(self.objects.sum())
        chosen = [each for each in self._found if each[0] >= score]
        right = sum(each[2] for each in chosen)
        by_class = {
            name: self._average_precision(len(ROOM) + index)
            for index, name in enumerate(OBJECTS)
            if self.objects[len(ROOM) + index]
        }
        return {
            'f1': 2 * right / max(objects + len(chosen), 1),
            'precision': right / max(len(chosen), 1),
            'recall': right / max(objects, 1),
            'score': score,
            'average_precision': float(np.mean(list(by_class.values()))) if by_class else 0.0,
            'by_class': by_class,
            'objects': objects,
        }

    def _average_precision(self, kind: int) -> float:
        """Area under the interpolated curve of precision over recall of one class."""
        ordered = sorted((each for each in self._found if each[1] == kind), key=lambda e: -e[0])
        right = np.array([each[2] for each in ordered], bool)
        precision = np.cumsum(right) / np.arange(1, len(right) + 1)
        highest = np.maximum.accumulate(precision[::-1])[::-1]
        return float(highest[right].sum() / self.objects[kind])


class Segments:
    """Adds up classes of cells over images."""

    def __init__(self) -> None:
        self._confusion = np.zeros((len(CLASSES), len(CLASSES)), np.int64)

    def add(self, found: npt.NDArray[np.uint8], truth: npt.NDArray[np.uint8]) -> None:
        """Any shape; cells that are NOTHING do not count."""
        known = truth != NOTHING
        both = truth[known].astype(np.int64) * len(CLASSES) + found[known]
        self._confusion += np.bincount(both, minlength=self._confusion.size).reshape(
            self._confusion.shape
        )

    def figures(self) -> dict[str, Any]:
        """IoU of each class that is there, and their mean."""
        right, there = self._confusion.diagonal(), self._confusion.sum(1)
        union = there + self._confusion.sum(0) - right
        by_class = {
            name: float(right[index] / union[index])
            for index, name in enumerate(CLASSES)
            if there[index]
        }
        return {'mean_iou': float(np.mean(list(by_class.values()))), 'by_class': by_class}


class Shares:
    """Adds up depths of cells over images."""

    def __init__(self) -> None:
        self.cells = self.near = 0

    def add(self, found: Floats, truth: Floats) -> None:
        """Metres, any shape; cells of unknown depth, 0, do not count."""
        known = truth > 0
        ratio = found[known].astype(np.float64) / truth[known]
        self.cells += int(known.sum())
        self.near += int((np.maximum(ratio, 1 / ratio) < FACTOR).sum())

    def figures(self) -> dict[str, Any]:
        """Share within a factor of 1.25."""
        return {'delta1': self.near / max(self.cells, 1), 'cells': self.cells}


@torch.inference_mode()
def counted(
    network: MultitaskNetwork, arrays: Arrays, text: str
) -> tuple[Detections, Segments, Shares]:
    """What a network finds in all images of a split."""
    sums = Detections(), Segments(), Shares()
    for begin in track(range(0, len(arrays['images']), BATCH), text, transient=True):
        part = {name: each[begin : begin + BATCH] for name, each in arrays.items()}
        found = {
            name: each.numpy() for name, each in network.answers(images_of(part['images'])).items()
        }
        for index, rows in enumerate(found.get('boxes', ())):
            sums[0].add(rows, *(part[name][index] for name in ('boxes', 'kind', 'counted')))
        if 'classes' in found:
            sums[1].add(found['classes'], part['classes'])
        if 'depth' in found:
            sums[2].add(found['depth'], part['depth'])
    return sums


def accuracy_of(
    network: MultitaskNetwork, calibration: Arrays, test: Arrays, name: str
) -> tuple[dict[str, float], dict[str, Any]]:
    """The one accuracy of each task, and all figures."""
    score = 0.0
    if 'detection' in network.tasks:
        score = counted(network, calibration, f'{name}: calibration')[0].best_score()
    detections, segments, shares = counted(network, test, f'{name}: test')
    accuracy, details = {}, {}
    for task in network.tasks:
        if task == 'detection':
            details[task], key = detections.figures(score), 'f1'
        elif task == 'segmentation':
            details[task], key = segments.figures(), 'mean_iou'
        else:
            details[task], key = shares.figures(), 'delta1'
        accuracy[task] = details[task][key]
    return accuracy, details


@torch.inference_mode()
def measured(networks: Mapping[str, MultitaskNetwork], repeats: int) -> dict[str, dict[int, float]]:
    """Processor seconds, medians, by network and batch, taken in turn so that what slows the
    machine down slows all; the first round is not counted."""
    preprocess = ImagePreprocess(Preprocess(resize=(HEIGHT_PX, WIDTH_PX)))
    rng = np.random.default_rng(0)
    frame = torch.from_numpy(rng.integers(0, 256, CAMERA, np.uint8))
    taken: dict[tuple[str, int], list[float]] = {
        (name, batch): [] for name in networks for batch in TIMED
    }
    for _ in track(range(repeats + 1), 'times', transient=True):
        for (name, batch), each in taken.items():
            begun_s = time.thread_time()
            images = torch.cat([preprocess(frame) for _ in range(batch)])
            networks[name].answers(images)
            each.append(time.thread_time() - begun_s)
    return {
        name: {batch: statistics.median(taken[name, batch][1:]) for batch in TIMED}
        for name in networks
    }


def fitted(seconds: Mapping[int, float]) -> tuple[float, float]:
    """(alpha, beta), neither below 0, so that alpha + beta b comes near the time of a batch of b:
    least squares of the relative error."""
    batches, times = (np.array(list(each), float) for each in (seconds, seconds.values()))
    columns = np.stack([np.ones_like(batches), batches], 1) / times[:, None]
    alpha, beta = np.linalg.lstsq(columns, np.ones_like(times), rcond=None)[0]
    if alpha < 0:
        return 0.0, float(columns[:, 1].sum() / np.square(columns[:, 1]).sum())
    return float(alpha), float(beta)


def restored(folder: Path) -> dict[str, MultitaskNetwork]:
    """The networks of ``NETWORKS`` that are in a folder. ``ModelError`` where there are none, or
    weights of others."""
    found = {}
    for name, its in NETWORKS.items():
        path = folder / f'{name}.safetensors'
        if path.exists():
            network = MultitaskNetwork(SIZES[its.size], its.tasks, fused=True)
            load_weights(network, str(path))
            found[name] = network.eval()
    if not found:
        raise ModelError(f'no networks in {folder}: python -m offload_ros.training.multitask.train')
    return found


def evaluate(folder: Path, data: Path, repeats: int) -> dict[str, Any]:
    """All figures, as they are written."""
    networks = restored(folder)
    calibration, test = load(data, 'calibration'), load(data, 'test')
    torch.set_num_threads(1)
    seconds = measured(networks, repeats)
    models = {}
    for name, network in networks.items():
        alpha_s, beta_s = fitted(seconds[name])
        accuracy, details = accuracy_of(network, calibration, test, name)
        models[name] = {
            'tasks': list(network.tasks),
            'accuracy': accuracy,
            'parameters': sum(each.numel() for each in network.parameters()),
            'size_bytes': (folder / f'{name}.safetensors').stat().st_size,
            'alpha_s': alpha_s,
            'beta_s': beta_s,
            'seconds_of_batch': seconds[name],
            'details': details,
        }
    runtime = {'torch': torch.__version__, 'cpu': torch.backends.cpu.get_cpu_capability()}
    return {
        'images': len(test['images']),
        'batches': list(TIMED),
        'repeats': repeats,
        'runtime': {**runtime, 'threads': 1},
        'models': models,
    }


def show(told: Mapping[str, Any], console: Console) -> None:
    """As a table."""
    table = Table('network', *TASKS, 'parameters', 'kB', 'alpha ms', 'beta ms')
    for name, each in told['models'].items():
        shares = [each['accuracy'].get(task) for task in TASKS]
        table.add_row(
            name,
            *('-' if share is None else f'{share:.3f}' for share in shares),
            f'{each["parameters"]:,}',
            f'{each["size_bytes"] / 1e3:.0f}',
            f'{1e3 * each["alpha_s"]:.2f}',
            f'{1e3 * each["beta_s"]:.2f}',
        )
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or '').split('\n\n')[0])
    parser.add_argument('folder', type=Path, help='of the networks')
    parser.add_argument('--data', type=Path, required=True)
    parser.add_argument('--repeats', type=int, default=30, help='of each time')
    parser.add_argument('--json', type=Path, default=RESULTS, help='where figures are written')
    arguments = parser.parse_args()
    try:
        told = evaluate(arguments.folder, arguments.data, arguments.repeats)
    except (ModelError, ValueError) as error:
        sys.exit(f'evaluate: {error}')
    show(told, Console())
    arguments.json.write_text(json.dumps(told, indent=1) + '\n')


if __name__ == '__main__':
    main()
