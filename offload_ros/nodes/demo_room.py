"""The plan of the demo's room, from the seed that the simulated world is built from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import yaml

from offload_ros.nodes.world_parameters import SETTINGS, world_config


def floor_plan(world_file: Path, **changes: Any) -> list[npt.NDArray[np.float64]]:
    """(K, 2) polygons of walls and of what stands on the floor, in metres in the frame map.

    ``world_file``: parameters of the world node, with ``changes``, as it runs.
    """
    from offload_ros.sim import World

    values = {name: each.default for name, each in SETTINGS.items()}
    for node in yaml.safe_load(world_file.read_text()).values():
        values |= node['ros__parameters']
    values |= changes
    with World(values['seed'], world_config(values)) as world:
        standing = [each for each in world.layout.objects if each.z == 0]
        shapes = [*world.room.footprints, *(p for each in standing for p in each.footprints)]
        return [np.array(each, dtype=np.float64) for each in shapes]
