"""Random generators: those of ``cuda`` are on the server, where the random operators run."""

from __future__ import annotations

from collections.abc import Iterable
import itertools
import secrets
from typing import Any

import torch

from offload_ros.rrto.shim.classify import generator_numbers
from offload_ros.rrto.shim.conversions import indexed
from offload_ros.rrto.shim.patches import Patches
from offload_ros.rrto.shim.tensor import DEVICE, current

DEFAULT_SEED = 67280421310721  # torch's
_CGenerator: Any = torch._C.Generator
_numbers = itertools.count(1)


class RemoteGenerator(_CGenerator):  # type: ignore[misc]
    """Stands for generator ``number`` of the server (0: the default one)."""

    device = DEVICE

    def __new__(cls, number: int | None = None) -> RemoteGenerator:
        generator: RemoteGenerator = super().__new__(cls)
        generator.number = next(_numbers) if number is None else number
        generator.seed_given = DEFAULT_SEED
        generator_numbers[generator._cdata] = generator.number
        if number is None:
            current().manual_seed(DEFAULT_SEED, generator.number)
        return generator

    number: int
    seed_given: int

    def __init__(self, number: int | None = None) -> None:
        super().__init__()

    def __del__(self) -> None:
        if generator_numbers is None:  # at the end of the process
            return
        generator_numbers.pop(self._cdata, None)
        if self.number:
            current().freed.append(-self.number)

    def manual_seed(self, seed: int) -> RemoteGenerator:
        """Seed it and give it back."""
        self.seed_given = int(seed)
        current().manual_seed(self.seed_given, self.number)
        return self

    def seed(self) -> int:
        """Seed it with a random number and give that."""
        self.manual_seed(secrets.randbits(53))
        return self.seed_given

    def initial_seed(self) -> int:
        """The seed it has had last."""
        return self.seed_given

    def get_state(self) -> torch.Tensor:
        """Its state, a CPU tensor of uint8."""
        return current().get_rng_state(self.number)

    def set_state(self, new_state: torch.Tensor) -> RemoteGenerator:
        """Put back what ``get_state`` gave."""
        current().set_rng_state(new_state, self.number)
        return self

    def clone_state(self) -> RemoteGenerator:
        """Another generator with the same state."""
        clone = RemoteGenerator()
        clone.seed_given = self.seed_given
        return clone.set_state(self.get_state())

    graphsafe_get_state = clone_state

    def graphsafe_set_state(self, other: RemoteGenerator) -> RemoteGenerator:
        """Take the state of ``other``."""
        return self.set_state(other.get_state())


class _GeneratorType(type):
    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(instance, _CGenerator)

    def __subclasscheck__(cls, subclass: type) -> bool:
        return issubclass(subclass, _CGenerator)


class Generator(metaclass=_GeneratorType):
    """``torch.Generator`` that also makes those of ``cuda``."""

    def __new__(cls, device: Any = 'cpu') -> Any:  # type: ignore[misc]
        target = indexed(device)
        return RemoteGenerator() if target.type == 'cuda' else _CGenerator(device=target)


def _manual_seed(seed: int) -> None:
    _default().manual_seed(seed)


def _manual_seed_all(seed: int) -> None:
    _default().manual_seed(seed)


def _seed() -> None:
    _default().seed()


def _initial_seed() -> int:
    return _default().initial_seed()


def _get_rng_state(device: Any = 'cuda') -> torch.Tensor:
    indexed(device)
    return current().get_rng_state()


def _set_rng_state(new_state: torch.Tensor, device: Any = 'cuda') -> None:
    indexed(device)
    current().set_rng_state(new_state)


def _get_rng_state_all() -> list[torch.Tensor]:
    return [current().get_rng_state()]


def _set_rng_state_all(new_states: Iterable[torch.Tensor]) -> None:
    for state in new_states:
        current().set_rng_state(state)


def _default() -> RemoteGenerator:
    generator: Any = torch.cuda.default_generators[0]
    return generator  # type: ignore[no-any-return]


def apply(patches: Patches) -> None:
    """Put all of this in place."""
    patches.set(torch, 'Generator', Generator)
    patches.set(torch.cuda, 'default_generators', (RemoteGenerator(0),))
    for name, function in {
        'manual_seed': _manual_seed,
        'manual_seed_all': _manual_seed_all,
        'seed': _seed,
        'seed_all': _seed,
        'initial_seed': _initial_seed,
        'get_rng_state': _get_rng_state,
        'set_rng_state': _set_rng_state,
        'get_rng_state_all': _get_rng_state_all,
        'set_rng_state_all': _set_rng_state_all,
    }.items():
        patches.set(torch.cuda, name, function)
        patches.set(torch.cuda.random, name, function)
