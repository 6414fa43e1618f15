# SPDX-License-Identifier: Apache-2.0
"""The actions of launch files, processes apart."""

import asyncio
from collections.abc import Callable, Iterable
import os
from typing import Any

from . import logging
from ._process import ExecuteLocal, ExecuteProcess
from ._unsupported import explain
from .action import Action
from .events import Event
from .events import Shutdown as ShutdownEvent
from .launch_description import LaunchDescription, _declared
from .launch_description_sources import AnyLaunchDescriptionSource, LaunchDescriptionSource
from .substitution import normalize, perform, perform_typed

__all__ = [
    'DeclareLaunchArgument',
    'EmitEvent',
    'ExecuteLocal',
    'ExecuteProcess',
    'GroupAction',
    'IncludeLaunchDescription',
    'LogInfo',
    'OpaqueFunction',
    'RegisterEventHandler',
    'SetEnvironmentVariable',
    'SetLaunchConfiguration',
    'Shutdown',
    'TimerAction',
]
__getattr__ = explain(__name__)


class DeclareLaunchArgument(Action):
    """An argument of the launch file, with its default and its choices."""

    def __init__(
        self,
        name: str,
        *,
        default_value: Any = None,
        description: str | None = None,
        choices: Iterable[str] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.name = name
        self.default_value = None if default_value is None else normalize(default_value)
        self.choices = None if choices is None else list(choices)
        self._conditionally_included = False
        if self.choices is None:
            self.description = description or 'no description given'
            return
        self.description = (
            f'One of: {self.choices}'
            if description is None
            else f'{description.rstrip(".")}. Valid choices are: {self.choices}'
        )
        if not self.choices or (isinstance(default_value, str) and default_value not in choices):
            raise RuntimeError(
                f'Provided default_value "{default_value}" is not in provided '
                f'choices "{self.choices}".'
            )

    def execute(self, context: Any) -> None:
        values = context.launch_configurations
        if self.name not in values:
            if self.default_value is None:
                raise RuntimeError(f'Required launch argument "{self.name}" was not provided.')
            values[self.name] = perform(context, self.default_value)
        if self.choices is not None and values[self.name] not in self.choices:
            raise RuntimeError(
                f'Argument "{self.name}" provided value "{values[self.name]}" is '
                f'not valid. Valid options are: {self.choices}'
            )


class SetLaunchConfiguration(Action):
    """Set a launch configuration."""

    def __init__(self, name: Any, value: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._name, self._value = normalize(name), normalize(value)

    def execute(self, context: Any) -> None:
        context.launch_configurations[perform(context, self._name)] = perform(context, self._value)


class SetEnvironmentVariable(Action):
    """Set a variable in the environment of what is started later."""

    def __init__(self, name: Any, value: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._name, self._value = normalize(name), normalize(value)

    def execute(self, context: Any) -> None:
        context.environment[perform(context, self._name)] = perform(context, self._value)


class LogInfo(Action):
    """Print a line."""

    def __init__(self, *, msg: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._msg = normalize(msg)

    def execute(self, context: Any) -> None:
        logging.get_logger('launch.user').info(perform(context, self._msg))


class OpaqueFunction(Action):
    """Call a function (context, *args, **kwargs) that may return entities."""

    def __init__(
        self,
        *,
        function: Callable[..., Any],
        args: Iterable[Any] | None = None,
        kwargs: dict[str, Any] | None = None,
        **left_over: Any,
    ) -> None:
        super().__init__(**left_over)
        self._function, self._args, self._kwargs = function, tuple(args or ()), kwargs or {}

    def execute(self, context: Any) -> Iterable[Any] | None:
        return self._function(context, *self._args, **self._kwargs)


class GroupAction(Action):
    """Actions together; scoped, their configurations and environment end with the group."""

    def __init__(
        self,
        actions: Iterable[Any],
        *,
        scoped: bool = True,
        forwarding: bool = True,
        launch_configurations: dict[Any, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if not forwarding:
            raise NotImplementedError(
                'GroupAction(forwarding=False) is not supported without a ROS 2 installation'
            )
        sets = [SetLaunchConfiguration(k, v) for k, v in (launch_configurations or {}).items()]
        self._entities: list[Any] = [*sets, *actions]
        if scoped:
            self._entities = [
                OpaqueFunction(function=lambda context: context._push_scope()),
                *self._entities,
                OpaqueFunction(function=lambda context: context._pop_scope()),
            ]

    def get_sub_entities(self) -> Iterable[Any]:
        return self._entities

    def execute(self, context: Any) -> Iterable[Any]:
        return self._entities


class IncludeLaunchDescription(Action):
    """Another launch file, with arguments; as upstream's, its configurations stay set after."""

    def __init__(
        self,
        launch_description_source: Any,
        *,
        launch_arguments: Iterable[tuple[Any, Any]] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if not isinstance(launch_description_source, LaunchDescriptionSource):
            launch_description_source = AnyLaunchDescriptionSource(launch_description_source)
        self._source = launch_description_source
        self.launch_arguments = list(launch_arguments or ())

    def get_sub_entities(self) -> Iterable[Any]:
        from .launch_context import LaunchContext

        try:
            return [self._source.get_launch_description(LaunchContext())]
        except Exception:  # its path may need the real context: then it is read when visited
            return []

    def execute(self, context: Any) -> Iterable[Any]:
        description: LaunchDescription = self._source.get_launch_description(context)
        path = os.path.abspath(self._source.location) if self._source.location else ''
        keys = ('current_launch_file_path', 'current_launch_file_directory')
        before = {key: getattr(context.locals, key, None) for key in keys}
        here = [perform(context, name) for name, _ in self.launch_arguments]
        for argument, conditional, given in _declared(description, False, frozenset(here)):
            if not conditional and argument.default_value is None and argument.name not in given:
                raise RuntimeError(
                    f"Included launch description missing required argument '{argument.name}' "
                    f"(description: '{argument.description}'), given: [{', '.join(given)}]"
                )
        sets = [SetLaunchConfiguration(name, value) for name, value in self.launch_arguments]
        context.extend_locals({keys[0]: path, keys[1]: os.path.dirname(path)})
        return [
            *sets,
            description,
            OpaqueFunction(function=lambda context: context.extend_locals(before)),
        ]


class RegisterEventHandler(Action):
    """Let a handler see events."""

    def __init__(self, event_handler: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.event_handler = event_handler

    def execute(self, context: Any) -> None:
        context.register_event_handler(self.event_handler)


class EmitEvent(Action):
    """Emit an event."""

    def __init__(self, *, event: Event, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.event = event

    def execute(self, context: Any) -> None:
        context.emit_event_sync(self.event)


class Shutdown(EmitEvent):
    """End the launch."""

    def __init__(self, *, reason: str = 'reason not given', **kwargs: Any) -> None:
        super().__init__(event=ShutdownEvent(reason=reason), **kwargs)


class TimerAction(Action):
    """Actions after a time in seconds."""

    def __init__(
        self, *, period: Any, actions: Iterable[Any], cancel_on_shutdown: Any = True, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self._period, self._actions = period, list(actions)
        self._cancel_on_shutdown = cancel_on_shutdown
        self._task: asyncio.Task[Any] | None = None

    def get_sub_entities(self) -> Iterable[Any]:
        return self._actions

    def cancel(self) -> None:
        """Stop waiting."""
        if self._task is not None:
            self._task.cancel()

    def execute(self, context: Any) -> None:
        period = perform_typed(context, self._period, float)
        here = context.get_locals_as_dict()

        async def wait() -> None:
            await asyncio.sleep(period)
            context.extend_locals(here)
            for action in self._actions:
                context._visit(action)

        self._task = context._spawn(wait())
        if perform_typed(context, self._cancel_on_shutdown, bool):
            context._on_shutdown.append(self.cancel)
