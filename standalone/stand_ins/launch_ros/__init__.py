# SPDX-License-Identifier: Apache-2.0
"""The part of `launch_ros` that this project uses, for machines without a ROS installation."""

from . import actions, parameter_descriptions, substitutions

__all__ = ['actions', 'parameter_descriptions', 'substitutions']
