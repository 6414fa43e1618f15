# SPDX-License-Identifier: Apache-2.0
"""The actions for nodes."""

from ._lifecycle_node import LifecycleNode
from ._node import Node

__all__ = ['LifecycleNode', 'Node']
