"""Each direction of an emulated link is as it was asked for, from the next packet on."""

import time

import pytest

from offload_ros.wire.emulation import DOWN, UP, Emulation
from offload_ros.wire.shaper import LinkShape

LONG_S = 30.0


class Both:
    """An emulated link with what came out of each direction."""

    def __init__(self):
        self.emulation = Emulation()
        self.came = {UP: [], DOWN: []}
        self.through = {
            way: self.emulation.through(way, came.append) for way, came in self.came.items()
        }

    def send(self, packet):
        for send, _ in self.through.values():
            send(packet)

    def wait_for(self, **wanted):
        end_s = time.monotonic() + LONG_S
        while self.came != wanted and time.monotonic() < end_s:
            time.sleep(0.005)
        assert self.came == wanted


@pytest.fixture
def link():
    made = Both()
    yield made
    for _, close in made.through.values():
        close()


@pytest.mark.parametrize(
    ('direction', 'up', 'down'), [('both', False, False), (UP, False, True), (DOWN, True, False)]
)
def test_cut_of_a_direction_leaves_the_other_one(link, direction, up, down):
    link.emulation.emulate(LinkShape(cut=True), direction)
    assert (link.emulation.cut(UP), link.emulation.cut(DOWN)) == (not up, not down)
    link.send(b'1')
    link.wait_for(up=[b'1'] * up, down=[b'1'] * down)
    link.emulation.emulate(LinkShape())
    assert not link.emulation.cut(UP) and not link.emulation.cut(DOWN)
    link.send(b'2')
    link.wait_for(up=[b'1'] * up + [b'2'], down=[b'1'] * down + [b'2'])


def test_other_direction_makes_the_first_one_as_it_is(link):
    slow = LinkShape(delay_s=0.01)
    link.emulation.emulate(slow, UP)
    assert (link.emulation.shape(UP), link.emulation.shape(DOWN)) == (slow, LinkShape())
    link.emulation.emulate(slow, DOWN)
    assert (link.emulation.shape(UP), link.emulation.shape(DOWN)) == (LinkShape(), slow)
    link.send(b'1')
    link.wait_for(up=[b'1'], down=[b'1'])


def test_a_channel_that_is_opened_later_is_at_the_same_place_of_the_trace():
    emulation = Emulation()
    began_s = time.monotonic()
    emulation.emulate(LinkShape(trace=[(0.0, 1e3), (0.4, 1e9), (1000.0, 1e9)]))
    while time.monotonic() - began_s < 0.5:
        time.sleep(0.01)
    came = []
    send, close = emulation.through(UP, lambda packet: came.append((time.monotonic(), packet)))
    sent_s = time.monotonic()
    send(bytes(20_000))  # 20 s where the trace begins, nothing where it is now
    while not came and time.monotonic() - sent_s < LONG_S:
        time.sleep(0.001)
    close()
    assert came and came[0][0] - sent_s < 10.0


def test_a_rate_of_nothing_is_an_outage_for_as_long_as_the_trace_says():
    emulation = Emulation()
    assert not emulation.cut(UP)
    began_s = time.monotonic()
    emulation.emulate(LinkShape(trace=[(0.0, 0.0), (0.3, 1e6), (1000.0, 1e6)]), UP)
    assert emulation.cut(UP) and not emulation.cut(DOWN)
    while emulation.cut(UP):
        assert time.monotonic() - began_s < LONG_S
        time.sleep(0.001)
    assert time.monotonic() - began_s >= 0.3
