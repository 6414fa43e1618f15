"""Where the intercepted operators go: the interface between the shim and the client session."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any, Protocol

import torch


@dataclass(frozen=True)
class DeviceProperties:
    """What ``torch.cuda.get_device_properties`` tells of the server's device."""

    name: str
    total_memory: int  # bytes
    major: int = 8
    minor: int = 0
    multi_processor_count: int = 1


class Device(Protocol):
    """The server's device as the shim uses it. Every method may be called from any thread.

    One that is opened by its first use may have ``available() -> bool``, whether it can be, and
    ``opened``, whether it is (then a forked child cannot use it).
    """

    # Finalisers append the handles of dead tensors and do nothing else; -n: generator n has died.
    freed: deque[int]

    def call(
        self, func: torch._ops.OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Run one operator on the server.

        Tensor arguments are ``RemoteTensor`` or tensors on the CPU (uploads, indices, constants of
        no dimension). Gives what the operator gives: a new ``RemoteTensor`` for a fresh result, the
        very argument for one changed in place and for ``out=``, Python values else; for a read
        what ``classify.finish_read`` makes of the values. Raises the operator's own error class.
        """

    def read(self, tensor: torch.Tensor) -> torch.Tensor:
        """Values of a ``RemoteTensor`` as a CPU tensor of its own: same dtype, same strides where
        they are dense, else contiguous."""

    def synchronize(self) -> None:
        """Return when everything called before has been done; raises what failed meanwhile."""

    def manual_seed(self, seed: int, generator: int = 0) -> None:
        """Seed a random generator of the server; 0 is the default one, others come into being
        when they are first seeded."""

    def get_rng_state(self, generator: int = 0) -> torch.Tensor:
        """State of a generator, a CPU tensor of uint8."""

    def set_rng_state(self, state: torch.Tensor, generator: int = 0) -> None:
        """Put back what ``get_rng_state`` gave."""

    def memory(self) -> tuple[int, int]:
        """Free and total bytes of the server's device."""

    def properties(self) -> DeviceProperties:
        """Name and size of the server's device."""

    def close(self) -> None:
        """End the session."""


class NoDevice:
    """Stands where a device should be; every use is refused with ``reason`` (a RuntimeError)."""

    def __init__(self, reason: str) -> None:
        self.freed: deque[int] = deque()
        self._reason = reason

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(self._reason)

    def available(self) -> bool:
        """As CUDA tells in a forked child: yes, until it is used."""
        return True

    def close(self) -> None:
        """Nothing is held."""


NOT_INSTALLED = 'no offloaded device is installed: call offload_ros.rrto.shim.install first'
FORKED = (
    'Cannot re-initialize CUDA in forked subprocess. To use CUDA with multiprocessing, you must '
    "use the 'spawn' start method (the offloaded device belongs to the process that opened it)"
)
