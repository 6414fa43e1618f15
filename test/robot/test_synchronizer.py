"""Messages of several topics are put together by their stamps, each at most once."""

from itertools import product

from hypothesis import given, settings
from hypothesis import strategies as st
import pytest

from offload_ros.robot.synchronizer import Synchronizer


def test_one_topic_needs_no_partner():
    synchronizer = Synchronizer(['image'], 0.05)
    for stamp_s in (1.0, 2.0, 0.5):
        assert synchronizer.add('image', stamp_s, stamp_s) == {'image': stamp_s}


def test_two_topics_make_a_set_when_the_second_one_comes():
    synchronizer = Synchronizer(['image', 'depth'], 0.05)
    assert synchronizer.add('image', 1.0, 'i') is None
    assert synchronizer.add('depth', 1.04, 'd') == {'image': 'i', 'depth': 'd'}
    assert synchronizer.add('depth', 1.05, 'd2') is None, 'the image is used up'


def test_stamps_further_apart_than_the_slop_make_no_set():
    synchronizer = Synchronizer(['image', 'depth'], 0.05)
    synchronizer.add('image', 1.0, 'i')
    assert synchronizer.add('depth', 1.06, 'd') is None


def test_partner_nearest_in_time_is_taken():
    synchronizer = Synchronizer(['image', 'depth'], 0.05)
    for stamp_s in (1.00, 1.03, 1.06):
        synchronizer.add('image', stamp_s, stamp_s)
    assert synchronizer.add('depth', 1.04, 'd') == {'image': 1.03, 'depth': 'd'}


def test_used_and_older_messages_are_gone_and_newer_ones_stay():
    synchronizer = Synchronizer(['image', 'depth'], 0.05)
    for stamp_s in (1.0, 1.1, 1.2):
        synchronizer.add('image', stamp_s, stamp_s)
    assert synchronizer.add('depth', 1.1, 'd1')['image'] == 1.1
    assert synchronizer.add('depth', 1.0, 'd0') is None
    assert synchronizer.add('depth', 1.2, 'd2')['image'] == 1.2


def test_set_is_found_although_the_nearest_messages_lie_too_far_from_each_other():
    synchronizer = Synchronizer(['a', 'b', 'c'], 1.0)
    synchronizer.add('a', 9.4, 'a')
    synchronizer.add('b', 9.3, 'b early')
    synchronizer.add('b', 10.6, 'b late')  # nearer to c, but not within the slop of a
    assert synchronizer.add('c', 10.0, 'c') == {'a': 'a', 'b': 'b early', 'c': 'c'}


def test_time_that_goes_back_forgets_the_earlier_run():
    synchronizer = Synchronizer(['image', 'depth'], 0.05)
    synchronizer.add('image', 100.0, 'old')
    synchronizer.add('image', 5.0, 'new')
    assert synchronizer.add('depth', 100.0, 'd old') is None
    assert synchronizer.add('depth', 6.0, 'd') is None
    assert synchronizer.add('image', 6.0, 'new 2') == {'image': 'new 2', 'depth': 'd'}


def test_time_that_goes_back_a_little_uses_no_message_twice():
    synchronizer = Synchronizer(['image', 'depth'], 0.05)
    synchronizer.add('image', 5.0, 'i1')
    synchronizer.add('image', 4.5, 'i2')
    assert synchronizer.add('depth', 4.5, 'd1') == {'image': 'i2', 'depth': 'd1'}
    assert synchronizer.add('depth', 4.51, 'd2') is None


def test_at_most_depth_messages_are_kept():
    synchronizer = Synchronizer(['image', 'depth'], 0.05, depth=3)
    for index in range(10):
        synchronizer.add('image', float(index), index)
    assert synchronizer.add('depth', 6.0, 'd') is None
    assert synchronizer.add('depth', 7.0, 'd')['image'] == 7


def test_unknown_topic_is_a_mistake_of_the_caller():
    with pytest.raises(KeyError):
        Synchronizer(['image', 'depth'], 0.05).add('lidar', 1.0, None)


STREAMS = st.lists(
    st.tuples(st.sampled_from('abc'), st.integers(0, 60).map(lambda tick: tick / 20)), max_size=60
)


@settings(deadline=None, max_examples=300)
@given(STREAMS)
def test_any_stream_gives_sets_within_the_slop_and_no_message_twice(stream):
    synchronizer = Synchronizer('abc', 0.1, depth=5)
    used = []
    for index, (name, stamp_s) in enumerate(stream):
        found = synchronizer.add(name, stamp_s, (name, index, stamp_s))
        if found is None:
            continue
        assert set(found) == set('abc')
        assert all(message[0] == topic for topic, message in found.items())
        assert found[name][1] == index, 'the message that completes a set is in it'
        stamps = [message[2] for message in found.values()]
        assert max(stamps) - min(stamps) <= 0.1 + 1e-9
        used += [message[1] for message in found.values()]
    assert len(used) == len(set(used))


@settings(deadline=None, max_examples=200)
@given(st.lists(st.tuples(st.sampled_from('abc'), st.integers(0, 1)), max_size=40))
def test_forward_stream_misses_no_set(steps):
    """While no set was found and time runs forward, no combination within the slop was there."""
    synchronizer = Synchronizer('abc', 2.0, depth=100)
    kept = {name: [] for name in 'abc'}
    stamp_s = 0.0
    for name, step in steps:
        stamp_s += step
        kept[name].append(stamp_s)
        found = synchronizer.add(name, stamp_s, stamp_s)
        possible = any(
            stamp_s in combination and max(combination) - min(combination) <= 2.0
            for combination in product(*kept.values())
        )
        assert (found is not None) == possible
        if found is not None:
            return
