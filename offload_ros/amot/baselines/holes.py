"""Some patches as they are, and nothing in place of the others: Non-R and the detector filter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from offload_ros.amot.baselines.common import (
    Answers,
    Networks,
    classify_dropped,
    classify_filled,
)
from offload_ros.amot.evaluate import Images, batches, samples

Floats = npt.NDArray[np.float64]
FILLS = ('mean', 'black')


def answers_with(
    networks: Networks, images: Images, positions: torch.Tensor, fill: str
) -> npt.NDArray[np.int64]:
    """Labels (M,) from the patches at positions (M, K). ``fill``: see ``classify_filled``;
    'dropped': the network that was trained with patches missing."""
    found = []
    for part in batches(len(images)):
        at = positions[part]
        here = images.patches[part]
        patches = here[torch.arange(len(here))[:, None], at]
        if fill == 'dropped':
            found.append(classify_dropped(networks, patches, at))
        else:
            found.append(classify_filled(networks.bundle, patches, at, fill))
    return np.concatenate(found)


class NoReconstruction:
    """Non-R: a random sample as in A-MOT's first round, all of the bytes in one round.

    ``dropped``: answered by a classifier that was trained with patches missing, and sees only those
    that came; else by the classifier itself, with the others filled by one colour.
    """

    drawn = True

    def __init__(self, networks: Networks, dropped: bool) -> None:
        self._networks, self._dropped = networks, dropped
        self.name = 'non_r_dropped' if dropped else 'non_r'

    def choices(self, limit: int) -> Sequence[str]:
        """The colour of the holes."""
        return ('dropped',) if self._dropped else FILLS

    def __call__(self, images: Images, limit: int, choice: Any, run: int) -> Answers:
        wire = images.wire
        count = wire.most(limit, wire.first_bytes)
        if not count:
            raise ValueError(f'{limit} bytes hold no patch')
        positions = samples(run, count, wire.patches, len(images))
        labels = answers_with(self._networks, images, positions, str(choice))
        return Answers(labels, np.full(len(images), wire.first_bytes(count), np.int64))


class DetectorFilter:
    """DF: the robot finds objects and sends only regions that show some, as raw patches.

    The paper's robot runs an SSD (about 1200 MFLOP). Stand-ins, from below and from above:
    ``oracle`` False: patches in the order of what a robot can tell without a network, how much they
    differ from the rest of the image and how near its middle they are; True: the segmentation of
    the simulator in place of a detector, which none is better than: patches of the object that
    fills most of the middle first, then those of the next. Positions travel along. When all objects
    are sent, the rest follows as far as the bytes reach.
    """

    drawn = False

    def __init__(self, networks: Networks, oracle: bool) -> None:
        self._networks, self._oracle = networks, oracle
        self.name = 'df_oracle' if oracle else 'df'

    def choices(self, limit: int) -> Sequence[tuple[str, float]]:
        """What the holes get, and how much the middle counts (of the robot's own filter)."""
        fills = FILLS if self._networks.dropped is None else (*FILLS, 'dropped')
        middles = (0.7,) if self._oracle else (0.5, 1.0)
        return [(fill, middle) for fill in fills for middle in middles]

    def __call__(self, images: Images, limit: int, choice: Any, run: int) -> Answers:
        wire = images.wire
        count = wire.most(limit, wire.chosen_bytes)
        if not count:
            raise ValueError(f'{limit} bytes hold no patch')
        fill, middle = choice
        weights = middle_weights(wire.patches, middle)
        if self._oracle:
            worth = object_worth(images.split.parts, weights)
        else:
            worth = contrast(images.patches) * weights
        order = np.argsort(-worth, axis=1, kind='stable')[:, :count]
        positions = torch.from_numpy(np.sort(order, axis=1).astype(np.int64))
        labels = answers_with(self._networks, images, positions, fill)
        return Answers(labels, np.full(len(images), wire.chosen_bytes(count), np.int64))


def middle_weights(patches: int, width: float) -> Floats:
    """(N,): a Gaussian about the middle of the image; ``width`` as a share of half its edge."""
    side = round(patches**0.5)
    line = np.linspace(-1, 1, side)
    return np.asarray(np.exp(-(line[:, None] ** 2 + line[None] ** 2) / (2 * width**2))).ravel()


def contrast(patches: torch.Tensor) -> Floats:
    """(M, N) of patches (M, N, P): how far a patch's colour is from the image's, and how much its
    own pixels differ, each as a share of the image's greatest."""
    colours = patches.float().reshape(*patches.shape[:2], -1, 3)
    mean = colours.mean(2)
    far = (mean - mean.median(1, keepdim=True).values).norm(dim=-1)
    rough = colours.std(2).mean(-1)
    shares = sum(each / (each.amax(1, keepdim=True) + 1e-6) for each in (far, rough))
    assert isinstance(shares, torch.Tensor)
    return np.asarray(shares.numpy(), np.float64)


def object_worth(parts: npt.NDArray[np.uint8], weights: Floats) -> Floats:
    """(M, N) of parts (M, N) (0: nothing, else an object's label + 1): objects in the order of the
    weight that their patches have together, each from the middle outwards."""
    if parts.shape[1:] != weights.shape:
        raise ValueError('these images tell not what their patches show: no oracle')
    seen = np.zeros((len(parts), int(parts.max(initial=0)) + 1))
    rows = np.broadcast_to(np.arange(len(parts))[:, None], parts.shape)
    np.add.at(seen, (rows, parts), np.broadcast_to(weights, parts.shape))
    seen[:, 0] = 0.0
    # The object's weight is at least its greatest patch's, so objects do not mix.
    return np.take_along_axis(seen, parts.astype(np.int64), 1) * 1e3 + weights
