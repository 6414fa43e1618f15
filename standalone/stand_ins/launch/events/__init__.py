# SPDX-License-Identifier: Apache-2.0
"""Events of a launch."""

from collections.abc import Callable
from typing import Any

from .._unsupported import explain

__getattr__ = explain(__name__)


class Event:
    """Something that happened or is asked for."""


class Shutdown(Event):
    """The launch is to end."""

    def __init__(self, *, reason: str = 'reason not given', due_to_sigint: bool = False) -> None:
        self.reason = reason
        self.due_to_sigint = due_to_sigint


def matches_action(target_action: Any) -> Callable[[Any], bool]:
    """Return a matcher for the process events of one action."""
    return lambda action: action is target_action
