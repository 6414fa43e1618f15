"""The tensors that a session holds on a server, by handle, within a limit of memory."""

from __future__ import annotations

from collections.abc import Iterable

import torch


class HandleTable:
    """Not safe between threads. ``limit_bytes``: of all storages together."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.used_bytes = 0
        self._tensors: dict[int, torch.Tensor] = {}
        self._storages: dict[int, list[int]] = {}  # address -> [handles, bytes]
        self._address: dict[int, int] = {}  # of a handle's storage when it was put

    def __len__(self) -> int:
        return len(self._tensors)

    def __contains__(self, handle: int) -> bool:
        return handle in self._tensors

    def __getitem__(self, handle: int) -> torch.Tensor:
        """``KeyError`` for an unknown one."""
        return self._tensors[handle]

    @property
    def left_bytes(self) -> int:
        """How much the session may still take."""
        return self.limit_bytes - self.used_bytes

    def put(self, handle: int, tensor: torch.Tensor) -> None:
        """``torch.cuda.OutOfMemoryError`` when its storage is too much; then it is not held."""
        storage = tensor.untyped_storage()
        # Storages without bytes share one address.
        address, size = storage.data_ptr() or -handle - 1, storage.nbytes()
        known = self._storages.get(address)
        if known is None:
            if size > self.left_bytes:
                raise torch.cuda.OutOfMemoryError(
                    f'a tensor of {size / 1e6:.0f} MB does not fit: this session has '
                    f'{self.left_bytes / 1e6:.0f} of {self.limit_bytes / 1e6:.0f} MB left '
                    '(parameter rrto.memory_mb of the server)'
                )
            self._storages[address] = [1, size]
            self.used_bytes += size
        else:
            known[0] += 1
        self._tensors[handle] = tensor
        self._address[handle] = address

    def free(self, handles: Iterable[int]) -> None:
        """Unknown ones are no error: results of a unit that died with it are freed, too."""
        for handle in handles:
            if self._tensors.pop(handle, None) is None:
                continue
            address = self._address.pop(handle)
            known = self._storages[address]
            known[0] -= 1
            if not known[0]:
                del self._storages[address]
                self.used_bytes -= known[1]

    def clear(self) -> None:
        """Free all."""
        self.free(list(self._tensors))
