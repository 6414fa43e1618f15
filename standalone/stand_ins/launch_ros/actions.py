# SPDX-License-Identifier: Apache-2.0
"""ROS nodes as processes."""

from collections.abc import Iterable
import os
import tempfile
from typing import Any

from ament_index_python.packages import PackageNotFoundError, get_package_prefix
from launch._unsupported import explain
from launch.action import Action
from launch.actions import ExecuteProcess
from launch.logging import get_logger
from launch.substitution import Substitution, SubstitutionFailure, normalize, perform
import yaml

from .parameter_descriptions import ParameterFile, evaluate_value, flatten

__getattr__ = explain(__name__)


def _join(base: str | None, namespace: str | None) -> str | None:
    """Return a namespace, relative to a base, absolute; None if neither is given."""
    if namespace is None or base is None or namespace.startswith('/'):
        joined = base if namespace is None else namespace
    else:
        joined = f'{base.rstrip("/")}/{namespace}'
    return None if joined is None else '/' + joined.strip('/')


class _Dumper(yaml.SafeDumper):
    """Quotes every string: ROS's parser reads `y` and `n` as booleans, PyYAML does not."""


_Dumper.add_representer(
    str, lambda dumper, text: dumper.represent_scalar('tag:yaml.org,2002:str', text, style='"')
)


class _Executable(Substitution):
    """The path of a package's executable."""

    def __init__(self, package: Any, executable: Any) -> None:
        self._package, self._executable = normalize(package), normalize(executable)

    def perform(self, context: Any) -> str:
        package = perform(context, self._package)
        executable = perform(context, self._executable)
        try:
            folder = os.path.join(get_package_prefix(package), 'lib', package)
        except PackageNotFoundError as error:
            raise SubstitutionFailure(error.args[0]) from None
        path = os.path.join(folder, executable)
        if not os.access(path, os.X_OK) or not os.path.isfile(path):
            raise SubstitutionFailure(
                f"executable '{executable}' not found on the libexec directory '{folder}'"
            )
        return path


class Node(ExecuteProcess):
    """A node: an executable of a package with name, namespace, parameters and remappings."""

    def __init__(
        self,
        *,
        executable: Any,
        package: Any = None,
        name: Any = None,
        namespace: Any = None,
        exec_name: Any = None,
        parameters: list[Any] | None = None,
        remappings: Iterable[tuple[Any, Any]] | None = None,
        ros_arguments: Iterable[Any] | None = None,
        arguments: Iterable[Any] | None = None,
        **kwargs: Any,
    ) -> None:
        program = executable if package is None else _Executable(package, executable)
        cmd = [program, *(arguments or ())]
        if ros_arguments:
            cmd += ['--ros-args', *ros_arguments]
        super().__init__(cmd=cmd, name=exec_name, **kwargs)
        if parameters is not None and not isinstance(parameters, list):
            raise TypeError(f'Node parameters are a list, got {parameters!r}')
        self._node_name, self._namespace = name, namespace
        self._parameters, self._remappings = parameters or [], list(remappings or ())
        self._full_name: str | None = None

    @property
    def node_name(self) -> str:
        """The full name of the node, known once it is executed."""
        if self._full_name is None:
            raise RuntimeError("cannot access 'node_name' before executing action")
        return self._full_name

    def execute(self, context: Any) -> Any:
        if self._full_name is None:
            self.cmd += [normalize(part) for part in self._ros_args(context)]
        return super().execute(context)

    def _ros_args(self, context: Any) -> list[str]:
        values = context.launch_configurations
        name = None if self._node_name is None else perform(context, self._node_name)
        namespace = _join(
            values.get('ros_namespace'),
            None if self._namespace is None else perform(context, self._namespace),
        )
        self._full_name = (
            f'{(namespace or "<node_namespace_unspecified>").rstrip("/")}/'
            f'{name or "<node_name_unspecified>"}'
        )
        key = self._full_name if name and namespace else '/**'
        args = ['--ros-args']
        args += [] if name is None else ['-r', f'__node:={name}']
        args += [] if namespace is None else ['-r', f'__ns:={namespace}']
        for parameter in values.get('global_params', ()):
            args += ['--params-file', _write(context, '/**', dict([parameter]))]
        for parameter in self._parameters:
            if isinstance(parameter, dict):
                args += ['--params-file', _write(context, key, flatten(context, parameter))]
                continue
            path = perform(
                context, parameter.param_file if isinstance(parameter, ParameterFile) else parameter
            )
            if not os.path.isfile(path):
                get_logger().warning(f'Parameter file path is not a file: {path}')
                continue
            args += ['--params-file', path]
        for source, target in [*values.get('ros_remaps', ()), *self._remappings]:
            args += ['-r', f'{perform(context, source)}:={perform(context, target)}']
        return args


def _write(context: Any, key: str, parameters: dict[str, Any]) -> str:
    """Write a parameter file that lives as long as the launch; return its path."""
    with tempfile.NamedTemporaryFile('w', prefix='launch_params_', delete=False) as file:
        yaml.dump({key: {'ros__parameters': parameters}}, file, _Dumper)
    context._files.append(file.name)
    return file.name


class PushRosNamespace(Action):
    """Put the nodes that follow in the same scope into a namespace."""

    def __init__(self, namespace: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._namespace = normalize(namespace)

    def execute(self, context: Any) -> None:
        values = context.launch_configurations
        values['ros_namespace'] = _join(
            values.get('ros_namespace'), perform(context, self._namespace)
        )


PushROSNamespace = PushRosNamespace


class SetParameter(Action):
    """Set a parameter of the nodes that follow in the same scope."""

    def __init__(self, name: Any, value: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._name, self._value = name, value

    def execute(self, context: Any) -> None:
        name = perform(context, self._name)
        values = context.launch_configurations
        values['global_params'] = [
            *values.get('global_params', ()),
            (name, evaluate_value(context, name, self._value)),
        ]


class SetRemap(Action):
    """Remap a name of the nodes that follow in the same scope."""

    def __init__(self, src: Any, dst: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._pair = (src, dst)

    def execute(self, context: Any) -> None:
        values = context.launch_configurations
        pair = tuple(perform(context, part) for part in self._pair)
        values['ros_remaps'] = [*values.get('ros_remaps', ()), pair]
