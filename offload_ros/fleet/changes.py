"""Models that nodes were asked to load or to unload, and what has come of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
import threading
from typing import NamedTuple

from offload_ros.fleet.plan import LoadedModel


class Change(NamedTuple):
    """A model to be loaded on the node of this full name, or unloaded."""

    address: str
    model: LoadedModel
    loaded: bool


Done = Callable[[str], None]
Send = Callable[[Change, Done], None]


class Changes:
    """Each is asked for once. What a node tells it holds decides; its answers only say why not.

    ``send`` asks and does not wait; it calls ``done`` with the error or nothing in any thread, or
    never.
    """

    def __init__(self, send: Send) -> None:
        self._send = send
        self._lock = threading.Lock()
        self._asked: dict[Change, str | None] = {}  # None: no answer yet; empty: it is done

    def ask(self, change: Change) -> None:
        """Unless it is being waited for."""
        with self._lock:
            if change in self._asked:
                return
            self._asked[change] = None
        self._send(change, lambda why: self._answered(change, why))

    def _answered(self, change: Change, why: str) -> None:
        with self._lock:
            if change in self._asked:
                self._asked[change] = why

    def settled(self, told: Mapping[str, set[LoadedModel]]) -> dict[str, set[LoadedModel]]:
        """By address what nodes hold and are not about to unload; ``told``: by themselves."""
        with self._lock:
            asked = self._asked
            for change in [each for each in asked if self._over(each, told)]:
                del asked[change]
            leaving = {(each.address, each.model) for each in asked if not each.loaded}
        return {
            address: {each for each in models if (address, each) not in leaving}
            for address, models in told.items()
        }

    def _over(self, change: Change, told: Mapping[str, set[LoadedModel]]) -> bool:
        """Whether nothing more is to be waited for. The lock is held."""
        if change.address not in told:
            return True  # the node is gone
        there = change.model in told[change.address]
        why, other = self._asked[change], change._replace(loaded=not change.loaded)
        if change.loaded:  # a failure is kept until it was told
            return not why and there and other not in self._asked
        if why is None:  # an answer got lost where a later loading has one
            return self._asked.get(other) == ''
        return why != '' or not there

    def failed(self, wanted: Iterable[Change]) -> dict[Change, str]:
        """Why not, of those that failed; they are forgotten."""
        with self._lock:
            found = {each: self._asked[each] or '' for each in wanted if self._asked.get(each)}
            for each in found:
                del self._asked[each]
            return found

    def forget(self, change: Change) -> None:
        """It is not waited for any more."""
        with self._lock:
            self._asked.pop(change, None)

    def forget_failures(self) -> None:
        """What failed before may be asked for again."""
        with self._lock:
            self._asked = {each: why for each, why in self._asked.items() if not why}
