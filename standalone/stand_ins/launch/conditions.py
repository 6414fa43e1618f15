# SPDX-License-Identifier: Apache-2.0
"""Conditions under which an action happens."""

from collections.abc import Callable
from typing import Any

from ._unsupported import explain
from .substitution import normalize, perform, perform_typed

__getattr__ = explain(__name__)


class Condition:
    """A predicate over the context."""

    def __init__(self, *, predicate: Callable[[Any], bool] | None = None) -> None:
        self._predicate = predicate

    def evaluate(self, context: Any) -> bool:
        """Return whether the action is to happen."""
        return True if self._predicate is None else self._predicate(context)


class IfCondition(Condition):
    """True if the expression is 'true' or '1' in any case of letters."""

    def __init__(self, predicate_expression: Any) -> None:
        self._expression = normalize(predicate_expression)
        super().__init__(predicate=lambda c: perform_typed(c, self._expression, bool))


class UnlessCondition(Condition):
    """True if the expression is 'false' or '0' in any case of letters."""

    def __init__(self, predicate_expression: Any) -> None:
        self._expression = normalize(predicate_expression)
        super().__init__(predicate=lambda c: not perform_typed(c, self._expression, bool))


class LaunchConfigurationEquals(Condition):
    """True if a launch configuration has a value; None stands for not set."""

    def __init__(self, launch_configuration_name: str, expected_value: Any) -> None:
        def equals(context: Any) -> bool:
            expected = None if expected_value is None else perform(context, expected_value)
            return context.launch_configurations.get(launch_configuration_name) == expected

        super().__init__(predicate=equals)
