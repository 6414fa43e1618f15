"""What each network of A-MOT is trained for."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional
from transformers import ViTForImageClassification, ViTMAEForPreTraining

from offload_ros.amot.batches import Batch, random_positions
from offload_ros.amot.bundle import Bundle
from offload_ros.amot.inference import missing_by_attention
from offload_ros.amot.networks import embed, encode, layers_of, rebuilt, taken, through

Loss = tuple[torch.Tensor, dict[str, float]]
SMOOTHING = 0.1
PARTS_WEIGHT = 0.5


def uniform(generator: torch.Generator, low: float, high: float) -> float:
    return low + (high - low) * float(torch.rand((), generator=generator))


def mae_loss(
    mae: ViTMAEForPreTraining,
    images: torch.Tensor,
    generator: torch.Generator,
    shares: tuple[float, float],
) -> Loss:
    """Mean squared error of the patches that were not seen (MAE), of normalised patches (B, N, P).

    ``shares``: least and most of the patches that are seen; A-MOT samples at many ratios.
    """
    batch, total, _ = images.shape
    count = max(1, int(uniform(generator, *shares) * total))
    positions = random_positions(batch, count, total, generator).to(images.device)
    drawn = rebuilt(mae, taken(images, positions), positions)
    error = (drawn.float() - images).square().sum()  # what was seen is unchanged: 0
    loss = error / (batch * (total - count) * images.shape[-1])
    return loss, {}


class PartsHead(nn.Module):
    """Says what each patch shows: it only helps the training, and is not kept."""

    def __init__(self, width: int, labels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, labels + 1)  # 0: nothing

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.linear(tokens)
        return logits


def classifier_loss(
    classifier: ViTForImageClassification,
    parts_head: PartsHead,
    images: torch.Tensor,
    batch: Batch,
    generator: torch.Generator,
    keep: tuple[float, float],
) -> Loss:
    """Cross-entropy of the label, and of what each patch shows where that is known.

    ``keep``: least and most of the patches that the network is given; the same number for all
    images of a batch.
    """
    count, total, _ = images.shape
    share = uniform(generator, *keep)
    positions = None
    if share < 1.0:
        positions = random_positions(count, max(1, int(share * total)), total, generator)
        positions = positions.to(images.device)
        images = taken(images, positions)
    vit = classifier.vit
    tokens = embed(vit, images, positions)
    for layer in layers_of(vit):
        tokens = through(layer, tokens)
    tokens = vit.layernorm(tokens)
    logits = classifier.classifier(tokens[:, 0]).float()
    loss = functional.cross_entropy(logits, batch.labels, label_smoothing=SMOOTHING)
    if batch.parts is not None:
        parts = batch.parts if positions is None else batch.parts.gather(1, positions)
        shown = parts_head(tokens[:, 1:]).float()
        loss = loss + PARTS_WEIGHT * functional.cross_entropy(shown.flatten(0, 1), parts.flatten())
    right = (logits.argmax(-1) == batch.labels).float().mean()
    return loss, {'right': right.item()}


@torch.no_grad()
def spoiled(
    images: torch.Tensor,
    mae: ViTMAEForPreTraining | None,
    rebuilt_share: float,
    shares: tuple[float, float],
    generator: torch.Generator,
) -> torch.Tensor:
    """Normalised patches, the first ``rebuilt_share`` of the batch as the autoencoder rebuilds
    them: the classifier shall know such images too."""
    count = int(rebuilt_share * len(images))
    if mae is None or not count:
        return images
    total = images.shape[1]
    sent = max(1, int(uniform(generator, *shares) * total))
    positions = random_positions(count, sent, total, generator).to(images.device)
    drawn = rebuilt(mae, taken(images[:count], positions), positions)
    return torch.cat([drawn.to(images.dtype), images[count:]])


def second_loss(
    bundle: Bundle,
    images: torch.Tensor,
    labels: torch.Tensor,
    generator: torch.Generator,
    first_shares: tuple[float, float],
    second_shares: tuple[float, float],
) -> Loss:
    """Cross-entropy of the second pass's answer; everything else is frozen."""
    assert bundle.second is not None
    count, total, _ = images.shape
    sent = max(1, int(uniform(generator, *first_shares) * total))
    more = max(1, min(total - sent, round(uniform(generator, *second_shares) * total)))
    positions = random_positions(count, sent, total, generator).to(images.device)
    vit = bundle.classifier.vit
    with torch.no_grad():
        drawn = rebuilt(bundle.mae, taken(images, positions), positions)
        first, attention = encode(vit, embed(vit, drawn))
        wanted = missing_by_attention(attention, positions, more)
        second, _ = encode(vit, embed(vit, taken(images, wanted), wanted))
        before = bundle.classifier.classifier(first[:, 0]).argmax(-1)
    logits = bundle.second(first, second, wanted).float()
    loss = functional.cross_entropy(logits, labels, label_smoothing=SMOOTHING)
    right = (logits.argmax(-1) == labels).float().mean().item()
    return loss, {'first': (before == labels).float().mean().item(), 'right': right}
