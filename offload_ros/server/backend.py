"""Where a server's models are computed: in its own process, or in others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch

from offload_ros.models.batch import run_batch
from offload_ros.models.model import Model

Tensors = Mapping[str, torch.Tensor]


class ReplicaLost(Exception):
    """What a worker computed with has died, or does not end; the text says which."""


class Backend(Protocol):
    """Computes for ``workers`` threads of the engine, each with a number from 0.

    ``remote``: not in this process, so that other work there does not wait for the workers.
    """

    workers: int
    remote: bool

    def add(self, model: Model) -> None:
        """Get ready for ``model``; ``ModelError`` when that fails."""

    def remove(self, model: Model) -> None:
        """``model`` is asked for no more."""

    def warm_up(self, worker: int, model: Model) -> None:
        """Run ``model`` once; ``InputError``, ``ModelError`` or ``ReplicaLost``."""

    def run(self, worker: int, model: Model, inputs: Tensors) -> dict[str, torch.Tensor]:
        """As ``Model.run``; also ``ReplicaLost``."""

    def run_batch(
        self, worker: int, model: Model, frames: Sequence[Tensors]
    ) -> list[dict[str, torch.Tensor]]:
        """As ``models.batch.run_batch``; also ``ReplicaLost``."""

    def restore(self, worker: int) -> bool:
        """Replace what was lost; whether ``worker`` can compute again."""

    def close(self) -> None:
        """Free all; what runs ends with ``ReplicaLost``."""


class InProcess:
    """The models themselves, one computation at a time."""

    workers, remote = 1, False

    def add(self, model: Model) -> None:
        pass

    def remove(self, model: Model) -> None:
        pass

    def warm_up(self, worker: int, model: Model) -> None:
        model.warm_up()

    def run(self, worker: int, model: Model, inputs: Tensors) -> dict[str, torch.Tensor]:
        return model.run(inputs)

    def run_batch(
        self, worker: int, model: Model, frames: Sequence[Tensors]
    ) -> list[dict[str, torch.Tensor]]:
        return run_batch(model, frames)

    def restore(self, worker: int) -> bool:
        return True

    def close(self) -> None:
        pass
