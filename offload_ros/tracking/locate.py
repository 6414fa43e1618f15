"""Where a person stands: keypoints with depth, unprojected, in the frame of the map."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from offload_ros.tracking.checks import Bools, Floats, array, finite, require, within
from offload_ros.tracking.depth import DepthImage, PatchConfig, depths_at
from offload_ros.tracking.geometry import Rigid

TRUNK = [0, 1, 2, 3, 4, 5, 6, 11, 12]  # of COCO's keypoints: head, shoulders, hips


@dataclass(frozen=True)
class Intrinsics:
    """A pinhole camera: focal lengths and principal point in pixels, size of its image."""

    fx: float
    fy: float
    cx: float
    cy: float
    width_px: int
    height_px: int

    def __post_init__(self) -> None:
        within('width_px', self.width_px, 1, 100_000)
        within('height_px', self.height_px, 1, 100_000)
        within('fx', self.fx, 1.0, 1e6)
        within('fy', self.fy, 1.0, 1e6)
        within('cx', self.cx, -self.width_px, 2 * self.width_px)
        within('cy', self.cy, -self.height_px, 2 * self.height_px)

    @staticmethod
    def of_k(k: npt.ArrayLike, width_px: int, height_px: int) -> Intrinsics:
        """Of the K of camera_info, nine numbers row by row; ValueError if it is not calibrated."""
        values = finite('K', np.ravel(np.asarray(k)), (9,))
        require(bool(values[0] > 0 and values[4] > 0), 'K has no focal length: not calibrated')
        return Intrinsics(values[0], values[4], values[2], values[5], width_px, height_px)

    def resized(self, width_px: int, height_px: int) -> Intrinsics:
        """Return the same camera with its image scaled; ValueError if the proportions differ."""
        across, down = width_px / self.width_px, height_px / self.height_px
        require(
            abs(across - down) <= 0.01 * max(across, down),
            f'an image of {width_px}x{height_px} does not have the proportions of '
            f'{self.width_px}x{self.height_px}',
        )
        # The centre of the first pixel is (0, 0), so its corner is at -0.5.
        cx, cy = (self.cx + 0.5) * across - 0.5, (self.cy + 0.5) * down - 0.5
        return Intrinsics(self.fx * across, self.fy * down, cx, cy, width_px, height_px)

    def unproject(self, pixels: Floats, depth_m: Floats) -> Floats:
        """Return points (N, 3) in the optical frame of pixels (N, 2) at depths (N,) along z."""
        x = (pixels[:, 0] - self.cx) / self.fx * depth_m
        y = (pixels[:, 1] - self.cy) / self.fy * depth_m
        return np.stack([x, y, depth_m], 1)

    def project(self, points: Floats) -> Floats:
        """Return pixels (N, 2) of points (N, 3) in the optical frame with positive z."""
        x = points[:, 0] / points[:, 2] * self.fx + self.cx
        y = points[:, 1] / points[:, 2] * self.fy + self.cy
        return np.stack([x, y], 1)


@dataclass(frozen=True)
class LocateConfig:
    """What is needed to place a person.

    surface_to_centre_m is how far the middle of a body is behind what the camera sees of it. Where
    fewer than keypoints_min keypoints are confident, the own estimates of a person whose score is
    at least own_score_min stand in for them on head and torso.
    Keypoints whose depth is off the median by more than spread_max_m belong to something else.
    """

    confidence_min: float = 0.3
    own_score_min: float = 0.6
    keypoints_min: int = 3
    spread_max_m: float = 0.6
    surface_to_centre_m: float = 0.1
    patch: PatchConfig = field(default_factory=PatchConfig)

    def __post_init__(self) -> None:
        within('confidence_min', self.confidence_min, 0.0, 1.0)
        within('own_score_min', self.own_score_min, 0.0, 1.0)
        within('keypoints_min', self.keypoints_min, 1, 17)
        within('spread_max_m', self.spread_max_m, 0.05, 5.0)
        within('surface_to_centre_m', self.surface_to_centre_m, 0.0, 0.5)

    def least(self, score: float) -> float:
        """Return the confidence from which keypoints of a person of this score tell something:
        of one who is seen well, own estimates do."""
        return 0.0 if score >= self.own_score_min else self.confidence_min


@dataclass(frozen=True, eq=False)
class Located:
    """A person in the map frame.

    position (3,) in metres; keypoints (K, 3) in the map frame, NaN where unknown; spread_m: median
    distance of the keypoints used from the position on the floor; used: how many they are;
    bearing: angle from the optical axis, radians, left positive.
    """

    position: Floats
    keypoints: Floats
    spread_m: float
    used: int
    bearing: float


def believed(poses: npt.ArrayLike, scores: npt.ArrayLike, config: LocateConfig) -> Floats:
    """Return poses (N, 17, 3) with confidences for keypoints that only the person's own estimate
    tells, where the others are too few; scores (N,) are the persons'.

    A network that sees somebody well may still find none of the keypoints by themselves. Limbs are
    left out: an estimate that is a little off is already beside them.
    """
    result: Floats = array('poses', poses, (None, 17, 3)).copy()
    with np.errstate(invalid='ignore'):
        few = (result[:, :, 2] >= config.confidence_min).sum(1) < config.keypoints_min
    sure = np.asarray(scores, np.float64)
    for person in np.flatnonzero(few & (sure >= config.own_score_min)):
        trunk = result[person, TRUNK, 2]
        result[person, TRUNK, 2] = np.fmax(trunk, max(sure[person], config.confidence_min))
    return result


def locate(
    poses: npt.ArrayLike,
    depth: DepthImage,
    camera: Intrinsics,
    optical_in_map: Rigid,
    config: LocateConfig,
) -> list[Located | None]:
    """Place every person of poses (N, K, 3: x, y in pixels of ``camera``'s image, confidence).

    depth (H, W) is in metres, NaN for holes, registered to the camera; if its size differs, its
    proportions must not. None stands for a person without enough keypoints of known depth.
    The position is the median over confident keypoints (facts of KAPAO's follower).
    """
    people = array('poses', poses, (None, None, 3))
    seen = camera.resized(depth.shape[1], depth.shape[0])
    scale = depth.shape[1] / camera.width_px
    pixels = (people[:, :, :2].reshape(-1, 2) + 0.5) * scale - 0.5
    depths = depths_at(depth, pixels, config.patch)
    with np.errstate(invalid='ignore'):
        confident = people[:, :, 2].ravel() >= config.confidence_min
    depths = np.where(confident, depths, np.nan)
    optical = seen.unproject(pixels, depths).reshape(*people.shape[:2], 3)
    return [_place(points, optical_in_map, config) for points in optical]


def _place(optical: Floats, optical_in_map: Rigid, config: LocateConfig) -> Located | None:
    known: Bools = np.asarray(np.isfinite(optical).all(1))
    if known.sum() >= config.keypoints_min:
        middle = np.median(optical[known, 2])
        with np.errstate(invalid='ignore'):
            known &= np.abs(optical[:, 2] - middle) <= config.spread_max_m
    if known.sum() < config.keypoints_min:
        return None
    optical = np.where(known[:, None], optical, np.nan)
    in_map = optical_in_map.apply(optical)
    position = np.median(in_map[known], 0)
    ray = position[:2] - optical_in_map.translation[:2]
    away = float(np.hypot(*ray))
    position[:2] += ray * (config.surface_to_centre_m / max(away, 1e-6))
    spread = float(np.median(np.hypot(*(in_map[known, :2] - position[:2]).T)))
    middle_point = np.median(optical[known], 0)
    bearing = -float(np.arctan2(middle_point[0], middle_point[2]))
    return Located(position, in_map, spread, int(known.sum()), bearing)
