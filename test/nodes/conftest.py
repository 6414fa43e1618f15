"""Modules beside the tests are importable, for the tests and for the processes that they start."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
import sys

import pytest

HERE = str(Path(__file__).parent)
sys.path.insert(0, HERE)


@pytest.fixture(scope='session', autouse=True)
def networks_importable() -> Iterator[None]:
    """Processes of a test find networks.py, as a user's own module on PYTHONPATH."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('PYTHONPATH', HERE, prepend=':')
        yield
