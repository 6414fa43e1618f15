"""What is expected of an inference: over the link as it may be, and as experience has it."""

from dataclasses import replace
import math

from hypothesis import given, settings
from hypothesis import strategies as st
import pytest

from offload_ros.policy.expectation import (
    UNKNOWN,
    Correction,
    Expectation,
    expected,
    possible_links,
)
from offload_ros.policy.power import PowerModel
from offload_ros.policy.round_trips import RoundTrips
from offload_ros.strategy import LinkState, Prediction
from offload_ros.wire.link_monitor import LinkEstimate

from ..draws import examples

POWER = PowerModel()
PLAIN = Expectation(0.1, 0.2, 1.0, math.nan, (0.0, 0.0, 0.0, 0.0))


class Sends:
    """A strategy that sends so many bytes up."""

    def __init__(self, size=1e5, **more):
        self.size, self.more = size, more

    def predict(self, state):
        up_s = self.size / state.up_bytes_per_s
        return Prediction(up_s + 0.01, uplink_busy_s=up_s, **self.more)


def link(low, usual, high):
    return LinkEstimate(
        usual, usual, 0.004,
        up_low_bytes_per_s=low, up_high_bytes_per_s=high,
        down_low_bytes_per_s=low, down_high_bytes_per_s=high,
    )  # fmt: skip


def test_latency_is_the_mean_over_the_links_quantiles_and_late_is_the_worst():
    found = expected(Sends(), link(1e6, 2e6, 4e6), POWER)
    assert found.latency_s == pytest.approx(0.3 * 0.1 + 0.4 * 0.05 + 0.3 * 0.025 + 0.01)
    assert found.late_s == pytest.approx(0.11)
    assert found.busy_s == (0.0, pytest.approx(0.05), 0.0, 0.0)
    assert found.energy_j == pytest.approx(POWER.energy_j(0.0, 0.05, found.latency_s - 0.05))


def test_a_link_without_quantiles_is_as_usual():
    found = expected(Sends(), LinkState(2e6, 2e6, 0.004), POWER)
    assert (found.latency_s, found.late_s) == (pytest.approx(0.06), pytest.approx(0.06))
    assert all(each.up_bytes_per_s == 2e6 for each in possible_links(LinkState(2e6, 2e6)))


def test_a_strategy_that_looks_at_the_distribution_itself_is_asked_once():
    found = expected(Sends(late_s=0.5), link(1e6, 2e6, 4e6), POWER)
    assert (found.latency_s, found.late_s) == (pytest.approx(0.06), 0.5)


def test_nothing_is_expected_where_nothing_is_known():
    assert expected(Sends(), LinkState(), POWER) is UNKNOWN
    assert not UNKNOWN.known


def test_correction_follows_what_was_measured_and_is_forgotten():
    correction = Correction()
    assert correction.applied(PLAIN, 0.0) == PLAIN
    correction.measured(0.1, 0.2, 0.0)
    assert correction.applied(PLAIN, 0.0).latency_s == pytest.approx(0.2)
    assert correction.applied(PLAIN, 0.0).late_s == pytest.approx(0.4)
    for step in range(30):
        correction.measured(0.1, 0.05, 0.1 * step)
    assert correction.applied(PLAIN, 3.0).latency_s == pytest.approx(0.05, rel=0.01)
    assert correction.applied(PLAIN, 600.0).latency_s == pytest.approx(0.1, rel=0.01)


@given(st.floats(1e-4, 10.0), st.floats(1e-4, 10.0))
@settings(max_examples=examples(50, 1000), deadline=None)
def test_one_measurement_never_moves_a_correction_beyond_it(expected_s, took_s):
    correction = Correction()
    correction.measured(expected_s, took_s, 0.0)
    found = correction.applied(replace(PLAIN, latency_s=expected_s), 0.0).latency_s
    low, high = sorted((expected_s, took_s))
    assert low * 0.999 <= found <= high * 1.001


def test_what_predicts_nothing_is_expected_to_take_what_it_took():
    correction = Correction()
    assert not correction.applied(UNKNOWN, 0.0).known
    correction.measured(math.nan, 0.3, 0.0)
    assert correction.applied(UNKNOWN, 0.0).latency_s == pytest.approx(0.3)


def test_failures_are_left_alone_for_longer_and_longer():
    correction = Correction()
    correction.measured(0.1, 0.1, 0.0)
    now_s, pauses = 1.0, []
    for _ in range(6):
        correction.failed(now_s)
        assert not correction.allowed(now_s)
        begun_s = now_s
        while not correction.allowed(now_s):
            now_s += 0.05
        pauses.append(now_s - begun_s)
    assert pauses[0] <= 0.3
    # Back within two seconds of whatever was wrong: it is asked at least once a second.
    assert max(pauses) <= 1.05
    correction.measured(0.1, 0.1, now_s)
    assert correction.allowed(now_s)


def test_what_never_worked_is_asked_ever_less_but_always_again():
    correction, now_s = Correction(), 0.0
    for _ in range(12):
        correction.failed(now_s)
        now_s += 30.0
        assert correction.allowed(now_s)
    correction.failed(now_s)
    assert not correction.allowed(now_s + 20.0)


def test_round_trips_follow_the_link():
    trips = RoundTrips()
    assert math.isnan(trips.predict(LinkState()).latency_s)
    for _ in range(5):
        trips.add(0.06, 0.02, 0.015, 100_000, 1000)
    assert trips.predict(LinkState()).latency_s == pytest.approx(0.06)
    fast = trips.predict(LinkState(1e7, 1e7, 0.002))
    assert fast.latency_s == pytest.approx(0.01 + 1e-4 + 0.002 + 0.02)
    assert (fast.uplink_busy_s, fast.server_busy_s) == (pytest.approx(0.01), 0.015)
    assert fast.bytes_up == 100_000
    slow = trips.predict(LinkState(5e5, 5e5, 0.002))
    assert slow.latency_s > 0.2
