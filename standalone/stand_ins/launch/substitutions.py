# SPDX-License-Identifier: Apache-2.0
"""Values that are known only while launching, and how text, paths and mixtures become them."""


class SubstitutionFailure(Exception):
    """A substitution has no value here."""

class Substitution:
    """What perform(context) turns into text; `--show-args` shows describe()."""

class TextSubstitution(Substitution):
    def __init__(self, *, text):
        self.text = text

    def perform(self, context):
        return self.text

    def describe(self):
        return f"'{self.text}'"

class _Variable(Substitution):
    def __init__(self, name, default):
        self.name, self._default = normalize(name), default

    def perform(self, context):
        name, values = perform(context, self.name), getattr(context, self._values)
        if name not in values and self._default is None:
            raise SubstitutionFailure(f"{self._kind} '{name}' does not exist")
        return values[name] if name in values else perform(context, self._default)

    def describe(self):
        return f'{self._shown}({describe(self.name)})'

class LaunchConfiguration(_Variable):
    _values, _kind, _shown = 'launch_configurations', 'launch configuration', 'LaunchConfig'

    def __init__(self, variable_name, *, default=None):
        super().__init__(variable_name, default)

class EnvironmentVariable(_Variable):
    _values, _kind, _shown = 'environment', 'environment variable', 'EnvVar'

    def __init__(self, name, *, default_value=None):
        super().__init__(name, default_value)

def normalize(value):
    """Return text, a substitution, a path or a mixture of them as a list of substitutions."""
    if isinstance(value, (list, tuple)):
        return [part for item in value for part in normalize(item)]
    if isinstance(value, str) or hasattr(value, '__fspath__'):
        return [TextSubstitution(text=str(value))]
    if isinstance(value, Substitution):
        return [value]
    raise TypeError(f'expected text or a substitution, got {value!r}')

def describe(value):
    return ' + '.join(part.describe() for part in normalize(value))

def perform(context, value):
    return ''.join(part.perform(context) for part in normalize(value))

def perform_typed(context, value, kind):
    """Return a bool or a float that may be given as a substitution."""
    if isinstance(value, (int, float)):
        return kind(value)
    text = perform(context, value).strip()
    if kind is bool and text.lower() not in ('true', 'false', '1', '0'):
        raise ValueError(f"expected 'true', 'false', '1' or '0', got '{text}'")
    return text.lower() in ('true', '1') if kind is bool else kind(text)
