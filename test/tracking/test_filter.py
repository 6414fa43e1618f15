"""The filter equals what dense linear algebra says; late measurements equal those in order."""

import numpy as np
import pytest

from offload_ros.tracking.kalman import (
    POSITION,
    Noise,
    gate,
    initial,
    innovation,
    predict,
    process,
    transition,
    update,
)
from offload_ros.tracking.noise_fit import FitConfig, fit_noise, smooth
from offload_ros.tracking.timed_filter import FilterConfig, TimedFilter

SPEED_SIGMA = 1.3


def walk(rng, count, intensity=0.8, sigma=0.1, step_s=(0.05, 0.4)):
    """Return stamps (N,), true states (N, 4) and measurements (N, 2) of the model itself."""
    stamps = np.cumsum(rng.uniform(*step_s, count))
    state = np.array([1.0, 0.5, -2.0, -0.3])
    states = [state]
    for dt in np.diff(stamps):
        noise = rng.multivariate_normal(np.zeros(4), intensity * process(dt))
        state = transition(dt) @ state + noise
        states.append(state)
    states = np.array(states)
    return stamps, states, states[:, [0, 2]] + rng.normal(0, sigma, (count, 2))


def joint(stamps, noise):
    """Return the covariance (4N, 4N) of all states before measurements 1..N-1, by the model alone.

    The first state is what the first measurement and the prior of the speed say.
    """
    count = len(stamps)
    start = initial(np.zeros(2), noise.measurement, SPEED_SIGMA).covariance
    # x = A e: independent noises e_0 (first state), e_1, ...
    a = np.zeros((4 * count, 4 * count))
    e = np.zeros_like(a)
    for k in range(count):
        dt = 0.0 if k == 0 else stamps[k] - stamps[k - 1]
        e[4 * k : 4 * k + 4, 4 * k : 4 * k + 4] = start if k == 0 else noise.intensity * process(dt)
        for j in range(k + 1):
            a[4 * k : 4 * k + 4, 4 * j : 4 * j + 4] = transition(stamps[k] - stamps[j])
    return a @ e @ a.T


def conditioned(stamps, positions, noise):
    """Return mean (4N,) and covariance of all states given all positions: one linear system."""
    count = len(stamps)
    covariance = joint(stamps, noise)
    mean = np.concatenate([transition(t - stamps[0]) @ (POSITION.T @ positions[0]) for t in stamps])
    h = np.kron(np.eye(count), POSITION)[2:]
    s = h @ covariance @ h.T + np.kron(np.eye(count - 1), noise.measurement)
    gain = np.linalg.solve(s, h @ covariance).T
    return mean + gain @ (positions[1:].ravel() - h @ mean), covariance - gain @ h @ covariance


def test_filter_equals_conditioning_of_the_joint_gaussian():
    rng = np.random.default_rng(3)
    stamps, _, positions = walk(rng, 25)
    noise = Noise(0.7, np.array([[0.02, 0.005], [0.005, 0.01]]))
    belief = initial(positions[0], noise.measurement, SPEED_SIGMA)
    for k in range(1, len(stamps)):
        belief = predict(belief, stamps[k] - stamps[k - 1], noise.intensity)
        belief = update(belief, positions[k], noise.measurement)
        mean, covariance = conditioned(stamps[: k + 1], positions[: k + 1], noise)
        np.testing.assert_allclose(belief.mean, mean[-4:], rtol=0, atol=1e-9)
        np.testing.assert_allclose(belief.covariance, covariance[-4:, -4:], rtol=0, atol=1e-9)


def test_smoother_equals_conditioning_of_the_joint_gaussian():
    rng = np.random.default_rng(4)
    stamps, _, positions = walk(rng, 12)
    noise = Noise(1.1, 0.02 * np.eye(2))
    mean, covariance = conditioned(stamps, positions, noise)
    known = smooth(stamps, positions, noise, SPEED_SIGMA)
    np.testing.assert_allclose(known.means.ravel(), mean, rtol=0, atol=1e-9)
    for k in range(len(stamps)):
        here = slice(4 * k, 4 * k + 4)
        np.testing.assert_allclose(known.covariances[k], covariance[here, here], atol=1e-9)
        if k:
            before = slice(4 * k - 4, 4 * k)
            np.testing.assert_allclose(known.lagged[k - 1], covariance[here, before], atol=1e-9)


def test_likelihood_equals_that_of_the_joint_gaussian_and_each_step_of_em_raises_it():
    rng = np.random.default_rng(5)
    stamps, _, positions = walk(rng, 40, intensity=0.3, sigma=0.15)
    values = []
    for iterations in range(12):
        # Without a prior and with bounds far away it is plain maximum likelihood.
        config = FitConfig(
            iterations=iterations, prior_count=0.0, intensity=2.0, sigma_m=0.05,
            intensity_min=1e-3, intensity_max=100.0, sigma_min_m=1e-3, sigma_max_m=2.0,
        )  # fmt: skip
        noise = fit_noise(stamps, positions, config)
        values.append(smooth(stamps, positions, noise, config.speed_sigma_mps).log_likelihood)
    assert (np.diff(values) > -1e-9).all()
    assert values[-1] > values[0] + 1
    noise = Noise(0.5, 0.03 * np.eye(2))
    covariance = joint(stamps, noise)
    h = np.kron(np.eye(len(stamps)), POSITION)[2:]
    s = h @ covariance @ h.T + np.kron(np.eye(len(stamps) - 1), noise.measurement)
    gap = (positions[1:] - positions[0]).ravel()
    expected = -0.5 * (gap @ np.linalg.solve(s, gap) + np.linalg.slogdet(2 * np.pi * s)[1])
    # joint() has the speed sigma of this file.
    found = smooth(stamps, positions, noise, SPEED_SIGMA).log_likelihood
    assert found == pytest.approx(expected, abs=1e-8)


def test_em_finds_the_noise_of_long_tracks_with_irregular_steps():
    config = FitConfig(
        observations=100, iterations=40, prior_count=0.0, intensity=0.2, sigma_m=0.2,
        intensity_min=1e-3, intensity_max=100.0, sigma_min_m=1e-3, sigma_max_m=2.0,
    )  # fmt: skip
    found = []
    for seed in range(2):
        stamps, _, positions = walk(np.random.default_rng(seed), 250, intensity=1.5, sigma=0.08)
        noise = fit_noise(stamps, positions, config)
        found.append((noise.intensity, *np.diag(noise.measurement)))
    intensity, rx, ry = np.mean(found, 0)
    assert intensity == pytest.approx(1.5, rel=0.2)
    assert np.sqrt([rx, ry]) == pytest.approx([0.08, 0.08], rel=0.1)


def test_fit_to_five_observations_stays_within_bounds_whatever_they_are():
    config = FitConfig()
    stamps = np.array([0.0, 0.1, 0.25, 0.3, 0.5])
    for positions in (
        np.zeros((5, 2)),
        np.array([[0, 0], [50, -50], [-80, 3], [7, 7], [1e3, 0]], float),
    ):
        noise = fit_noise(stamps, positions, config)
        assert config.intensity_min <= noise.intensity <= config.intensity_max
        sigma = np.sqrt(np.linalg.eigvalsh(noise.measurement))
        assert (sigma >= config.sigma_min_m - 1e-9).all()
        assert (sigma <= config.sigma_max_m + 1e-9).all()


@pytest.mark.parametrize(
    ('stamps', 'positions', 'rule'),
    [
        ([0.0, 0.1], np.zeros((2, 2)), 'at least 3'),
        ([0.0, 0.1, 0.1], np.zeros((3, 2)), 'ascend'),
        ([0.0, 0.1, 0.2], np.full((3, 2), np.nan), 'finite'),
        ([0.0, 0.1, 0.2], np.zeros((2, 2)), 'one position'),
    ],
)
def test_fit_refuses(stamps, positions, rule):
    with pytest.raises(ValueError, match=rule):
        fit_noise(np.array(stamps), positions, FitConfig())


@pytest.mark.parametrize('seed', range(25))
def test_late_measurements_give_the_result_of_those_in_order_bit_for_bit(seed):
    rng = np.random.default_rng(seed)
    count = int(rng.integers(3, 30))
    stamps, _, positions = walk(rng, count, step_s=(0.01, 0.06))
    positions[rng.random(count) < 0.1] += 5.0  # outliers, which the gate keeps out
    ordered, late = TimedFilter(), TimedFilter()
    for stamp, position in zip(stamps, positions, strict=True):
        assert ordered.add(stamp, position)
    delays = rng.uniform(0, 0.3, count)
    for place in np.argsort(stamps + delays):
        assert late.add(stamps[place], positions[place])
    for stamp in (stamps[-1], stamps[-1] + 0.4, stamps[count // 2] + 1e-3):
        assert np.array_equal(ordered.at(stamp).mean, late.at(stamp).mean)
        assert np.array_equal(ordered.at(stamp).covariance, late.at(stamp).covariance)
    assert ordered.state.rejected == late.state.rejected
    assert ordered.state.noise.intensity == late.state.noise.intensity


def test_measurement_older_than_the_history_or_of_a_known_stamp_changes_nothing():
    timed = TimedFilter(FilterConfig(history_s=1.0))
    for stamp in np.arange(0, 5, 0.1):
        assert timed.add(stamp, (stamp, 0.0))
    before = timed.at(6.0).mean
    assert not timed.add(3.0001, (0.0, 0.0))
    assert not timed.add(4.9, (9.0, 9.0))
    assert np.array_equal(timed.at(6.0).mean, before)
    assert len(timed._history) <= 12


def test_history_is_bounded_by_count_too():
    timed = TimedFilter(FilterConfig(history_s=60.0, history_limit=20))
    for step in range(500):
        timed.add(0.001 * step, (0.0, 0.0))
    assert len(timed._history) == 20
    assert not timed.add(0.001 * 470.5, (0.0, 0.0))
    assert timed.add(0.001 * 490.5, (0.0, 0.0))


def test_gate_lets_the_stated_share_of_true_measurements_pass():
    rng = np.random.default_rng(8)
    belief = predict(initial(np.zeros(2), 0.01 * np.eye(2), 1.0), 0.3, 1.0)
    measurement = np.array([[0.02, 0.01], [0.01, 0.03]])
    s = belief.position_covariance + measurement
    drawn = rng.multivariate_normal(belief.position, s, 20_000)
    squared = np.array([innovation(belief, z, measurement)[2] for z in drawn])
    for share in (0.5, 0.9, 0.99):
        assert (squared <= gate(share)).mean() == pytest.approx(share, abs=0.012)


def test_outlier_is_rejected_and_counted():
    timed = TimedFilter()
    for stamp in np.arange(0, 1, 0.1):
        timed.add(stamp, (stamp, 0.0))
    timed.add(1.05, (30.0, 0.0))
    assert timed.state.rejected == 1
    assert timed.at(1.1).position == pytest.approx([1.1, 0.0], abs=0.05)


@pytest.mark.parametrize('position', [(np.nan, 0.0), (1.0,), (np.inf, 1.0), 'ab'])
def test_filter_refuses_positions_that_are_none(position):
    with pytest.raises(ValueError, match='position'):
        TimedFilter().add(0.0, position)


def test_filter_does_not_predict_backward():
    with pytest.raises(ValueError, match='forward'):
        predict(initial(np.zeros(2), np.eye(2), 1.0), -0.1, 1.0)
