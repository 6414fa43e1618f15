"""Run on the hosts of a testbed: `talk.py say` publishes, `talk.py hear` prints what it heard."""

import sys
import time

import rclpy
from std_msgs.msg import String

rclpy.init()
node = rclpy.create_node(sys.argv[1])
end_s = time.monotonic() + 10.0
if sys.argv[1] == 'say':
    publisher = node.create_publisher(String, 'talk', 10)
    while time.monotonic() < end_s:
        publisher.publish(String(data='hello'))
        rclpy.spin_once(node, timeout_sec=0.05)
else:
    heard = []
    node.create_subscription(String, 'talk', lambda message: heard.append(message.data), 10)
    while not heard and time.monotonic() < end_s:
        rclpy.spin_once(node, timeout_sec=0.1)
    print(heard)
