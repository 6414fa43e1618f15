"""Rules for values that come from outside; a broken one raises ValueError that states it."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


def require(condition: bool, rule: str) -> None:
    """Raise ValueError with the rule unless the condition holds."""
    if not condition:
        raise ValueError(rule)


def within(name: str, value: float, low: float, high: float) -> None:
    """Raise ValueError unless value is finite and from low to high."""
    require(
        math.isfinite(value) and low <= value <= high,
        f'{name} must be from {low:g} to {high:g}, not {value!r}',
    )


def array(name: str, values: npt.ArrayLike, shape: tuple[int | None, ...]) -> Floats:
    """Return values as float64 of that shape (None: any length); ValueError for others."""
    try:
        result = np.asarray(values, np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f'{name} must be numbers: {error}') from error
    fits = result.ndim == len(shape) and all(
        want is None or want == have for want, have in zip(shape, result.shape, strict=True)
    )
    text = ', '.join('n' if want is None else str(want) for want in shape)
    require(fits, f'{name} must have the shape ({text}), not {result.shape}')
    return result


def finite(name: str, values: npt.ArrayLike, shape: tuple[int | None, ...]) -> Floats:
    """Like ``array``, and every number finite."""
    result = array(name, values, shape)
    require(bool(np.isfinite(result).all()), f'{name} must be finite')
    return result


def wrapped(angle: Floats) -> Floats:
    """Return angles in [-pi, pi)."""
    result: Floats = (angle + math.pi) % (2 * math.pi) - math.pi
    return result


def wrapped_angle(angle: float) -> float:
    """Return one angle in [-pi, pi)."""
    return (angle + math.pi) % (2 * math.pi) - math.pi
