"""What a SCONet completes in rooms that it has not seen.

    python -m offload_ros.training.sconet.evaluate WEIGHTS --data DATA

The threshold from which on a voxel counts as occupied is chosen on the split ``calibration``, where
80 % of what is found there is right. Counted are voxels above the floor, in the room.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
import sys
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.progress import track
from rich.table import Table
import torch

from offload_ros.models.errors import ModelError
from offload_ros.models.sconet import load_weights
from offload_ros.models.sconet_network import ScoNetwork
from offload_ros.navigation.voxels import unpacked
from offload_ros.training.sconet.metrics import Scores
from offload_ros.training.sconet.scenes import (
    GRID,
    OBJECT,
    PLANES,
    SPLITS,
    STRUCTURE,
    UNKNOWN,
    labels_of,
    load,
)
from offload_ros.training.sconet.train import network_of
from offload_ros.training.worlds import Arrays


def restored(path: Path) -> ScoNetwork:
    """The small network for whole grids; ``ModelError`` for weights of another one."""
    network = network_of(GRID.width)
    load_weights(network, str(path))
    return network.eval()


@torch.inference_mode()
def probabilities(network: ScoNetwork, seen: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """(W, H, D): how probable it is that a voxel is occupied by anything but the floor."""
    logits = network(torch.from_numpy(seen.astype(np.float32))[None])
    shares = logits.float().softmax(1)[0]
    return np.asarray((shares[STRUCTURE] + shares[OBJECT]).numpy())


def scores_of(network: ScoNetwork, planes: Arrays, threshold: float, text: str) -> Scores:
    """Of all scenes of a split."""
    scores = Scores()
    for at in track(range(len(planes['seen'])), text):
        scene = {name: planes[name][at] for name in PLANES}
        seen, labels = unpacked(scene['seen'], GRID.shape), labels_of(scene)
        counted = labels != UNKNOWN
        counted[:, 0] = False
        scores.add(
            seen > 0,
            (labels == STRUCTURE) | (labels == OBJECT),
            counted,
            probabilities(network, seen),
            threshold,
        )
    return scores


def show(figures: dict[str, Any], console: Console) -> None:
    table = Table('', 'of the truth')
    for key, text in (
        ('iou_seen', 'IoU of what was seen'),
        ('iou_completed', 'IoU, completed'),
        ('recall', 'recall of unseen voxels at precision 0.8'),
        ('recall_beside', '... beside seen ones'),
        ('recall_hidden', '... further away'),
    ):
        table.add_row(text, f'{figures[key]:.3f}')
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or '').splitlines()[0])
    parser.add_argument('weights', type=Path)
    parser.add_argument('--data', type=Path, required=True)
    parser.add_argument('--split', default='test', choices=SPLITS[1:])
    parser.add_argument('--json', type=Path, help='where the figures are written')
    arguments = parser.parse_args()
    try:
        network = restored(arguments.weights)
        threshold = scores_of(
            network, load(arguments.data, 'calibration'), 0.5, 'calibration'
        ).figures()['threshold']
        planes = load(arguments.data, arguments.split)
    except (FileNotFoundError, ModelError) as error:
        sys.exit(f'evaluate: {error}')
    figures = scores_of(network, planes, threshold, arguments.split).figures()
    figures |= {'scenes': len(planes['seen']), 'threshold': threshold}
    show(figures, Console())
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1))


if __name__ == '__main__':
    main()
