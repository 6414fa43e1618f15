"""Whose turn it is stays as without batches; others go along where nobody is wronged."""

import math

import pytest
import torch

from offload_ros.server.batching import Batching, Turns, group_of
from offload_ros.server.durations import Durations
from offload_ros.server.fair_queue import Entry, FairQueue

from .asking import request

NOW_S = 1000.0


class Waiting:
    """A queue, the turns in it, and durations that a test says."""

    def __init__(self, limit=1 << 16, **batching):
        self.queue, self.durations = FairQueue(100), Durations()
        self.turns = Turns(self.queue, self.durations, lambda group: limit)
        self.turns.batching = Batching(**{'max_batch': 8, 'gather_s': 0.0, **batching})

    def takes(self, name, **seconds):
        """Say how long batches of ``_1``, ``_2``, ... of a model take."""
        for size, each in seconds.items():
            self.durations.add(f'hash of {name}', int(size[1:]), each)

    def add(self, seq, model='a', robot=None, budget_s=100.0, ago_s=0.0, **fields):
        asked = request(
            seq,
            model=model,
            model_hash=f'hash of {model}',
            session=robot or f'robot {seq}',
            budget_s=budget_s,
            **fields,
        )
        entry = Entry(asked, print, NOW_S - ago_s, group_of(asked))
        assert self.queue.push(entry) is None
        self.turns.heard(entry)

    def next(self, may_wait=False):
        entries, again_s = self.turns.next(NOW_S, may_wait)
        return [entry.request.seq for entry in entries], again_s

    def all(self):
        found = []
        while batch := self.next()[0]:
            found.append(batch)
        return found


def test_nothing_waits():
    assert Waiting().next() == ([], math.inf)


def test_whose_turn_it_is_decides_the_model():
    waiting = Waiting()
    for seq, model in ((1, 'a'), (2, 'b'), (3, 'a'), (4, 'b'), (5, 'c')):
        waiting.add(seq, model)
    assert waiting.all() == [[1, 3], [2, 4], [5]]


def test_robots_are_in_a_batch_in_the_order_in_which_they_are_served():
    waiting = Waiting(max_batch=3)
    for seq, robot in ((1, 'x'), (2, 'x'), (3, 'x'), (4, 'x'), (5, 'y'), (6, 'z'), (7, 'z')):
        waiting.add(seq, robot=robot)
    assert waiting.all() == [[1, 5, 6], [2, 7, 3], [4]]


def test_being_in_a_batch_counts_as_being_served():
    waiting = Waiting()
    waiting.add(1, 'a', robot='x')
    waiting.add(2, 'a', robot='y')
    assert waiting.next()[0] == [1, 2]
    waiting.add(3, 'b', robot='y')
    waiting.add(4, 'c', robot='w')
    waiting.add(5, 'd', robot='x')
    assert waiting.all() == [[4], [5], [3]]


def test_nothing_of_higher_priority_waits_for_those_who_go_along():
    waiting = Waiting()
    waiting.add(1, 'a', priority=200)
    waiting.add(2, 'a', priority=50)
    waiting.add(3, 'a', priority=150)
    waiting.add(4, 'b', priority=100)
    assert waiting.all() == [[1, 3], [4], [2]]


def test_a_group_that_cannot_be_batched_goes_one_by_one():
    waiting = Waiting(limit=1, gather_s=1.0)
    waiting.add(1)
    waiting.add(2)
    assert waiting.next(may_wait=True) == ([1], NOW_S)


def test_no_larger_than_all_members_have_time_for():
    waiting = Waiting()
    waiting.takes('a', _1=1.0, _2=1.5, _3=2.0, _4=2.5)
    waiting.add(1, budget_s=2.2)
    for seq in (2, 3, 4, 5):
        waiting.add(seq)
    assert waiting.all() == [[1, 2, 3], [4, 5]]


def test_one_without_time_for_a_batch_is_left_for_its_own_turn():
    waiting = Waiting()
    waiting.takes('a', _1=1.0, _2=1.5)
    waiting.add(1)
    waiting.add(2, budget_s=1.2)
    waiting.add(3)
    assert waiting.all() == [[1, 3], [2]]


def test_those_left_behind_keep_their_deadlines_if_they_can():
    waiting = Waiting()
    waiting.takes('a', _1=1.0, _2=1.8, _3=2.6)
    waiting.takes('b', _1=1.0)
    waiting.add(1, 'a')
    waiting.add(2, 'b', budget_s=3.0)
    waiting.add(3, 'a')
    waiting.add(4, 'a')
    assert waiting.next()[0] == [1, 3], 'three would take 2.6 s, then 1 s for b'
    waiting = Waiting()
    waiting.takes('a', _1=1.0, _2=1.8)
    waiting.takes('b', _1=1.0)
    waiting.add(1, 'a')
    waiting.add(2, 'b', budget_s=1.5)  # late whatever goes first
    waiting.add(3, 'a')
    assert waiting.next()[0] == [1, 3]


def test_one_that_is_late_already_takes_nobody_along():
    waiting = Waiting(gather_s=5.0)
    waiting.takes('a', _1=1.0)
    waiting.add(1, budget_s=3.0, ago_s=2.5)
    waiting.add(2)
    assert waiting.next(may_wait=True) == ([1], NOW_S)


def test_waits_for_who_asked_lately_and_nobody_else():
    waiting = Waiting(gather_s=0.2)
    waiting.add(1, robot='x', ago_s=0.5)
    assert waiting.next(may_wait=True)[0] == [1], 'nobody is missing'
    waiting.add(2, robot='y')
    assert waiting.next(may_wait=True) == ([], NOW_S + 0.2)
    assert waiting.next(may_wait=False) == ([2], NOW_S)
    waiting.add(3, robot='y')
    waiting.add(4, robot='x')
    assert waiting.next(may_wait=True) == ([4, 3], NOW_S)


def test_who_is_gone_or_was_silent_is_not_waited_for():
    waiting = Waiting(gather_s=0.2)
    waiting.add(1, robot='x', ago_s=1.5)
    waiting.add(2, robot='z')
    assert waiting.next()[0] == [1, 2]
    waiting.turns.forget('z')
    waiting.add(3, robot='y')
    assert waiting.next(may_wait=True)[0] == [3]


@pytest.mark.parametrize(
    ('budget_s', 'two_s', 'until_s'),
    [(100.0, 1.0, 5.0), (8.0, 1.0, 4.0), (8.0, 5.0, 3.0), (1.0, 5.0, 0.0)],
)
def test_waiting_leaves_time_to_compute(budget_s, two_s, until_s):
    waiting = Waiting(gather_s=5.0)
    waiting.takes('a', _1=0.1, _2=two_s)
    waiting.add(1, robot='x')
    waiting.next()
    waiting.add(2, robot='y', budget_s=budget_s)
    found, at_s = waiting.next(may_wait=True)
    assert (found, at_s) == (([], NOW_S + until_s) if until_s else ([2], NOW_S))


def test_a_full_batch_waits_for_nobody():
    waiting = Waiting(max_batch=2, gather_s=5.0)
    for seq in (1, 2, 3):
        waiting.add(seq)
    assert waiting.next(may_wait=True)[0] == [1, 2]


def test_many_shapes_take_no_memory_for_ever():
    waiting = Waiting()
    for seq in range(1000):
        entry = Entry(request(seq), print, NOW_S + seq, group=seq)
        waiting.turns.heard(entry)
    assert len(waiting.turns._heard_s) < 300


def test_groups_are_what_can_be_stacked():
    x = torch.zeros(3)
    same = group_of(request(1, inputs={'x': x, 'y': x}))
    assert group_of(request(2, inputs={'y': x, 'x': x}, session='other', priority=1)) == same
    others = [
        request(1, inputs={'x': x, 'y': x}, model_hash='other'),
        request(1, inputs={'x': x, 'y': x}, model='other'),
        request(1, inputs={'x': x, 'y': x.double()}),
        request(1, inputs={'x': x, 'y': x[:2]}),
        request(1, inputs={'x': x}),
    ]
    assert same not in [group_of(each) for each in others]


@pytest.mark.parametrize('wrong', [{'max_batch': 0}, {'gather_s': -1.0}, {'gather_s': math.inf}])
def test_wrong_numbers_are_refused(wrong):
    with pytest.raises(ValueError, match='max_batch is at least 1'):
        Batching(**wrong)


def test_durations_of_sizes_that_were_never_computed():
    durations = Durations()
    assert durations.typical_s('a', 3) == 0.0
    durations.add('a', 4, 2.0)
    assert durations.typical_s('a', 2) == 2.0, 'no more than a larger one'
    for seconds in (1.0, 9.0, 1.0):
        durations.add('a', 1, seconds)
    assert [durations.typical_s('a', size) for size in (1, 2, 3, 4, 8)] == [1, 2, 3, 2, 4]
    assert durations.typical_s('b', 1) == 0.0
