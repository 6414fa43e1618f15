"""How many images A-MOT gets right with how many bytes: both rounds for a whole set of images.

Used by calibration and the benchmarks. Bytes are those of the strategy's own messages
(``messages``), both ways, apart from the answer: heads, the seed of the sample, the patches, and
what the second round asks for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
import math

import numpy as np
import numpy.typing as npt
import torch

from offload_ros.amot.allocation import Distributions, allocate
from offload_ros.amot.bundle import Bundle
from offload_ros.amot.dataset import Split
from offload_ros.amot.inference import First, first_pass, missing_by_attention, second_pass, whole
from offload_ros.amot.messages import (
    MORE_HEAD_BYTES,
    SAMPLE_HEAD_BYTES,
    Wanted,
    answer_to_buffers,
    bytes_in,
)
from offload_ros.amot.networks import SecondPass
from offload_ros.amot.patches import patches_of, sample

HEADER_BYTES = SAMPLE_HEAD_BYTES  # of what a robot sends first, whatever it is; seed included
BATCH = 128
Labels = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Wire:
    """What messages take: of images of ``patches`` patches, ``patch_bytes`` each."""

    patches: int
    patch_bytes: int

    @property
    def raw_bytes(self) -> int:
        """An image's pixels, without a header: what traffic is a share of."""
        return self.patches * self.patch_bytes

    def positions_bytes(self, count: int) -> int:
        """``count`` positions that a robot chose: a list, or one bit for each patch."""
        return min(math.ceil(self.patches / 8), count * (1 if self.patches <= 256 else 2))

    def first_bytes(self, count: int) -> int:
        """The first round with ``count`` patches."""
        return HEADER_BYTES + count * self.patch_bytes

    def asking_bytes(self, count: int) -> int:
        """The second round with ``count`` patches, without these."""
        return _asking_bytes(count) + MORE_HEAD_BYTES if count else 0

    def second_bytes(self, count: int) -> int:
        """The second round: what is asked for, and what comes."""
        return self.asking_bytes(count) + count * self.patch_bytes

    def chosen_bytes(self, count: int) -> int:
        """One message with ``count`` patches that the robot chose, positions with them."""
        return HEADER_BYTES + self.positions_bytes(count) + count * self.patch_bytes

    def most(self, limit: int, takes: Callable[[int], int]) -> int:
        """The most patches for which ``takes`` (one of the above) is at most ``limit`` bytes."""
        count = max(0, min(self.patches, limit // self.patch_bytes))
        while count and takes(count) > limit:
            count -= 1
        return count


@lru_cache
def _asking_bytes(count: int) -> int:
    positions = np.arange(count, dtype=np.uint16)
    return bytes_in(answer_to_buffers(Wanted(positions, 0.0)))


@dataclass(frozen=True)
class Images:
    """A split as patches (M, N, P) uint8, with labels (M,) and what the split knows beside."""

    patches: torch.Tensor
    labels: Labels
    split: Split

    @staticmethod
    def of(split: Split, patch_px: int) -> Images:
        patches = patches_of(torch.from_numpy(np.array(split.images)), patch_px)
        return Images(patches.contiguous(), split.labels.astype(np.int64), split)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def wire(self) -> Wire:
        return Wire(int(self.patches.shape[1]), int(self.patches.shape[2]))

    def some(self, count: int) -> Images:
        """``count`` of them, evenly spread."""
        at = np.linspace(0, len(self) - 1, min(count, len(self))).round().astype(np.int64)
        split = Split(**{name: values[at] for name, values in self.split.arrays().items()})
        return Images(self.patches[torch.from_numpy(at)], self.labels[at], split)


def seed_of(run: int, image: int) -> int:
    """Of the sample of an image in a run: 32 bits, different for all."""
    return (run * 0x9E3779B1 + image * 0x85EBCA6B + 1) & 0xFFFFFFFF


def samples(run: int, count: int, total: int, images: int) -> torch.Tensor:
    """Positions (images, count) of the first round."""
    drawn = [sample(seed_of(run, image), count, total) for image in range(images)]
    return torch.from_numpy(np.stack(drawn))


def batches(count: int, size: int = BATCH) -> Iterator[slice]:
    """Parts of ``count`` images."""
    for begin in range(0, count, size):
        yield slice(begin, min(begin + size, count))


@dataclass(frozen=True)
class FirstRound:
    """The first round of all images: positions (M, K) and what came of it."""

    positions: torch.Tensor
    first: First

    @property
    def labels(self) -> Labels:
        return np.asarray(self.first.probabilities.argmax(-1).numpy(), np.int64)

    @property
    def confidence(self) -> npt.NDArray[np.float64]:
        return np.asarray(self.first.confidence.numpy(), np.float64)

    @property
    def count(self) -> int:
        return int(self.positions.shape[1])


def _joined(parts: Sequence[First]) -> First:
    return First(
        torch.cat([part.embeddings for part in parts]),
        torch.cat([part.attention for part in parts]),
        torch.cat([part.probabilities for part in parts]),
    )


def run_first(
    bundle: Bundle,
    images: Images,
    count: int,
    run: int,
    seen: torch.Tensor | None = None,
    tell: Callable[[int], None] = lambda done: None,
) -> FirstRound:
    """The first round of all images with ``count`` patches. ``run``: seed of the samples.

    seen (M, count, P): the patches as they arrive, where coding changed them. tell: called with
    the number of images of each batch.
    """
    total = images.wire.patches
    positions = samples(run, count, total, len(images))
    parts = []
    for part in batches(len(images)):
        at = positions[part]
        here = images.patches[part]
        came = here[torch.arange(len(here))[:, None], at] if seen is None else seen[part]
        parts.append(first_pass(bundle, came, at))
        tell(len(here))
    return FirstRound(positions, _joined(parts))


def run_whole(bundle: Bundle, images: Images) -> First:
    """The classifier on all images as they are."""
    return _joined([whole(bundle, images.patches[part]) for part in batches(len(images))])


def run_second(
    bundle: Bundle,
    images: Images,
    rounds: FirstRound,
    counts: npt.NDArray[np.int64],
    second: SecondPass | None = None,
) -> Labels:
    """Labels (M,) after second rounds of counts (M,) patches; those of the first where it is 0.

    second: instead of the bundle's own second pass.
    """
    used = bundle if second is None else replace(bundle, second=second)
    labels: Labels = rounds.labels
    for count in np.unique(counts[counts > 0]):
        chosen = torch.from_numpy(np.flatnonzero(counts == count))
        for part in batches(len(chosen)):
            at = chosen[part]
            wanted = missing_by_attention(
                rounds.first.attention[at], rounds.positions[at], int(count)
            )
            patches = images.patches[at[:, None], wanted]
            found = second_pass(used, rounds.first.embeddings[at], patches, wanted)
            labels[at.numpy()] = found.argmax(-1).numpy()
    return labels


@dataclass(frozen=True)
class Second:
    """How second rounds are given out: patches (M,) of each image."""

    counts: npt.NDArray[np.int64]

    def sent(self, wire: Wire, first: int) -> npt.NDArray[np.int64]:
        """Bytes (M,) of both rounds, with ``first`` patches in the first."""
        takes = np.array([wire.second_bytes(count) for count in range(wire.patches + 1)])
        return np.asarray(wire.first_bytes(first) + takes[self.counts], np.int64)


def adaptive(
    rounds: FirstRound,
    distributions: Distributions,
    wire: Wire,
    limit: float,
    confidence: float,
    weighted: bool = True,
    net: bool = False,
) -> Second:
    """A-MOT: what the allocation gives each image under ``confidence``; ``limit``: mean bytes of
    an image, both rounds together."""
    found = rounds.confidence
    asked = found < confidence
    room = len(found) * (limit - wire.first_bytes(rounds.count))
    # Whoever is asked may get any number of patches: its headers are paid for beforehand.
    room -= int(asked.sum()) * wire.asking_bytes(wire.patches)
    budget = max(0.0, room / wire.patch_bytes)
    missing = wire.patches - rounds.count
    options = [min(option, missing) for option in distributions.options]
    table = distributions.net() if net else distributions.p
    chosen = allocate(table, options, distributions.histogram(found[asked]), budget, weighted)
    inner = np.asarray(distributions.edges[1:-1])
    interval = np.searchsorted(inner, found, side='right')
    counts = np.array([options[option] for option in chosen])[interval]
    return Second(np.where(asked, counts, 0).astype(np.int64))


def fixed(rounds: FirstRound, wire: Wire, count: int, confidence: float) -> Second:
    """MOT: each image under ``confidence`` gets ``count`` patches."""
    count = min(count, wire.patches - rounds.count)
    return Second(np.where(rounds.confidence < confidence, count, 0).astype(np.int64))


def even(rounds: FirstRound, wire: Wire, limit: float, confidence: float) -> Second:
    """What is left of ``limit`` (mean bytes of an image), evenly among the images that ask."""
    asked = int((rounds.confidence < confidence).sum())
    room = len(rounds.confidence) * (limit - wire.first_bytes(rounds.count))
    count = wire.most(int(room / asked), wire.second_bytes) if asked and room > 0 else 0
    return fixed(rounds, wire, count, confidence)
