# SPDX-License-Identifier: Apache-2.0
"""The part of ROS 2's `launch` that this project uses, for machines without a ROS installation.

Names and signatures are upstream's, so that launch files run unchanged under both. Processes run
in sessions of their own: one signal reaches everything that they started, and nothing outlives
the launch.
"""

from . import actions, conditions, event_handlers, events, logging, substitutions
from .action import Action, LaunchDescriptionEntity
from .event_handlers import EventHandler
from .events import Event
from .launch_context import LaunchContext
from .launch_description import LaunchDescription
from .launch_description_sources import LaunchDescriptionSource
from .launch_service import LaunchService
from .substitution import Substitution

Condition = conditions.Condition

__all__ = [
    'Action',
    'Condition',
    'Event',
    'EventHandler',
    'LaunchContext',
    'LaunchDescription',
    'LaunchDescriptionEntity',
    'LaunchDescriptionSource',
    'LaunchService',
    'Substitution',
    'actions',
    'conditions',
    'event_handlers',
    'events',
    'logging',
    'substitutions',
]
