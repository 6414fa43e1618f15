# SPDX-License-Identifier: Apache-2.0
"""Message and service classes by name; messages to YAML, long arrays and strings cut, and back."""

import array
import importlib
import re
import sys

import numpy
import yaml

_SEQUENCES = (list, array.array, numpy.ndarray)
_CUT = 128

def interface(name, kind):
    """Return the class of a type such as std_msgs/msg/String, or None; kind is 'msg' or 'srv'."""
    package, _, rest = name.partition('/')
    try:
        return getattr(importlib.import_module(f'{package}.{kind}'), rest.rpartition('/')[2])
    except (AttributeError, ModuleNotFoundError, ValueError):
        return None

def _plain(value, kind, no_arr):
    """Return a field as what YAML knows; kind is its type as the message class names it."""
    if isinstance(value, bytes):
        return ''.join(map(chr, value))
    if isinstance(value, str):
        return value if len(value) <= _CUT else value[:_CUT] + '...'
    if isinstance(value, _SEQUENCES):
        if no_arr and kind:
            is_sequence = kind.startswith('sequence<')
            return (f'<sequence type: {kind[9:-1]}, length: {len(value)}>' if is_sequence
                    else f'<array type: {kind}>')
        items = [_plain(item, '', no_arr) for item in value[:_CUT]]
        return [*items, '...'] if len(value) > _CUT else items
    if isinstance(value, numpy.generic):
        return value.item()
    if not hasattr(value, 'get_fields_and_field_types'):
        return value
    return {name: _plain(getattr(value, name), kind, no_arr)
            for name, kind in value.get_fields_and_field_types().items()}

def to_yaml(message, field, no_arr):
    """Return a message, or a field of it named with dots, as upstream prints it."""
    for name in filter(None, (field or '').split('.')):
        if not hasattr(message, name):
            raise RuntimeError(f"Invalid field '{field}': {type(message).__name__} has no '{name}'")
        message = getattr(message, name)
    if not hasattr(message, 'get_fields_and_field_types'):
        return f'{message}\n'
    return yaml.dump(_plain(message, '', no_arr), allow_unicode=True, width=sys.maxsize,
                     default_flow_style=False, sort_keys=False)

def fill(message, values):
    """Set fields of a message from a dictionary."""
    for name, value in values.items():
        old, kind = getattr(message, name), message.get_fields_and_field_types()[name]
        if hasattr(old, 'get_fields_and_field_types'):
            fill(old, value)
        elif isinstance(old, array.array):
            setattr(message, name, array.array(old.typecode, value))
        elif isinstance(old, numpy.ndarray):
            setattr(message, name, numpy.array(value, old.dtype))
        elif isinstance(old, list) and (match := re.search(r'\w+/\w+', kind)):
            setattr(message, name, [interface(match[0], 'msg')() for _ in value])
            for item, fields in zip(getattr(message, name), value, strict=True):
                fill(item, fields)
        else:
            setattr(message, name, type(old)(value))
