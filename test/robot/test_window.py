"""Percentiles and rates of the last values."""

import math
import threading

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from offload_ros.robot.window import Window

VALUES = st.floats(-1e6, 1e6)


@settings(deadline=None, max_examples=200)
@given(st.lists(VALUES, min_size=1, max_size=30), st.floats(0, 100))
def test_percentile_equals_that_of_numpy(values, percent):
    window = Window(100)
    for value in values:
        window.add(value)
    assert window.percentile(percent) == pytest.approx(
        np.percentile(values, percent), rel=1e-9, abs=1e-6
    )


def test_empty_window_has_no_percentile_and_no_rate():
    window = Window()
    assert math.isnan(window.percentile(50))
    assert window.rate_hz(1.0) == 0.0


def test_only_the_last_values_count():
    window = Window(3)
    for value in (100.0, 1.0, 2.0, 3.0):
        window.add(value)
    assert window.percentile(100) == 3.0
    assert window.percentile(0) == 1.0


def test_only_values_of_the_span_count():
    window = Window(100, span_s=5.0)
    window.add(1.0, now_s=10.0)
    window.add(2.0, now_s=13.0)
    assert window.percentile(50, now_s=15.0) == 1.5
    assert window.percentile(50, now_s=15.1) == 2.0
    assert math.isnan(window.percentile(50, now_s=30.0))


def test_rate_is_that_of_regular_values_at_every_moment():
    window = Window(1000, span_s=5.0)
    for index in range(200):
        window.add(0.0, now_s=index * 0.1)
        if index > 10:
            assert window.rate_hz(index * 0.1) == pytest.approx(10.0, rel=0.03)


def test_rate_falls_when_values_stop_coming():
    window = Window(1000, span_s=5.0)
    for index in range(101):
        window.add(0.0, now_s=index * 0.02)  # 50 Hz for 2 s
    assert window.rate_hz(2.0) == pytest.approx(50.0)
    assert window.rate_hz(4.0) == pytest.approx(25.0)
    assert 0.0 < window.rate_hz(6.0) < 17.0
    assert window.rate_hz(7.1) == 0.0


def test_rate_of_a_full_window_counts_the_time_that_it_holds():
    window = Window(10, span_s=5.0)
    for index in range(1000):
        window.add(0.0, now_s=index * 0.001)
    assert window.rate_hz(0.999) == pytest.approx(1000.0)


def test_values_at_one_moment_have_no_rate():
    window = Window(10, span_s=5.0)
    for _ in range(3):
        window.add(1.0, now_s=1.0)
    assert window.rate_hz(1.0) == 0.0


def test_window_is_safe_between_threads():
    window = Window(50, span_s=1.0)
    failures = []

    def use():
        try:
            for index in range(2000):
                window.add(float(index), now_s=0.0)
                window.percentile(95, 0.5)
                window.rate_hz(0.5)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=use) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert failures == []
    assert window.percentile(100) == 1999.0
