"""The motion of least effort between two states of a double integrator, in closed form.

Pontryagin's principle gives cubics; integral of squared acceleration plus a price per second has
its minimum in time at a root of a quartic (Mueller, Hehn and D'Andrea, "A computationally efficient
motion primitive for quadrocopter trajectory generation", 2015; the heuristic of Fast-Planner and
AGRNav).
"""

from __future__ import annotations

import numpy as np

from offload_ros.tracking.checks import Floats


def least_cost(
    position: Floats,
    velocity: Floats,
    goal: Floats,
    goal_velocity: Floats,
    price: float,
    speed: float,
) -> tuple[Floats, Floats]:
    """Return the least cost (N,) of motions from states (N, 3) to one state (3,), and their times.

    Cost: integral of squared acceleration plus price times duration. No motion is shorter than the
    largest distance along an axis takes at half the speed.
    """
    away = goal - position
    shortest = np.abs(away).max(1) / (speed / 2)
    squared = (away * away).sum(1)
    mixed = (away * (velocity + goal_velocity)).sum(1)
    both = (velocity * velocity + velocity * goal_velocity + goal_velocity * goal_velocity).sum(1)

    def cost(time: Floats) -> Floats:
        """Return the cost at times (..., N); a tiny time stands for none."""
        inverse = 1 / np.maximum(time, 1e-6)
        result: Floats = (
            (12 * squared * inverse - 12 * mixed) * inverse + 4 * both
        ) * inverse + price * time
        return result

    # d cost / d T = 0: price T⁴ − 4 both T² + 24 mixed T − 36 squared = 0
    roots = quartic_roots(-4 * both / price, 24 * mixed / price, -36 * squared / price)
    real = np.abs(roots.imag) < 1e-4 * (1 + np.abs(roots.real))
    times = np.where(real, np.maximum(roots.real, shortest), shortest)
    # Between the roots the cost is monotonous, so the least is at one of them or at the bound.
    times = np.concatenate((times, shortest[None]))
    costs = cost(times)
    best = np.argmin(costs, 0)
    index = np.arange(len(position))
    return costs[best, index], times[best, index]


def quartic_roots(p: Floats, q: Floats, r: Floats) -> np.ndarray:
    """Return the four complex roots (4, N) of x⁴ + p x² + q x + r = 0 (Ferrari)."""
    # Any root m of the resolvent will do; the largest keeps the division by it well behaved.
    b, c, d = p, p * p / 4 - r, -q * q / 8
    # m³ + b m² + c m + d = 0 by Cardano
    first = c - b * b / 3
    second = (2 * b * b / 27 - c / 3) * b + d
    root = np.sqrt(second * second / 4 + first**3 / 27 + 0j)
    u3 = -second / 2 + np.where(
        np.abs(-second / 2 + root) >= np.abs(-second / 2 - root), root, -root
    )
    u = u3 ** (1 / 3)
    turns = np.exp(2j * np.pi / 3 * np.arange(3))[:, None]
    us = u * turns
    safe = np.where(np.abs(us) > 1e-12, us, 1)
    candidates = np.where(np.abs(us) > 1e-12, us - first / (3 * safe), 0) - b / 3
    m = candidates[np.argmax(np.abs(candidates), 0), np.arange(len(p))]
    s = np.sqrt(2 * m)
    ratio = np.where(np.abs(s) > 1e-9, q / np.where(np.abs(s) > 1e-9, s, 1), 0)
    one = np.sqrt(-2 * p - 2 * m - 2 * ratio)
    two = np.sqrt(-2 * p - 2 * m + 2 * ratio)
    return np.array([s + one, s - one, -s + two, -s - two]) / 2


def shot(
    position: Floats, velocity: Floats, goal: Floats, goal_velocity: Floats, duration: float
) -> Floats:
    """Return the coefficients (4, 3), lowest power first, of the cubic between two states (3,)."""
    away = goal - position - velocity * duration
    change = goal_velocity - velocity
    square = (3 * away - change * duration) / duration**2
    cube = (change * duration - 2 * away) / duration**3
    return np.array([position, velocity, square, cube])


def along(coefficients: Floats, times: Floats) -> tuple[Floats, Floats, Floats]:
    """Return positions, velocities and accelerations, each (N, 3), at times (N,) of a cubic."""
    a, b, c, d = coefficients
    t = times[:, None]
    return a + t * (b + t * (c + t * d)), b + t * (2 * c + 3 * d * t), 2 * c + 6 * d * t
