"""In place of a camera's driver: ten noisy images a second."""

from array import array

import numpy as np
import rclpy
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import Image

rclpy.init()
node = rclpy.create_node('camera')
publisher = node.create_publisher(Image, '/camera/color/image_raw', qos_profile_sensor_data)
random = np.random.default_rng(0)


def publish() -> None:
    message = Image(height=480, width=640, encoding='rgb8', step=3 * 640)
    message.header.stamp = node.get_clock().now().to_msg()
    message.header.frame_id = 'camera'
    message.data = array('B', random.bytes(480 * 640 * 3))
    publisher.publish(message)


node.create_timer(0.1, publish)
rclpy.spin(node)
