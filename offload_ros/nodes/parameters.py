"""Parameters with description, unit and range, in one line each."""

from __future__ import annotations

import argparse
from collections.abc import Callable
import os
import sys
from typing import Any

from ament_index_python.packages import get_package_share_directory
from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.node import Node
from rclpy.utilities import remove_ros_args

from offload_ros.models.config import ModelConfig
from offload_ros.models.config_file import load_models_file, load_strategy_modules
from offload_ros.models.errors import ConfigError
from offload_ros.robot.pacing import Pacer
from offload_ros.strategy import import_strategies
from offload_ros.wire.key_file import PresharedKey, load_key


def declare(
    node: Node,
    name: str,
    default: Any,
    description: str,
    low: float | None = None,
    high: float | None = None,
    read_only: bool = False,
) -> Any:
    """Declare a parameter (the unit belongs into ``description``) and return its value at start."""
    descriptor = ParameterDescriptor(description=description, read_only=read_only)
    if low is not None and high is not None:
        if isinstance(default, float):
            descriptor.floating_point_range = [
                FloatingPointRange(from_value=low, to_value=high, step=0.0)
            ]
        else:
            descriptor.integer_range = [
                IntegerRange(from_value=int(low), to_value=int(high), step=1)
            ]
    node.declare_parameter(name, default, descriptor)
    return value_of(node, name)


def declare_models(node: Node) -> None:
    """Declare which models the node has."""
    share = get_package_share_directory('offload_ros')
    default = os.path.join(share, 'config', 'models.yaml')
    declare(node, 'models_file', default, 'models.yaml; read when configured')
    text = 'which models of the file, by commas; empty: all; read when configured'
    declare(node, 'models', '', text)


def models_of_node(node: Node) -> list[ModelConfig]:
    """The models that ``declare_models`` asks for; ``ConfigError`` says what is wrong."""
    return load_models_file(value_of(node, 'models_file'), value_of(node, 'models'))


def import_own_strategies(node: Node) -> None:
    """Make the strategies known that the models file lists, and those of installed packages;
    ``ConfigError``."""
    path = value_of(node, 'models_file')
    import_strategies(load_strategy_modules(path), path)


def value_of(node: Node, name: str) -> Any:
    """The present value of a declared parameter."""
    parameter: Any = node.get_parameter(name)
    return parameter.value


def key_of_node(node: Node) -> PresharedKey | None:
    """The key in the file of the parameter ``key_file``, or of ``--key-file`` on the command line.

    ``ConfigError`` when it cannot be read; None when none is given.
    """
    parser = argparse.ArgumentParser(prog=node.get_name())
    parser.add_argument('--key-file', default='', help='pre-shared key; see make_key')
    options, _ = parser.parse_known_args(remove_ros_args(sys.argv)[1:])
    path = value_of(node, 'key_file') or options.key_file
    return load_key(path) if path else None


def pacer_of_node(make: Callable[[], Pacer]) -> Pacer:
    """The pace that a benchmark asks for in the environment; ``ConfigError`` when it is none."""
    try:
        return make()
    except ValueError as error:
        raise ConfigError(str(error)) from None
