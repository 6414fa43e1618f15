"""How often a classifier is right about whole images."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import ViTForImageClassification

from offload_ros.amot.bundle import load_classifier
from offload_ros.amot.dataset import Split
from offload_ros.amot.networks import embed, encode
from offload_ros.amot.patches import patches_of


@torch.inference_mode()
def accuracy(folder: Path, name: str, split: Split, batch: int = 128) -> dict[str, float]:
    """{'all', 'easy', 'hard'}: shares of right answers, those with images only."""
    classifier, normalise = load_classifier(folder, name)
    right = torch.cat(
        [
            answers(classifier, normalise(_patches(split, start, batch, classifier)))
            for start in range(0, len(split), batch)
        ]
    ) == torch.from_numpy(split.labels.astype('int64'))
    hard = torch.from_numpy(split.hard.copy())
    kinds = {'all': torch.ones_like(hard), 'easy': ~hard, 'hard': hard}
    return {
        kind: round(right[mask].float().mean().item(), 4)
        for kind, mask in kinds.items()
        if mask.any()
    }


def _patches(
    split: Split, start: int, count: int, classifier: ViTForImageClassification
) -> torch.Tensor:
    images = torch.from_numpy(split.images[start : start + count].copy())
    return patches_of(images, classifier.config.patch_size).float()


def answers(classifier: ViTForImageClassification, images: torch.Tensor) -> torch.Tensor:
    """Labels (B,) of normalised patches (B, N, P)."""
    embeddings, _ = encode(classifier.vit, embed(classifier.vit, images))
    logits: torch.Tensor = classifier.classifier(embeddings[:, 0])
    return logits.argmax(-1)
