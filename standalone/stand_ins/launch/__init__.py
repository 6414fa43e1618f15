# SPDX-License-Identifier: Apache-2.0
"""The part of ROS 2's `launch` that this project uses, for machines without a ROS installation.

Names and signatures are upstream's, so that launch files run unchanged under both; what they mean
is documented there.
"""

from . import actions, conditions, event_handlers, events, substitutions
from ._entities import Action, LaunchDescription
from ._service import LaunchContext, LaunchService
from .event_handlers import EventHandler
from .events import Event
from .launch_description_sources import LaunchDescriptionSource
from .substitutions import Substitution

__all__ = [
    'Action', 'Event', 'EventHandler', 'LaunchContext', 'LaunchDescription',
    'LaunchDescriptionSource', 'LaunchService', 'Substitution', 'actions', 'conditions',
    'event_handlers', 'events', 'substitutions']
