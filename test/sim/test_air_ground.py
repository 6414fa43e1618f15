"""The robot that drives and hovers."""

import math

import numpy as np
import pytest

from offload_ros.sim import AirConfig, PersonConfig, RobotConfig, World, WorldConfig
from offload_ros.sim.air_ground import Solids
from offload_ros.sim.robot import Pose

from .conftest import Gaps

NOBODY = PersonConfig(count=0)
BODY = RobotConfig(mast_height_m=0.5)
EMPTY = WorldConfig(object_count=0, inner_wall=False, person=NOBODY, air=AirConfig(), robot=BODY)
TABLES = WorldConfig(
    object_count=12, kinds=('table', 'sofa'), person=NOBODY, air=AirConfig(), robot=BODY
)


def fly(world, seconds, linear=0.0, angular=0.0, lateral=0.0, climb=0.0):
    for _ in range(round(seconds / 0.05)):
        world.command(linear, angular, lateral, climb)
        world.step(0.05)


def test_on_the_floor_it_drives_as_any_robot_and_sideways_too():
    plain = WorldConfig(object_count=0, inner_wall=False, person=NOBODY, robot=BODY)
    rng = np.random.default_rng(0)
    with World(3, plain) as one, World(3, EMPTY) as other:
        for _ in range(100):
            speeds = rng.uniform(-0.6, 0.7), rng.uniform(-2, 2)
            for world in (one, other):
                world.command(*speeds)
                world.step(0.1)
            assert one.robot.pose == other.robot.pose
            assert one.robot.odometry == other.robot.odometry
        assert np.array_equal(one.scan(), other.scan())
        assert np.array_equal(one.render_rgb(), other.render_rgb())
        other.robot.pose = Pose(0.0, 0.0, 0.0)
        fly(other, 2.0, lateral=0.5)
        assert other.robot.pose.y == pytest.approx(0.95, abs=0.1)
        assert not other.robot.airborne


@pytest.mark.parametrize('seed', range(2))
def test_on_the_floor_it_touches_nothing_higher_than_a_step(seed):
    config = WorldConfig(object_count=25, person=NOBODY, robot=BODY, air=AirConfig())
    rng = np.random.default_rng(seed)
    with World(seed, config) as world:
        gaps = Gaps(world)
        model = world.model
        solid = [
            g for g in gaps.obstacles()
            if world.data.geom_xpos[g][2] + model.geom_rbound[g] > 0.25
        ]  # fmt: skip
        blocked = 0
        for _ in range(120):
            fly(world, 0.25, rng.uniform(-0.6, 1.2), rng.uniform(-1, 1))
            blocked += world.robot.blocked
            assert gaps.smallest(gaps.robot, np.array(solid), 0.2) > -0.02, world.time_s
        assert blocked > 0


def test_it_takes_off_moves_sideways_hovers_and_lands():
    with World(0, EMPTY) as world:
        world.robot.pose = Pose(0.0, 0.0, math.pi / 2)
        fly(world, 2.0, climb=0.5)
        assert world.truth().height_m == pytest.approx(1.0, abs=0.1)
        assert world.robot.airborne
        fly(world, 1.0)
        height = world.truth().height_m
        fly(world, 2.0, lateral=0.5)
        truth = world.truth()
        assert truth.robot.x == pytest.approx(-0.95, abs=0.1)
        assert truth.robot.y == pytest.approx(0.0, abs=1e-9)
        assert truth.height_m == pytest.approx(height)
        for _ in range(30):  # no command comes
            world.step(0.1)
        assert world.truth().height_m == pytest.approx(height)
        assert world.robot.lateral_mps == 0
        fly(world, 4.0, climb=-0.5)
        assert world.truth().height_m == 0.0
        assert not world.robot.airborne


def test_odometry_without_drift_follows_in_the_air():
    with World(0, EMPTY) as world:
        world.robot.pose = start = Pose(0.3, -0.4, 0.7)
        fly(world, 1.0, climb=0.6)
        fly(world, 2.0, linear=0.4, angular=0.8, lateral=-0.3)
        there = start.then(world.robot.odometry)
        assert (there.x, there.y, there.yaw) == pytest.approx(
            (world.robot.pose.x, world.robot.pose.y, world.robot.pose.yaw), abs=1e-9
        )


def test_sensors_rise_with_it():
    with World(2, TABLES) as world:
        below = world.camera_pose()[0]
        cloud = world.point_cloud()
        fly(world, 2.0, climb=0.5)
        above = world.camera_pose()[0]
        height = world.truth().height_m
        assert above - below == pytest.approx([0, 0, height], abs=1e-9)
        higher = world.point_cloud()
        assert higher[:, 2].min() == pytest.approx(cloud[:, 2].min() - height, abs=0.02)


@pytest.mark.parametrize('seed', range(3))
def test_in_the_air_it_touches_nothing_whatever_it_is_told(seed):
    rng = np.random.default_rng(seed)
    with World(seed, TABLES) as world:
        gaps = Gaps(world)
        obstacles = gaps.obstacles()
        blocked = 0
        fly(world, 1.0, climb=0.8)
        for _ in range(150):
            fly(
                world, 0.25, rng.uniform(-1.5, 1.5), rng.uniform(-2, 2), rng.uniform(-1.5, 1.5),
                rng.uniform(-0.8, 0.8),
            )  # fmt: skip
            blocked += world.robot.blocked
            assert 0.0 <= world.truth().height_m <= world.config.wall_height_m - 0.5
            assert gaps.smallest(gaps.robot, obstacles, 0.2) > -1e-6, world.time_s
        assert blocked > 0


def test_it_flies_over_what_it_cannot_drive_through():
    with World(2, TABLES) as world:
        solids = Solids(world.room, world.layout.objects)
        table = next(o for o in world.layout.objects if o.kind == 'table')
        at = np.array([table.x, table.y])
        assert solids.clearance(at, 0.0, 0.5) > 0.25  # between its legs
        assert solids.clearance(at, 0.0, 0.9) < 0.1
        over = max(o.size[2] for o in world.layout.objects) + 0.2
        assert solids.clearance(at, over, over + 0.5) > 0.25
        assert solids.clearance(at, 2.3, 2.8) == 0.0  # the ceiling


def test_flying_costs_what_the_model_says_and_more_than_driving():
    air = AirConfig()
    with World(0, EMPTY) as world:
        world.robot.pose = Pose(-3.0, 0.0, 0.0)
        fly(world, 1.0)
        assert world.truth().energy_j == pytest.approx(air.idle_w, rel=1e-6)
        fly(world, 3.0, linear=0.5)
        driven = world.truth().energy_j - air.idle_w
        way = world.robot.pose.x + 3.0
        assert driven == pytest.approx(3 * air.idle_w + way * air.drive_w_per_mps, rel=0.02)
        fly(world, 1.0, climb=0.5)
        before = world.truth().energy_j
        fly(world, 2.0)
        hovering = world.truth().energy_j - before
        assert hovering == pytest.approx(2 * (air.idle_w + air.hover_w), rel=0.05)


def test_it_does_not_fly_through_people():
    config = WorldConfig(
        object_count=0, inner_wall=False, air=AirConfig(), robot=BODY,
        person=PersonConfig(pause_mean_s=60.0),
    )  # fmt: skip
    with World(5, config) as world:
        person = world.walkers[0]
        person._pause_s = 100.0
        person.position = np.array([1.5, 0.0])
        world.robot.pose = Pose(-1.0, 0.0, 0.0)
        fly(world, 1.0, climb=0.8)
        fly(world, 5.0, linear=1.0)
        assert world.robot.blocked
        assert world.robot.pose.x < 1.5 - person.config.radius_m - 0.25 + 1e-6


@pytest.mark.parametrize('speeds', [(math.nan, 0, 0, 0), (0, 0, math.inf, 0), (0, 0, 0, math.nan)])
def test_senseless_commands_are_refused(speeds):
    with World(0, EMPTY) as world, pytest.raises(ValueError, match='finite'):
        world.command(*speeds)
