"""Imports MuJoCo with an OpenGL library that works on this machine.

MuJoCo reads MUJOCO_GL once, when it is first imported, so every module of the simulation takes
``mujoco`` from here and never imports it directly.
"""

from __future__ import annotations

import ctypes.util
import os
import sys
from typing import Any

OSMESA_HINT = (
    'the simulated camera has no OpenGL: install it with `sudo apt-get install libosmesa6` '
    'and do not set MUJOCO_GL to disable'
)


def choose_backend(environment: dict[str, str], platform: str = sys.platform) -> str | None:
    """Return what MUJOCO_GL should be set to, or None to leave it as it is.

    A value that the user has set is respected; without a display only software rendering works.
    """
    if environment.get('MUJOCO_GL') or platform != 'linux':
        return None
    if environment.get('DISPLAY') or environment.get('WAYLAND_DISPLAY'):
        return None
    return 'osmesa'


def import_mujoco() -> Any:
    """Import mujoco; without OSMesa the camera is switched off, the rest works."""
    backend = choose_backend(dict(os.environ))
    if backend is not None:
        os.environ['MUJOCO_GL'] = backend
    if os.environ.get('MUJOCO_GL') == 'osmesa' and ctypes.util.find_library('OSMesa') is None:
        # Importing mujoco would fail on an attribute of PyOpenGL, which helps nobody.
        os.environ['MUJOCO_GL'] = 'disable'
    import mujoco

    return mujoco


mujoco: Any = import_mujoco()


def make_context(width_px: int, height_px: int) -> Any:
    """Return an OpenGL context; RuntimeError says what to install where there is none."""
    make = getattr(mujoco, 'GLContext', None)
    if make is None:
        raise RuntimeError(OSMESA_HINT)
    return make(width_px, height_px)
