"""What may go wrong with a layer cut."""

from __future__ import annotations


class CutFailed(Exception):
    """A graph cannot be used on a server, or a run gave no result, and why."""
