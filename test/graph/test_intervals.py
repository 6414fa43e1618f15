"""Intervals, and for each relation the hull of what a brute-force search finds to be read."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st
import pytest

from offload_ros.graph.intervals import (
    NOTHING,
    Broadcast,
    Indexed,
    Interval,
    Regrouped,
    Same,
    TransposedWindow,
    Window,
    affine_window,
    clipped,
    hull,
)

INTERVALS = st.builds(Interval, st.integers(-9, 9), st.integers(-9, 9))


def indices(*intervals: Interval) -> set[int]:
    return {index for each in intervals for index in range(*each)}


def span(read: set[int]) -> Interval:
    return Interval(min(read), max(read) + 1) if read else NOTHING


@given(INTERVALS, INTERVALS)
def test_intervals_are_sets_of_indices(first, second):
    assert indices(first.intersect(second)) == indices(first) & indices(second)
    assert indices(*first.without(second)) == indices(first) - indices(second)
    assert first.covers(second) == (indices(second) <= indices(first))
    assert hull([first, second]) == span(indices(first, second))
    assert first.length == len(indices(first))
    assert first.empty == (not indices(first))


def test_what_is_left_of_an_interval_is_ascending_and_never_empty():
    assert Interval(0, 9).without(Interval(3, 5)) == (Interval(0, 3), Interval(5, 9))
    assert Interval(0, 9).without(Interval(0, 9)) == ()
    assert Interval(2, 4).without(Interval(5, 4)) == (Interval(2, 4),)


def test_the_empty_interval_does_not_grow():
    assert NOTHING.widened(3) == NOTHING
    assert Interval(4, 5).widened(3) == Interval(1, 8)
    assert clipped(-3, 2, 9) == Interval(0, 2)
    assert clipped(-3, 0, 9) == NOTHING


@st.composite
def windows(draw):
    kernel, stride, dilation = (draw(st.integers(1, each)) for each in (5, 5, 4))
    extent, before = draw(st.integers(1, 12)), draw(st.integers(-3, 9))
    start = draw(st.integers(0, 9))
    interval = Interval(start, start + draw(st.integers(1, 6)))
    return extent, kernel, stride, before, dilation, interval


@given(windows())
def test_a_window_needs_from_its_first_to_its_last_tap_within_the_argument(drawn):
    extent, kernel, stride, before, dilation, interval = drawn
    window = Window(2, extent, kernel, stride, before, dilation)
    taps = {i * stride - before + dilation * k for i in range(*interval) for k in range(kernel)}
    assert window.needs(interval) == span({each for each in taps if 0 <= each < extent})
    assert window.span(interval) == span(taps)


@given(windows())
def test_a_transposed_window_needs_the_inputs_that_add_to_the_interval(drawn):
    extent, kernel, stride, before, dilation, interval = drawn
    window = TransposedWindow(2, extent, kernel, stride, before, dilation)
    adding = {
        index
        for index in range(extent)
        for k in range(kernel)
        if interval.start <= index * stride - before + dilation * k < interval.stop
    }
    assert window.needs(interval) == span(adding)


@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 9), st.integers(1, 9))
def test_a_reshape_needs_the_rows_that_hold_its_elements(inner, outer, start, length):
    elements = range(start * outer, (start + length) * outer)
    rows = {element // inner for element in elements}
    needs = Regrouped(0, inner, outer).needs(Interval(start, start + length))
    assert needs == span(rows)


def test_indices_may_go_back_and_forth_as_in_a_reflection():
    reflected = Indexed(1, (2, 1, 0, 1, 2, 3, 2), (2, 1, 0, 1, 2, 3, 2))
    assert reflected.needs(Interval(0, 2)) == Interval(1, 3)
    assert reflected.needs(Interval(1, 4)) == Interval(0, 2)
    assert reflected.needs(Interval(5, 7)) == Interval(2, 4)


@pytest.mark.parametrize('interval', [Interval(0, 1), Interval(3, 9)])
def test_what_is_repeated_needs_its_only_index(interval):
    assert Broadcast(0).needs(interval) == Interval(0, 1)
    assert Same(0).needs(interval) == interval


def affine_needs(window, interval: Interval, extent: int) -> Interval:
    """As a profile's operators have it; 1e-9 against rounding of broken strides."""
    first = math.floor(interval.start * window.stride - window.padding + 1e-9)
    last = math.ceil((interval.stop - 1) * window.stride - window.padding + window.kernel - 1e-9)
    return clipped(first, last, extent)


@given(windows())
def test_affine_windows_of_convolutions_are_exact(drawn):
    extent, kernel, stride, before, dilation, interval = drawn
    relation = Window(2, extent, kernel, stride, before, dilation)
    needed = affine_needs(affine_window(relation, 99, extent), interval, extent)
    assert needed.covers(relation.needs(interval))
    if not relation.gaps(relation.span(interval)):
        assert needed == relation.needs(interval)


@given(windows())
def test_affine_windows_cover_what_transposed_convolutions_need(drawn):
    extent, kernel, stride, before, dilation, interval = drawn
    relation = TransposedWindow(2, extent, kernel, stride, before, dilation)
    outputs = max(interval.stop, (extent - 1) * stride + dilation * (kernel - 1) + 1)
    window = affine_window(relation, outputs, extent)
    assert affine_needs(window, interval, extent).covers(relation.needs(interval))


@given(st.integers(1, 9), st.integers(1, 20), st.integers(0, 19), st.integers(0, 19))
def test_affine_windows_cover_resampling_with_at_most_two_rows_more(n, m, start, length):
    source = tuple(index * n // m for index in range(m))  # nearest neighbours
    relation = Indexed(0, source, source)
    interval = Interval(min(start, m - 1), min(min(start, m - 1) + 1 + length, m))
    window = affine_window(relation, m, n)
    needed, exact = affine_needs(window, interval, n), relation.needs(interval)
    assert needed.covers(exact)
    assert needed.length <= exact.length + 2
