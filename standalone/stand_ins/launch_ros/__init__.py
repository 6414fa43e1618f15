# SPDX-License-Identifier: Apache-2.0
"""The part of `launch_ros` that this project uses, for machines without a ROS installation."""

from . import actions, event_handlers, events, parameter_descriptions

__all__ = ['actions', 'event_handlers', 'events', 'parameter_descriptions']
