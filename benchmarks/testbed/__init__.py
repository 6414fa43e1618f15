"""A real network on one machine: a robot, an access point and a server as Linux namespaces.

Rate, queue, delay and loss are the access point's, so nothing tells a sender that the link is slow.

As a command, from anywhere (`python benchmarks/testbed --help` tells all options):

    python benchmarks/testbed --mbit 93 --rtt-ms 2.6 --loss 0.005 \\
        -- robot 'ping -c 3 10.77.0.2' -- server 'ros2 launch offload_ros server.launch.py'

From Python: see `Testbed`. Needs Linux and root; with delay or loss also /dev/net/tun.
"""

from offload_ros.wire.trace import Trace, indoors, outdoors

from .bed import Settings, Testbed
from .host import Host, HostProcess, TestbedError, unavailable
from .switched import Switched

__all__ = [
    'Host',
    'HostProcess',
    'Settings',
    'Switched',
    'Testbed',
    'TestbedError',
    'Trace',
    'indoors',
    'outdoors',
    'unavailable',
]
