"""The link monitor on a simulated link: two connections, virtual time, no sockets."""

import heapq
import math
import random
import struct
import time

import numpy as np
import pytest

from offload_ros.wire.connection import Connection
from offload_ros.wire.errors import WireError
from offload_ros.wire.in_process import InProcessLink
from offload_ros.wire.link_exchange import LinkExchange
from offload_ros.wire.link_monitor import (
    LEAST_PROBE_BYTES,
    LONGEST_PROBE_PAUSE_S,
    PROBE_AFTER_S,
    LinkMonitor,
)
from offload_ros.wire.outgoing import Outgoing
from offload_ros.wire.shaper import LinkShape
from offload_ros.wire.trace import indoors, outdoors

MBIT = 125_000.0  # bytes/s


class OneWay:
    """A FIFO link of some shape; like TCP it loses nothing, and stalls instead.

    ``stalls``: times at which nothing arrives for 0.2 s, all that was due then comes at once.
    ``wakes_s``: how late, at most, the receiver notices an arrival.
    """

    def __init__(self, shape, stalls=(), wakes_s=0.0, seed=0):
        self.shape, self.stalls, self.wakes_s = shape, stalls, wakes_s
        self.free_s = self.awake_s = 0.0
        self.chance = random.Random(seed)

    def arrival(self, size, now_s):
        """When a packet sent now arrives."""
        end_s, left = max(now_s, self.free_s), float(size)
        while left > 1e-6:
            rate, holds_s = self.shape.rate_at(end_s)
            step_s = min(max(holds_s, 1e-6), left / rate if rate else math.inf)
            left, end_s = left - rate * step_s, end_s + step_s
        self.free_s = end_s
        end_s += self.shape.delay_s
        for stall_s in self.stalls:
            if stall_s <= end_s < stall_s + 0.2:
                end_s = stall_s + 0.2
        if end_s > self.awake_s:  # whatever comes while it sleeps is taken up together
            self.awake_s = end_s + self.chance.random() * self.wakes_s
        return self.awake_s


class Simulation:
    """A robot that sends over ``up``; everything happens in virtual time."""

    def __init__(self, up, down=None, monitor=True):
        self.now_s = 0.0
        # The two clocks have nothing to do with each other.
        self.offsets_s = (1000.0, 5.0)
        self.monitor = LinkMonitor(lambda: self.now_s + self.offsets_s[0])
        sample = self.monitor.on_sample if monitor else None
        self.ends = (Connection(on_sample=sample), Connection())
        self.links = (up, down or OneWay(LinkShape(up.shape.bytes_per_s, up.shape.delay_s)))
        self.events = []
        self.count = 0
        self.keys = 0
        self.wakes = [math.inf, math.inf]

    def at(self, time_s, call):
        """Call later."""
        self.count += 1
        heapq.heappush(self.events, (time_s, self.count, call))

    def send(self, size):
        """The robot sends a transfer."""
        self.keys += 1
        self.ends[0].send(Outgoing(self.keys, [bytes(size)]))
        self.pump(0)

    def repeat(self, size, period_s, begin_s=0.0):
        """A transfer each period, unless the last three are still under way."""

        def again():
            if len(self.ends[0]._queue.active()) < 3:
                self.send(size)
            self.at(self.now_s + period_s, again)

        self.at(begin_s, again)

    def saturate(self):
        """There is always something to send."""
        self.repeat(2_000_000, 0.01)

    def pump(self, side):
        """Publish what an end has to publish."""
        end = self.ends[side]
        while (packet := end.next_packet(self.now_s + self.offsets_s[side])) is not None:
            due_s = self.links[side].arrival(len(packet), self.now_s)
            self.at(due_s, lambda packet=packet: self.deliver(1 - side, packet))
        wake_s = end.next_s() - self.offsets_s[side]
        if wake_s < self.wakes[side] and math.isfinite(wake_s):
            self.wakes[side] = wake_s
            self.at(max(wake_s, self.now_s + 1e-6), lambda: self.wake(side))

    def wake(self, side):
        """A timer of an end."""
        self.wakes[side] = math.inf
        self.pump(side)

    def deliver(self, side, packet):
        """A packet arrives."""
        self.ends[side].receive(packet, self.now_s + self.offsets_s[side])
        self.ends[side].take_news()
        self.pump(side)

    def run(self, until_s, every_s=0.05):
        """Estimates as (time in s, Bandwidth), one each ``every_s``."""
        found = []
        ask_s = self.now_s + every_s
        while True:
            due_s = self.events[0][0] if self.events else math.inf
            if min(due_s, ask_s) > until_s:
                self.now_s = until_s
                return found
            if due_s <= ask_s:
                self.now_s, _, call = heapq.heappop(self.events)
                call()
            else:
                self.now_s = ask_s
                estimate = self.monitor.outgoing(self.ends[0].in_flight_bytes)
                found.append((ask_s, estimate))
                ask_s += every_s


def errors(found, shape, after_s=0.0, floor=0.0):
    """Relative errors of the estimates later than ``after_s``."""
    return [
        abs(estimate.bytes_per_s - rate) / max(rate, floor)
        for now_s, estimate in found
        if now_s > after_s
        for rate in [shape.rate_at(now_s)[0]]
    ]


PATTERNS = {
    'saturating': lambda simulation: simulation.saturate(),
    'images': lambda simulation: simulation.repeat(900_000, 0.1),
}


@pytest.mark.parametrize('pattern', PATTERNS)
@pytest.mark.parametrize('mbit', (5, 20, 93, 450))
def test_a_constant_link_is_known_within_a_tenth(mbit, pattern):
    shape = LinkShape(mbit * MBIT, 0.0013)
    simulation = Simulation(OneWay(shape, wakes_s=0.001))
    PATTERNS[pattern](simulation)
    found = simulation.run(4.0)
    assert np.median(errors(found, shape, 1.0)) <= 0.1
    assert np.quantile(errors(found, shape, 1.0), 0.9) <= 0.15
    for _, estimate in found:
        if not math.isnan(estimate.bytes_per_s):
            assert estimate.low_bytes_per_s <= estimate.bytes_per_s <= estimate.high_bytes_per_s


@pytest.mark.parametrize('pattern', PATTERNS)
@pytest.mark.parametrize('before, after', ((93, 20), (20, 93), (93, 1), (450, 5), (5, 450)))
def test_a_step_is_known_a_second_later(before, after, pattern):
    steps = [(0, before * MBIT), (3, after * MBIT), (6, after * MBIT)]
    shape = LinkShape(delay_s=0.0013, trace=steps)
    simulation = Simulation(OneWay(shape, wakes_s=0.001), OneWay(LinkShape(delay_s=0.0013)))
    PATTERNS[pattern](simulation)
    found = simulation.run(5.0)
    assert max(errors(found, shape, 4.0)) <= 0.2


@pytest.mark.parametrize(
    'trace', (indoors(1, 40.0), outdoors(1, 40.0)), ids=('indoors', 'outdoors')
)
@pytest.mark.parametrize('pattern', PATTERNS)
def test_a_trace_is_followed(trace, pattern):
    steps = [(at_s, mbit * MBIT) for at_s, mbit in zip(trace.times_s, trace.mbit, strict=True)]
    shape = LinkShape(delay_s=0.0013, trace=steps)
    simulation = Simulation(OneWay(shape, wakes_s=0.001), OneWay(LinkShape(delay_s=0.0013)))
    PATTERNS[pattern](simulation)
    assert np.median(errors(simulation.run(39.0), shape, 1.0, 5 * MBIT)) <= 0.1


def test_little_to_send_lowers_nothing():
    shape = LinkShape(93 * MBIT, 0.0013)
    simulation = Simulation(OneWay(shape, wakes_s=0.001))
    simulation.send(2_000_000)
    simulation.run(1.0)
    simulation.repeat(3_000, 0.033, 1.0)  # 0.7 Mbit/s
    found = simulation.run(6.0)
    assert max(errors(found, shape)) <= 0.1


def test_small_requests_on_a_long_link_are_not_taken_for_its_rate():
    shape = LinkShape(93 * MBIT, 0.05)  # several requests are under way at any time
    simulation = Simulation(OneWay(shape))
    simulation.send(2_000_000)
    simulation.run(2.0)
    simulation.repeat(20_000, 0.033, 2.0)
    found = simulation.run(8.0)
    assert max(errors(found, shape)) <= 0.1


def test_large_requests_that_are_alone_show_a_slower_link():
    shape = LinkShape(delay_s=0.0013, trace=[(0, 93 * MBIT), (3, 10 * MBIT), (6, 10 * MBIT)])
    simulation = Simulation(OneWay(shape, wakes_s=0.001), OneWay(LinkShape(delay_s=0.0013)))
    simulation.send(100)  # tells the round trip
    simulation.repeat(20_000, 0.033, 0.5)
    found = simulation.run(5.0)
    assert max(errors(found, shape, 4.0)) <= 0.2


def test_a_stall_of_tcp_is_not_the_bandwidth():
    shape = LinkShape(93 * MBIT, 0.0013)
    simulation = Simulation(OneWay(shape, stalls=(2.0, 4.0, 6.0), wakes_s=0.001))
    simulation.saturate()
    found = simulation.run(8.0)
    assert np.quantile(errors(found, shape, 1.0), 0.9) <= 0.1
    assert max(errors(found, shape, 1.0)) <= 0.5


def test_silence_is_evidence_within_a_second():
    shape = LinkShape(delay_s=0.0013, trace=[(0, 93 * MBIT), (3, 1.0), (9, 1.0)])
    for pattern in PATTERNS.values():
        simulation = Simulation(OneWay(shape), OneWay(LinkShape(delay_s=0.0013)))
        pattern(simulation)
        simulation.run(3.95)
        ((_, estimate),) = simulation.run(4.02)
        assert estimate.bytes_per_s < 2 * MBIT
        assert estimate.low_bytes_per_s == 0.0


def test_probes_alone_tell_an_idle_link_and_are_light():
    for mbit in (5, 20, 93, 450):
        shape = LinkShape(mbit * MBIT, 0.0013)
        simulation = Simulation(OneWay(shape))
        sent = []

        def tick(simulation=simulation, sent=sent):
            simulation.send(33)
            if size := simulation.monitor.wants_probe():
                sent.append(size)
                simulation.send(size)
            simulation.at(simulation.now_s + 0.5, lambda: tick(simulation, sent))

        tick()
        found = simulation.run(20.0)
        assert max(errors(found, shape, 8.0)) <= 0.1
        # The first one knows nothing yet.
        assert sum(sent[1:]) <= 0.011 * 20.0 * shape.bytes_per_s


def test_probes_find_a_slower_and_a_faster_link():
    steps = [(0, 93 * MBIT), (10, 20 * MBIT), (20, 93 * MBIT), (30, 93 * MBIT)]
    shape = LinkShape(delay_s=0.0013, trace=steps)
    simulation = Simulation(OneWay(shape), OneWay(LinkShape(delay_s=0.0013)))

    def tick():
        if size := simulation.monitor.wants_probe():
            simulation.send(size)
        simulation.at(simulation.now_s + 0.5, tick)

    tick()
    found = simulation.run(29.0)
    for begin_s in (8.0, 15.0, 25.0):
        part = [row for row in found if begin_s < row[0] < begin_s + 2.0]
        assert max(errors(part, shape)) <= 0.1


def test_probes_find_that_a_link_is_back_from_almost_nothing():
    steps = [(0, 0.3 * MBIT), (20, 40 * MBIT), (60, 40 * MBIT)]
    simulation = Simulation(
        OneWay(LinkShape(delay_s=0.0013, trace=steps)), OneWay(LinkShape(delay_s=0.0013))
    )
    sent = []

    def tick():
        idle = not simulation.ends[0].in_flight_bytes
        simulation.send(33)
        if idle and (size := simulation.monitor.wants_probe()):
            sent.append((simulation.now_s, size))
            simulation.send(size)
        simulation.at(simulation.now_s + 0.5, tick)

    tick()
    found = dict(simulation.run(40.0))
    slow = [each.bytes_per_s for now_s, each in found.items() if 10.0 < now_s < 20.0]
    assert slow and max(slow) < MBIT
    back = [now_s for now_s, each in found.items() if each.bytes_per_s > 20 * MBIT]
    assert min(back, default=math.inf) < 20.0 + 1.2 * LONGEST_PROBE_PAUSE_S
    # The first one knows nothing yet.
    told = sum(size for now_s, size in sent[1:] if now_s < 20.0)
    assert 0 < told <= 20.0 * LEAST_PROBE_BYTES / LONGEST_PROBE_PAUSE_S


@pytest.mark.parametrize('mbit', (8, 16, 25))
def test_one_probe_finds_that_an_idle_link_is_three_times_as_fast(mbit):
    """Fewer than five packets would tell nothing."""
    steps = [(0, mbit * MBIT), (3, 3 * mbit * MBIT), (20, 3 * mbit * MBIT)]
    simulation = Simulation(
        OneWay(LinkShape(delay_s=0.0013, trace=steps)), OneWay(LinkShape(delay_s=0.0013))
    )

    def tick():
        idle = not simulation.ends[0].in_flight_bytes
        simulation.send(33)
        if idle and (size := simulation.monitor.wants_probe()):
            simulation.send(size)
        simulation.at(simulation.now_s + 0.5, tick)

    tick()
    for index in range(9):
        simulation.at(0.1 + 0.3 * index, lambda: simulation.send(60_000))
    found = simulation.run(8.0)
    before = [each.bytes_per_s for now_s, each in found if 2.0 < now_s < 3.0]
    assert max(before) < 1.5 * mbit * MBIT
    back = [now_s for now_s, each in found if now_s > 3.0 and each.bytes_per_s > 2 * mbit * MBIT]
    assert min(back, default=math.inf) < 3.0 + 2 * PROBE_AFTER_S


def test_what_is_old_is_less_sure():
    shape = LinkShape(93 * MBIT, 0.0013)
    simulation = Simulation(OneWay(shape))
    simulation.send(2_000_000)
    simulation.run(1.0)
    fresh = simulation.monitor.outgoing()
    simulation.run(10.0)
    old = simulation.monitor.outgoing()
    assert old.bytes_per_s == fresh.bytes_per_s
    assert old.low_bytes_per_s < 0.7 * fresh.low_bytes_per_s
    assert old.high_bytes_per_s > 1.4 * fresh.high_bytes_per_s
    assert old.age_s == pytest.approx(fresh.age_s + 9.0)


def test_the_round_trip_is_that_of_small_packets_and_rises_again():
    quick, slow = LinkShape(93 * MBIT, 0.0013), LinkShape(93 * MBIT, 0.01)
    simulation = Simulation(OneWay(quick))
    simulation.repeat(40, 0.25)
    simulation.repeat(900_000, 0.5, 1.1)
    simulation.run(3.0)
    assert simulation.monitor.state().round_trip_s == pytest.approx(0.0026, rel=0.1)
    simulation.links[0].shape = slow
    simulation.run(25.0)
    assert simulation.monitor.state().round_trip_s == pytest.approx(0.0113, rel=0.1)


def test_nothing_is_known_before_anything_was_sent(clock):
    state = LinkMonitor(clock).state()
    assert math.isnan(state.up_bytes_per_s) and math.isnan(state.down_bytes_per_s)
    assert math.isnan(state.round_trip_s) and math.isinf(state.up_age_s)


def test_the_peer_learns_its_incoming_direction_from_the_report(clock):
    shape = LinkShape(20 * MBIT, 0.0013)
    simulation = Simulation(OneWay(shape))
    simulation.send(1_000_000)
    simulation.run(1.0)
    peer = LinkMonitor(clock)
    peer.on_report(simulation.monitor.report())
    told = simulation.monitor.outgoing()
    clock.now_s += 2.0
    state = peer.state()
    assert state.down_bytes_per_s == told.bytes_per_s
    assert state.down_age_s == pytest.approx(told.age_s + 2.0)
    assert state.down_low_bytes_per_s < told.low_bytes_per_s
    peer.on_report(LinkMonitor(clock).report())  # one that knows nothing
    assert math.isnan(peer.state().down_bytes_per_s)


def test_two_channels_exchange_what_they_know():
    monitors = LinkMonitor(), LinkMonitor()
    connections = iter([Connection(on_sample=monitor.on_sample) for monitor in monitors])
    up, down = LinkShape(40 * MBIT, 0.002), LinkShape(10 * MBIT, 0.002)
    with InProcessLink(up, down, connection=lambda: next(connections)) as link:
        robot, server = (
            LinkExchange(channel, monitor)
            for channel, monitor in zip((link.robot, link.server), monitors, strict=True)
        )
        end_s = time.monotonic() + 20.0
        state = robot.state()
        while math.isnan(state.up_bytes_per_s + state.down_bytes_per_s):
            assert time.monotonic() < end_s
            robot.tick()  # neither sends anything but this: probes and reports
            server.tick()
            time.sleep(0.1)
            state = robot.state()
    # Threads of a busy machine: only which is which, and about how much.
    assert 10 * MBIT < state.up_bytes_per_s < 160 * MBIT
    assert 2 * MBIT < state.down_bytes_per_s < 40 * MBIT
    assert state.down_bytes_per_s < state.up_bytes_per_s
    assert 0.004 < state.round_trip_s < 0.1
    assert state.up_low_bytes_per_s < state.up_bytes_per_s < state.up_high_bytes_per_s


@pytest.mark.parametrize('limit', [None, 240_000])
def test_probes_of_a_link_that_is_ever_faster_grow_up_to_a_limit(clock, limit):
    monitor = LinkMonitor(clock) if limit is None else LinkMonitor(clock, limit)
    sizes = []
    for _ in range(20):  # none of them tells anything
        clock.now_s += 10.0
        sizes.append(monitor.wants_probe())
    assert sizes[0] == 120_000
    assert sizes == sorted(sizes)
    assert sizes[-1] == (limit or 1_120_000)


REPORT = struct.Struct('<Bdddd')


@pytest.mark.parametrize(
    'report',
    (
        b'',
        bytes(REPORT.size - 1),
        bytes(REPORT.size + 1),
        REPORT.pack(2, 2.0, 1.0, 3.0, 0.0),
        REPORT.pack(1, 4.0, 1.0, 3.0, 0.0),
        REPORT.pack(1, 2.0, -1.0, 3.0, 0.0),
        REPORT.pack(1, 2.0, 1.0, math.inf, 0.0),
        REPORT.pack(1, 2.0, 1.0, 3.0, -1.0),
        REPORT.pack(1, 2.0, 1.0, 3.0, math.nan),
        REPORT.pack(1, math.nan, 1.0, 3.0, 0.0),
    ),
)
def test_a_bad_report_is_refused_and_changes_nothing(report, clock):
    monitor = LinkMonitor(clock)
    monitor.on_report(REPORT.pack(1, 2.0, 1.0, 3.0, 0.0))
    with pytest.raises(WireError):
        monitor.on_report(report)
    assert monitor.state().down_bytes_per_s == 2.0
