"""How many examples a random test draws."""

from hypothesis import settings


def examples(usual: int, long: int) -> int:
    """``usual`` in ``make test``, ``long`` in ``make test-long`` (see conftest.py)."""
    return usual if settings.default.derandomize else long
