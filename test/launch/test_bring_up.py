"""Robot and server as their launch files start them: active, connected, ended without error."""

import os
import unittest

from ament_index_python.packages import get_package_share_directory
from launch import LaunchDescription
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
import launch_testing
from launch_testing.actions import ReadyToTest
import launch_testing.asserts
import pytest
import rclpy


def included(name, **arguments):
    """One of the package's launch files."""
    folder = os.path.join(get_package_share_directory('offload_ros'), 'launch')
    return IncludeLaunchDescription(
        PythonLaunchDescriptionSource(os.path.join(folder, name)),
        launch_arguments=arguments.items(),
    )


@pytest.mark.launch_test
def generate_test_description():
    """A server and a robot in a namespace."""
    return LaunchDescription(
        [
            included('server.launch.py', threads='1'),
            included('robot.launch.py', namespace='robot1', threads='1'),
            ReadyToTest(),
        ]
    )


class TestBringUp(unittest.TestCase):
    """While they run."""

    def test_robot_and_server_find_each_other(self, proc_output):
        proc_output.assertWaitFor('server /offload_server is ready', timeout=60)
        proc_output.assertWaitFor('robot /robot1/offload_manager connected', timeout=60)

    def test_both_are_active_and_report(self, proc_output):
        from diagnostic_msgs.msg import DiagnosticArray
        from lifecycle_msgs.srv import GetState

        from offload_ros.msg import OffloadStatus

        proc_output.assertWaitFor('server /offload_server is ready', timeout=60)
        rclpy.init()
        node = rclpy.create_node('test_bring_up')
        try:
            for name in ('/offload_server', '/robot1/offload_manager'):
                client = node.create_client(GetState, f'{name}/get_state')
                self.assertTrue(client.wait_for_service(60.0))
                future = client.call_async(GetState.Request())
                rclpy.spin_until_future_complete(node, future, timeout_sec=60.0)
                self.assertEqual(future.result().current_state.label, 'active')
            seen = {'diagnostics': [], 'status': []}
            node.create_subscription(
                DiagnosticArray, '/diagnostics', seen['diagnostics'].append, 10
            )
            node.create_subscription(
                OffloadStatus, '/robot1/offload/status', seen['status'].append, 10
            )
            end = node.get_clock().now().nanoseconds + 60e9
            wanted = {
                '/offload_server: load',
                '/robot1/offload_manager: classifier',
                '/robot1/offload_manager: scene',
                '/robot1/offload_manager: servers',
            }
            names = set()
            while node.get_clock().now().nanoseconds < end:
                rclpy.spin_once(node, timeout_sec=0.2)
                names = {entry.name for array in seen['diagnostics'] for entry in array.status}
                if wanted <= names and seen['status']:
                    break
            self.assertLessEqual(wanted, names)
            self.assertEqual(seen['status'][-1].models[0].server, '/offload_server')
        finally:
            node.destroy_node()
            rclpy.shutdown()


@launch_testing.post_shutdown_test()
class TestEnd(unittest.TestCase):
    """After the launch has ended them."""

    def test_exit_codes(self, proc_info):
        launch_testing.asserts.assertExitCodes(proc_info, allowable_exit_codes=[0])
