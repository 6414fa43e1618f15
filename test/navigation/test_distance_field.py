"""Distances equal SciPy's up to the reach, on the whole grid, however it came to be."""

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest
from scipy.ndimage import distance_transform_edt

from offload_ros.navigation.distance_field import REACH_MAX, DistanceField, flat_squares

from ..draws import examples


def expected(marked, reach):
    """Return squared distances (X, Y, Z), at most reach squared, by SciPy."""
    if not marked.any():
        return np.full(marked.shape, reach * reach)
    squares = np.rint(distance_transform_edt(~marked) ** 2)
    return np.minimum(squares, reach * reach)


@settings(max_examples=examples(12, 300))
@given(
    st.tuples(st.integers(1, 30), st.integers(1, 30), st.integers(1, 12)),
    st.integers(1, 12),
    st.integers(0, 10**6),
)
def test_distances_after_every_change_equal_scipys(shape, reach, seed):
    rng = np.random.default_rng(seed)
    field, marked = DistanceField(shape, reach), np.zeros(shape, bool)
    np.testing.assert_array_equal(field.squares, expected(marked, reach))
    for _ in range(4):
        low = rng.integers(0, shape)
        part = tuple(slice(a, a + rng.integers(1, 8)) for a in low)
        marked = marked.copy()
        marked[part] = rng.random(marked[part].shape) < rng.choice([0.0, 0.05, 0.5])
        field.update(marked)
        np.testing.assert_array_equal(field.squares, expected(marked, reach))


def test_only_what_is_near_a_change_is_renewed():
    field, marked = DistanceField((100, 100, 30), 5), np.zeros((100, 100, 30), bool)
    assert field.update(marked) == 0
    marked[50, 50, 15] = True
    assert field.update(marked) == 11**3
    assert field.update(marked) == 0


def test_longest_reach_still_fits_the_numbers():
    marked = np.zeros((400, 3, 1), bool)
    marked[0, 0, 0] = True
    field = DistanceField(marked.shape, REACH_MAX)
    field.update(marked)
    np.testing.assert_array_equal(field.squares, expected(marked, REACH_MAX))
    tall = marked.transpose(2, 1, 0)
    field = DistanceField(tall.shape, REACH_MAX)
    field.update(tall)
    np.testing.assert_array_equal(field.squares, expected(tall, REACH_MAX))
    with pytest.raises(ValueError, match='reach'):
        DistanceField((3, 3, 3), REACH_MAX + 1)
    with pytest.raises(ValueError, match='marks'):
        field.update(marked)


def test_distances_in_the_plane_equal_scipys():
    marks = np.random.default_rng(0).random((80, 50)) < 0.02
    np.testing.assert_array_equal(flat_squares(marks, 9), expected(marks, 9))
