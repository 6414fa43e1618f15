# SPDX-License-Identifier: Apache-2.0
"""What the stand-in lacks is named in one sentence, instead of failing somewhere later."""

from collections.abc import Callable
from typing import Any


def explain(module: str) -> Callable[[str], Any]:
    """Return a module `__getattr__` that says that a name of upstream's is not here."""

    def __getattr__(name: str) -> Any:
        if name.startswith('_'):
            raise AttributeError(name)
        raise ImportError(
            f'{module}.{name} is not supported without a ROS 2 installation '
            f'(the stand-in of {module.partition(".")[0]} lacks it)'
        )

    return __getattr__
