"""Where a prediction closes a way: it may lead another way, but it ends none, and takes nobody off.

A network is wrong about one voxel in five, and a robot that flies spends ten times as much as one
that drives: it is cheaper to go and look.
"""

from __future__ import annotations

from offload_ros.navigation.planner import Plan, Planner, Status
from offload_ros.navigation.space import SAMPLE_M, Body, Space, SpaceBuilder
from offload_ros.navigation.voxel_map import VoxelMap
from offload_ros.tracking.checks import Floats

_SPARE_VOXELS = 3  # around the body, so that what is left of predictions does not block the way
# Plans that may have failed by what was only predicted.
CLOSED = (Status.GOAL_BLOCKED, Status.GOAL_OUTSIDE, Status.NO_PATH, Status.START_BLOCKED)


def takes_off(space: Space, plan: Plan) -> bool:
    """Return whether a plan leads from the floor into the air."""
    if plan.spline is None:
        return False
    airborne = space.airborne(plan.spline.sampled(SAMPLE_M)[1])
    return bool(airborne.any() and not airborne[0])


def planned_from_rest(
    planner: Planner, voxels: VoxelMap, space: Space, start: Floats, goal: Floats
) -> Plan:
    """Return a plan from start to goal, both (3,). Where predictions leave no way on the floor and
    what was observed does, that one: predictions on it are doubted from now on."""
    plan = planner.plan(space, start, goal)
    flies = takes_off(space, plan)
    if not (flies or plan.status in CLOSED) or not voxels.predicted.any():
        return plan
    config = voxels.config
    observed = SpaceBuilder(space.body).of_blocked(
        voxels.occupied, voxels.low, config.resolution_m, config.floor_m
    )
    other = planner.plan(observed, start, goal)
    if other.status is not Status.OK or other.spline is None:
        return plan
    if flies and takes_off(observed, other):
        return plan
    doubt(voxels, space.body, other.spline.sampled(SAMPLE_M)[1])
    return other


def doubt(voxels: VoxelMap, body: Body, places: Floats) -> None:
    """Believe no prediction on a way (N, 3) until the next goal."""
    spare = _SPARE_VOXELS * voxels.config.resolution_m
    radius = max(body.ground_radius_m, body.air_radius_m) + spare
    voxels.doubt(places, radius, max(body.ground_height_m, radius) + spare)
