"""Depth at image points: encodings of REP-118, holes, and the edges of bodies."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from offload_ros.tracking.checks import Bools, Floats, array, require, within

DepthImage = npt.NDArray[np.float32]


@dataclass(frozen=True)
class PatchConfig:
    """How the depth of a point is read from the square patch of pixels around it.

    ``quantile`` is below a half because a keypoint near the edge of an arm has the wall behind it
    in its patch, further away than the arm. At least ``min_valid`` pixels of it must have a depth.
    """

    radius_px: int = 3
    quantile: float = 0.3
    min_valid: int = 6
    depth_min_m: float = 0.2
    depth_max_m: float = 10.0

    def __post_init__(self) -> None:
        within('radius_px', self.radius_px, 0, 50)
        within('quantile', self.quantile, 0.0, 1.0)
        within('min_valid', self.min_valid, 1, (2 * self.radius_px + 1) ** 2)
        within('depth_min_m', self.depth_min_m, 0.0, 100.0)
        within('depth_max_m', self.depth_max_m, self.depth_min_m, 1000.0)


def depth_in_metres(image: npt.NDArray[np.generic], encoding: str) -> DepthImage:
    """Return a depth image (H, W) float32 in metres, NaN where nothing was measured.

    ``16UC1`` holds millimetres with 0 for a hole, ``32FC1`` metres with NaN for a hole and plus or
    minus infinity for too far or too near (REP-118, also REP-117). ValueError for others.
    """
    require(image.ndim == 2 and image.size > 0, f'a depth image is (H, W), not {image.shape}')
    if encoding in ('16UC1', 'mono16'):
        require(image.dtype == np.uint16, f'{encoding} is uint16, not {image.dtype}')
        metres = image.astype(np.float32) * np.float32(0.001)
    elif encoding == '32FC1':
        require(image.dtype == np.float32, f'{encoding} is float32, not {image.dtype}')
        metres = image.copy()
    else:
        raise ValueError(f'depth has the encoding 16UC1 or 32FC1 (REP-118), not {encoding!r}')
    with np.errstate(invalid='ignore'):
        measured = np.isfinite(metres) & (metres > 0)
    result: DepthImage = np.where(measured, metres, np.float32(np.nan)).astype(np.float32)
    return result


def depths_at(depth: DepthImage, pixels: npt.ArrayLike, config: PatchConfig) -> Floats:
    """Return the depth (N,) in metres at pixels (N, 2: x, y), NaN where it cannot be told.

    depth is (H, W) in metres with NaN for holes. Pixels off the image, or not finite, give NaN; a
    patch that reaches over the border is what of it lies inside.
    """
    points = array('pixels', pixels, (None, 2))
    height, width = depth.shape
    known: Bools = np.asarray(np.isfinite(points).all(1))
    # Casting first would overflow for wild coordinates.
    rounded = np.where(known[:, None], np.rint(np.clip(points, -1e6, 1e6)), -1).astype(np.int64)
    offsets = np.arange(-config.radius_px, config.radius_px + 1)
    x = rounded[:, 0, None, None] + offsets[None, None, :]
    y = rounded[:, 1, None, None] + offsets[None, :, None]
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    patch = depth[np.clip(y, 0, height - 1), np.clip(x, 0, width - 1)].astype(np.float64)
    with np.errstate(invalid='ignore'):
        inside = inside & (patch >= config.depth_min_m) & (patch <= config.depth_max_m)
    # NaN comes last.
    values = np.sort(np.where(inside, patch, np.nan).reshape(len(points), offsets.size**2), 1)
    count = inside.sum((1, 2))
    centred = (
        (rounded[:, 0] >= 0)
        & (rounded[:, 0] < width)
        & (rounded[:, 1] >= 0)
        & (rounded[:, 1] < height)
    )
    place = np.floor(config.quantile * np.maximum(count - 1, 0)).astype(np.int64)
    chosen = values[np.arange(len(points)), place] if len(points) else np.empty(0)
    return np.where(known & centred & (count >= config.min_valid), chosen, np.nan)
