"""Navigation as a whole, in the simulated world and against its messages' order."""

import math

import numpy as np
import pytest

pytest.importorskip('mujoco')

from offload_ros.navigation.driving import STAND
from offload_ros.navigation.plan_config import Limits, PlanConfig
from offload_ros.navigation.replan_config import Outcome
from offload_ros.navigation.space import Body
from offload_ros.navigation.system import Navigation, NavigationConfig
from offload_ros.navigation.voxels import VoxelGrid, unpacked
from offload_ros.sim import AirConfig, CameraConfig, LidarConfig, PersonConfig, RobotConfig, World
from offload_ros.sim.config import WorldConfig
from offload_ros.sim.robot import Pose

GRID = VoxelGrid(64, 16, 64, 0.15, (-4.8, -4.8, -0.15))
CONFIG = NavigationConfig(
    grid=GRID, plan=PlanConfig(limits=Limits(1.0, 1.2)), body=Body(ceiling_m=1.8)
)


def world_of(seed, objects=16):
    return World(
        seed,
        WorldConfig(
            object_count=objects,
            person=PersonConfig(count=0),
            air=AirConfig(),
            robot=RobotConfig(mast_height_m=0.5),
            lidar=LidarConfig(cloud_height_m=0.45),
            camera=CameraConfig(height_m=0.35),
        ),
    )


class Drive:
    """A robot in a room and the navigation that drives it."""

    def __init__(self, world, config=CONFIG):
        self.world, self.navigation = world, Navigation(config)
        self.navigation.frames.fixed('base_link', 'lidar_link', (0, 0, 0.45), (0, 0, 0, 1))
        self.start, self.blocked, self.ticks, self.report = world.robot.pose, 0, 0, None

    def goal(self, place):
        """Take a goal (2,) of the map: the odometry begins where the robot is."""
        c, s = math.cos(self.start.yaw), math.sin(self.start.yaw)
        x, y = np.asarray(place) - (self.start.x, self.start.y)
        self.navigation.goal((c * x + s * y, c * y - s * x, 0.0))

    def odometry(self):
        robot, now = self.world.robot, self.world.time_s
        at = robot.odometry
        turn = (0, 0, math.sin(at.yaw / 2), math.cos(at.yaw / 2))
        self.navigation.frames.moving('odom', 'base_link', now, (at.x, at.y, robot.z_m), turn)
        self.navigation.odometry(now, (robot.linear_mps, robot.lateral_mps, robot.climb_mps))

    def tick(self):
        for _ in range(2):
            self.world.step(0.05)
            self.odometry()
            speeds = self.navigation.speeds(self.world.time_s)
            self.world.command(
                speeds.forward_mps, speeds.turn_radps, speeds.left_mps, speeds.up_mps
            )
            self.blocked += self.world.robot.blocked
        if self.ticks % 2 == 0:
            now = self.world.time_s
            self.navigation.cloud(now, 'lidar_link', self.world.point_cloud())
        else:
            self.report = self.navigation.step(self.world.time_s)
        self.ticks += 1

    def run(self, until, limit_s=60.0):
        end = self.world.time_s + limit_s
        while not (self.report and until(self.report)):
            assert self.world.time_s < end, self.report
            self.tick()


@pytest.mark.parametrize('seed', [3, 5])
def test_it_reaches_a_goal_across_the_room_and_touches_nothing(seed):
    with world_of(seed) as world:
        drive = Drive(world)
        rng = np.random.default_rng(seed)
        goal = next(
            place
            for place in (world.layout.free.sample(0.5, rng) for _ in range(100))
            if math.dist(place, (drive.start.x, drive.start.y)) > 4
        )
        drive.run(lambda report: drive.ticks > 8)
        drive.goal(goal)
        drive.run(lambda report: report.outcome is Outcome.ARRIVED)
        at = world.robot.pose
        assert math.dist((at.x, at.y), goal) < 0.4
        assert drive.blocked == 0


def test_what_is_asked_is_what_was_seen_around_the_robot():
    with world_of(3) as world:
        drive = Drive(world)
        assert drive.navigation.ask() is None
        drive.run(lambda report: drive.ticks > 12)
        asked = drive.navigation.ask()
        assert asked.bits.shape == (64, 16 * 64 // 8)
        seen = unpacked(asked.bits.reshape(-1), GRID.shape)
        assert 300 < seen.sum() < 6000
        voxels = drive.navigation.brain.voxels
        inside = GRID.cells(asked.pose.into(voxels.middles(voxels.occupied)))[1]
        assert inside.sum() >= seen.sum()
        # The robot itself stands where nothing is.
        assert not seen[31:33, 2:, 31:33].any()


def test_a_result_marks_what_nobody_saw_until_it_is_seen():
    with world_of(3) as world:
        drive = Drive(world)
        drive.run(lambda report: drive.ticks > 12)
        navigation = drive.navigation
        asked = navigation.ask()
        labels = np.zeros(GRID.shape, np.uint8)
        labels[:, :] = 3
        labels[::2] = 1  # a class below obstacles_from
        navigation.result(asked.stamp_s, labels)
        drive.run(lambda report: math.isfinite(navigation.completed_s))
        voxels = navigation.brain.voxels
        assert voxels.predicted.sum() > 1000
        assert not (voxels.predicted & voxels.free).any()
        assert navigation.completed_s == asked.stamp_s
        # Nobody asked for this one, and this one comes twice.
        before = voxels.predicted.sum()
        for stamp in (asked.stamp_s, 0.123):
            navigation.result(stamp, np.zeros(GRID.shape, np.uint8))
        navigation.step(world.time_s)
        assert voxels.predicted.sum() == before


def test_wrong_input_is_refused_where_it_enters():
    navigation = Navigation(CONFIG)
    with pytest.raises(ValueError, match='labels must be'):
        navigation.result(1.0, np.zeros((2, 2, 2), np.uint8))
    with pytest.raises(ValueError, match='goal'):
        navigation.goal((0.0, math.nan, 0.0))
    with pytest.raises(ValueError, match='velocity'):
        navigation.odometry(1.0, (0.0, 0.0))
    with pytest.raises(ValueError, match='whole bytes'):
        NavigationConfig(grid=VoxelGrid(8, 3, 9))


def test_it_stands_while_its_place_is_not_known_or_old():
    navigation = Navigation(CONFIG)
    navigation.odometry(1.0, (0.0, 0.0, 0.0))
    assert 'cannot be placed' in navigation.trouble
    assert navigation.speeds(1.0) == STAND
    with world_of(3) as world:
        drive = Drive(world)
        drive.run(lambda report: drive.ticks > 8)
        drive.goal((drive.start.x, drive.start.y + 1.5))
        drive.run(lambda report: drive.navigation.speeds(world.time_s) != STAND)
        late = world.time_s + CONFIG.replan.pose_timeout_s + 0.1
        assert drive.navigation.speeds(late) == STAND


def test_it_stands_when_steps_end():
    with world_of(3) as world:
        drive = Drive(world)
        drive.run(lambda report: drive.ticks > 8)
        drive.goal((drive.start.x, drive.start.y + 2.5))
        drive.run(lambda report: drive.navigation.speeds(world.time_s) != STAND)
        stepped_s = world.time_s
        moving = []
        while world.time_s < stepped_s + CONFIG.stall_s + 0.5:
            world.step(0.1)
            drive.odometry()  # the place is known, but nobody looks at the way
            moving.append((world.time_s, drive.navigation.speeds(world.time_s) != STAND))
        assert moving[2][1]
        assert not any(moves for now, moves in moving if now > stepped_s + CONFIG.stall_s + 0.05)


def test_a_jump_of_the_odometry_forgets_what_was_asked():
    with world_of(3) as world:
        drive = Drive(world)
        drive.run(lambda report: drive.ticks > 12)
        navigation = drive.navigation
        asked = navigation.ask()
        world.robot.odometry = Pose(30.0, 0.0, 0.0)
        drive.tick()
        drive.tick()
        navigation.result(asked.stamp_s, np.full(GRID.shape, 3, np.uint8))
        drive.tick()
        drive.tick()
        assert not navigation.brain.voxels.predicted.any()
        assert not math.isfinite(navigation.completed_s)
