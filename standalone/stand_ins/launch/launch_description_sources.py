# SPDX-License-Identifier: Apache-2.0
"""Where launch descriptions come from: Python files."""

import importlib.util
import os
from typing import Any

from ._unsupported import explain
from .launch_description import LaunchDescription
from .substitution import normalize, perform

__getattr__ = explain(__name__)


class InvalidLaunchFileError(Exception):
    """The file is not a launch file."""


class LaunchDescriptionSource:
    """A launch description that exists already."""

    def __init__(self, launch_description: Any = None, location: Any = '') -> None:
        self._description = launch_description
        self._location = normalize(location)
        self.location = ''

    def get_launch_description(self, context: Any) -> LaunchDescription:
        """Return the description, read once."""
        self.location = perform(context, self._location)
        if self._description is None:
            self._description = _load(self.location)
        return self._description


class PythonLaunchDescriptionSource(LaunchDescriptionSource):
    """A Python launch file, given by its path."""

    def __init__(self, launch_file_path: Any) -> None:
        super().__init__(None, launch_file_path)


class AnyLaunchDescriptionSource(PythonLaunchDescriptionSource):
    """A launch file of any kind; only Python is known here."""


def _load(path: str) -> LaunchDescription:
    """Run a launch file's `generate_launch_description`."""
    if not path.endswith('.py'):
        raise InvalidLaunchFileError(
            f"'{path}': only Python launch files are supported without a ROS 2 installation"
        )
    if not os.path.isfile(path):
        raise FileNotFoundError(f"launch file '{path}' does not exist")
    spec = importlib.util.spec_from_file_location('python_launch_file', path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, 'generate_launch_description'):
        raise InvalidLaunchFileError(
            f"launch file at '{path}' does not contain the required function "
            "'generate_launch_description()'"
        )
    return module.generate_launch_description()
