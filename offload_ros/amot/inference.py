"""What the server computes for A-MOT: first pass, choice of patches, second pass, in batches."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from offload_ros.amot.bundle import Bundle
from offload_ros.amot.networks import embed, encode, put, rebuilt


@dataclass(frozen=True)
class First:
    """The first pass of a batch.

    embeddings (B, 1 + N, D) and attention (B, N) of the rebuilt images, probabilities (B, labels).
    """

    embeddings: torch.Tensor
    attention: torch.Tensor
    probabilities: torch.Tensor

    @property
    def confidence(self) -> torch.Tensor:
        """(B,): the greatest probability."""
        return self.probabilities.max(-1).values


@torch.inference_mode()
def whole(bundle: Bundle, patches: torch.Tensor) -> First:
    """The classifier on whole images, patches (B, N, P) uint8 or float, values 0 to 255."""
    return classified(bundle, bundle.normalise(patches.float()))


@torch.inference_mode()
def first_pass(bundle: Bundle, patches: torch.Tensor, positions: torch.Tensor) -> First:
    """Rebuild images from patches (B, K, P) uint8 at positions (B, K), and classify them."""
    known = bundle.normalise(patches.float())
    return classified(bundle, rebuilt(bundle.mae, known, positions))


def classified(bundle: Bundle, images: torch.Tensor) -> First:
    """The classifier on normalised patches (B, N, P)."""
    vit = bundle.classifier.vit
    embeddings, attention = encode(vit, embed(vit, images))
    logits = bundle.classifier.classifier(embeddings[:, 0])
    return First(embeddings, attention, logits.float().softmax(-1))


def missing_by_attention(attention: torch.Tensor, have: torch.Tensor, count: int) -> torch.Tensor:
    """The ``count`` positions (B, count) with highest attention (B, N) that are not in have (B, K).

    Descending by attention; lower positions first among equals.
    """
    wanted = put(attention[..., None], have, attention.new_full((*have.shape, 1), -1.0))[..., 0]
    return wanted.sort(dim=-1, descending=True, stable=True).indices[:, :count]


@torch.inference_mode()
def second_pass(
    bundle: Bundle, first: torch.Tensor, patches: torch.Tensor, positions: torch.Tensor
) -> torch.Tensor:
    """Probabilities (B, labels) from the first pass's embeddings and new patches (B, K, P) uint8 at
    positions (B, K)."""
    if bundle.second is None:
        raise ValueError('these networks have no second pass')
    new = embed(bundle.classifier.vit, bundle.normalise(patches.float()), positions)
    embeddings, _ = encode(bundle.classifier.vit, new)
    logits: torch.Tensor = bundle.second(first, embeddings, positions)
    return logits.float().softmax(-1)
