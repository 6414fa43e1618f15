# SPDX-License-Identifier: Apache-2.0
"""Where launch descriptions come from: Python files."""

import importlib.util
import os

from .substitutions import perform


class LaunchDescriptionSource:
    def __init__(self, launch_description):
        self._description = launch_description

    def get_launch_description(self, context):
        return self._description

class PythonLaunchDescriptionSource(LaunchDescriptionSource):
    def __init__(self, launch_file_path):
        super().__init__(None)
        self._path = launch_file_path

    def get_launch_description(self, context):
        if self._description is None:
            path = perform(context, self._path)
            if not os.path.isfile(path) or not path.endswith('.py'):
                raise RuntimeError(f"'{path}' is not a Python launch file")
            spec = importlib.util.spec_from_file_location('python_launch_file', path)
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            self._description = module.generate_launch_description()
        return self._description
