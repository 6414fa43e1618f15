"""The networks of one model's A-MOT on a server, and what a batch of rounds computes on them."""

from __future__ import annotations

from collections.abc import Sequence
import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from offload_ros.amot import inference
from offload_ros.amot.allocation import Distributions, DistributionsError, read_all
from offload_ros.amot.bundle import Bundle, BundleError, load
from offload_ros.amot.fit import Geometry, NotFit, classifier_of, geometry_of
from offload_ros.amot.rounds import FirstOf, Patches
from offload_ros.models.model import Model

DISTRIBUTIONS = 'distributions.json'


class Served:
    """Networks that belong to a model and are loaded on ``device``; see ``load_served``."""

    def __init__(
        self,
        model: Model,
        bundle: Bundle,
        geometry: Geometry,
        distributions: tuple[Distributions, ...] = (),
    ) -> None:
        self.model = model
        self.bundle = bundle
        self.geometry = geometry
        self._distributions = distributions
        self._device = model.device

    @property
    def two_rounds(self) -> bool:
        """Whether there is a network for a second one."""
        return self.bundle.second is not None

    def distributions_for(self, count: int) -> Distributions | None:
        """What calibration found for the ratio nearest to a first round of ``count`` patches."""
        ratio = count / self.geometry.patches
        return min(
            self._distributions, key=lambda each: abs(each.first_ratio - ratio), default=None
        )

    def first(self, given: Sequence[Patches]) -> list[FirstOf]:
        """The first pass of images with equally many patches."""
        found = inference.first_pass(self.bundle, *self._stacked(given))
        attention = found.attention.float().cpu()
        probabilities = found.probabilities.cpu().numpy()
        return [
            # Its own memory: one image that waits must not hold the whole batch.
            FirstOf(found.embeddings[i].clone(), attention[i : i + 1], probabilities[i])
            for i in range(len(given))
        ]

    def second(self, given: Sequence[Patches]) -> list[npt.NDArray[np.float32]]:
        """Probabilities (labels,) of images with equally many new patches."""
        patches, positions = self._stacked(given)
        held = [each.embeddings for each in given if each.embeddings is not None]
        found = inference.second_pass(self.bundle, torch.stack(held), patches, positions)
        return list(found.cpu().numpy())

    def wanted(
        self, first: FirstOf, have: npt.NDArray[np.int64], count: int
    ) -> npt.NDArray[np.uint16]:
        """The ``count`` missing patches that attention is highest on."""
        missing = inference.missing_by_attention(
            first.attention, torch.from_numpy(have)[None], count
        )
        return missing[0].numpy().astype(np.uint16)

    def warm_up(self) -> None:
        """Run once: the first run is slow, it must not be a robot's."""
        count = max(1, self.geometry.patches // 3)
        blank = np.zeros((count, self.geometry.patch_bytes), np.uint8)
        positions = np.arange(count)
        first = self.first([Patches(blank, positions)])[0]
        if self.two_rounds:
            self.second([Patches(blank, positions, first.embeddings)])

    def _stacked(self, given: Sequence[Patches]) -> tuple[torch.Tensor, torch.Tensor]:
        patches = torch.from_numpy(np.stack([each.patches for each in given]))
        positions = torch.from_numpy(np.stack([each.positions for each in given]))
        return patches.to(self._device), positions.to(self._device)


def load_served(model: Model) -> Served:
    """The networks of a model with A-MOT; ``BundleError`` says why they cannot serve it.

    Its own classifier is used, of which the bundle's must be a copy: a whole image and one in
    patches get their answers from the same weights.
    """
    options = model.config.amot
    if options is None:
        raise BundleError('models.yaml gives it no amot.networks')
    folder = Path(options.networks)
    try:
        geometry = geometry_of(model)
        bundle = load(folder)
        distributions = (
            read_all(folder / DISTRIBUTIONS) if (folder / DISTRIBUTIONS).exists() else ()
        )
    except (NotFit, DistributionsError) as error:
        raise BundleError(str(error)) from error
    own, its = classifier_of(model), bundle.classifier.state_dict()
    if not _equal(own.state_dict(), its):
        raise BundleError(f'{folder} has another classifier than the source of the model')
    bundle.classifier = own
    _check_normalisation(model, bundle, folder)
    return Served(model, bundle.to(model.device), geometry, distributions)


def _equal(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(
        torch.equal(each.cpu(), theirs[name].to(each.dtype)) for name, each in ours.items()
    )


def _check_normalisation(model: Model, bundle: Bundle, folder: Path) -> None:
    """The whole image and its patches must be the same to the classifier."""
    preprocess = model.config.preprocess
    assert preprocess is not None  # ``geometry_of`` has seen it
    for name in ('mean', 'std'):
        ours = getattr(preprocess, name)
        theirs = getattr(bundle.normalise, name)[:3].tolist()
        ours = ours * 3 if len(ours) == 1 else ours
        if len(ours) != 3 or not all(
            math.isclose(a, b, rel_tol=1e-5, abs_tol=1e-6)
            for a, b in zip(ours, theirs, strict=True)
        ):
            shown = [round(each, 6) for each in theirs]
            raise BundleError(f'preprocess.{name} is {list(ours)}, {folder} was made with {shown}')
