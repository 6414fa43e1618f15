"""The person follower as a whole, in the simulated room."""

from dataclasses import replace
import math

import numpy as np
import pytest

pytest.importorskip('mujoco')

from offload_ros.sim import PersonConfig, World, WorldConfig
from offload_ros.tracking.follow import FOLLOWING, STALE, WAITING
from offload_ros.tracking.system import OFF, PersonFollowing, SystemConfig

from .room import CAMERA, Room

SMALL = WorldConfig(object_count=8, inner_wall=False)


@pytest.fixture(scope='module')
def walked():
    """Twelve seconds of following, with a turned and drifting odometry."""
    drifting = replace(SMALL, robot=replace(SMALL.robot, drift_fraction=0.02))
    with World(5, drifting) as world:
        room = Room(world)
        room.camera_info()
        yield room, room.run(12.0)


def test_the_robot_finds_places_and_follows_the_person(walked):
    room, notes = walked
    settled = [note for note in notes if note[0] > 3.0]
    errors = np.array([error for _, _, error, _ in settled])
    assert np.isfinite(errors).mean() > 0.8
    assert math.sqrt(np.nanmean(errors**2)) < 0.25
    modes = [command.mode for *_, command in settled]
    assert modes.count(FOLLOWING) > 0.7 * len(modes)
    assert np.median([distance for _, distance, _, _ in settled]) < 3.3
    assert not room.world.robot.blocked
    assert room.following.problem() == '' and room.following.result_hz() >= 8


def test_every_result_is_told_with_places_and_tracks(walked):
    room, _ = walked
    assert len(room.seen) >= 110
    found = [seen for seen in room.seen if len(seen.poses)]
    assert len(found) > 80
    last = found[-1]
    assert len(last.poses) == len(last.located) == len(last.tracks) == len(last.scores)
    tracked = [seen for seen in found if seen.tracks[0] is not None]
    assert len(tracked) > 0.8 * len(found)
    assert room.following.number(tracked[-1].tracks[0].key) >= 1
    place = tracked[-1].located[0]
    assert place is not None and -0.1 < place.position[2] < 2.0
    known = np.isfinite(place.keypoints).all(1)
    assert known.sum() >= 3 and np.ptp(place.keypoints[known, 2]) < 2.0


def test_what_is_missing_is_said_and_stops_the_robot():
    with World(5, SMALL) as world:
        room = Room(world)
        notes = room.run(2.0)
        assert {command.mode for *_, command in notes} == {STALE}
        assert 'camera_info' in notes[-1][3].reason
        with pytest.raises(ValueError, match='not calibrated'):
            room.following.camera((0,) * 9, 320, 240)
        assert 'not calibrated' in room.run(0.3)[-1][3].reason
        room.camera_info()
        assert room.run(2.0)[-1][3].mode != STALE
        depths, room.following.depth = room.following.depth, lambda *_: []
        assert 'no depth' in room.run(1.5)[-1][3].reason
        room.following.depth = lambda stamp, frame, image: depths(stamp, frame, image[:, :200])
        assert 'proportions' in room.run(1.0)[-1][3].reason
        room.following.depth = lambda stamp, frame, image: depths(stamp, 'nowhere', image)
        assert "'nowhere'" in room.run(1.5)[-1][3].reason
        room.following.depth = depths
        assert room.run(1.0)[-1][3].mode != STALE
        room.following.result = lambda *_: []
        last = room.run(1.6)[-1][3]
        assert last.mode == STALE and 'no results' in last.reason
        assert last.linear_mps == 0 and last.angular_radps == 0


def test_a_depth_image_of_half_the_size_places_people_too():
    with World(5, SMALL) as world:
        room = Room(world)
        room.camera_info()
        depths = room.following.depth
        room.following.depth = lambda stamp, frame, image: depths(stamp, frame, image[::2, ::2])
        notes = room.run(4.0)
        errors = [error for _, _, error, _ in notes if math.isfinite(error)]
        assert len(errors) > 15 and np.median(errors) < 0.3


def test_a_clock_that_goes_back_begins_anew(walked):
    room, _ = walked
    following = PersonFollowing()
    assert not following.clock(100.0) and not following.clock(99.5)
    assert following.clock(2.0)
    assert following.target is None and following.result_s == -math.inf
    assert following.command().mode == STALE
    assert room.following.config == SystemConfig()


def test_settings_change_while_it_runs_and_some_may_not():
    with World(5, SMALL) as world:
        room = Room(world)
        room.camera_info()
        room.run(3.0)
        config = room.following.config
        room.following.configure(replace(config, drive=False))
        command = room.run(0.2)[-1][3]
        assert command.mode == OFF and command.linear_mps == 0
        nearer = replace(config.follow, distance_m=1.6)
        room.following.configure(replace(config, follow=nearer))
        assert room.following.target is not None  # nothing was forgotten
        distances = [distance for _, distance, _, _ in room.run(6.0)]
        assert min(distances[-20:]) < 2.2
        with pytest.raises(ValueError, match='only locate, follow and drive'):
            room.following.configure(replace(config, fixed_frame='map'))


def test_outputs_of_another_form_are_refused():
    following = PersonFollowing()
    with pytest.raises(ValueError, match='poses must have the shape'):
        following.result(0.0, np.zeros((2, 16, 3)), np.zeros((2, 5)))
    with pytest.raises(ValueError, match='2 poses and 1 boxes'):
        following.result(0.0, np.zeros((2, 17, 3)), np.zeros((1, 5)))
    assert following.depth(0.0, CAMERA, np.ones((4, 4), np.float32)) == []


def test_among_two_people_who_cross_it_keeps_to_its_own():
    two = replace(SMALL, person=PersonConfig(count=2, pause_mean_s=0.5), object_count=4)
    with World(11, two) as world:
        room = Room(world)
        room.camera_info()
        room.run(20.0)
        target = room.following.target
        assert target is not None
        votes = np.zeros(2, int)
        for seen in room.seen:
            for place, track in zip(seen.located, seen.tracks, strict=True):
                if place is not None and track is not None and track.key == target.key:
                    apart = np.hypot(*(room.people[seen.stamp_s] - place.position[:2]).T)
                    votes[int(np.argmin(apart))] += 1
        assert votes.sum() > 60
        assert votes.max() >= 0.97 * votes.sum()
        assert room.following.command().mode != WAITING
