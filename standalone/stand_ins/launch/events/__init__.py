# SPDX-License-Identifier: Apache-2.0
"""Events of a launch."""

from .._unsupported import explain

__getattr__ = explain(__name__)

class Event:
    """Something that happened or is asked for."""

class Shutdown(Event):
    """The launch is to end."""

    def __init__(self, *, reason='reason not given', due_to_sigint=False):
        self.reason, self.due_to_sigint = reason, due_to_sigint

def matches_action(target_action):
    """Return a matcher for the events of one action."""
    return lambda action: action is target_action
