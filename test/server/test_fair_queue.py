"""What waits on a server is served by priority and in turns, and nobody's flood harms others."""

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st
import pytest
import torch

from offload_ros.server.fair_queue import Entry, FairQueue
from offload_ros.wire.exchange import Request


def entry(session, seq, priority=128):
    """Return a waiting request."""
    request = Request('/robot', session, 's', seq, inputs={'x': torch.zeros(2)}, priority=priority)
    return Entry(request, lambda reply: None, 0.0)


def drain(queue):
    """Take everything out; (session, seq) in the order of service."""
    served = []
    while (taken := queue.pop()) is not None:
        served.append((taken.request.session, taken.request.seq))
    return served


def test_one_robot_is_served_in_the_order_of_its_requests():
    queue = FairQueue(10)
    for seq in range(5):
        assert queue.push(entry('a', seq)) is None
    assert len(queue) == 5
    assert drain(queue) == [('a', seq) for seq in range(5)]
    assert len(queue) == 0


def test_robots_take_turns():
    queue = FairQueue(10)
    for session, seq in (('a', 0), ('a', 1), ('a', 2), ('b', 0), ('c', 0), ('b', 1)):
        queue.push(entry(session, seq))
    assert drain(queue) == [('a', 0), ('b', 0), ('c', 0), ('a', 1), ('b', 1), ('a', 2)]


def test_highest_priority_is_served_first():
    queue = FairQueue(10)
    for seq, priority in enumerate((1, 200, 128, 200)):
        queue.push(entry('a', seq, priority))
    queue.push(entry('b', 0, 150))
    assert drain(queue) == [('a', 1), ('a', 3), ('b', 0), ('a', 2), ('a', 0)]


def test_requests_of_one_number_are_told_apart():
    # A faulty robot may number like this, and must not end the server.
    queue = FairQueue(10)
    first, second = entry('a', 7, priority=1), entry('a', 7, priority=2)
    queue.push(first)
    queue.push(second)
    assert queue.pop() is second
    assert queue.pop() is first


def test_full_queue_refuses_the_newcomer_of_the_robot_that_floods():
    queue = FairQueue(3)
    for seq in range(3):
        queue.push(entry('a', seq))
    late = entry('a', 3)
    assert queue.push(late) is late
    assert len(queue) == 3


def test_robot_that_floods_makes_room_for_another():
    queue = FairQueue(3)
    flood = [entry('a', seq) for seq in range(3)]
    for one in flood:
        queue.push(one)
    assert queue.push(entry('b', 0)) is flood[2]
    assert drain(queue) == [('a', 0), ('b', 0), ('a', 1)]


def test_cancel_takes_out_the_one_request():
    queue = FairQueue(5)
    for seq in range(3):
        queue.push(entry('a', seq))
    assert queue.cancel('a', 1)
    assert not queue.cancel('a', 1)
    assert not queue.cancel('b', 0)
    assert drain(queue) == [('a', 0), ('a', 2)]


def test_robot_that_is_gone_leaves_nothing():
    queue = FairQueue(5)
    queue.push(entry('a', 0))
    queue.push(entry('b', 0))
    queue.drop('a')
    queue.drop('nobody')
    assert drain(queue) == [('b', 0)]


def test_clear_gives_back_everything():
    queue = FairQueue(5)
    entries = [entry('a', 0), entry('b', 0), entry('a', 1)]
    for one in entries:
        queue.push(one)
    assert set(queue.clear()) == set(entries)
    assert queue.pop() is None


@pytest.mark.parametrize('limit', [0, -1])
def test_queue_holds_at_least_one(limit):
    with pytest.raises(ValueError, match='limit must be at least 1'):
        FairQueue(limit)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just('push'), st.sampled_from('abc'), st.integers(0, 3)),
        st.tuples(st.just('pop'), st.none(), st.none()),
        st.tuples(st.just('cancel'), st.sampled_from('abc'), st.integers(0, 30)),
    ),
    max_size=60,
)


@settings(deadline=None, max_examples=200)
@given(STEPS, st.integers(1, 5))
def test_every_request_leaves_exactly_once_whatever_happens(steps, limit):
    queue = FairQueue(limit)
    pushed, left = [], Counter()
    for kind, session, number in steps:
        if kind == 'push':
            new = entry(session, len(pushed), number)
            pushed.append(new)
            refused = queue.push(new)
            if refused is not None:
                left[refused] += 1
        elif kind == 'pop':
            taken = queue.pop()
            assert (taken is None) == (len(pushed) == sum(left.values()))
            if taken is not None:
                left[taken] += 1
        elif queue.cancel(session, number):
            left[pushed[number]] += 1
        assert len(queue) <= limit
        assert len(queue) == len(pushed) - sum(left.values())
    for one in queue.clear():
        left[one] += 1
    assert left == Counter(dict.fromkeys(pushed, 1))
