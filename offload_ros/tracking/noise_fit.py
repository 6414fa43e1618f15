"""Fits a filter's noise to its first observations by expectation maximisation.

Shumway and Stoffer, "An approach to time series smoothing and forecasting using the EM algorithm"
(1982), for steps of different length: with the covariance of a step q * Q(dt), the maximising q is
the mean of trace(Q(dt)^-1 E[e e']) / 4 over steps, e = x_k - F x_(k-1).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from offload_ros.tracking.checks import Floats, require, within
from offload_ros.tracking.kalman import (
    POSITION,
    Gaussian,
    Noise,
    initial,
    predict,
    process,
    transition,
    update,
)

STEP_MIN_S = 1e-3


@dataclass(frozen=True)
class FitConfig:
    """How the noise of a new track is fitted.

    Five observations say little, so the values start from a prior that counts like prior_count
    observations (0: plain maximum likelihood), and they stay within bounds.
    """

    observations: int = 5
    iterations: int = 5
    prior_count: float = 8.0
    intensity: float = 1.2
    sigma_m: float = 0.06
    intensity_min: float = 0.05
    intensity_max: float = 6.0
    sigma_min_m: float = 0.02
    sigma_max_m: float = 0.3
    speed_sigma_mps: float = 1.0

    def __post_init__(self) -> None:
        within('observations', self.observations, 3, 100)
        within('iterations', self.iterations, 0, 1000)
        within('prior_count', self.prior_count, 0.0, 1e6)
        within('intensity_min', self.intensity_min, 1e-6, 1e3)
        within('intensity_max', self.intensity_max, self.intensity_min, 1e6)
        within('intensity', self.intensity, self.intensity_min, self.intensity_max)
        within('sigma_min_m', self.sigma_min_m, 1e-4, 10.0)
        within('sigma_max_m', self.sigma_max_m, self.sigma_min_m, 100.0)
        within('sigma_m', self.sigma_m, self.sigma_min_m, self.sigma_max_m)
        within('speed_sigma_mps', self.speed_sigma_mps, 0.01, 100.0)

    def noise(self) -> Noise:
        """Return the noise before anything is known of a track."""
        return Noise(self.intensity, self.sigma_m**2 * np.eye(2))


@dataclass(frozen=True, eq=False)
class Smoothed:
    """Smoothed means (N, 4), covariances (N, 4, 4), those of (x_k, x_(k-1)) (N-1, 4, 4).

    log_likelihood is that of the observations after the first one, given the first.
    """

    means: Floats
    covariances: Floats
    lagged: Floats
    log_likelihood: float


def smooth(stamps_s: Floats, positions: Floats, noise: Noise, speed_sigma_mps: float) -> Smoothed:
    """Rauch-Tung-Striebel smoother over positions (N, 2) at ascending stamps (N,)."""
    belief = initial(positions[0], noise.measurement, speed_sigma_mps)
    filtered, predicted, steps = [belief], [belief], np.diff(stamps_s)
    likelihood = 0.0
    for dt_s, position in zip(steps, positions[1:], strict=True):
        prior = predict(belief, float(dt_s), noise.intensity)
        s = prior.position_covariance + noise.measurement
        gap = position - prior.position
        likelihood -= 0.5 * float(
            gap @ np.linalg.solve(s, gap) + np.linalg.slogdet(2 * np.pi * s)[1]
        )
        belief = update(prior, position, noise.measurement)
        predicted.append(prior)
        filtered.append(belief)
    later = filtered[-1]
    means, covariances, lagged = [later.mean], [later.covariance], []
    for k in range(len(filtered) - 2, -1, -1):
        here, prior = filtered[k], predicted[k + 1]
        gain = np.linalg.solve(prior.covariance, transition(float(steps[k])) @ here.covariance).T
        mean = here.mean + gain @ (later.mean - prior.mean)
        covariance = here.covariance + gain @ (later.covariance - prior.covariance) @ gain.T
        lagged.append(later.covariance @ gain.T)
        later = Gaussian(mean, covariance)
        means.append(mean)
        covariances.append(covariance)
    return Smoothed(
        np.array(means[::-1]),
        np.array(covariances[::-1]),
        np.array(lagged[::-1]).reshape(-1, 4, 4),
        likelihood,
    )


def fit_noise(stamps_s: Floats, positions: Floats, config: FitConfig) -> Noise:
    """Return the noise fitted to positions (N, 2) at strictly ascending stamps (N,), N >= 3.

    Any number of observations will do. Raises ValueError for fewer, or stamps less than 1 ms apart.
    """
    require(len(stamps_s) >= 3, 'noise is fitted to at least 3 observations')
    require(positions.shape == (len(stamps_s), 2), 'one position (2,) for each stamp')
    require(bool(np.isfinite(positions).all()), 'positions must be finite')
    steps = np.diff(stamps_s)
    require(bool((steps >= STEP_MIN_S).all()), 'stamps must ascend by at least 1 ms')
    noise = config.noise()
    for _ in range(config.iterations):
        noise = _improved(
            steps, positions, smooth(stamps_s, positions, noise, config.speed_sigma_mps), config
        )
    return noise


def _improved(steps: Floats, positions: Floats, known: Smoothed, config: FitConfig) -> Noise:
    """One step of maximisation, with the prior's observations added."""
    total = 0.0
    for k, dt_s in enumerate(steps):
        f, dt = transition(float(dt_s)), float(dt_s)
        # The state that the position's noise was drawn from is a sum of known moments.
        gap = known.means[k + 1] - f @ known.means[k]
        cross = known.lagged[k] @ f.T
        moment = (
            np.outer(gap, gap)
            + known.covariances[k + 1]
            + f @ known.covariances[k] @ f.T
            - cross
            - cross.T
        )
        total += float(np.trace(np.linalg.solve(process(dt), moment)))
    count = config.prior_count
    intensity = (count * config.intensity + total / 4) / (count + len(steps))
    gaps = positions - known.means[:, [0, 2]]
    spread = gaps.T @ gaps + sum(POSITION @ p @ POSITION.T for p in known.covariances)
    measurement = (count * config.sigma_m**2 * np.eye(2) + spread) / (count + len(positions))
    values, axes = np.linalg.eigh((measurement + measurement.T) / 2)
    values = np.clip(values, config.sigma_min_m**2, config.sigma_max_m**2)
    bounded = float(np.clip(intensity, config.intensity_min, config.intensity_max))
    return Noise(bounded, (axes * values) @ axes.T)
