# SPDX-License-Identifier: Apache-2.0
"""The action that starts the active tests; every test description has one."""

from launch import Action


class ReadyToTest(Action):
    def __init__(self):
        super().__init__()
        self.callbacks = []

    def execute(self, context):
        for callback in self.callbacks:
            callback()
