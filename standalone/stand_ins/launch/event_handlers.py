# SPDX-License-Identifier: Apache-2.0
"""What is done when an event comes: entities, or a function (event, context) that returns them."""

from .events import Shutdown
from .events.process import ProcessExited, ProcessStarted


class EventHandler:
    def __init__(self, *, matcher, entities=None, handle_once=False):
        self.matches, self._entities, self._handle_once = matcher, entities, handle_once

    def handle(self, event, context):
        """Return the entities to visit."""
        if self._handle_once:
            context.unregister_event_handler(self)
        found = self._entities(event, context) if callable(self._entities) else self._entities
        return found if isinstance(found, (list, tuple)) else () if found is None else (found,)

def _about(kind, target):
    return lambda event: isinstance(event, kind) and (target is None or event.action is target)

class OnProcessStart(EventHandler):
    def __init__(self, *, target_action=None, on_start, **kwargs):
        super().__init__(matcher=_about(ProcessStarted, target_action), entities=on_start, **kwargs)

class OnProcessExit(EventHandler):
    def __init__(self, *, target_action=None, on_exit, **kwargs):
        super().__init__(matcher=_about(ProcessExited, target_action), entities=on_exit, **kwargs)

class OnShutdown(EventHandler):
    def __init__(self, *, on_shutdown, **kwargs):
        super().__init__(matcher=lambda e: isinstance(e, Shutdown), entities=on_shutdown, **kwargs)
