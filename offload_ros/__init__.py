"""Run neural networks that are too heavy for the robot together with a server, over DDS."""

import importlib
import os
from pathlib import Path
from pkgutil import extend_path
from typing import Any

# In a checkout the source folder comes first on the path, but the generated messages live in the
# build: both are one package.
__path__ = extend_path(__path__, __name__)
__version__ = '0.1.0'


def _same_bits_at_any_address() -> None:
    """On AMD CPUs the last bits of a product by MKL depend on where its matrices begin in memory,
    unless MKL is asked for results that can be reproduced; it reads this before its first product.
    """
    try:
        amd = 'AuthenticAMD' in Path('/proc/cpuinfo').read_text()[:1000]
    except OSError:
        return
    if amd:
        os.environ.setdefault('MKL_CBWR', 'AUTO')


_same_bits_at_any_address()


def __getattr__(name: str) -> Any:
    """``IntraDP`` needs torch and ROS 2, which take a second to import: only where it is used."""
    if name != 'IntraDP':
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    try:
        return importlib.import_module('offload_ros.nodes.intra_dp').IntraDP
    except ModuleNotFoundError as error:
        raise ImportError(
            f'IntraDP finds servers by ROS 2, which is not here ({error}): source a ROS 2 '
            'installation, or standalone/env.sh'
        ) from error
