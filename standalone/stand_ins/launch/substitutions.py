# SPDX-License-Identifier: Apache-2.0
"""The substitutions of launch files."""

from collections.abc import Iterable
import importlib
import os
from typing import Any

from ._unsupported import explain
from .substitution import Substitution, SubstitutionFailure, normalize, perform

__getattr__ = explain(__name__)


def _describe(value: Any) -> str:
    return ' + '.join(part.describe() for part in normalize(value))


class TextSubstitution(Substitution):
    """Plain text."""

    def __init__(self, *, text: str) -> None:
        if not isinstance(text, str):
            raise TypeError(f'TextSubstitution takes text, got {text!r}')
        self.text = text

    def perform(self, context: Any) -> str:
        return self.text

    def describe(self) -> str:
        return f"'{self.text}'"


class LaunchConfiguration(Substitution):
    """The value of a launch argument."""

    def __init__(self, variable_name: Any, *, default: Any = None) -> None:
        self.variable_name = normalize(variable_name)
        if default is not None and not isinstance(default, (str, Substitution, list, tuple)):
            default = str(default)
        self.default = default

    def perform(self, context: Any) -> str:
        name = perform(context, self.variable_name)
        if name in context.launch_configurations:
            return context.launch_configurations[name]
        if self.default is None:
            raise SubstitutionFailure(f"launch configuration '{name}' does not exist")
        return perform(context, self.default)

    def describe(self) -> str:
        return f'LaunchConfig({_describe(self.variable_name)})'


class EnvironmentVariable(Substitution):
    """The value of an environment variable."""

    def __init__(self, name: Any, *, default_value: Any = None) -> None:
        self.name = normalize(name)
        self.default_value = default_value

    def perform(self, context: Any) -> str:
        name = perform(context, self.name)
        if name in context.environment:
            return context.environment[name]
        if self.default_value is None:
            raise SubstitutionFailure(f"environment variable '{name}' does not exist")
        return perform(context, self.default_value)

    def describe(self) -> str:
        return f'EnvVar({_describe(self.name)})'


class PathJoinSubstitution(Substitution):
    """Parts of a path, joined with the separator."""

    def __init__(self, substitutions: Iterable[Any]) -> None:
        self.substitutions = [normalize(part) for part in substitutions]

    def perform(self, context: Any) -> str:
        return os.path.join(*(perform(context, part) for part in self.substitutions))

    def describe(self) -> str:
        return f'PathJoin({", ".join(map(_describe, self.substitutions))})'


class PythonExpression(Substitution):
    """The result of a Python expression, as text; the names of `math` are known in it."""

    def __init__(self, expression: Any, python_modules: Any = ('math',)) -> None:
        self.expression = normalize(expression)
        modules = [python_modules] if isinstance(python_modules, str) else python_modules
        self.python_modules = [normalize(name) for name in modules]

    def perform(self, context: Any) -> str:
        names: dict[str, Any] = {}
        for parts in self.python_modules:
            name = perform(context, parts)
            names[name] = importlib.import_module(name)
            if name == 'math':
                names.update(vars(names[name]))
        return str(eval(perform(context, self.expression), {}, names))

    def describe(self) -> str:
        return f'PythonExpr({_describe(self.expression)})'


class _LaunchFileSubstitution(Substitution):
    _key = ''

    def perform(self, context: Any) -> str:
        value: str | None = getattr(context.locals, self._key, None)
        if value is None:
            raise SubstitutionFailure(f'{type(self).__name__} used outside of a launch file')
        return value


class ThisLaunchFileDir(_LaunchFileSubstitution):
    """The folder of the launch file that is being read."""

    _key = 'current_launch_file_directory'


class ThisLaunchFile(_LaunchFileSubstitution):
    """The path of the launch file that is being read."""

    _key = 'current_launch_file_path'
