# SPDX-License-Identifier: Apache-2.0
"""The action that every test description has."""

from collections.abc import Callable
from typing import Any

from launch import Action
from launch._unsupported import explain

__getattr__ = explain(__name__)


class ReadyToTest(Action):
    """Start the active tests."""

    def __init__(self) -> None:
        super().__init__()
        self.callbacks: list[Callable[[], Any]] = []

    def execute(self, context: Any) -> None:
        for callback in self.callbacks:
            callback()
