# SPDX-License-Identifier: Apache-2.0
"""What a launch file returns, and the base of what is in it."""

class Action:
    """Something that a launch does, unless its condition says no."""

    def __init__(self, *, condition=None, **unknown):
        if unknown:
            raise TypeError(f'{type(self).__name__}({", ".join(unknown)}=...) is not supported '
                            'without a ROS 2 installation')
        self.condition = condition

    def visit(self, context):
        """Do it and return the entities to visit next."""
        if self.condition is None or self.condition.evaluate(context):
            return self.execute(context)

    def execute(self, context):
        """Do it, whatever the condition is."""
        return self.get_sub_entities()

    def get_sub_entities(self):
        """Return what is known, without a context, to be visited after this."""
        return ()

class LaunchDescription(Action):
    """A list of entities to visit."""

    def __init__(self, initial_entities=None):
        super().__init__()
        self.entities = list(initial_entities or ())

    def get_sub_entities(self):
        return self.entities

    def add_action(self, action):
        """Append an entity."""
        self.entities.append(action)
