# SPDX-License-Identifier: Apache-2.0
"""Parameter values: of one type, or of the type that YAML reads in their text."""

from typing import Any

from launch._unsupported import explain
from launch.substitution import Substitution, normalize, perform
import yaml

__getattr__ = explain(__name__)
_SCALARS = (bool, int, float, str)


class ParameterValue:
    """A value, often a substitution, whose type is stated instead of read from its text."""

    def __init__(self, value: Any, *, value_type: Any = None) -> None:
        self.value, self.value_type = value, value_type


class ParameterFile:
    """A file of parameters."""

    def __init__(self, param_file: Any, *, allow_substs: bool = False) -> None:
        if allow_substs:
            raise NotImplementedError(
                'ParameterFile(allow_substs=True) is not supported without a ROS 2 installation'
            )
        self.param_file = normalize(param_file)


def _from_text(name: str, text: str) -> Any:
    """Return what YAML reads in a text: a scalar or a list of equal scalars."""
    try:
        value = yaml.safe_load(text) if text else ''
    except yaml.YAMLError:
        value = None
    if isinstance(value, _SCALARS) or (
        isinstance(value, list)
        and value
        and isinstance(value[0], _SCALARS)
        and len({type(item) for item in value}) == 1
    ):
        return value
    raise TypeError(
        f"Unable to use '{text}' as the value of parameter {name}: scalars and lists "
        'of one type are allowed; if it is a string, wrap it in '
        'launch_ros.parameter_descriptions.ParameterValue(value, value_type=str)'
    )


def _typed(value: Any, kind: Any, name: str) -> Any:
    """Return a value as the type that was stated."""
    if kind is None:
        return value
    inner: Any | None = getattr(kind, '__args__', [None])[0]
    if inner is not None:
        return [_typed(item, inner, name) for item in value]
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind):
        raise TypeError(f"parameter {name}: {value!r} is not of type '{kind.__name__}'")
    return value


def evaluate_value(context: Any, name: str, value: Any) -> Any:
    """Return the value for a parameter file."""
    if isinstance(value, ParameterValue):
        if value.value_type is str:
            inner = value.value
            return str(inner) if isinstance(inner, (bool, int, float)) else perform(context, inner)
        return _typed(evaluate_value(context, name, value.value), value.value_type, name)
    if isinstance(value, _SCALARS):
        return value
    if isinstance(value, Substitution):
        return _from_text(name, perform(context, value))
    if not isinstance(value, (list, tuple)) or not value:
        raise TypeError(f'parameter {name}: {value!r} is not a parameter value')
    kinds = {type(item) for item in value}
    if kinds == {int, float}:
        return [float(item) for item in value]
    if len(kinds) == 1 and kinds <= set(_SCALARS):
        return list(value)
    if any(isinstance(item, Substitution) for item in value) and all(
        isinstance(item, (str, Substitution)) for item in value
    ):
        return _from_text(name, perform(context, value))  # pieces of one text
    items = [evaluate_value(context, name, item) for item in value]
    if len({type(item) for item in items}) > 1:
        raise TypeError(f'parameter {name}: a list of one type is expected, got {items!r}')
    return items


def flatten(context: Any, parameters: Any, prefix: str = '') -> dict[str, Any]:
    """Return nested dictionaries as one, names joined with dots, values evaluated."""
    flat: dict[str, Any] = {}
    for key, value in parameters.items():
        name = prefix + perform(context, key)
        if isinstance(value, dict):
            flat.update(flatten(context, value, f'{name}.'))
        else:
            flat[name] = evaluate_value(context, name, value)
    return flat
