"""Several people: association, who is the target, and late frames."""

import numpy as np
import pytest

from offload_ros.tracking.appearance import distance, looked, torso_histogram
from offload_ros.tracking.tracker import PeopleTracker, TargetConfig, TrackerConfig
from offload_ros.tracking.tracks import Detection

RED = np.array([0.7, 0.2, 0.1, 0.0])
BLUE = np.array([0.0, 0.1, 0.2, 0.7])
STEP_S = 0.125


def follow(tracker, paths, rng, sigma=0.05, start_s=0.0, shuffle=True):
    """Feed paths {looks index: positions (T, 2) with NaN for unseen}; return the final stamp."""
    stamp = start_s
    for step in range(len(next(iter(paths.values()))[1])):
        found = []
        for looks, path in paths.values():
            if np.isfinite(path[step]).all():
                shape = None
                if looks is not None:
                    shape = looks * rng.uniform(0.8, 1.2, 4)
                    shape = shape / shape.sum()
                found.append(Detection(path[step] + rng.normal(0, sigma, 2), 0.0, shape))
        if shuffle:
            found = [found[i] for i in rng.permutation(len(found))]
        tracker.add(stamp, tuple(found))
        stamp += STEP_S
    return stamp - STEP_S


def line(start, end, count):
    return np.linspace(start, end, count)


def tracker_of(choose='nearest', **changes):
    return PeopleTracker(TrackerConfig(target=TargetConfig(choose=choose, **changes)))


@pytest.mark.parametrize('seed', range(5))
@pytest.mark.parametrize('looks', [(RED, BLUE), (None, None)])
def test_identity_is_kept_when_people_cross(seed, looks):
    rng = np.random.default_rng(seed)
    first = line([1.0, -2.0], [3.0, 2.0], 40)
    second = line([1.2, 2.0], [3.2, -2.0], 40)
    tracker = tracker_of()
    paths = {'a': (looks[0], first), 'b': (looks[1], second)}
    begin = {name: (shape, path[:8]) for name, (shape, path) in paths.items()}
    stamp = follow(tracker, begin, rng)
    keys = {}
    for track in tracker.people.tracks:
        at = track.filtered.belief.position
        keys['a' if np.hypot(*(at - first[7])) < np.hypot(*(at - second[7])) else 'b'] = track.key
    rest = {name: (shape, path[8:]) for name, (shape, path) in paths.items()}
    follow(tracker, rest, rng, start_s=stamp + STEP_S)
    ends = {track.key: track.filtered.belief.position for track in tracker.people.tracks}
    assert ends[keys['a']] == pytest.approx(first[-1], abs=0.3)
    assert ends[keys['b']] == pytest.approx(second[-1], abs=0.3)
    assert len(ends) == 2


def test_identity_is_kept_by_looks_where_motion_alone_would_swap_it():
    rng = np.random.default_rng(1)
    # They walk up to each other, stand together unseen, and each goes back the way they came.
    count = 20
    gap = np.full((6, 2), np.nan)
    first = np.concatenate([line([2, -2], [2, -0.2], count), gap, line([2, -0.2], [2, -2], count)])
    second = np.concatenate([line([2, 2], [2, 0.2], count), gap, line([2, 0.2], [2, 2], count)])
    tracker = tracker_of()
    follow(tracker, {'a': (RED, first), 'b': (BLUE, second)}, rng)
    ends = {
        round(float(track.looks[0] @ [1, 0, 0, 0]), 1): track for track in tracker.people.tracks
    }
    assert len(tracker.people.tracks) == 2
    red = max(tracker.people.tracks, key=lambda track: track.looks[0][0])
    assert red.filtered.belief.position == pytest.approx([2, -2], abs=0.3)
    assert len(ends) == 2


def test_target_is_the_person_nearest_to_the_middle_of_the_image_and_stays_it():
    tracker = tracker_of('centre')
    for step in range(20):
        side = Detection(np.array([2.0, 1.5]), 0.5 if step < 10 else 0.0)
        middle = Detection(np.array([4.0, -1.0]), -0.05 if step < 10 else 0.6)
        tracker.add(0.1 * step, (side, middle))
    assert tracker.people.target.filtered.belief.position == pytest.approx([4, -1], abs=0.05)


def test_given_target_waits_to_be_told():
    tracker = tracker_of('given')
    for step in range(8):
        if step == 5:
            assert tracker.people.target is None
            tracker.follow(tracker.people.tracks[1].key)
        tracker.add(0.1 * step, (Detection(np.zeros(2)), Detection(np.array([3.0, 0]))))
    assert tracker.people.target.filtered.belief.position == pytest.approx([3, 0], abs=0.05)
    with pytest.raises(KeyError, match='no track'):
        tracker.follow(type(tracker.people.tracks[0].key)(9.0, 3))


def lose(looks=RED):
    """Return a tracker whose target, at (2, 0), is out of sight since some time."""
    tracker, rng = tracker_of(), np.random.default_rng(2)
    follow(tracker, {'a': (looks, line([1, 0], [2, 0], 20))}, rng)
    for step in range(30):
        tracker.add(2.5 + 0.1 * step, ())
    assert not tracker.people.tracks
    assert tracker.people.target is not None
    return tracker, rng, 5.6


def test_lost_target_is_found_again_under_its_own_key():
    tracker, rng, now = lose()
    key = tracker.people.target.key
    follow(tracker, {'a': (RED, line([3, 1], [3, 1.5], 8))}, rng, start_s=now)
    target = tracker.people.target
    assert target.key == key
    assert target.filtered.belief.position == pytest.approx([3, 1.5], abs=0.2)
    assert [track.key for track in tracker.people.tracks] == [key]


@pytest.mark.parametrize(
    ('looks', 'place'),
    [(BLUE, [3.0, 1.0]), (RED, [30.0, 1.0])],  # somebody else; too far to have walked
)
def test_stranger_does_not_become_the_target(looks, place):
    tracker, rng, now = lose()
    before = tracker.people.target
    path = np.tile(place, (20, 1)).astype(float)
    follow(tracker, {'b': (looks, path)}, rng, start_s=now)
    assert tracker.people.target.seen_s == before.seen_s


def test_no_target_is_taken_while_two_people_could_be_it():
    tracker, rng, now = lose()
    before = tracker.people.target
    twins = {'a': (RED, np.tile([3.0, 1], (12, 1))), 'b': (RED, np.tile([2.0, -1], (12, 1)))}
    now = follow(tracker, twins, rng, start_s=now)
    assert tracker.people.target.seen_s == before.seen_s
    # Once one of them has gone, the other one is taken.
    follow(tracker, {'a': twins['a']}, rng, start_s=now + 2.0)
    assert tracker.people.target.filtered.belief.position == pytest.approx([3, 1], abs=0.2)


def test_somebody_seen_beside_the_target_is_never_taken_for_it_without_looks():
    tracker, rng = tracker_of(), np.random.default_rng(3)
    # Companion and target without appearance; then the target is hidden, the companion stays.
    target, other = np.tile([2.0, 0], (16, 1)), np.tile([3.5, 0.5], (16, 1))
    now = follow(tracker, {'a': (None, target), 'b': (None, other)}, rng)
    key = tracker.people.target.key
    assert tracker.people.target.filtered.belief.position == pytest.approx([2, 0], abs=0.1)
    follow(tracker, {'b': (None, np.tile([3.5, 0.5], (40, 1)))}, rng, start_s=now + STEP_S)
    assert tracker.people.target.key == key
    assert tracker.people.target.seen_s == now


def test_target_is_given_up_in_the_end():
    tracker = tracker_of(forget_s=10.0)
    for step in range(10):
        tracker.add(0.1 * step, (Detection(np.zeros(2)),))
    tracker.add(11.5, ())
    assert tracker.people.target is None


def test_single_detections_confirm_nobody():
    tracker = tracker_of()
    rng = np.random.default_rng(4)
    for step in range(50):
        tracker.add(0.1 * step, (Detection(rng.uniform(-50, 50, 2)),))
    assert tracker.people.target is None
    assert len(tracker.people.tracks) < 10


def test_tracks_and_detections_are_bounded():
    tracker = tracker_of()
    many = tuple(Detection(np.array([2.0 * i, 0.0])) for i in range(300))
    for step in range(4):
        tracker.add(0.1 * step, many)
    config = tracker.config.tracks
    assert len(tracker.people.tracks) == config.tracks_max
    assert config.tracks_max <= config.detections_max < 300


@pytest.mark.parametrize('seed', range(4))
def test_late_frames_give_the_tracks_and_the_target_of_those_in_order(seed):
    rng = np.random.default_rng(seed)
    frames = []
    for step in range(30):
        people = [np.array([1 + 0.05 * step, 0.4]), np.array([3 - 0.05 * step, -0.4])]
        shown = [p for p in people if rng.random() > 0.2]
        found = tuple(
            Detection(p + rng.normal(0, 0.05, 2), float(rng.normal(0, 0.2)), RED) for p in shown
        )
        frames.append((0.05 * step, found))
    ordered, late = tracker_of(), tracker_of()
    for stamp, found in frames:
        assert ordered.add(stamp, found)
    delayed = sorted(range(30), key=lambda i: frames[i][0] + rng.uniform(0, 0.3))
    assert delayed != sorted(delayed)
    for place in delayed:
        assert late.add(*frames[place])
    assert ordered.people.target.key == late.people.target.key
    assert len(ordered.people.tracks) == len(late.people.tracks)
    for one, other in zip(ordered.people.tracks, late.people.tracks, strict=True):
        assert one.key == other.key
        assert (one.hits, one.confirmed, one.beside) == (
            other.hits,
            other.confirmed,
            other.beside,
        )
        assert np.array_equal(one.filtered.belief.mean, other.filtered.belief.mean)
        assert np.array_equal(one.filtered.belief.covariance, other.filtered.belief.covariance)


def test_numbers_of_tracks_are_small_and_stable():
    tracker = tracker_of()
    for step in range(4):
        tracker.add(0.1 * step, (Detection(np.zeros(2)), Detection(np.array([5.0, 0]))))
    keys = [track.key for track in tracker.people.tracks]
    assert [tracker.number(key) for key in keys + keys] == [1, 2, 1, 2]


@pytest.mark.parametrize(
    ('arguments', 'rule'),
    [
        ({'position': np.array([np.nan, 0])}, 'position'),
        ({'position': np.zeros(2), 'appearance': np.array([0.5, 0.2])}, 'sum to 1'),
        ({'position': np.zeros(2), 'bearing': 7.0}, 'bearing'),
    ],
)
def test_detection_refuses(arguments, rule):
    with pytest.raises(ValueError, match=rule):
        Detection(**arguments)


def figure(colour):
    """Return an image with a torso of that colour and the keypoints of a person."""
    image = np.full((120, 160, 3), 90, np.uint8)
    image[30:80, 60:100] = colour
    keypoints = np.zeros((17, 3))
    keypoints[[5, 6, 11, 12]] = [[98, 32, 1], [62, 32, 1], [96, 78, 1], [64, 78, 1]]
    return image, keypoints


def test_torsos_of_other_colours_differ_and_light_changes_little():
    red = torso_histogram(*figure((200, 30, 30)))
    darker = torso_histogram(*figure((150, 24, 24)))
    green = torso_histogram(*figure((30, 180, 40)))
    grey = torso_histogram(*figure((128, 128, 128)))
    assert red.sum() == pytest.approx(1)
    assert distance(red, darker) < 0.2
    assert distance(red, green) > 0.8
    assert distance(red, grey) > 0.8
    assert distance(red, red) == 0


def test_torso_out_of_the_image_or_not_sure_has_no_histogram():
    image, keypoints = figure((200, 30, 30))
    unsure = keypoints.copy()
    unsure[11, 2] = 0.1
    assert torso_histogram(image, unsure) is None
    keypoints[:, 0] += 200
    assert torso_histogram(image, keypoints) is None
    keypoints[5] = np.nan
    assert torso_histogram(image, keypoints) is None


def standing(tracker, steps, place=(2.0, 0.0), looks=RED, start_s=0.0):
    for step in range(steps):
        tracker.add(start_s + STEP_S * step, (Detection(np.array(place), 0.0, looks),))
    return start_s + STEP_S * steps


def test_one_position_far_off_neither_moves_a_track_nor_ends_it():
    tracker = tracker_of()
    now = standing(tracker, 20)
    (before,) = tracker.people.tracks
    off = Detection(np.array([2.45, 0.0]), 0.5, RED)
    tracker.add(now, (off,))
    (after,) = tracker.people.tracks
    assert after.key == before.key
    moved = after.filtered.belief.position - before.filtered.belief.position
    assert 0 < moved[0] < 0.27  # as any other measurement it would move the track by 0.33
    standing(tracker, 5, start_s=now + STEP_S)
    (last,) = tracker.people.tracks
    assert last.key == before.key
    assert last.filtered.belief.position == pytest.approx([2, 0], abs=0.1)


def test_a_position_far_off_of_somebody_who_looks_different_is_another_person():
    tracker = tracker_of()
    now = standing(tracker, 20)
    tracker.add(now, (Detection(np.array([2.45, 0.0]), 0.5, BLUE),))
    assert len(tracker.people.tracks) == 2


def test_a_wrong_look_at_the_right_place_does_not_end_a_track_but_later_it_does():
    tracker = tracker_of()
    now = standing(tracker, 20)
    (before,) = tracker.people.tracks
    other = np.array([0.0, 0.0, 0.0, 1.0])
    here = np.array([2.0, 0.0])
    tracker.add(now, (Detection(here, 0.0, other),))
    assert [track.key for track in tracker.people.tracks] == [before.key]
    tracker.add(now + 1.0, (Detection(here, 0.0, np.array([0.0, 0.0, 1.0, 0.0])),))
    assert {track.key for track in tracker.people.tracks} > {before.key}


def test_target_that_was_taken_for_somebody_new_is_found_again_at_once():
    tracker = tracker_of()
    now = standing(tracker, 20)
    key = tracker.people.target.key
    # Found twice for a moment, the second one too far off to be the same.
    for _ in range(2):
        pair = Detection(np.array([2.0, 0.0]), 0.0, RED), Detection(np.array([2.7, 0.0]), 0.0, RED)
        tracker.add(now, pair)
        now += STEP_S
    standing(tracker, 8, place=(2.7, 0.0), start_s=now)
    target = tracker.people.target
    assert target.key == key
    assert target.filtered.belief.position == pytest.approx([2.7, 0], abs=0.1)


def test_looks_of_front_and_back_are_both_kept():
    front, back, third = np.eye(4)[:3]
    looks = looked((front,), front * 0.9 + back * 0.1, 0.5, 0.5, 2)
    assert len(looks) == 1
    assert looks[0] == pytest.approx([0.95, 0.05, 0, 0])
    looks = looked(looks, back, 0.1, 0.5, 2)
    assert len(looks) == 2
    looks = looked(looks, third, 0.1, 0.5, 2)
    assert [int(np.argmax(each)) for each in looks] == [0, 2]
    assert looked((), back, 0.1, 0.5, 2)[0] is back
