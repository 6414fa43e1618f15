# SPDX-License-Identifier: Apache-2.0
"""A ROS node as a process."""

import os
import tempfile

from ament_index_python.packages import get_package_prefix
from launch._entities import log
from launch.actions import ExecuteProcess
from launch.substitutions import normalize, perform
import yaml

from .parameter_descriptions import flatten


class _Dumper(yaml.SafeDumper):
    """Quotes every string: ROS's parser reads `y` and `n` as booleans, PyYAML does not."""

_Dumper.add_representer(
    str, lambda dumper, text: dumper.represent_scalar('tag:yaml.org,2002:str', text, style='"'))

def _path(package, executable):
    folder = os.path.join(get_package_prefix(package), 'lib', package)
    path = os.path.join(folder, executable)
    if not os.access(path, os.X_OK) or not os.path.isfile(path):
        raise RuntimeError(
            f"executable '{executable}' not found on the libexec directory '{folder}'")
    return path

class Node(ExecuteProcess):
    def __init__(self, *, executable, package=None, name=None, namespace=None, exec_name=None,
                 parameters=(), remappings=(), arguments=(), **kwargs):
        super().__init__(cmd=[executable, *(arguments or ())], name=exec_name, **kwargs)
        self._package, self._node_name, self._namespace = package, name, namespace
        self._parameters, self._remappings = parameters or (), remappings or ()
        self.node_name = None  # the full name, known once it is executed

    def execute(self, context):
        name, namespace = (part if part is None else perform(context, part)
                           for part in (self._node_name, self._namespace))
        namespace = namespace if namespace is None else '/' + namespace.strip('/')
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
                log('WARNING', 'launch', f'Parameter file path is not a file: {path}')
        for source, target in self._remappings:
            args += ['-r', f'{perform(context, source)}:={perform(context, target)}']
        if self._package is not None:
            path = _path(perform(context, self._package), perform(context, self.cmd[0]))
            self.cmd[0] = normalize(path)
        self.cmd += [normalize(part) for part in args]
        return super().execute(context)

    @staticmethod
    def _write(context, key, parameters):
        """Write a parameter file that lives as long as the launch; return its path."""
        with tempfile.NamedTemporaryFile('w', prefix='launch_params_', delete=False) as file:
            yaml.dump({key: {'ros__parameters': parameters}}, file, _Dumper)
        context.files.append(file.name)
        return file.name
