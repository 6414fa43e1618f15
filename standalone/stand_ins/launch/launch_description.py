# SPDX-License-Identifier: Apache-2.0
"""A list of entities to visit."""

from collections.abc import Iterable, Iterator
from typing import Any

from .action import LaunchDescriptionEntity


class LaunchDescription(LaunchDescriptionEntity):
    """What a launch file returns."""

    def __init__(self, initial_entities: Iterable[LaunchDescriptionEntity] | None = None) -> None:
        self.entities = list(initial_entities or ())

    def visit(self, context: Any) -> Iterable[Any]:
        return self.entities

    def get_sub_entities(self) -> Iterable[Any]:
        return self.entities

    def add_entity(self, entity: LaunchDescriptionEntity) -> None:
        """Append an entity."""
        self.entities.append(entity)

    add_action = add_entity

    def get_launch_arguments(self, conditional_inclusion: bool = False) -> list[Any]:
        """Return the declared arguments, those of included files too, each name once."""
        found: dict[str, Any] = {}
        for argument, conditional, _ in _declared(self, conditional_inclusion, frozenset()):
            argument._conditionally_included = conditional
            found.setdefault(argument.name, argument)
        return list(found.values())


def _declared(
    entity: Any, conditional: bool, given: frozenset[str]
) -> Iterator[tuple[Any, bool, frozenset[str]]]:
    """Yield (argument, whether conditional, names that includes on the way there give)."""
    from .actions import DeclareLaunchArgument, IncludeLaunchDescription

    conditional = conditional or entity.condition is not None
    if isinstance(entity, DeclareLaunchArgument):
        yield entity, conditional, given
    if isinstance(entity, IncludeLaunchDescription):
        given |= {name for name, _ in entity.launch_arguments if isinstance(name, str)}
    for child in entity.get_sub_entities():
        yield from _declared(child, conditional, given)
