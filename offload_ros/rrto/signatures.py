"""The calls that both sides know by a number."""

from __future__ import annotations

from collections.abc import Container

from torch._ops import OpOverload

from offload_ros.rrto.client_unit import Signature

MAX_SIGNATURES = 1 << 14
Key = tuple[OpOverload, bytes]  # operator and template


class Signatures:
    """At most ``limit`` of them: a program whose scalars or shapes change for ever makes new ones
    for ever, and those longest out of use are forgotten. Numbers are not used again."""

    def __init__(self, limit: int = MAX_SIGNATURES) -> None:
        self._limit = limit
        self._known: dict[Key, Signature] = {}  # the one longest out of use first
        self._keys: dict[int, Key] = {}
        self._next = 0

    def __len__(self) -> int:
        return len(self._known)

    def __contains__(self, number: int) -> bool:
        return number in self._keys

    def __getitem__(self, number: int) -> Signature:
        """``KeyError`` for one that is forgotten."""
        return self._known[self._keys[number]]

    @property
    def full(self) -> bool:
        """Some have to be forgotten before the next one."""
        return len(self._known) >= self._limit

    def find(self, func: OpOverload, template: bytes) -> Signature | None:
        """The one of this call, which is in use now."""
        key = func, template
        found = self._known.pop(key, None)
        if found is not None:
            self._known[key] = found
        return found

    def reserve(self) -> int:
        """The number of a new one."""
        self._next += 1
        return self._next

    def add(self, func: OpOverload, template: bytes, signature: Signature) -> None:
        """Know a new one."""
        self._known[func, template] = signature
        self._keys[signature.number] = func, template

    def forget(self, needed: Container[int]) -> list[Signature]:
        """Drop the half that is longest out of use, but not those that are ``needed``."""
        old = list(self._known.items())[: len(self._known) // 2]
        gone = [(key, each) for key, each in old if each.number not in needed]
        for key, each in gone:
            del self._known[key], self._keys[each.number]
        return [each for _, each in gone]
