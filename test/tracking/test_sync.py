"""Results and depth images of one instant find each other."""

import pytest

from offload_ros.tracking.sync import StampPairs


def test_late_result_gets_the_depth_of_its_own_stamp():
    pairs = StampPairs()
    for step in range(20):
        assert pairs.add_second(0.1 * step, f'depth {step}') == []
    assert pairs.add_first(1.02, 'result') == [(1.02, 'result', 'depth 10')]
    assert pairs.add_first(0.96, 'another') == [(0.96, 'another', 'depth 9')]


def test_result_waits_for_the_depth_that_is_nearer():
    pairs = StampPairs()
    pairs.add_second(1.0, 'before')
    assert pairs.add_first(1.07, 'result') == []
    assert pairs.add_second(1.1, 'after') == [(1.07, 'result', 'after')]
    assert pairs.waiting == (0, 1)


def test_stamps_further_apart_than_the_slop_are_no_pair():
    pairs = StampPairs(slop_s=0.1)
    pairs.add_second(1.0, 'depth')
    pairs.add_second(2.0, 'depth')
    assert pairs.add_first(1.11, 'result') == []
    assert pairs.waiting == (1, 2)


def test_depth_serves_one_result():
    pairs = StampPairs()
    pairs.add_second(1.0, 'depth')
    assert pairs.add_first(1.0, 'one') == [(1.0, 'one', 'depth')]
    assert pairs.add_first(0.99, 'two') == []


def test_what_waits_is_bounded_by_count_and_age():
    pairs = StampPairs(limit=10, wait_s=2.0)
    for step in range(100):
        pairs.add_first(0.01 * step, step)
    assert pairs.waiting == (10, 0)
    assert pairs.dropped == 90
    pairs.add_second(10.0, 'depth')
    assert pairs.waiting == (0, 1)
    assert pairs.dropped == 100


def test_senseless_bounds_are_refused():
    with pytest.raises(ValueError, match='slop_s'):
        StampPairs(slop_s=-0.1)
    with pytest.raises(ValueError, match='stamp'):
        StampPairs().add_first(float('nan'), None)
