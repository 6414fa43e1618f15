"""The emulated accelerator of the benchmarks: the same work takes the same time."""

from functools import partial
from types import SimpleNamespace

import pytest

from benchmarks import accelerator
from benchmarks.accelerator import AcceleratorPacer, work_of
from offload_ros.intra_dp.segments import Segment


class Clock:
    """Time that passes only by ``busy`` and ``sleep``."""

    def __init__(self):
        self.now_s = self.own_s = 0.0

    def busy(self, own_s, waited_s=0.0):
        self.own_s += own_s
        self.now_s += own_s + waited_s

    def sleep(self, seconds):
        self.now_s += seconds


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    times = SimpleNamespace(
        monotonic=lambda: made.now_s, thread_time=lambda: made.own_s, sleep=made.sleep
    )
    monkeypatch.setattr(accelerator, 'time', times)
    return made


class Work:
    def __init__(self, clock, own_s):
        self.clock, self.own_s, self.waited_s = clock, own_s, 0.0

    def run(self):
        self.clock.busy(self.own_s, self.waited_s)
        return 'done'


def taken_s(clock, pacer, function):
    began_s = clock.now_s
    assert pacer(function) == 'done'
    return clock.now_s - began_s


def test_work_that_is_disturbed_takes_no_longer_than_the_least_of_late(clock):
    pacer, work = AcceleratorPacer(5.0), Work(clock, 0.02)
    assert taken_s(clock, pacer, work.run) == pytest.approx(0.1)
    work.own_s, work.waited_s = 0.03, 0.04  # messages were handled meanwhile
    assert taken_s(clock, pacer, work.run) == pytest.approx(0.1)
    work.waited_s = 1.0  # more than there is room for
    assert taken_s(clock, pacer, work.run) == pytest.approx(1.03)
    work.own_s, work.waited_s = 0.01, 0.0
    assert taken_s(clock, pacer, work.run) == pytest.approx(0.05)
    work.own_s = 0.03  # a machine that stays slower is followed
    for _ in range(accelerator.KEPT):
        took_s = taken_s(clock, pacer, work.run)
    assert took_s == pytest.approx(0.15)


def test_other_work_has_its_own_time(clock):
    pacer = AcceleratorPacer(5.0)
    taken_s(clock, pacer, Work(clock, 0.001).run)
    other = Work(clock, 0.02)
    assert taken_s(clock, pacer, other.run) == pytest.approx(0.1)
    # What is not known is paced by what it took itself.
    for own_s in (0.01, 0.03):
        other.own_s = own_s
        assert taken_s(clock, pacer, partial(Work.run, other)) == pytest.approx(5 * own_s)


def test_errors_come_through():
    with pytest.raises(ZeroDivisionError):
        AcceleratorPacer(5.0)(lambda: 1 / 0)


def test_a_segment_is_known_whatever_it_runs_on():
    segment = Segment((), (), (), ())
    assert work_of(partial(print, 'held', segment, {})) is segment
    assert work_of(partial(print, 'held')) is None
