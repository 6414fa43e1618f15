# SPDX-License-Identifier: Apache-2.0
"""Events of a launch."""


class Event:
    pass

class Shutdown(Event):
    def __init__(self, *, reason='reason not given', due_to_sigint=False):
        self.reason, self.due_to_sigint = reason, due_to_sigint

def matches_action(target_action):
    return lambda action: action is target_action
