"""The robot computes the classifier's first layer and sends what comes out: PO and MBC."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from offload_ros.amot.baselines.common import Answers, Networks
from offload_ros.amot.bundle import Bundle
from offload_ros.amot.evaluate import HEADER_BYTES, Images, Labels, batches
from offload_ros.amot.networks import embed, layers_of, through

Floats = npt.NDArray[np.float64]
MOST_BITS = 12  # of one value
FIT_IMAGES = 512


@torch.inference_mode()
def tokens_after(bundle: Bundle, patches: torch.Tensor, layers: int) -> torch.Tensor:
    """Tokens (B, 1 + N, D) of patches (B, N, P) uint8 after ``layers`` of the classifier."""
    vit = bundle.classifier.vit
    tokens = embed(vit, bundle.normalise(patches.float()))
    for layer in layers_of(vit)[:layers]:
        tokens = through(layer, tokens)
    return tokens


@torch.inference_mode()
def labels_from(bundle: Bundle, tokens: torch.Tensor, layers: int) -> Labels:
    """Labels (B,) by the rest of the classifier."""
    vit = bundle.classifier.vit
    for layer in layers_of(vit)[layers:]:
        tokens = through(layer, tokens)
    logits = bundle.classifier.classifier(vit.layernorm(tokens)[:, 0])
    return np.asarray(logits.argmax(-1).numpy(), np.int64)


def bits_for(deviations: Floats, total: int) -> npt.NDArray[np.int64]:
    """Bits of each value, ``total`` together, where deviations (D,) are known: one after the other
    to the value that is least exact (the optimum for values that are independent and normal)."""
    bits = np.zeros(len(deviations), np.int64)
    left = np.array(deviations, np.float64)
    for _ in range(min(total, MOST_BITS * len(bits))):
        at = int(np.argmax(np.where(bits < MOST_BITS, left, -1.0)))
        bits[at] += 1
        left[at] /= 2.0
    return bits


def quantised(
    values: torch.Tensor, deviations: Floats, bits: npt.NDArray[np.int64]
) -> torch.Tensor:
    """Values (..., D), mean 0, as they are after uniform quantisation; 0 where no bits are."""
    levels = torch.from_numpy(2.0**bits).float()
    # As wide as is best for normal values: the more levels, the further out.
    reach = torch.from_numpy((1.25 + 0.345 * bits) * deviations).float().clamp_min(1e-9)
    step = 2 * reach / levels
    index = ((values + reach) / step).floor().clamp(min=torch.zeros(()), max=levels - 1)
    seen = (index + 0.5) * step - reach
    return torch.where(torch.from_numpy(bits > 0), seen, torch.zeros(()))


class SplitNetwork:
    """A layer split, quantised to the bytes there are; scales are fitted on calibration images.

    PO (``layers`` 0, ``compressed`` False): what the patch embedding gives, each channel with its
    own scale. MBC (``layers`` 1, ``compressed`` True): what the first transformer layer gives, its
    principal components with bits by their variance (the optimal linear code; the paper trains an
    encoder). Both need a robot that computes: ``robot_macs`` an image.
    """

    drawn = False

    def __init__(
        self, name: str, networks: Networks, calibration: Images, layers: int, compressed: bool
    ) -> None:
        self.name = name
        self._networks, self._layers = networks, layers
        # Without a layer CLS is a constant, and so are the positions, which the mean holds.
        self._skip = 0 if layers else 1
        tokens = self._tokens(calibration.some(FIT_IMAGES).patches)[:, self._skip :]
        self._mean = tokens.mean(0)
        centred = (tokens - self._mean).flatten(0, 1)
        width = centred.shape[1]
        self._basis = torch.eye(width)
        if compressed:
            covariance = (centred.T @ centred / len(centred)).double()
            self._basis = torch.linalg.eigh(covariance).eigenvectors.flip(1).float()
        coefficients = centred @ self._basis
        self._deviations: Floats = np.asarray(coefficients.std(0).numpy(), np.float64)
        self._last: tuple[Images, npt.NDArray[np.int64], Labels] | None = None

    def _tokens(self, patches: torch.Tensor) -> torch.Tensor:
        parts = [
            tokens_after(self._networks.bundle, patches[part], self._layers)
            for part in batches(len(patches))
        ]
        return torch.cat(parts)

    @property
    def robot_macs(self) -> int:
        """Multiplications and additions of one image on the robot."""
        config = self._networks.bundle.classifier.config
        patches, width = self._networks.bundle.patches, config.hidden_size
        tokens = patches + 1
        layer = tokens * width * (4 * width + 2 * config.intermediate_size) + 2 * tokens**2 * width
        embedding = patches * width * 3 * config.patch_size**2
        return int(embedding + self._layers * layer)

    def bits(self, limit: int) -> npt.NDArray[np.int64]:
        """Bits of each value of a token."""
        total = 8 * max(0, limit - HEADER_BYTES) // len(self._mean)
        return bits_for(self._deviations, total)

    def choices(self, limit: int) -> Sequence[str]:
        return ('bits by deviation',) if self.bits(limit).any() else ()

    def __call__(self, images: Images, limit: int, choice: Any, run: int) -> Answers:
        bits = self.bits(limit)
        last = self._last
        if last is None or last[0] is not images or not np.array_equal(last[1], bits):
            # More bytes than the values have bits change nothing.
            self._last = last = images, bits, self._answered(images, bits)
        sent = HEADER_BYTES + -(-int(bits.sum()) * len(self._mean) // 8)
        return Answers(last[2], np.full(len(images), sent, np.int64))

    def _answered(self, images: Images, bits: npt.NDArray[np.int64]) -> Labels:
        bundle, labels = self._networks.bundle, []
        for part in batches(len(images)):
            tokens = tokens_after(bundle, images.patches[part], self._layers)
            coefficients = (tokens[:, self._skip :] - self._mean) @ self._basis
            seen = quantised(coefficients, self._deviations, bits) @ self._basis.T + self._mean
            labels.append(
                labels_from(bundle, torch.cat([tokens[:, : self._skip], seen], 1), self._layers)
            )
        return np.concatenate(labels)
