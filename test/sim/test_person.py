"""People: they walk like people, never through anything, and the camera sees them in place."""

import numpy as np
import pytest

from offload_ros.sim import KEYPOINTS, PersonConfig, World, WorldConfig
from offload_ros.sim.robot import Pose

from .conftest import Gaps

BONES = [
    (a, b)
    for side in ('left', 'right')
    for a, b in (
        (f'{side}_shoulder', f'{side}_elbow'),
        (f'{side}_elbow', f'{side}_wrist'),
        (f'{side}_hip', f'{side}_knee'),
        (f'{side}_knee', f'{side}_ankle'),
    )
]


def at(person, name):
    return person.keypoints[KEYPOINTS.index(name)]


def test_keypoints_are_in_coco_order():
    assert KEYPOINTS[0] == 'nose'
    assert KEYPOINTS[5] == 'left_shoulder'
    assert KEYPOINTS[16] == 'right_ankle'
    assert len(KEYPOINTS) == 17


@pytest.mark.parametrize('seed', [0, 1, 2])
def test_person_never_touches_an_obstacle_on_a_long_walk(seed):
    with World(seed=seed, config=WorldConfig(person=PersonConfig(pause_mean_s=0.3))) as world:
        gaps, walker = Gaps(world), world.walkers[0]
        body, obstacles = gaps.of(world.kinds.index('person')), gaps.obstacles()
        walked = 0.0
        for _ in range(240):
            before = walker.position.copy()
            world.step(0.25)
            walked += float(np.linalg.norm(walker.position - before))
            assert gaps.smallest(body, obstacles, 0.3) > 0, world.time_s
        assert walked > 20


def test_person_keeps_to_the_speed_and_pauses():
    with World(seed=4) as world:
        walker, speeds = world.walkers[0], []
        for _ in range(6000):
            before = walker.position.copy()
            world.step(0.01)
            speeds.append(np.linalg.norm(walker.position - before) / 0.01)
        assert max(speeds) <= 0.8 + 1e-6
        assert np.mean(np.array(speeds) > 0.6) > 0.3
        assert np.mean(np.array(speeds) == 0) > 0.02


def test_body_keeps_its_lengths_and_its_left_and_right(world):
    lengths = []
    for _ in range(40):
        world.step(0.17)
        person = world.truth().people[0]
        lengths.append([np.linalg.norm(at(person, a) - at(person, b)) for a, b in BONES])
        c, s = np.cos(person.pose.yaw), np.sin(person.pose.yaw)
        front, left = np.array([c, s, 0]), np.array([-s, c, 0])
        assert (at(person, 'left_hip') - at(person, 'right_hip')) @ left > 0.1
        assert (at(person, 'left_shoulder') - at(person, 'right_shoulder')) @ left > 0.2
        ears = (at(person, 'left_ear') + at(person, 'right_ear')) / 2
        assert (at(person, 'nose') - ears) @ front > 0.05
        assert at(person, 'nose')[2] > 1.3
        ankles = min(at(person, 'left_ankle')[2], at(person, 'right_ankle')[2])
        assert 0.03 < ankles < 0.13  # one foot stands on the floor
    assert np.ptp(lengths, axis=0).max() < 1e-9


def test_legs_swing_in_turn_while_walking():
    with World(seed=4, config=WorldConfig(person=PersonConfig(pause_mean_s=0.0))) as world:
        ahead = []
        for _ in range(200):
            world.step(0.1)
            person = world.truth().people[0]
            if not person.walking:
                continue
            front = np.array([np.cos(person.pose.yaw), np.sin(person.pose.yaw), 0])
            ahead.append((at(person, 'left_ankle') - at(person, 'right_ankle')) @ front)
        assert max(ahead) > 0.25
        assert min(ahead) < -0.25


def project(world, points):
    """Return pixels (N, 2) and depths (N,) of points (N, 3) in the map frame."""
    position, rotation = world.camera_pose()
    seen = (points - position) @ rotation
    camera = world.config.camera
    return seen[:, :2] / seen[:, 2:] * camera.focal_px + camera.centre_px, seen[:, 2]


@pytest.mark.parametrize('side', [0.0, 1.2, 2.4, 3.6, 4.8])
def test_camera_sees_every_keypoint_on_the_person(side):
    config = WorldConfig(object_count=0, inner_wall=False)
    with World(seed=11, config=config) as world:
        world.step(4.0)
        world.walkers[0].position = np.zeros(2)
        person = world.truth().people[0]
        angle = person.pose.yaw + side
        x, y = 2.6 * np.cos(angle), 2.6 * np.sin(angle)
        world.robot.pose = Pose(x, y, angle + np.pi)
        world.step(0.01)
        person = world.truth().people[0]
        pixels, depths = project(world, person.keypoints)
        picture, depth = world.segmentation(), world.render_depth()
        height, width = picture.shape
        hits = 0
        for (u, v), z in zip(np.rint(pixels).astype(int), depths, strict=True):
            assert 0 <= u < width and 0 <= v < height
            hits += picture[v, u] == person.id
            # The surface is at most a body's width before the keypoint.
            if picture[v, u] == person.id:
                assert -0.6 < depth[v, u] - z < 0.03
        assert hits >= 16  # the tip of a nose in profile may fall beside
        mirrored = np.rint(pixels * (-1, 1) + (width - 1, 0)).astype(int)
        shifted = np.clip(mirrored + np.array([40, 0]), 0, (width - 1, height - 1))
        assert sum(picture[v, u] == person.id for u, v in shifted) < 10


def test_people_keep_apart_from_each_other():
    with World(seed=2, config=WorldConfig(person=PersonConfig(count=4))) as world:
        closest = np.inf
        for _ in range(600):
            world.step(0.1)
            places = np.array([w.position for w in world.walkers])
            apart = np.linalg.norm(places[:, None] - places[None], axis=2)
            closest = min(closest, apart[~np.eye(4, dtype=bool)].min())
        assert closest > 0.99
