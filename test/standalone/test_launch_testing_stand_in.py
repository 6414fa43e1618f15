# SPDX-License-Identifier: Apache-2.0
"""Launch tests, run by pytest's plugin as users run them: one pytest for several files."""

import os
import re
import subprocess
import sys

import pytest

HEAD = """
import re
import sys
import unittest

from launch import LaunchDescription
from launch.actions import EmitEvent, ExecuteProcess, RegisterEventHandler, TimerAction
from launch.events import matches_action
from launch_ros.actions import LifecycleNode
from launch_ros.event_handlers import OnStateTransition
from launch_ros.events.lifecycle import ChangeState
import launch_testing
from launch_testing.actions import ReadyToTest
from launch_testing.asserts import assertExitCodes, assertInStderr, assertInStdout
from launch_testing.markers import keep_alive
from launch_testing.util import KeepAliveProc
from lifecycle_msgs.msg import Transition
import pytest

def script(text, **kwargs):
    return ExecuteProcess(cmd=[sys.executable, '-uc', text], **kwargs)
"""
WAIT = """
import signal, sys
signal.signal(signal.SIGINT, lambda *_: sys.exit({code}))
print({text!r})
signal.pause()
"""
FILES = {
    'passes': """
@pytest.mark.launch_test
def generate_test_description():
    first = script(WAIT.format(code=0, text='first is up'), name='first')
    second = script('import os, sys, time; time.sleep(0.5); sys.stderr.write(str(os.getpid()))'
                    '; sys.exit(3)', name='second')
    return LaunchDescription([first, second, ReadyToTest()]), {'first': first, 'number': 7}

class TestWhileItRuns(unittest.TestCase):
    @classmethod
    def setUpClass(cls, number):
        cls.number = number

    def setUp(self, first):
        self.first = first

    def test_context_and_handlers_are_injected(
            self, proc_info, proc_output, first, number, launch_service, test_args):
        self.assertEqual((self.number, number, self.first), (7, 7, first))
        proc_info.assertWaitForStartup(process=first, timeout=5)
        proc_output.assertWaitFor('first is up', process=first, timeout=5, stream='stdout')
        proc_output.assertWaitFor(re.compile(r'^f.*t is'), process='first', stream='stdout')
        proc_info.assertWaitForShutdown(process='second', timeout=5)
        self.assertEqual(proc_info['second'].returncode, 3)
        self.assertFalse(proc_output.waitFor('never', process=first, timeout=0.1))
        self.assertEqual(test_args, {})
        self.assertIsNotNone(launch_service)

@launch_testing.post_shutdown_test()
class TestAfterwards(unittest.TestCase):
    def test_codes_and_output(self, proc_info, proc_output, first):
        assertExitCodes(proc_info, [0], process=first)
        assertExitCodes(proc_info, [0, 3])
        assertInStdout(proc_output, ['first', 'up'], first)
        assertInStderr(proc_output, str(proc_info['second'].pid), 'second')
        with self.assertRaises(AssertionError):
            assertExitCodes(proc_info)
        with self.assertRaises(AssertionError):
            assertInStdout(proc_output, ['up', 'first'], first)
        self.assertIn(b'first is up', b''.join(e.text for e in proc_output[first]))
""",
    'lives_on': """
@pytest.mark.launch_test
@keep_alive
def generate_test_description():
    return LaunchDescription([script('print(5)'), TimerAction(period=0.5, actions=[ReadyToTest()])])

class TestIt(unittest.TestCase):
    def test_all_processes_have_ended(self, proc_info):
        assertExitCodes(proc_info)
""",
    'stays': """
@pytest.mark.launch_test
def generate_test_description():
    return LaunchDescription([KeepAliveProc(), TimerAction(period=1.0, actions=[ReadyToTest()])])

class TestIt(unittest.TestCase):
    def test_it_is_up(self, proc_info):
        proc_info.assertWaitForStartup(process='python')

@launch_testing.post_shutdown_test()
class TestAfterwards(unittest.TestCase):
    def test_codes(self, proc_info):
        assertExitCodes(proc_info)
""",
    'node_dies': """
@pytest.mark.launch_test
def generate_test_description():
    return LaunchDescription([script('import sys; sys.exit(9)', name='weak'), ReadyToTest()])

class TestIt(unittest.TestCase):
    def test_it_speaks(self, proc_output):
        proc_output.assertWaitFor('never said', timeout=30)
""",
    'wrong_code': """
@pytest.mark.launch_test
def generate_test_description():
    return LaunchDescription([script(WAIT.format(code=4, text='up'), name='odd'), ReadyToTest()])

class TestIt(unittest.TestCase):
    def test_up(self, proc_output):
        proc_output.assertWaitFor('up', process='odd', stream='stdout')

@launch_testing.post_shutdown_test()
class TestAfterwards(unittest.TestCase):
    def test_codes(self, proc_info):
        assertExitCodes(proc_info)
""",
    'assertion_fails': """
@pytest.mark.launch_test
def generate_test_description():
    return LaunchDescription([KeepAliveProc(), ReadyToTest()])

class TestIt(unittest.TestCase):
    def test_sum(self):
        self.assertEqual(1 + 1, 3)
""",
    'lifecycle': """
NODE = '''
import rclpy
from rclpy.executors import ExternalShutdownException
from rclpy.lifecycle import LifecycleNode, TransitionCallbackReturn

class Managed(LifecycleNode):
    def on_configure(self, state):
        return TransitionCallbackReturn.SUCCESS

    def on_activate(self, state):
        self.get_logger().info('works now')
        return super().on_activate(state)

rclpy.init()
node = Managed('managed')
try:
    rclpy.spin(node)
except (KeyboardInterrupt, ExternalShutdownException):
    pass
'''

def change(node, transition):
    return EmitEvent(event=ChangeState(
        lifecycle_node_matcher=matches_action(node), transition_id=transition))

@pytest.mark.launch_test
def generate_test_description():
    node = LifecycleNode(executable=sys.executable, arguments=['-c', NODE], exec_name='managed',
                         name='renamed', namespace='robot', output='screen')
    return LaunchDescription([
        node,
        RegisterEventHandler(OnStateTransition(
            target_lifecycle_node=node, start_state='configuring', goal_state='inactive',
            entities=[change(node, Transition.TRANSITION_ACTIVATE)])),
        change(node, Transition.TRANSITION_CONFIGURE),
        ReadyToTest(),
    ]), {'node': node}

class TestIt(unittest.TestCase):
    def test_the_launch_configures_and_activates_it(self, proc_output, node):
        proc_output.assertWaitFor('works now', process=node, timeout=20)
        self.assertEqual(node.node_name, '/robot/renamed')

@launch_testing.post_shutdown_test()
class TestAfterwards(unittest.TestCase):
    def test_codes(self, proc_info):
        assertExitCodes(proc_info)
""",
    'unmarked': """
def generate_test_description():
    raise AssertionError('this is no launch test')

def test_ordinary():
    pass
""",
}


@pytest.fixture(scope='module')
def results(tmp_path_factory):
    """(outcome by file, whole output) of one pytest over all files."""
    folder = tmp_path_factory.mktemp('launch_tests')
    for name, text in FILES.items():
        (folder / f'test_{name}.py').write_text(f'{HEAD}\nWAIT = """{WAIT}"""\n{text}')
    done = subprocess.run(
        [sys.executable, '-m', 'pytest', '-v', '-p', 'no:cacheprovider', '.'],
        cwd=folder,
        env={**os.environ, 'ROS_HOME': str(folder)},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    outcomes = re.findall(r'^test_(\w+)\.py::(\w+) (?:.*\n)*?.*?(PASSED|FAILED)', done.stdout, re.M)
    return {file: (test, outcome) for file, test, outcome in outcomes}, done.stdout


@pytest.mark.parametrize('name', ['passes', 'lives_on', 'stays', 'lifecycle'])
def test_a_launch_test_that_holds_passes(results, name):
    outcomes, output = results
    assert outcomes[name] == (f'test_{name}', 'PASSED'), output


@pytest.mark.parametrize(
    ('name', 'reason'),
    [
        ('node_dies', r'Launch stopped before the active tests finished'),
        ('wrong_code', r'Proc odd-\d+ exited with code 4'),
        ('assertion_fails', r'AssertionError: 2 != 3'),
    ],
)
def test_a_launch_test_that_does_not_hold_fails_with_the_reason(results, name, reason):
    outcomes, output = results
    assert outcomes[name] == (f'test_{name}', 'FAILED'), output
    assert re.search(reason, output.split('= FAILURES =')[1]), output


def test_a_file_without_the_mark_is_an_ordinary_test_file(results):
    outcomes, output = results
    assert outcomes['unmarked'] == ('test_ordinary', 'PASSED'), output
