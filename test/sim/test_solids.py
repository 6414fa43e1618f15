"""Points that fill solids."""

import math

import numpy as np
import pytest

from offload_ros.sim.shapes import (
    Part,
    box,
    cylinder,
    ellipsoid,
    extent,
    frustum,
    rod,
    sphere,
    torus,
    turned,
)
from offload_ros.sim.solids import all_filled, filled

GREY = (0.5, 0.5, 0.5)
TURN = turned(20.0, -35.0, 70.0)
AT = (0.3, -1.0, 0.8)
SOLIDS = {
    'box': (box((0.6, 0.4, 0.8), AT, GREY, rotation=TURN), 0.6 * 0.4 * 0.8),
    'sphere': (sphere(0.4, AT, GREY), 4 / 3 * math.pi * 0.4**3),
    'ellipsoid': (ellipsoid((0.5, 0.3, 0.4), AT, GREY, rotation=TURN), 4 / 3 * math.pi * 0.06),
    'cylinder': (cylinder(0.3, 0.9, AT, GREY, rotation=TURN), math.pi * 0.09 * 0.9),
    'frustum': (frustum(0.4, 0.2, 0.9, AT, GREY, rotation=TURN), math.pi * 0.3 * 0.28),
    'torus': (torus(0.4, 0.15, AT, GREY, rotation=TURN), 2 * math.pi**2 * 0.4 * 0.15**2),
    'capsule': (
        rod((0.0, 0.0, 0.0), (0.4, 0.3, 0.5), 0.2, GREY),
        math.pi * 0.04 * math.sqrt(0.5) + 4 / 3 * math.pi * 0.008,
    ),
}


@pytest.mark.parametrize('form', SOLIDS)
def test_points_fill_a_solid_and_nothing_else(form):
    part, volume = SOLIDS[form]
    points = filled(part, 0.02)
    low, high = extent(part)
    assert (points >= low - 1e-6).all()
    assert (points <= high + 1e-6).all()
    # The reach is used, and the points are as many as the volume has room for.
    assert points.min(0) == pytest.approx(low, abs=0.03)
    assert points.max(0) == pytest.approx(high, abs=0.03)
    cells = np.unique(np.floor(points / 0.04).astype(int), axis=0)
    assert len(cells) * 0.04**3 == pytest.approx(volume, rel=0.45)
    assert len(cells) * 0.04**3 > 0.95 * volume


def test_a_pole_thinner_than_the_spacing_has_points_all_along():
    points = filled(cylinder(0.01, 1.0, (0, 0, 0.5), GREY), 0.05)
    heights = np.sort(np.unique(points[:, 2].round(6)))
    assert np.diff(heights).max() <= 0.05 + 1e-6
    assert heights[[0, -1]] == pytest.approx([0, 1])


def test_of_nothing_there_is_nothing_and_other_forms_are_refused():
    assert all_filled([], 0.1).shape == (0, 3)
    with pytest.raises(ValueError, match=r"not 'cube'"):
        filled(Part('cube', (1.0,), (0, 0, 0), GREY), 0.1)
