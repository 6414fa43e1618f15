# SPDX-License-Identifier: Apache-2.0
"""A ROS node as a process."""

import os
import tempfile

from ament_index_python.packages import PackageNotFoundError, get_package_prefix
from launch.actions import ExecuteProcess
from launch.logging import get_logger
from launch.substitutions import Substitution, SubstitutionFailure, normalize, perform
import yaml

from .parameter_descriptions import flatten

class _Dumper(yaml.SafeDumper):
    """Quotes every string: ROS's parser reads `y` and `n` as booleans, PyYAML does not."""

_Dumper.add_representer(
    str, lambda dumper, text: dumper.represent_scalar('tag:yaml.org,2002:str', text, style='"'))

class _Executable(Substitution):
    def __init__(self, package, executable):
        self._package, self._executable = package, executable

    def perform(self, context):
        package, executable = perform(context, self._package), perform(context, self._executable)
        try:
            folder = os.path.join(get_package_prefix(package), 'lib', package)
        except PackageNotFoundError as error:
            raise SubstitutionFailure(error.args[0]) from None
        path = os.path.join(folder, executable)
        if not os.access(path, os.X_OK) or not os.path.isfile(path):
            raise SubstitutionFailure(
                f"executable '{executable}' not found on the libexec directory '{folder}'")
        return path

def join(base, namespace):
    """Return a namespace, relative to a base, absolute; None if neither is given."""
    if base is not None and namespace is not None and not namespace.startswith('/'):
        namespace = f'{base.rstrip("/")}/{namespace}'
    joined = base if namespace is None else namespace
    return None if joined is None else '/' + joined.strip('/')

class Node(ExecuteProcess):
    """A node: an executable of a package with name, namespace, parameters and remappings."""

    def __init__(self, *, executable, package=None, name=None, namespace=None, exec_name=None,
                 parameters=(), remappings=(), ros_arguments=(), arguments=(), **kwargs):
        program = executable if package is None else _Executable(package, executable)
        ros = ['--ros-args', *ros_arguments] if ros_arguments else []
        super().__init__(cmd=[program, *(arguments or ()), *ros], name=exec_name, **kwargs)
        self._node_name, self._namespace = name, namespace
        self._parameters, self._remappings = parameters or (), remappings or ()
        self.node_name = None  # the full name, known once it is executed

    def execute(self, context):
        name = None if self._node_name is None else perform(context, self._node_name)
        namespace = join(context.launch_configurations.get('ros_namespace'),
                          None if self._namespace is None else perform(context, self._namespace))
        self.node_name = f'{(namespace or "<unspecified>").rstrip("/")}/{name or "<unspecified>"}'
        args = ['--ros-args']
        args += [] if name is None else ['-r', f'__node:={name}']
        args += [] if namespace is None else ['-r', f'__ns:={namespace}']
        for parameter in self._parameters:
            if isinstance(parameter, dict):
                key = self.node_name if name and namespace else '/**'
                path = self._write(context, key, flatten(context, parameter))
            else:
                path = perform(context, parameter)
            if os.path.isfile(path):
                args += ['--params-file', path]
            else:
                get_logger('launch').warning(f'Parameter file path is not a file: {path}')
        for source, target in self._remappings:
            args += ['-r', f'{perform(context, source)}:={perform(context, target)}']
        self.cmd += [normalize(part) for part in args]
        return super().execute(context)

    @staticmethod
    def _write(context, key, parameters):
        """Write a parameter file that lives as long as the launch; return its path."""
        with tempfile.NamedTemporaryFile('w', prefix='launch_params_', delete=False) as file:
            yaml.dump({key: {'ros__parameters': parameters}}, file, _Dumper)
        context.files.append(file.name)
        return file.name
