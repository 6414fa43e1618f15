# SPDX-License-Identifier: Apache-2.0
"""Parameter values: of one type, or of the type that YAML reads in their text."""

from launch.substitutions import Substitution, perform
import yaml


class ParameterValue:
    def __init__(self, value, *, value_type=None):
        self.value, self.value_type = value, value_type

def _is_value(value):
    """Return whether ROS has a type for it: a scalar, or a list of scalars of one type."""
    items = value if isinstance(value, list) and value else [value]
    return len({type(item) for item in items}) == 1 and isinstance(
        items[0], (bool, int, float, str))

def _evaluate(context, name, value):
    """Return the value for a parameter file."""
    if isinstance(value, ParameterValue):
        kind, value = value.value_type, value.value
        if kind is str:
            return str(value) if isinstance(value, (int, float)) else perform(context, value)
        value = _evaluate(context, name, value)
        if kind is float and type(value) is int:
            return float(value)
        if kind in (bool, int, float) and not isinstance(value, kind):
            raise TypeError(f"parameter {name}: {value!r} is not of type '{kind.__name__}'")
        return value
    pieces = value if isinstance(value, (list, tuple)) else [value]
    if any(isinstance(piece, Substitution) for piece in pieces):
        text = perform(context, value)
        try:
            value = yaml.safe_load(text) if text else ''
        except yaml.YAMLError:
            value = None
    elif pieces is value:
        mixed = {type(piece) for piece in pieces} == {int, float}
        value = [float(piece) if mixed else piece for piece in pieces]
    if not _is_value(value):
        raise TypeError(
            f'Unable to use {value!r} as the value of parameter {name}: scalars and lists of one '
            'type are allowed; if it is a string, wrap it in '
            'launch_ros.parameter_descriptions.ParameterValue(value, value_type=str)')
    return value

def flatten(context, parameters, prefix=''):
    """Return nested dictionaries as one, names joined with dots, values evaluated."""
    flat = {}
    for key, value in parameters.items():
        name = prefix + perform(context, key)
        if isinstance(value, dict):
            flat.update(flatten(context, value, f'{name}.'))
        else:
            flat[name] = _evaluate(context, name, value)
    return flat
