# SPDX-License-Identifier: Apache-2.0
"""What is done when a lifecycle node has changed its state."""

from launch import EventHandler

from .events.lifecycle import StateTransition


class OnStateTransition(EventHandler):
    def __init__(self, *, entities, target_lifecycle_node=None, transition=None, start_state=None,
                 goal_state=None, matcher=None, **kwargs):
        wanted = {'action': target_lifecycle_node, 'transition': transition,
                  'start_state': start_state, 'goal_state': goal_state}

        def matches(event):
            return isinstance(event, StateTransition) and all(
                value is None or getattr(event, name) == value for name, value in wanted.items())

        super().__init__(matcher=matcher or matches, entities=entities, **kwargs)
