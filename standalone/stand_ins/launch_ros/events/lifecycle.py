# SPDX-License-Identifier: Apache-2.0
"""State changes of lifecycle nodes: asked for and happened."""

from launch import Event


class ChangeState(Event):
    def __init__(self, *, lifecycle_node_matcher, transition_id):
        if transition_id not in range(9):
            raise ValueError(f"'{transition_id}' is not the id of a lifecycle transition (0 to 8)")
        self.lifecycle_node_matcher, self.transition_id = lifecycle_node_matcher, transition_id

class StateTransition(Event):
    def __init__(self, *, action, msg):
        self.action, self.msg, self.transition = action, msg, msg.transition.label
        self.start_state, self.goal_state = msg.start_state.label, msg.goal_state.label

def matches_node_name(node_name):
    """Return a matcher for the node of a full name."""
    return lambda action: action.node_name == f'/{node_name.lstrip("/")}'
