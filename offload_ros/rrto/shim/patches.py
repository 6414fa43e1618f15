"""Changes to torch that can be taken back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

_MISSING = object()


class Patches:
    """Attributes set on modules and classes, and the way back."""

    def __init__(self) -> None:
        self._undo: list[Callable[[], None]] = []

    def set(self, holder: Any, name: str, value: Any) -> None:
        """``holder.name = value`` until :meth:`undo`."""
        before = vars(holder).get(name, _MISSING)
        setattr(holder, name, value)

        def restore() -> None:
            if before is _MISSING:
                delattr(holder, name)
            else:
                setattr(holder, name, before)

        self._undo.append(restore)

    def set_existing(self, holder: Any, name: str, value: Any) -> None:
        """As :meth:`set`, only where this torch has the attribute: older and newer ones differ."""
        if hasattr(holder, name):
            self.set(holder, name, value)

    def on_undo(self, action: Callable[[], None]) -> None:
        """Run ``action`` when the changes are taken back."""
        self._undo.append(action)

    def undo(self) -> None:
        """Take everything back, the last first."""
        while self._undo:
            self._undo.pop()()
