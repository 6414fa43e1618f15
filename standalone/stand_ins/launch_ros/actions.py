# SPDX-License-Identifier: Apache-2.0
"""The actions for nodes."""

from launch import Action
from launch._unsupported import explain
from launch.substitutions import perform

from ._lifecycle_node import LifecycleNode
from ._node import Node, join

__all__ = ['LifecycleNode', 'Node', 'PushRosNamespace']
__getattr__ = explain(__name__)

class PushRosNamespace(Action):
    """Put the nodes that follow in the same scope into a namespace."""

    def __init__(self, namespace, **kwargs):
        super().__init__(**kwargs)
        self._namespace = namespace

    def execute(self, context):
        values, namespace = context.launch_configurations, perform(context, self._namespace)
        values['ros_namespace'] = join(values.get('ros_namespace'), namespace)
