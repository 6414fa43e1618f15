"""What a session has done so far, for the status and for the end of a program."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from offload_ros.rrto.sequences import Kind


@dataclass
class Statistics:
    """Operators by kind; ``replayed``: of them inside replayed units. ``blocking``: requests to the
    server that the program waited for (RPCs); one may answer several reads. Bytes and messages are
    those to the server; ``control_bytes`` without payloads."""

    kinds: Counter[str] = field(default_factory=Counter)
    replayed: int = 0
    inferences: int = 0  # replayed units
    units: int = 0
    unit_operators: list[int] = field(default_factory=list)
    aborts: int = 0
    recomputed: int = 0
    fallbacks: int = 0
    blocking: int = 0
    messages: int = 0
    bytes_up: int = 0
    control_bytes: int = 0
    payload_bytes: int = 0

    def count(self, kind: Kind, payload_bytes: int) -> None:
        """An operator that was sent by itself."""
        self.kinds[kind.name] += 1
        self.payload_bytes += payload_bytes

    def sent(
        self, buffers: Iterable[bytes | memoryview], payloads: Sequence[bytes | memoryview]
    ) -> None:
        """A message left."""
        size = sum(len(each) for each in buffers)
        self.messages += 1
        self.bytes_up += size
        self.control_bytes += size - sum(len(each) for each in payloads)

    def lines(self, mode: str) -> list[str]:
        """For a terminal."""
        operators = sum(self.kinds.values()) + self.replayed
        sizes = ', '.join(map(str, self.unit_operators[-8:])) or 'none'
        lost = ['the server was lost: the program went on on this machine'] * self.fallbacks
        return [
            *lost,
            f'mode {mode}: {operators} operators, {self.replayed} of them replayed in '
            f'{self.inferences} inferences',
            f'units: {self.units} (operators: {sizes}), {self.aborts} aborts, '
            f'{self.recomputed} recomputed',
            f'to the server: {self.blocking} blocking calls, {self.messages} messages, '
            f'{self.bytes_up / 1e6:.2f} MB, {self.control_bytes / 1e3:.1f} kB of it control',
        ]
