"""Kalman filter of a point on the floor that moves with almost constant velocity.

State (x, vx, y, vy) in metres and metres per second. The acceleration is white noise of intensity
q (m^2/s^3) on each axis (Bar-Shalom, Li, Kirubarajan, "Estimation with Applications to Tracking and
Navigation", 2001, section 6.2.2), so that steps may have any length.
"""

from __future__ import annotations

from dataclasses import dataclass
import math

import numpy as np

from offload_ros.tracking.checks import Floats, finite, require, within

POSITION: Floats = np.array([[1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]])


@dataclass(frozen=True, eq=False)
class Gaussian:
    """A belief about the state: mean (4,), covariance (4, 4)."""

    mean: Floats
    covariance: Floats

    @property
    def position(self) -> Floats:
        """Mean position (2,) in metres."""
        return self.mean[[0, 2]]

    @property
    def velocity(self) -> Floats:
        """Mean velocity (2,) in m/s."""
        return self.mean[[1, 3]]

    @property
    def position_covariance(self) -> Floats:
        """Covariance (2, 2) of the position, m^2."""
        return self.covariance[np.ix_([0, 2], [0, 2])]


@dataclass(frozen=True, eq=False)
class Noise:
    """Intensity q of the acceleration (m^2/s^3) and covariance (2, 2) of a measurement (m^2)."""

    intensity: float
    measurement: Floats

    def __post_init__(self) -> None:
        within('intensity', self.intensity, 1e-9, 1e6)
        covariance = finite('measurement', self.measurement, (2, 2))
        require(
            bool(np.allclose(covariance, covariance.T))
            and bool((np.linalg.eigvalsh(covariance) > 0).all()),
            'measurement must be a symmetric positive definite covariance',
        )
        object.__setattr__(self, 'measurement', covariance)


def transition(dt_s: float) -> Floats:
    """Return F (4, 4) of a step of dt_s."""
    f = np.eye(4)
    f[0, 1] = f[2, 3] = dt_s
    return f


def process(dt_s: float) -> Floats:
    """Return the covariance (4, 4) of a step of dt_s for the intensity 1."""
    q = np.zeros((4, 4))
    for i in (0, 2):
        q[i, i], q[i + 1, i + 1] = dt_s**3 / 3, dt_s
        q[i, i + 1] = q[i + 1, i] = dt_s**2 / 2
    return q


def initial(position: Floats, measurement: Floats, speed_sigma_mps: float) -> Gaussian:
    """Return the belief after one measurement (2,), whose speed is known to be moderate."""
    mean = np.array([position[0], 0.0, position[1], 0.0])
    covariance = POSITION.T @ measurement @ POSITION
    covariance[1, 1] = covariance[3, 3] = speed_sigma_mps**2
    return Gaussian(mean, covariance)


def predict(belief: Gaussian, dt_s: float, intensity: float) -> Gaussian:
    """Return the belief dt_s later, dt_s not negative."""
    if dt_s < 0:
        raise ValueError(f'a filter predicts forward, not by {dt_s} s')
    f = transition(dt_s)
    covariance = f @ belief.covariance @ f.T + intensity * process(dt_s)
    return Gaussian(f @ belief.mean, covariance)


def innovation(
    belief: Gaussian, position: Floats, measurement: Floats
) -> tuple[Floats, Floats, float]:
    """Return difference (2,), its covariance (2, 2) and the squared Mahalanobis distance."""
    gap: Floats = position - belief.position
    s = belief.position_covariance + measurement
    return gap, s, float(gap @ np.linalg.solve(s, gap))


def update(belief: Gaussian, position: Floats, measurement: Floats) -> Gaussian:
    """Return the belief after a measurement (2,) with covariance (2, 2); Joseph's form."""
    gap, s, _ = innovation(belief, position, measurement)
    gain = np.linalg.solve(s, POSITION @ belief.covariance).T
    left = np.eye(4) - gain @ POSITION
    covariance = left @ belief.covariance @ left.T + gain @ measurement @ gain.T
    return Gaussian(belief.mean + gain @ gap, (covariance + covariance.T) / 2)


def gate(probability: float) -> float:
    """Return the squared Mahalanobis distance that this share of true measurements is within.

    Chi square with two degrees of freedom: 1 - exp(-d^2 / 2).
    """
    require(0.0 < probability < 1.0, f'a probability is between 0 and 1, not {probability!r}')
    return -2.0 * math.log(1.0 - probability)
