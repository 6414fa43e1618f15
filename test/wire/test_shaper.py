"""The emulated link has the rate, delay, loss and cuts of its shape, and never blocks who sends."""

import threading
import time

import pytest

from offload_ros.wire.shaper import LinkShape, Shaper


class Arrivals:
    """What came out of a link, and when."""

    def __init__(self):
        self.packets, self.times = [], []
        self.changed = threading.Condition()

    def __call__(self, packet):
        with self.changed:
            self.packets.append(packet)
            self.times.append(time.monotonic())
            self.changed.notify_all()

    def wait(self, count, timeout_s=30.0):
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.packets) >= count, timeout_s)


@pytest.fixture
def link():
    """Make links that are closed in the end: (arrivals, shaper) of a shape."""
    made = []

    def make(**shape):
        arrivals = Arrivals()
        made.append(Shaper(arrivals, LinkShape(**shape)))
        return arrivals, made[-1]

    yield make
    for each in made:
        each.close()


def test_packets_take_the_time_of_the_rate_and_the_delay(link):
    arrivals, shaper = link(bytes_per_s=1e5, delay_s=0.05)
    begin_s = time.monotonic()
    for index in range(4):
        shaper.send(bytes([index]) * 20_000)
    assert time.monotonic() - begin_s < 0.4  # nobody waited
    arrivals.wait(4)
    assert 0.85 <= arrivals.times[3] - begin_s < 3.0
    assert [packet[0] for packet in arrivals.packets] == [0, 1, 2, 3]


def test_what_does_not_fit_the_queue_is_dropped(link):
    arrivals, shaper = link(bytes_per_s=2e5)
    for _ in range(100):
        shaper.send(bytes(20_000))
    assert 78 <= shaper.dropped <= 86  # 312 kB wait, one is on its way
    shaper.shape = LinkShape()
    arrivals.wait(100 - shaper.dropped)


def test_a_cut_drops_what_is_sent_and_the_link_goes_on_after(link):
    arrivals, shaper = link()
    shaper.shape = LinkShape(cut=True)
    shaper.send(b'lost')
    shaper.shape = LinkShape()
    shaper.send(b'comes')
    arrivals.wait(1)
    assert arrivals.packets == [b'comes'] and shaper.dropped == 1


def test_loss_drops_its_share(link):
    _, shaper = link(loss=0.3)
    for _ in range(2000):
        shaper.send(b'a')
    assert 500 < shaper.dropped < 700


def test_a_faster_shape_also_speeds_up_what_waits(link):
    arrivals, shaper = link(bytes_per_s=100.0)
    for _ in range(3):
        shaper.send(bytes(1000))
    shaper.shape = LinkShape(bytes_per_s=1e6)
    arrivals.wait(3)  # 30 s at the old rate


def test_a_trace_holds_packets_while_its_rate_is_zero(link):
    begin_s = time.monotonic()
    arrivals, shaper = link(trace=[(0.0, 1e5), (0.3, 0.0), (0.9, 1e6), (9.0, 1e6)])
    shaper.send(bytes(1_000))
    shaper.send(bytes(40_000))  # 0.4 s at the first rate: its end has to wait
    arrivals.wait(2)
    assert arrivals.times[0] < arrivals.times[1] - 0.3
    assert 0.9 < arrivals.times[1] - begin_s < 4.0


def test_a_closed_link_delivers_nothing(link):
    arrivals, shaper = link(delay_s=0.05)
    shaper.send(b'a')
    shaper.close()
    shaper.send(b'b')
    time.sleep(0.1)
    assert arrivals.packets == []


@pytest.mark.parametrize(
    ('shape', 'match'),
    [
        ({'bytes_per_s': 0.0}, 'bytes_per_s above 0'),
        ({'delay_s': -1.0}, 'delay_s of 0 or more'),
        ({'loss': 1.5}, '0 to 1'),
        ({'trace': [(0.0, 1.0)]}, 'a trace begins'),
        ({'trace': [(0.0, 0.0), (1.0, 0.0)]}, 'some rate is above 0'),
        ({'trace': [(0.0, 1.0), (1.0, -1.0)]}, 'no rate below 0'),
        ({'trace': [(0.0, 1.0), (1.0, float('nan'))]}, 'no rate below 0'),
    ],
)
def test_a_shape_that_no_link_has_is_refused(shape, match):
    with pytest.raises(ValueError, match=match):
        LinkShape(**shape)
