# SPDX-License-Identifier: Apache-2.0
"""Lifecycle nodes, whose states the launch follows and changes."""

import asyncio
import contextlib
import os
import threading

from launch import EventHandler
from launch._entities import log

from ._node import Node
from .events.lifecycle import ChangeState, StateTransition


class LifecycleNode(Node):
    def execute(self, context):
        super().execute(context)
        from lifecycle_msgs.msg import TransitionEvent
        from lifecycle_msgs.srv import ChangeState as Service

        def report(message):
            event = StateTransition(action=self, msg=message)
            context.asyncio_loop.call_soon_threadsafe(context.emit_event_sync, event)

        def change(event, context):
            context.spawn(self._change(context, event.transition_id))

        self._ros, self._topic = _ros_node(context), f'{self.node_name}/transition_event'
        self._client = self._ros.create_client(Service, f'{self.node_name}/change_state')
        self._ros.create_subscription(TransitionEvent, self._topic, report, 10)
        context.register_event_handler(EventHandler(entities=change, matcher=lambda event: (
            isinstance(event, ChangeState) and event.lifecycle_node_matcher(self))))

    async def _change(self, context, transition):
        def over():
            return context.is_shutdown or self.return_code is not None

        client, name = self._client, self.node_name
        # A node that is not yet connected to the launch would report its transition to nobody.
        while not (client.service_is_ready() and self._ros.count_publishers(self._topic)):
            await asyncio.sleep(0.02)
            if over():
                log('WARNING', 'launch', f"'{name}' ended before transition {transition}")
                return
        request = client.srv_type.Request()
        request.transition.id = transition
        future = client.call_async(request)
        while not future.done() and not over():
            await asyncio.sleep(0.02)
        if future.done() and not future.result().success:
            log('ERROR', 'launch', f"Failed to make transition {transition} of '{name}'")

def _ros_node(context):
    """Return the launch's own node, which all lifecycle nodes of the launch share."""
    if context.ros_node is not None:
        return context.ros_node
    from rclpy.context import Context
    from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
    from rclpy.node import Node as RosNode

    ros = Context()
    ros.init(args=[])  # without rclpy's signal handlers: the launch has its own
    node = context.ros_node = RosNode(f'launch_ros_{os.getpid()}', context=ros,
                                      enable_rosout=False, start_parameter_services=False)
    executor = SingleThreadedExecutor(context=ros)
    executor.add_node(node)

    def spin():
        with contextlib.suppress(ExternalShutdownException):
            executor.spin()

    def close():
        executor.shutdown()
        thread.join(2.0)
        node.destroy_node()
        ros.try_shutdown()

    thread = threading.Thread(target=spin, name='launch_ros', daemon=True)
    thread.start()
    context.on_shutdown.append(close)
    return node
