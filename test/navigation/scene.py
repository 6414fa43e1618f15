"""Scenes of boxes, a lidar in them, and a slow judge of motions without planning's code."""

from __future__ import annotations

from dataclasses import replace
import math

import numpy as np

from offload_ros.navigation import PlanConfig
from offload_ros.navigation.plan_config import KinodynamicConfig, RefineConfig

STEP = 0.1
# Tests judge what is found, not how fast this machine finds it.
PATIENT = PlanConfig(
    limit_s=60.0, kinodynamic=KinodynamicConfig(limit_s=0.3), refine=RefineConfig(limit_s=0.3)
)


def patient(**changes):
    """Return the patient configuration with changes."""
    return replace(PATIENT, **changes)


class Scene:
    """Occupied voxels of a block of space, edge 0.1 m; the floor's top is at z = 0."""

    def __init__(self, size_m=(8.0, 8.0, 3.1)):
        """Begin empty; x and y are from minus to plus half the size."""
        self.shape = tuple(round(each / STEP) + (axis == 2) for axis, each in enumerate(size_m))
        self.low = np.array([-size_m[0] / 2, -size_m[1] / 2, -STEP])
        self._surface = None
        x, y, z = self.shape
        self.occupied = np.zeros((z, x, y), bool).transpose(1, 2, 0)

    def box(self, low, high):
        """Fill a box, metres; return the scene."""
        first = np.maximum(np.rint((np.array(low) - self.low) / STEP).astype(int), 0)
        last = np.maximum(np.rint((np.array(high) - self.low) / STEP).astype(int), 0)
        self.occupied[tuple(slice(a, b) for a, b in zip(first, last, strict=True))] = True
        return self

    def scattered(self, rng, count, tall=0.5):
        """Add so many boxes, a share of them up to the ceiling; return the scene."""
        for _ in range(count):
            size = rng.integers(2, 16, 2) * STEP
            x, y = self.low[:2] + rng.random(2) * (np.array(self.shape[:2]) * STEP - size)
            top = 9.0 if rng.random() < tall else rng.uniform(0.3, 1.5)
            self.box((x, y, 0.0), (x + size[0], y + size[1], top))
        return self

    def surface(self):
        """Return the lowest corners (N, 3) of the occupied voxels that have a free neighbour."""
        if self._surface is None or self._surface[0] != self.occupied.sum():
            wide = np.pad(self.occupied, 1, constant_values=True)
            buried = self.occupied.copy()
            for axis in range(3):
                for shift in (-1, 1):
                    buried &= np.roll(wide, shift, axis)[1:-1, 1:-1, 1:-1]
            corners = np.argwhere(self.occupied & ~buried) * STEP + self.low
            self._surface = self.occupied.sum(), corners
        return self._surface[1]

    def space(self, builder):
        """Return the space of everything in the scene."""
        return builder.of_blocked(self.occupied, self.low, STEP)

    def rays(self, origin, count=1500, reach=8.0):
        """Return ends (N, 3) and hits (N,) of a lidar's rays: the middles of voxels they meet."""
        turn = np.arange(count) * math.pi * (3 - math.sqrt(5))
        height = np.linspace(-0.6, 0.4, count)
        flat = np.sqrt(1 - height**2)
        way = np.stack((flat * np.cos(turn), flat * np.sin(turn), height), 1)
        along = np.arange(0.1, reach, STEP / 3)
        places = np.asarray(origin) + way[:, None] * along[:, None]
        cells = np.floor((places - self.low) / STEP).astype(int)
        inside = ((cells >= 0) & (cells < self.shape)).all(2)
        cells = np.where(inside[..., None], cells, 0)
        # The floor is what is below zero.
        met = (inside & self.occupied[tuple(np.moveaxis(cells, 2, 0))]) | (places[..., 2] < 0)
        first, hit = met.argmax(1), met.any(1)
        ends = places[np.arange(count), np.where(hit, first, len(along) - 1)]
        return np.where(hit[:, None], (np.floor(ends / STEP + 1e-6) + 0.5) * STEP, ends), hit

    def random_place(self, rng, space, up=0.0):
        """Return a place (3,) where the robot fits."""
        for _ in range(1000):
            half = np.array(self.shape[:2]) * STEP / 2 - 0.3
            place = np.array([*rng.uniform(-half, half), up])
            if space.fits(place[None])[0]:
                return place
        raise AssertionError('no free place')


def clearance(scene, body, place):
    """Return how far the body at a place (3,) is from the nearest occupied voxel's box, metres.

    Box by box: on the ground a cylinder from the step's height to the robot's, in the air a ball.
    """
    boxes = scene.surface()
    boxes = boxes[boxes[:, 2] > body.step_m - 1e-6]
    if place[2] < 0.1 - 1e-6:
        low = boxes[boxes[:, 2] < body.ground_height_m - 1e-6][:, :2]
        middle, radius = place[:2], body.ground_radius_m
    else:
        low, middle = boxes, place + np.array([0, 0, body.air_radius_m])
        radius = body.air_radius_m
    cell = np.floor((np.array([*middle[:2], max(place[2] + 0.2, 0.2)]) - scene.low) / STEP)
    if scene.occupied[tuple(np.clip(cell.astype(int), 0, np.array(scene.shape) - 1))]:
        return -radius
    if not len(low):
        return math.inf
    off = np.maximum(np.maximum(low - middle, middle - low - STEP), 0.0)
    return float(np.sqrt((off**2).sum(1)).min()) - radius


def judge(scene, body, limits, spline, start, velocity, goal):
    """Assert everything that a motion promises, by sampling it finely and differences in time."""
    times = np.linspace(0.0, spline.duration_s, max(round(spline.duration_s / 0.02), 20) + 1)
    places = np.array([spline.at(float(t))[0] for t in times])
    np.testing.assert_allclose(places[0], start, atol=1e-5)
    np.testing.assert_allclose(places[-1], goal, atol=1e-5)
    tick = times[1]
    speeds = np.diff(places, axis=0) / tick
    assert np.linalg.norm(speeds, axis=1).max() <= limits.speed_mps * 1.001
    rates = np.diff(speeds, axis=0) / tick
    assert np.linalg.norm(rates, axis=1).max() <= limits.acceleration_mps2 * 1.001
    np.testing.assert_allclose(speeds[0], velocity, atol=limits.acceleration_mps2 * tick)
    assert np.linalg.norm(speeds[-1]) <= limits.acceleration_mps2 * tick
    assert places[:, 2].min() >= -1e-5
    # The slow judge looks every few centimetres.
    keep = [0]
    for number in range(1, len(places)):
        if np.linalg.norm(places[number] - places[keep[-1]]) > 0.04:
            keep.append(number)
    assert min(clearance(scene, body, places[number]) for number in keep) >= -1e-6
