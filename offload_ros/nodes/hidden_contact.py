"""A program's own contact with servers: a hidden node in a context of its own, beside whatever the
program does with ROS."""

from __future__ import annotations

from rclpy.context import Context
from rclpy.logging import LoggingSeverity  # type: ignore[attr-defined]
from rclpy.node import Node

from offload_ros.network.half_made_ports import remove_half_made_ports
from offload_ros.nodes.server_contacts import ServerContacts
from offload_ros.nodes.wire_node import runtime_of
from offload_ros.strategy import LinkState
from offload_ros.wire.key_file import load_key
from offload_ros.wire.tensors import Limits


class HiddenContact:
    """Finds servers and keeps channels to them. ``ConfigError`` for a key file that is none."""

    def __init__(self, name: str, key_file: str, lost_after_s: float, device: str = 'cpu') -> None:
        key = load_key(key_file) if key_file else None
        self._context = Context()
        remove_half_made_ports()
        # Signal handlers, command line and logging belong to the program.
        self._context.init(args=[], initialize_logging=False)
        self._node = Node(
            name,
            context=self._context,
            start_parameter_services=False,
            enable_rosout=False,
            use_global_arguments=False,
        )
        # What must be said is said once, by whoever uses the contact.
        self._node.get_logger().set_level(LoggingSeverity.FATAL)
        self._contacts = ServerContacts(self._node, runtime_of(device), Limits(), lost_after_s, key)

    def link_state(self, server: str) -> LinkState:
        """The link to a server as it is now."""
        return self._contacts.link_state(server)

    def close(self) -> None:
        """Leave."""
        self._contacts.close()
        self._node.destroy_node()
        self._context.try_shutdown()
