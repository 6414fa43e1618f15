# SPDX-License-Identifier: Apache-2.0
"""The part of ROS 2's `launch` that this project uses, for machines without a ROS installation.

Names and signatures are upstream's, so that launch files run unchanged under both.
"""

from . import actions, conditions, event_handlers, events, logging, substitutions
from .event_handlers import EventHandler
from .events import Event
from .launch_context import LaunchContext
from .launch_description import Action, LaunchDescription
from .launch_description_sources import LaunchDescriptionSource
from .launch_service import LaunchService
from .substitutions import Substitution

__all__ = [
    'Action', 'Event', 'EventHandler', 'LaunchContext', 'LaunchDescription',
    'LaunchDescriptionSource', 'LaunchService', 'Substitution', 'actions', 'conditions',
    'event_handlers', 'events', 'logging', 'substitutions']
