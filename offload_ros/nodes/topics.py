"""Names, periods and quality of service that robot and server agree on."""

from __future__ import annotations

from rclpy.duration import Duration
from rclpy.exceptions import InvalidTopicNameException
from rclpy.qos import DurabilityPolicy, LivelinessPolicy, QoSProfile, ReliabilityPolicy
from rclpy.validate_full_topic_name import validate_full_topic_name

HEARTBEAT_TOPIC = '/offload/servers'  # absolute: a server is for robots of every namespace
HEARTBEAT_S = 0.1
FLEET_PLAN_TOPIC = '/offload/fleet_plan'
OPENING_PING_S = 0.1  # how often a robot knocks until its first answer
CHANNEL_SILENT_S = 2.0  # a server that answers no ping for this long has forgotten the session
SESSION_SILENT_S = 2.0  # a robot silent for this long is gone

CONTROL = QoSProfile(depth=10)
HANDSHAKE = QoSProfile(depth=64)  # of all robots together
PACKETS = 256  # a reader must hold two windows of the smallest ones; DDS resends what was lost
FEWEST_PACKETS, PACKETS_BYTES = 32, 64_000_000
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


def packets_qos(max_packet_bytes: int) -> QoSProfile:
    """For ``Packet`` of at most so many bytes of data.

    Fast DDS keeps one buffer for each of ``depth`` packets, each as large as the largest that it
    ever held, so fewer where packets are large: of these few are under way at a time.
    """
    return QoSProfile(depth=min(PACKETS, max(FEWEST_PACKETS, PACKETS_BYTES // max_packet_bytes)))


def handshake_topic(node: str) -> str:
    """Where ``node`` (full name), a server or a robot's manager, takes handshakes."""
    return f'{node}/handshake'


def packet_topics(robot: str, server: str, session: str) -> tuple[str, str]:
    """(uplink, downlink) of one robot and one session of a server, for ``Packet``.

    Of their own: a reader keeps the newest few messages of all its writers together, and on a
    shared topic one robot that floods would push the others' packets out.
    """
    return (
        f'{server}/uplink{robot}/session_{session}',
        f'{robot}/downlink{server}/session_{session}',
    )


def valid_node_name(name: str) -> bool:
    """Whether a name received from the network may become part of a topic's name."""
    return name.startswith('/') and len(name) <= 200 and valid_topic(handshake_topic(name))


def valid_topic(name: str) -> bool:
    """Whether there can be a topic of this full name (also not too long)."""
    try:
        validate_full_topic_name(name)
    except InvalidTopicNameException:
        return False
    return True
