# SPDX-License-Identifier: Apache-2.0
"""What a launch file returns, and the base of what is in it; lines on the screen."""

import os
import sys


def write(line):
    try:
        print(line, flush=True)
    except BrokenPipeError:  # `ros2 launch ... | head`: go on without a reader
        sys.stdout = open(os.devnull, 'w')  # noqa: SIM115

def log(level, name, text):
    write(f'[{level}] [{name}]: {text}')

class Action:
    def __init__(self, *, condition=None, **unknown):
        if unknown:
            raise TypeError(f'{type(self).__name__}({", ".join(unknown)}=...) is not supported '
                            'without a ROS 2 installation')
        self.condition = condition

    def visit(self, context):
        """Do it, unless the condition says no, and return the entities to visit next."""
        if self.condition is None or self.condition.evaluate(context):
            return self.execute(context)

    def execute(self, context):
        return self.get_sub_entities()

    def get_sub_entities(self):
        """Return what is known, without a context, to be visited after this."""
        return ()

class LaunchDescription(Action):
    def __init__(self, initial_entities=None):
        super().__init__()
        self.entities = list(initial_entities or ())
        self.add_action = self.entities.append

    def get_sub_entities(self):
        return self.entities
