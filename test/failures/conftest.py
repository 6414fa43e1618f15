"""The helpers of the node tests serve here too."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
import sys

import pytest

NODES = Path(__file__).parents[1] / 'nodes'
for folder in (Path(__file__).parent, NODES):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


@pytest.fixture(scope='session', autouse=True)
def networks_importable() -> Iterator[None]:
    """Processes of a test find networks.py, as a user's own module on PYTHONPATH."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('PYTHONPATH', str(NODES), prepend=':')
        yield
