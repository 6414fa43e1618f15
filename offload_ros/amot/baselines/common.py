"""What all baselines of A-MOT share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from transformers import ViTForImageClassification

from offload_ros.amot.bundle import Bundle, BundleError, load, load_classifier
from offload_ros.amot.evaluate import BATCH, Images, Labels, batches
from offload_ros.amot.inference import First, classified, whole
from offload_ros.amot.networks import embed, encode
from offload_ros.amot.patches import patches_of

DROPPED = 'classifier_dropped'


@dataclass(frozen=True)
class Networks:
    """A bundle, and a classifier that was trained with patches missing, where there is one."""

    bundle: Bundle
    dropped: ViTForImageClassification | None = None


@dataclass(frozen=True)
class Answers:
    """Labels (M,) that a method gives, and bytes (M,) that it took."""

    labels: Labels
    sent: npt.NDArray[np.int64]


class Baseline(Protocol):
    """A way to classify images with at most ``limit`` bytes each on the wire.

    drawn: its answers differ with ``run``, the seed of its draws. choices: settings among which
    calibration chooses; an empty one where nothing fits ``limit``.
    """

    name: str
    drawn: bool

    def choices(self, limit: int) -> Sequence[Any]: ...

    def __call__(self, images: Images, limit: int, choice: Any, run: int) -> Answers: ...


def load_networks(folder: Path) -> Networks:
    """The bundle of a folder, and ``classifier_dropped`` where it is there."""
    bundle = load(folder)
    place = folder / DROPPED
    if not (place / 'config.json').exists():
        return Networks(bundle)
    model, _ = load_classifier(folder, DROPPED)
    ours, its = bundle.classifier.config, model.config
    if (ours.image_size, ours.patch_size, ours.num_labels) != (
        its.image_size,
        its.patch_size,
        its.num_labels,
    ):
        raise BundleError(f'{place} sees other images, or knows other classes, than classifier')
    return Networks(bundle, model.eval().requires_grad_(False))


def tuned(
    baseline: Baseline, images: Images, limit: int, answers: dict[Any, float] | None = None
) -> Any:
    """The choice that gets most of ``images`` (of calibration) right; None: nothing fits.

    The first of equals. ``answers``: gets the accuracy of each choice.
    """
    choices = baseline.choices(limit)
    if len(choices) < 2 and answers is None:
        return choices[0] if choices else None
    best, most = None, -1.0
    for choice in choices:
        found = baseline(images, limit, choice, run=900)
        accuracy = float((found.labels == images.labels).mean())
        if answers is not None:
            answers[choice] = accuracy
        if accuracy > most:
            best, most = choice, accuracy
    return best


def first_of(bundle: Bundle, pictures: npt.NDArray[Any]) -> First:
    """The classifier's pass over pictures (B, H, W, 3), values 0 to 255."""
    return whole(bundle, patches_of(torch.from_numpy(pictures), bundle.patch_px))


def classify(bundle: Bundle, pictures: npt.NDArray[Any]) -> Labels:
    """Labels (M,) of pictures (M, H, W, 3), values 0 to 255."""
    found = [
        first_of(bundle, pictures[part]).probabilities.argmax(-1)
        for part in batches(len(pictures), BATCH)
    ]
    return np.asarray(torch.cat(found).numpy(), np.int64)


@torch.inference_mode()
def classify_filled(
    bundle: Bundle, patches: torch.Tensor, positions: torch.Tensor, fill: str
) -> Labels:
    """Labels (B,) from patches (B, K, P) at positions (B, K). ``fill``: of the others, 'black', or
    'mean', the colour that is zero for the network."""
    known = bundle.normalise(patches.float())
    shape = (len(known), bundle.patches, known.shape[-1])
    hole = bundle.normalise(torch.zeros(1)) if fill == 'black' else torch.zeros(shape[-1])
    index = positions[:, :, None].expand(-1, -1, shape[-1])
    filled = hole.expand(shape).scatter(1, index, known)
    labels = classified(bundle, filled).probabilities.argmax(-1)
    return np.asarray(labels.numpy(), np.int64)


@torch.inference_mode()
def classify_dropped(networks: Networks, patches: torch.Tensor, positions: torch.Tensor) -> Labels:
    """The same by the network that was trained with patches missing: it sees only these."""
    model = networks.dropped
    if model is None:
        raise ValueError(f'there is no {DROPPED} in this folder of networks')
    known = networks.bundle.normalise(patches.float())
    embeddings, _ = encode(model.vit, embed(model.vit, known, positions))
    labels = model.classifier(embeddings[:, 0]).argmax(-1)
    return np.asarray(labels.numpy(), np.int64)
