# SPDX-License-Identifier: Apache-2.0
"""The actions of launch files, processes apart."""

import asyncio

from ._entities import Action, log
from ._process import ExecuteProcess
from ._service import LaunchContext
from .events import Shutdown as _Shutdown
from .launch_description_sources import LaunchDescriptionSource, PythonLaunchDescriptionSource
from .substitutions import normalize, perform, perform_typed

__all__ = [
    'DeclareLaunchArgument', 'EmitEvent', 'ExecuteProcess', 'GroupAction',
    'IncludeLaunchDescription', 'LogInfo', 'OpaqueFunction', 'RegisterEventHandler',
    'SetEnvironmentVariable', 'SetLaunchConfiguration', 'Shutdown', 'TimerAction']

class DeclareLaunchArgument(Action):
    def __init__(self, name, *, default_value=None, description=None, choices=None, **kwargs):
        super().__init__(**kwargs)
        self.name, self.choices = name, choices
        self.default_value = None if default_value is None else normalize(default_value)
        self.description = description or 'no description given'
        if choices is not None:
            self.description = (f'{description.rstrip(".")}. Valid choices are: {choices}'
                                if description else f'One of: {choices}')

    def execute(self, context):
        values = context.launch_configurations
        if self.name not in values:
            if self.default_value is None:
                raise RuntimeError(f'Required launch argument "{self.name}" was not provided.')
            values[self.name] = perform(context, self.default_value)
        if self.choices is not None and values[self.name] not in self.choices:
            raise RuntimeError(f'Argument "{self.name}" provided value "{values[self.name]}" is '
                               f'not valid. Valid options are: {self.choices}')

def declared_arguments(entity, conditional=False):
    """Yield (argument, whether a condition decides about it)."""
    if isinstance(entity, DeclareLaunchArgument):
        yield entity, conditional or entity.condition is not None
    # as upstream, which does not count the condition of an include
    if entity.condition is not None and not isinstance(entity, IncludeLaunchDescription):
        conditional = True
    for child in entity.get_sub_entities():
        yield from declared_arguments(child, conditional)

class OpaqueFunction(Action):
    def __init__(self, *, function, args=(), kwargs=None, **left_over):
        super().__init__(**left_over)
        self._function, self._args, self._kwargs = function, args, kwargs or {}

    def execute(self, context):
        return self._function(context, *self._args, **self._kwargs)

class SetLaunchConfiguration(Action):
    _values = 'launch_configurations'

    def __init__(self, name, value, **kwargs):
        super().__init__(**kwargs)
        self._name, self._value = name, value

    def execute(self, context):
        value = perform(context, self._value)
        getattr(context, self._values)[perform(context, self._name)] = value

class SetEnvironmentVariable(SetLaunchConfiguration):
    _values = 'environment'

class LogInfo(Action):
    def __init__(self, *, msg, **kwargs):
        super().__init__(**kwargs)
        self._msg = msg

    def execute(self, context):
        log('INFO', 'launch.user', perform(context, self._msg))

class GroupAction(Action):
    def __init__(self, actions, *, scoped=True, **kwargs):
        super().__init__(**kwargs)
        if scoped:
            actions = [OpaqueFunction(function=LaunchContext.push_scope), *actions,
                       OpaqueFunction(function=LaunchContext.pop_scope)]
        self._actions = list(actions)

    def get_sub_entities(self):
        return self._actions

class IncludeLaunchDescription(Action):
    """As upstream's, its configurations stay set after it."""

    def __init__(self, launch_description_source, *, launch_arguments=(), **kwargs):
        super().__init__(**kwargs)
        if not isinstance(launch_description_source, LaunchDescriptionSource):
            launch_description_source = PythonLaunchDescriptionSource(launch_description_source)
        self._source, self.launch_arguments = launch_description_source, list(launch_arguments)

    def get_sub_entities(self):
        try:
            return [self._source.get_launch_description(LaunchContext())]
        except Exception:  # its path may need the real context: then it is read when visited
            return []

    def execute(self, context):
        description = self._source.get_launch_description(context)
        return [*(SetLaunchConfiguration(*pair) for pair in self.launch_arguments), description]

class RegisterEventHandler(Action):
    def __init__(self, event_handler, **kwargs):
        super().__init__(**kwargs)
        self.event_handler = event_handler

    def execute(self, context):
        context.register_event_handler(self.event_handler)

class EmitEvent(Action):
    def __init__(self, *, event, **kwargs):
        super().__init__(**kwargs)
        self.event = event

    def execute(self, context):
        context.emit_event_sync(self.event)

class Shutdown(EmitEvent):
    def __init__(self, *, reason='reason not given', **kwargs):
        super().__init__(event=_Shutdown(reason=reason), **kwargs)

class TimerAction(Action):
    def __init__(self, *, period, actions, **kwargs):
        super().__init__(**kwargs)
        self._period, self._actions = period, list(actions)

    def get_sub_entities(self):
        return self._actions

    def execute(self, context):
        async def wait():
            await asyncio.sleep(perform_typed(context, self._period, float))
            for action in self._actions:
                context.visit(action)

        context.on_shutdown.append(context.spawn(wait()).cancel)
