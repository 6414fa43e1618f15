"""Replanning in a world of boxes: the robot goes where it is told, a lidar sees them."""

from collections import Counter

import numpy as np
import pytest

from offload_ros.navigation import (
    Body,
    GridPose,
    Outcome,
    Planner,
    ReplanConfig,
    Replanning,
    SpaceBuilder,
    State,
    Status,
    VoxelGrid,
    VoxelMapConfig,
    Whither,
)
from offload_ros.navigation.following import Timed
from offload_ros.navigation.plan_config import Limits

from .scene import STEP, Scene, clearance, patient

MAP = VoxelMapConfig(length_m=8.0, height_m=2.5, margin_m=2.5, hit=0.85)  # once seen, it is there
BODY = Body()
# Planning may take its time here; the world waits.
CONFIG = ReplanConfig(lead_s=0.5)
TICK = 0.1


class Patient(Planner):
    """Takes any time, and says that it took none: the machine must not decide a test."""

    def __init__(self, config=None):
        super().__init__(config or patient())
        self.calls = []

    def plan(self, space, start, goal, velocity=(0, 0, 0), acceleration=(0, 0, 0), limit_s=None):
        self.calls.append(np.array(start))
        plan = super().plan(space, start, goal, velocity, acceleration)
        object.__setattr__(plan, 'elapsed_s', 0.0)
        return plan


class World:
    """The scene, the robot in it, and time."""

    def __init__(self, scene=None, place=(-2.0, 0.0, 0.0), config=CONFIG, body=BODY, scans=True):
        self.scene, self.body, self.scans = scene or Scene(), body, scans
        self.brain = Replanning(MAP, body, patient(), config)
        self.brain.planner = Patient()
        self.place, self.velocity = np.array(place), np.zeros(3)
        self.offset = np.zeros(3)  # of odometry
        self.now, self.states, self.nearest, self.path = 0.0, Counter(), np.inf, []
        self.poses, self.sees_nothing = True, False

    def tick(self):
        """Let a tenth of a second pass; return the report."""
        brain = self.brain
        if self.poses:
            brain.pose(self.now, self.place + self.offset, self.velocity)
        if self.scans and round(self.now / TICK) % 3 == 0:
            eye = self.place + np.array([0.0, 0.0, 0.4])
            ends, hit = ([], []) if self.sees_nothing else self.scene.rays(eye, 500)
            ends = np.reshape(ends, (-1, 3))
            brain.scan(self.now, eye + self.offset, ends + self.offset, hit)
        report = brain.step(self.now)
        self.states[report.state] += 1
        self.now += TICK
        due = brain.setpoint(self.now)
        before = self.place
        self.place = before if due is None else due.position - self.offset
        self.velocity = np.zeros(3) if due is None else due.velocity
        self.path.append(self.place)
        self.nearest = min(self.nearest, clearance(self.scene, self.body, self.place))
        return report

    def run(self, until, limit_s=40.0):
        """Run until a report is as wanted; return it."""
        end = self.now + limit_s
        while self.now < end:
            report = self.tick()
            if until(report):
                return report
        raise AssertionError(f'{report} at {self.place} after {limit_s} s')

    def arrive(self):
        """Run until the goal is decided; return the report."""
        return self.run(lambda report: report.outcome is not Outcome.OPEN)


def following(report):
    """Whether it follows a motion."""
    return report.state is State.FOLLOWING


def test_robot_waits_plans_follows_and_arrives():
    world = World()
    assert world.brain.step(0.0).state is State.BLIND
    assert world.tick().state is State.WAITING
    world.brain.goal((2.0, 1.0, 0.0))
    assert world.tick().state is State.PLANNING
    assert world.tick().state is State.FOLLOWING
    report = world.arrive()
    assert report.outcome is Outcome.ARRIVED
    assert report.state is State.WAITING
    np.testing.assert_allclose(world.place, (2.0, 1.0, 0.0), atol=0.02)
    speeds = np.diff(world.path, axis=0) / TICK
    assert np.linalg.norm(speeds, axis=1).max() <= Limits().speed_mps * 1.01
    assert world.brain.setpoint(world.now) is None


def test_robot_plans_again_every_second_and_keeps_the_motion_that_is_no_worse():
    world = World()
    world.brain.goal((2.0, 0.0, 0.0))
    world.run(following)
    motion = world.brain.motion
    world.arrive()
    calls = len(world.brain.planner.calls)
    assert 2 <= calls <= 2 + world.now
    # In an empty room nothing better comes up, or it comes up seldom.
    assert motion.plan.spline.duration_s < 6.0


def test_obstacle_that_comes_up_is_gone_around():
    world = World()
    world.brain.goal((2.5, 0.0, 0.0))
    world.run(following)
    world.scene.box((0.8, -0.5, 0), (1.1, 0.5, 9))
    report = world.arrive()
    assert report.outcome is Outcome.ARRIVED
    assert world.nearest >= 0


def test_obstacle_just_ahead_stops_the_robot_on_its_path_and_it_plans_anew():
    world = World()
    world.brain.goal((3.0, 0.0, 0.0))
    world.run(lambda report: world.place[0] > -0.5)
    speed = np.linalg.norm(world.velocity)
    assert speed > 1.0
    ahead = world.place[0] + 1.1
    world.scene.box((ahead, -0.8, 0), (ahead + 0.2, 0.8, 9))
    world.run(lambda report: report.state is State.STOPPING, 2.0)
    world.run(lambda report: report.state is State.PLANNING, 4.0)
    assert world.arrive().outcome is Outcome.ARRIVED
    assert world.nearest >= 0


def test_goal_that_moves_is_followed_without_a_stop():
    world = World()
    world.brain.goal((2.5, -1.0, 0.0))
    world.run(lambda report: world.place[0] > -1.0)
    world.brain.goal((2.5, 1.5, 0.0))
    world.arrive()
    np.testing.assert_allclose(world.place, (2.5, 1.5, 0.0), atol=0.02)
    assert world.states[State.STOPPING] == 0
    assert np.linalg.norm(np.diff(np.diff(world.path, axis=0), axis=0), axis=1).max() < 0.03


def test_goal_that_is_taken_back_stops_the_robot():
    world = World()
    world.brain.goal((2.5, 0.0, 0.0))
    world.run(lambda report: world.place[0] > -1.0)
    world.brain.goal(None)
    report = world.run(lambda report: report.state is State.WAITING, 4.0)
    assert report.outcome is Outcome.CANCELLED
    assert world.place[0] < 2.0


def test_goal_in_an_obstacle_ends_beside_it():
    world = World(Scene().box((1.5, -0.5, 0), (2.5, 0.5, 9)))
    world.brain.goal((1.55, 0.0, 0.0))
    report = world.arrive()
    assert report.outcome is Outcome.ARRIVED
    assert report.end.kind is Whither.BESIDE
    assert np.linalg.norm(world.place - (1.55, 0, 0)) <= 0.52
    assert world.nearest >= 0


def test_goal_that_nothing_leads_to_is_given_up_with_its_status():
    scene = Scene().box((-0.8, -1.4, 0), (1.8, 1.4, 9))
    scene.occupied[34:56, 28:52, 1:] = False  # a closed room
    world = World(scene, config=ReplanConfig(give_up_s=2.0))
    world.brain.pose(0.0, world.place, np.zeros(3))
    whole = world.brain.voxels
    everything = np.argwhere(scene.occupied) * STEP + scene.low + STEP / 2
    everything = everything[everything[:, 2] < 2.3]
    whole.insert(world.place + np.array([0, 0, 0.4]), everything, np.ones(len(everything), bool))
    world.brain.goal((0.5, 0.0, 0.0))
    report = world.arrive()
    assert report.outcome is Outcome.GIVEN_UP
    assert report.status is Status.NO_PATH
    assert world.place[0] == -2.0


def test_goal_outside_the_map_is_reached_in_stages():
    world = World(Scene((30.0, 6.0, 2.6)), place=(-12.0, 0.0, 0.0))
    world.brain.goal((9.0, 1.0, 0.0))
    world.run(following)
    assert world.brain.motion.plan.end.kind is Whither.STAGE
    assert world.arrive().outcome is Outcome.ARRIVED
    np.testing.assert_allclose(world.place, (9.0, 1.0, 0.0), atol=0.02)


def test_jump_of_the_odometry_drops_map_and_motion_and_begins_again():
    world = World(Scene().box((-0.2, -1, 0), (0.2, 1, 9)))
    world.brain.goal((2.5, 0.0, 0.0))
    world.run(lambda report: following(report) and np.linalg.norm(world.velocity) > 0.5)
    world.offset = np.array([0.0, 7.0, 0.0])
    world.scans = False
    assert world.brain.pose(world.now, world.place + world.offset, world.velocity)
    assert world.brain.setpoint(world.now) is None
    assert not world.brain.voxels.seen.any()
    world.place = world.path[-1]
    assert world.tick().state is State.BLIND
    # A scan and a prediction from before it are of another place.
    world.brain.scan(world.now - 1.0, world.place + np.array([0, 0, 0.4]), [[9.0, 9, 0.4]], [True])
    grid = VoxelGrid(20, 8, 20, 0.1, (-1.0, -1.0, -0.1))
    ones = np.ones(grid.shape, np.uint8)
    world.brain.complete(world.now - 1.0, ones, grid, GridPose(0.0, 7.0))
    assert not world.brain.voxels.blocked.any()
    world.scans = True
    world.brain.goal((2.5, 7.0, 0.0))
    assert world.arrive().outcome is Outcome.ARRIVED
    np.testing.assert_allclose(world.place, (2.5, 0.0, 0.0), atol=0.02)
    assert world.nearest >= 0


@pytest.mark.parametrize('what', ['poses', 'scans'])
def test_silence_stops_the_robot_and_it_goes_on_afterwards(what):
    world = World()
    world.brain.goal((3.0, 0.0, 0.0))
    world.run(lambda report: world.place[0] > -1.0)
    setattr(world, what, False)
    report = world.run(lambda report: report.state is State.BLIND, 4.0)
    assert 'come' in report.reason
    stood = world.place.copy()
    for _ in range(5):
        world.tick()
    np.testing.assert_array_equal(world.place, stood)
    assert stood[0] < 2.5
    setattr(world, what, True)
    assert world.arrive().outcome is Outcome.ARRIVED


def test_clock_that_goes_back_makes_it_forget_everything():
    world = World()
    world.brain.goal((3.0, 0.0, 0.0))
    world.run(lambda report: world.place[0] > -1.0)
    world.now = -51.0
    assert world.tick().state is State.WAITING
    assert world.brain.motion is None
    world.brain.goal((1.0, 0.0, 0.0))
    assert world.arrive().outcome is Outcome.ARRIVED


def test_robot_that_is_not_where_it_should_be_stops_and_plans_from_there():
    world = World(config=ReplanConfig(off_motion_m=0.2))
    world.brain.goal((2.5, 0.0, 0.0))
    world.run(lambda report: world.place[0] > -1.0)
    world.place = world.place + np.array([0.0, 0.3, 0.0])
    world.brain.pose(world.now, world.place, world.velocity)
    assert world.brain.step(world.now).state is State.STOPPING
    assert world.arrive().outcome is Outcome.ARRIVED


def test_prediction_blocks_the_way_until_it_is_seen_free():
    world = World()
    world.sees_nothing = True
    world.tick()
    grid = VoxelGrid(40, 10, 40, 0.1, (0.0, -2.0, -0.1))
    labels = np.zeros(grid.shape, np.uint8)
    labels[18:20, 1:, 10:30] = 5
    world.brain.complete(world.now, labels, grid, GridPose(-2.0, 0.0))
    space = world.brain.space()
    assert not space.line_fits(np.array([-2.0, 0, 0]), np.array([2.0, 0, 0]))
    # Nothing is there, and the lidar sees it.
    before = world.brain.voxels.predicted.sum()
    world.sees_nothing = False
    world.brain.goal((2.0, 0.0, 0.0))
    assert world.arrive().outcome is Outcome.ARRIVED
    assert world.brain.voxels.predicted.sum() < before / 2


def predicted_box(world, low, high):
    """Let a network say that a box, metres in the map, is full of something."""
    grid = VoxelGrid(80, 24, 80, 0.1, (-4.0, -4.0, -0.1))
    labels = np.zeros(grid.shape, np.uint8)
    middles = grid.middles(np.ones(grid.shape, np.uint8), GridPose(0.0, 0.0))
    inside = ((middles > low) & (middles < high)).all(1)
    labels[inside.reshape(grid.shape)] = 5
    world.brain.complete(world.now, labels, grid, GridPose(0.0, 0.0))


def test_predicted_wall_without_a_way_around_ends_no_way_and_takes_nobody_off():
    world = World()
    world.sees_nothing = True
    world.tick()
    # From wall to wall, and low enough to be flown over.
    predicted_box(world, (0.0, -4.0, 0.0), (0.3, 4.0, 1.0))
    assert not world.brain.space().line_fits(world.place, np.array([2.0, 0.0, 0.0]))
    world.brain.goal((2.0, 0.0, 0.0))
    world.run(following)
    # The network says so again, and the lidar has nothing to tell: it still goes on.
    predicted_box(world, (0.0, -4.0, 0.0), (0.3, 4.0, 1.0))
    assert world.arrive().outcome is Outcome.ARRIVED
    assert max(place[2] for place in world.path) < 0.05
    assert world.brain.voxels.predicted.any()  # elsewhere it is believed
    # With the next goal it is believed again.
    world.brain.goal((2.0, 1.0, 0.0))
    predicted_box(world, (0.0, -4.0, 0.0), (0.3, 4.0, 1.0))
    assert not world.brain.space().line_fits(np.array([-2.0, 0.0, 0.0]), world.place)


def test_goal_in_a_predicted_obstacle_is_gone_to_and_looked_at():
    world = World()
    world.sees_nothing = True
    world.tick()
    predicted_box(world, (-0.5, -1.2, 0.0), (1.9, 1.2, 2.4))
    world.brain.goal((0.7, 0.0, 0.0))
    report = world.run(lambda report: report.status is not None)
    assert report.status is Status.OK
    assert world.arrive().outcome is Outcome.ARRIVED
    np.testing.assert_allclose(world.place, (0.7, 0.0, 0.0), atol=0.05)


def test_prediction_that_closes_the_way_while_the_robot_drives_does_not_stop_it():
    world = World()
    world.brain.goal((2.5, 0.0, 0.0))
    world.run(lambda report: world.place[0] > -1.5)
    world.sees_nothing = True
    # Where it has not been seen free; up to the ceiling.
    predicted_box(world, (1.0, -4.0, 0.0), (1.3, 4.0, 2.4))
    world.brain.voxels._seen[:] = False  # as if the lidar had seen none of it
    predicted_box(world, (1.0, -4.0, 0.0), (1.3, 4.0, 2.4))
    assert world.brain.motion.blocked_in(world.brain.space(), world.now) is not None
    assert world.arrive().outcome is Outcome.ARRIVED
    assert world.states[State.STOPPING] == 0


def test_observed_wall_still_ends_the_way():
    wall = Scene().box((0.0, -4.0, 0.0), (0.3, 4.0, 3.0))
    world = World(wall, config=ReplanConfig(lead_s=0.5, give_up_s=3.0), body=Body(flies=False))
    for _ in range(12):
        world.tick()
    predicted_box(world, (-1.0, -4.0, 0.0), (-0.8, 4.0, 2.4))
    world.brain.goal((2.0, 0.0, 0.0))
    assert world.arrive().outcome is Outcome.GIVEN_UP
    assert world.nearest > -0.01


def test_robot_shut_in_by_a_prediction_gets_away_from_it():
    world = World()
    world.sees_nothing = True
    world.tick()
    grid = VoxelGrid(8, 6, 8, 0.1, (-0.4, -0.4, -0.1))
    labels = np.zeros(grid.shape, np.uint8)
    labels[6:, 2:, :] = 1
    world.brain.complete(world.now, labels, grid, GridPose(-2.0, 0.0))
    assert not world.brain.space().fits(world.place[None])[0]
    world.brain.goal((-3.0, 0.0, 0.0))
    report = world.run(lambda report: report.status is not None)
    assert report.status is Status.ESCAPE
    assert world.arrive().outcome is Outcome.ARRIVED


def test_braking_stays_on_the_path_and_slows_down_as_fast_as_allowed():
    plan = Patient().plan(Scene().space(SpaceBuilder(BODY)), (-3, 0, 0), (3, 2, 0))
    motion = Timed(plan, np.zeros(3), 10.0)
    braked = motion.braked(11.5, 2.0)
    assert braked.braked(11.6, 2.0) is braked
    times = np.arange(10.0, braked.ends_s + 0.5, 0.01)
    places = np.array([braked.at(t).position for t in times])
    speeds = np.array([braked.at(t).velocity for t in times])
    np.testing.assert_allclose(
        np.diff(places, axis=0) / 0.01, (speeds[1:] + speeds[:-1]) / 2, atol=0.03
    )
    assert np.linalg.norm(speeds[-1]) == 0
    path = plan.spline.sampled(0.01)[1]
    for place in places[::5]:
        assert np.linalg.norm(path - place, axis=1).min() < 0.01
    hardest = np.linalg.norm(np.diff(speeds, axis=0) / 0.01, axis=1).max()
    assert hardest <= 2 * 2.0 * 1.05


class Post(World):
    """Something in the way that the lidar does not see."""

    def tick(self):
        before = self.place
        report = super().tick()
        if np.linalg.norm(self.place[:2]) < 0.3 < 0.01 + np.linalg.norm(before[:2]):
            self.place, self.velocity = before, np.zeros(3)
        return report


def test_robot_that_something_unseen_holds_goes_around_it():
    world = Post()
    world.brain.goal((2.0, 0.0, 0.0))
    assert world.arrive().outcome is Outcome.ARRIVED
    np.testing.assert_allclose(world.place, (2.0, 0.0, 0.0), atol=0.05)
    assert world.brain.voxels.occupied.any()
    # With the next goal it is forgotten: perhaps somebody moved it.
    world.brain.goal((2.0, 1.0, 0.0))
    assert not world.brain.voxels.occupied[..., 2:].any()


@pytest.mark.parametrize('wrong', [{'lead_s': 0.0}, {'keep': 2.0}, {'jump_m': -1.0}])
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        ReplanConfig(**wrong)


def test_places_that_are_none_are_refused():
    brain = Replanning()
    with pytest.raises(ValueError, match='place'):
        brain.pose(0.0, (np.nan, 0, 0), (0, 0, 0))
    with pytest.raises(ValueError, match='goal'):
        brain.goal((1.0, 2.0))
    with pytest.raises(ValueError, match='now_s'):
        brain.step(np.inf)
