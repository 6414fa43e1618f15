# SPDX-License-Identifier: Apache-2.0
"""The two bases of everything that a launch description holds."""

from collections.abc import Iterable
from typing import Any


class LaunchDescriptionEntity:
    """Something that can be visited while launching."""

    condition: Any = None

    def visit(self, context: Any) -> Iterable[Any] | None:
        """Do it and return the entities to visit next."""
        return None

    def get_sub_entities(self) -> Iterable[Any]:
        """Return what is known, without a context, to be visited after this."""
        return ()


class Action(LaunchDescriptionEntity):
    """Something that a launch does, unless its condition says no."""

    def __init__(self, *, condition: Any = None) -> None:
        self.condition = condition

    def visit(self, context: Any) -> Iterable[Any] | None:
        if self.condition is not None and not self.condition.evaluate(context):
            return None
        return self.execute(context)

    def execute(self, context: Any) -> Iterable[Any] | None:
        """Do it and return the entities to visit next."""
        return None
