"""What every part of the wire may raise."""

from __future__ import annotations


class WireError(ValueError):
    """Received bytes that cannot be what they should be, or are more than allowed; the text says
    which rule they break."""
