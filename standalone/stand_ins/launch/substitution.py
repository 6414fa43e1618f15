# SPDX-License-Identifier: Apache-2.0
"""Values that are known only while launching."""

from collections.abc import Iterable
from typing import Any


class SubstitutionFailure(Exception):
    """A substitution has no value here."""


class Substitution:
    """Base of everything that is turned into text by a context."""

    def perform(self, context: Any) -> str:
        """Return the text."""
        raise NotImplementedError(type(self).__name__)

    def describe(self) -> str:
        """Return the form shown by `--show-args`."""
        return f'{type(self).__name__}()'


SomeSubstitutionsType = str | Substitution | Iterable[str | Substitution]


def normalize(value: Any) -> list[Substitution]:
    """Return text, a substitution, a path or a mixture of them as a list of substitutions."""
    from .substitutions import TextSubstitution

    if isinstance(value, Substitution):
        return [value]
    if isinstance(value, (list, tuple)):
        return [part for item in value for part in normalize(item)]
    if isinstance(value, str) or hasattr(value, '__fspath__'):
        return [TextSubstitution(text=str(value))]
    raise TypeError(f'expected text or a substitution, got {value!r}')


def perform(context: Any, value: Any) -> str:
    """Return the text of everything that `normalize` takes."""
    return ''.join(part.perform(context) for part in normalize(value))


def perform_typed(context: Any, value: Any, kind: type) -> Any:
    """Return a bool, an int or a float that may be given as a substitution."""
    if value is None or isinstance(value, kind):
        return value
    if isinstance(value, (int, float)):
        return kind(value)
    text = perform(context, value).strip()
    if kind is not bool:
        return kind(text)
    if text.lower() not in ('true', 'false', '1', '0'):
        raise ValueError(f"expected 'true', 'false', '1' or '0', got '{text}'")
    return text.lower() in ('true', '1')
