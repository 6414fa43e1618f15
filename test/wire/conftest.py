"""A clock that stands still until a test moves it."""

import pytest


class FakeClock:
    """Steady clock of a test."""

    def __init__(self):
        self.now_s = 100.0

    def __call__(self):
        return self.now_s


@pytest.fixture
def clock():
    """Return a clock that a test moves by ``clock.now_s += ...``."""
    return FakeClock()
