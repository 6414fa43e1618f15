"""What goes into a round on the server, and what comes of the first."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch


@dataclass(frozen=True, eq=False)
class Patches:
    """Patches (K, P) uint8 at positions (K,) int64 of one image; of a second round also the first
    round's embeddings (1 + N, D)."""

    patches: npt.NDArray[np.uint8]
    positions: npt.NDArray[np.int64]
    embeddings: torch.Tensor | None = None


@dataclass(frozen=True, eq=False)
class FirstOf:
    """The first round of one image: embeddings (1 + N, D) where the networks compute, attention
    (1, N) and probabilities (labels,) float32 here."""

    embeddings: torch.Tensor
    attention: torch.Tensor
    probabilities: npt.NDArray[np.float32]

    @property
    def confidence(self) -> float:
        """The greatest probability."""
        return float(self.probabilities.max())
