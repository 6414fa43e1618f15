"""Worlds that several tests share, and an independent check of who touches whom."""

import numpy as np
import pytest

from offload_ros.sim import World
from offload_ros.sim.gl import mujoco


@pytest.fixture
def world():
    """Return a world with seed 7 that is closed afterwards."""
    with World(seed=7) as built:
        yield built


class Gaps:
    """Distances between solids by MuJoCo's own geometry, which the simulation does not use."""

    def __init__(self, world):
        self.world = world
        self.model = world.model
        self.entity = world._scene.geom_entity
        root = self.model.body_rootid[self.model.geom_bodyid]
        self.robot = np.flatnonzero(root == self.model.body('robot').id)
        self.floor = np.flatnonzero(self.entity == world.kinds.index('floor'))

    def of(self, index):
        """Return the geoms of an entity."""
        return np.flatnonzero(self.entity == index)

    def smallest(self, first, second, reach_m=0.5):
        """Return the smallest distance between two groups of geoms, at most reach_m."""
        self.world.place()
        centre, radius = self.world.data.geom_xpos, self.model.geom_rbound
        gap = reach_m
        for a in first:
            apart = np.linalg.norm(centre[second] - centre[a], axis=1)
            for b in second[apart - radius[second] - radius[a] < gap]:
                gap = min(gap, mujoco.mj_geomDistance(self.model, self.world.data, a, b, gap, None))
        return gap

    def obstacles(self):
        """Return the geoms of walls and objects."""
        kinds = self.world.kinds
        solid = [i for i, k in enumerate(kinds) if k not in ('none', 'floor', 'ceiling', 'person')]
        return np.flatnonzero(np.isin(self.entity, solid))


@pytest.fixture
def gaps(world):
    """Return the distances of the shared world."""
    return Gaps(world)
