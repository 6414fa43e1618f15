# SPDX-License-Identifier: Apache-2.0
"""Messages as YAML and CSV, long arrays and strings cut."""

import array
import sys
from typing import Any

import numpy
import yaml

_SEQUENCES = (list, tuple, array.array, numpy.ndarray)


def select(message: Any, field: str | None) -> Any:
    """Return a field of a message, named with dots."""
    for name in filter(None, (field or '').split('.')):
        try:
            message = getattr(message, name)
        except AttributeError as error:
            raise RuntimeError(f"Invalid field '{field}': {error}") from None
    return message


def _plain(value: Any, kind: str, length: int | None, no_arr: bool, no_str: bool) -> Any:
    """Return a field as what YAML knows; `kind` is its type as the message class names it."""
    if isinstance(value, bytes):
        value, no_str = ''.join(map(chr, value)), False
    if isinstance(value, str):
        if no_str:
            return f'<string length: <{len(value)}>>'
        return value if length is None or len(value) <= length else value[:length] + '...'
    if isinstance(value, _SEQUENCES):
        if no_arr and kind:
            return _summary(kind, len(value))
        cut = length is not None and len(value) > length
        items = [
            _plain(item, '', length, no_arr, no_str) for item in (value[:length] if cut else value)
        ]
        return [*items, '...'] if cut else items
    if isinstance(value, numpy.generic):
        return value.item()
    if not hasattr(value, 'get_fields_and_field_types'):
        return value
    return {
        name: _plain(getattr(value, name), kind, length, no_arr, no_str)
        for name, kind in value.get_fields_and_field_types().items()
    }


def _summary(kind: str, size: int) -> str:
    """Return what stands for an array, from sequence<uint8, 10>, sequence<uint8> or uint8[10]."""
    if not kind.startswith('sequence<'):
        return f'<array type: {kind}>'
    inner, _, bound = kind[len('sequence<') : -1].partition(', ')
    return f'<sequence type: {inner}{f"[{bound}]" if bound else ""}, length: {size}>'


def to_yaml(value: Any, *, length: int | None, no_arr: bool, no_str: bool) -> str:
    """Return a message, or a field that is not one, as upstream prints it."""
    if not hasattr(value, 'get_fields_and_field_types'):
        return f'{value}\n'
    return yaml.dump(
        _plain(value, '', length, no_arr, no_str),
        allow_unicode=True,
        width=sys.maxsize,
        default_flow_style=False,
        sort_keys=False,
    )


def to_csv(value: Any, *, length: int | None, no_arr: bool, no_str: bool) -> str:
    """Return all fields of a message in one line."""

    def text(item: Any) -> str:
        if isinstance(item, dict):
            return ','.join(map(text, item.values()))
        return ','.join(map(text, item)) if isinstance(item, list) else str(item)

    if not hasattr(value, 'get_fields_and_field_types'):
        return str(value)
    return text(_plain(value, '', length, no_arr, no_str))
