"""How a person's clothes look: a colour histogram of the torso, and how far two differ."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from offload_ros.tracking.checks import Floats, array, require

# COCO: left and right shoulder, left and right hip.
TORSO = (5, 6, 11, 12)
HUES, SATURATIONS, GREYS = 12, 3, 4
BINS = HUES * SATURATIONS + GREYS
SAMPLES = 14
Looks = tuple[Floats, ...]
_GREY_BELOW = 40  # of saturation: the hue of grey cloth is noise


def torso_histogram(
    image: npt.NDArray[np.uint8], keypoints: npt.ArrayLike, confidence_min: float = 0.3
) -> Floats | None:
    """Return colours (BINS,) float64, summing to 1, of the torso of one person.

    image (H, W, 3) uint8 RGB; keypoints (17, 3: x, y in pixels, confidence), COCO order. None if
    shoulders and hips are not all known or less than a quarter of the torso is in the image.
    Hue and saturation of coloured samples, brightness of grey ones.
    """
    require(
        image.ndim == 3 and image.shape[2] == 3 and image.dtype == np.uint8,
        'an image is (H, W, 3) uint8',
    )
    points = array('keypoints', keypoints, (17, 3))[list(TORSO)]
    if not (np.isfinite(points).all() and (points[:, 2] >= confidence_min).all()):
        return None
    # From 15 to 85 % across and down, so that arms and background stay out.
    share = np.linspace(0.15, 0.85, SAMPLES)
    down, across = (grid.ravel()[:, None] for grid in np.meshgrid(share, share, indexing='ij'))
    left, right, left_hip, right_hip = points[:, :2]
    top, bottom = left + across * (right - left), left_hip + across * (right_hip - left_hip)
    at = np.rint(np.clip(top + down * (bottom - top), -1e6, 1e6)).astype(np.int64)
    height, width = image.shape[:2]
    inside = (at[:, 0] >= 0) & (at[:, 0] < width) & (at[:, 1] >= 0) & (at[:, 1] < height)
    if inside.sum() * 4 < len(at):
        return None
    colours = np.ascontiguousarray(image[at[inside, 1], at[inside, 0]][None])
    hsv = cv2.cvtColor(colours, cv2.COLOR_RGB2HSV)[0].astype(np.int64)
    hue = np.minimum(hsv[:, 0] * HUES // 180, HUES - 1)
    strength = (hsv[:, 1] - _GREY_BELOW) * SATURATIONS // (256 - _GREY_BELOW)
    coloured = hue * SATURATIONS + np.clip(strength, 0, SATURATIONS - 1)
    grey = HUES * SATURATIONS + hsv[:, 2] * GREYS // 256
    cells = np.where((hsv[:, 1] < _GREY_BELOW) | (hsv[:, 2] < 30), grey, coloured)
    counts = np.bincount(cells, minlength=BINS).astype(np.float64)
    result: Floats = counts / counts.sum()
    return result


def distance(first: Floats, second: Floats) -> float:
    """Return the Hellinger distance of two histograms (B,), from 0 (equal) to 1 (disjoint)."""
    overlap = float(np.sqrt(first * second).sum())
    return float(np.sqrt(max(0.0, 1.0 - overlap)))


def looked(looks: Looks, now: Floats, rate: float, apart: float, most: int) -> Looks:
    """Return looks (at most ``most``) after one more, ``now`` (B,).

    The nearest look moves by ``rate`` towards it; one farther than ``apart`` from all is new, and
    the oldest but the first is dropped for it.
    """
    same = [each for each in looks if each.shape == now.shape]
    if not same:
        return (now,)
    gaps = [distance(each, now) for each in same]
    nearest = min(range(len(same)), key=gaps.__getitem__)
    if gaps[nearest] > apart and most > 1:
        kept = same if len(same) < most else [same[0], *same[2:]]
        return (*kept, now)
    same[nearest] = same[nearest] + rate * (now - same[nearest])
    return tuple(same)
