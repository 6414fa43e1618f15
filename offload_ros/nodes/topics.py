"""Names, periods and quality of service that robot and server agree on."""

from __future__ import annotations

from rclpy.duration import Duration
from rclpy.exceptions import InvalidTopicNameException
from rclpy.qos import DurabilityPolicy, LivelinessPolicy, QoSProfile, ReliabilityPolicy
from rclpy.validate_full_topic_name import validate_full_topic_name

HEARTBEAT_TOPIC = '/offload/servers'  # absolute: a server is for robots of every namespace
HEARTBEAT_S = 0.1
HELLO_S = 0.5  # how often a connected robot shows that it lives
SESSION_SILENT_S = 2.0  # a robot silent for this long is gone

CONTROL = QoSProfile(depth=10)
SENSOR = QoSProfile(depth=2, reliability=ReliabilityPolicy.BEST_EFFORT)
STATUS = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
# DDS tells the reader when a heartbeat is overdue or its writer is gone; which server that was, and
# whether it is lost, is decided by ServerDirectory.
HEARTBEAT = QoSProfile(
    # A reader keeps so many of all servers together: one must not push another's out.
    depth=64,
    deadline=Duration(seconds=3 * HEARTBEAT_S),
    liveliness=LivelinessPolicy.AUTOMATIC,
    liveliness_lease_duration=Duration(seconds=4 * HEARTBEAT_S),
)


def request_topics(server: str, session: str, robot: str) -> tuple[str, str]:
    """The topic to ``server`` that all robots share, and the one of ``robot`` alone.

    A reader keeps the newest few messages of all its writers together: on a shared topic one robot
    that floods pushes the others' requests out. Of its own topic each robot is served in turn. It
    belongs to one ``session`` of the server: DDS believes a killed server's readers alive for 20 s.
    """
    return f'{server}/request', f'{server}/request{robot}/session_{session}'


def valid_node_name(name: str) -> bool:
    """Whether a name received from the network may become part of a topic's name."""
    return name.startswith('/') and len(name) <= 200 and valid_topic(f'{name}/reply')


def valid_topic(name: str) -> bool:
    """Whether there can be a topic of this full name (also not too long)."""
    try:
        validate_full_topic_name(name)
    except InvalidTopicNameException:
        return False
    return True
