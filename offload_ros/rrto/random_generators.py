"""The random generators of a session, apart from those of every other one."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from offload_ros.rrto.calls import view_of
from offload_ros.wire.errors import WireError

MAX_GENERATORS = 64


class Generators:
    """The random generators of a session, by the program's number; 0 is the default one."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._all: dict[int, torch.Generator] = {}

    def get(self, number: int) -> torch.Generator:
        """Made when it is first asked for. ``WireError`` when there are too many."""
        if number not in self._all:
            if len(self._all) >= MAX_GENERATORS:
                raise WireError(f'{MAX_GENERATORS} random generators are allowed in a session')
            self._all[number] = torch.Generator(self._device)
        return self._all[number]

    def drop(self, number: int) -> None:
        """The program has no use for it any more."""
        self._all.pop(number, None)

    def states(self) -> dict[int, torch.Tensor]:
        """Of all, to be put back."""
        return {number: each.get_state() for number, each in self._all.items()}

    def restore(self, states: Mapping[int, torch.Tensor]) -> None:
        """As they were; those that came later have not been used by what is taken back."""
        for number, state in states.items():
            if number in self._all:
                self._all[number].set_state(state)

    def numbers(self) -> list[int]:
        """Those that there are."""
        return list(self._all)

    def data(self) -> list[bytes]:
        """Their states."""
        return [bytes(view_of(each.get_state())) for each in self._all.values()]
