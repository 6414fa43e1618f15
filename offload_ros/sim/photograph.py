"""Light that changes, and what a camera makes of a picture: for images to train networks on."""

from __future__ import annotations

import math
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

Picture = npt.NDArray[np.uint8]


class Lighting:
    """The light in one compiled world."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._head = model.vis.headlight
        self._base = (self._head.ambient.copy(), self._head.diffuse.copy())
        self._lights = (model.light_diffuse.copy(), model.light_dir.copy())

    def draw(self, rng: np.random.Generator) -> None:
        """Draw where light comes from, its strength and its tint."""
        model = self._model
        tint = rng.uniform(0.85, 1.0, 3)
        share = float(rng.uniform(0.5, 1.1))
        self._head.ambient[:] = self._base[0] * share * tint
        self._head.diffuse[:] = self._base[1] * float(rng.uniform(0.3, 1.6)) * tint
        model.light_diffuse[:] = self._lights[0] * float(rng.uniform(0.5, 2.2)) * tint
        angle = float(rng.uniform(0, 2 * math.pi))
        turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        model.light_dir[:, :2] = self._lights[1][:, :2] @ turn.T


def photographed(
    picture: Picture,
    rng: np.random.Generator,
    light: tuple[float, float],
    blur: float,
    noise: float,
) -> Picture:
    """The picture (H, W, 3) as the camera of a robot gives it.

    ``light``: exposure as a power of two, least and most. ``blur``: of a Gaussian in pixels, most.
    ``noise``: standard deviation of 255 levels, most.
    """
    exposed: npt.NDArray = picture.astype(np.float32)
    exposed *= 2.0 ** rng.uniform(*light)
    width = rng.uniform(0.0, blur) if blur else 0.0
    if width > 0.2:
        exposed = cv2.GaussianBlur(exposed, (0, 0), width)
    deviation = rng.uniform(0.0, noise)
    exposed += rng.normal(0.0, deviation, exposed.shape).astype(np.float32)
    return np.asarray(np.clip(np.rint(exposed), 0, 255), np.uint8)
