# SPDX-License-Identifier: Apache-2.0
"""Where launch descriptions come from: Python files."""

import importlib.util
import os

from ._unsupported import explain
from .substitutions import perform

__getattr__ = explain(__name__)

class LaunchDescriptionSource:
    """A launch description that exists already."""

    def __init__(self, launch_description):
        self._description = launch_description

    def get_launch_description(self, context):
        return self._description

class PythonLaunchDescriptionSource(LaunchDescriptionSource):
    """A Python launch file, given by its path, read once."""

    def __init__(self, launch_file_path):
        super().__init__(None)
        self._path = launch_file_path

    def get_launch_description(self, context):
        if self._description is None:
            self._description = _load(perform(context, self._path))
        return self._description

def _load(path):
    if not os.path.isfile(path):
        raise FileNotFoundError(f"launch file '{path}' does not exist")
    if not path.endswith('.py'):
        raise RuntimeError(f"'{path}': only Python launch files work without a ROS 2 installation")
    spec = importlib.util.spec_from_file_location('python_launch_file', path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, 'generate_launch_description'):
        raise RuntimeError(f"launch file '{path}' has no generate_launch_description()")
    return module.generate_launch_description()
