# SPDX-License-Identifier: Apache-2.0
"""The verbs of the `ros2` stand-in against a real node."""

import re
import signal
import subprocess
import sys

import pytest
import yaml

from .conftest import ROS2

NODE = """
import array
import rclpy
from rcl_interfaces.msg import FloatingPointRange, ParameterDescriptor, SetParametersResult
from rclpy.executors import ExternalShutdownException
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import Image
from std_msgs.msg import String
rclpy.init()
node = rclpy.create_node('talker', namespace='robot')
limits = [FloatingPointRange(from_value=0.0, to_value=2.0)]
node.declare_parameter('gain', 1.0, ParameterDescriptor(
    description='a gain', floating_point_range=limits))
node.declare_parameter('link.rate', 5)
node.declare_parameter('names', ['a', 'b'])
image = Image(height=10, width=20, step=20, encoding='mono8', data=array.array('B', range(200)))
images = node.create_publisher(Image, 'image', 10)
node.create_timer(0.05, lambda: images.publish(image))
latched = node.create_publisher(
    String, 'latched', QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL))
latched.publish(String(data='kept'))
print('ready', flush=True)
try:
    rclpy.spin(node)
except (KeyboardInterrupt, ExternalShutdownException):
    raise SystemExit(7)
"""
MANAGED = """
import rclpy
from rclpy.executors import ExternalShutdownException
from rclpy.lifecycle import LifecycleNode, TransitionCallbackReturn
from std_srvs.srv import SetBool
class Managed(LifecycleNode):
    def on_configure(self, state):
        return TransitionCallbackReturn.SUCCESS
    def on_activate(self, state):
        return TransitionCallbackReturn.FAILURE
rclpy.init()
node = Managed('managed')
def answer(request, response):
    response.success, response.message = not request.data, 'inverted'
    return response
node.create_service(SetBool, 'invert', answer)
print('ready', flush=True)
try:
    rclpy.spin(node)
except (KeyboardInterrupt, ExternalShutdownException):
    pass
"""


@pytest.fixture(scope='module')
def talker(ros2, package):
    package('talker', NODE)
    process = ros2.start('run', 'stand_in_test', 'talker')
    assert process.stdout.readline() == 'ready\n'
    yield '/robot/talker'
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 7, 'ros2 run passes SIGTERM on and returns the exit code'


@pytest.fixture(scope='module')
def managed(ros2, package):
    package('managed', MANAGED)
    process = ros2.start('run', 'stand_in_test', 'managed')
    assert process.stdout.readline() == 'ready\n'
    yield '/managed'
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0


def test_help_and_wrong_words_are_answered_as_argparse_does(ros2):
    done = ros2.run('--help')
    assert done.returncode == 0 and 'launch' in done.stdout
    done = subprocess.run(
        [sys.executable, '-X', 'importtime', str(ROS2), '--help'],
        env=ros2.env,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert 'argparse' in done.stderr and 'rclpy' not in done.stderr, 'help is to come at once'
    for words in (['nonsense'], ['param', 'nonsense'], ['param', 'get', '/n']):
        failed = ros2.run(*words)
        assert failed.returncode == 2 and 'error: ' in failed.stderr


def test_parameters_are_read_and_described(ros2, talker):
    gain, names, none, nobody, described, listed, dumped = ros2.together(
        f'param get {talker} gain',
        f'param get {talker} names',
        f'param get {talker} none',
        'param get /nobody gain',
        f'param describe {talker} gain',
        'param list robot/talker',
        f'param dump {talker}',
    )
    assert gain == ('Double value is: 1.0\n', '', 0)
    assert names == ("String values are: ['a', 'b']\n", '', 0)
    assert none == ('', 'Parameter not set\n', 1)
    assert nobody == ('', 'Node not found\n', 1)
    assert described[0] == (
        'Parameter name: gain\n  Type: double\n  Description: a gain\n  Constraints:\n'
        '    Min value: 0.0\n    Max value: 2.0\n'
    )
    found = listed[0].split()
    assert {'gain', 'link.rate', 'names'} <= set(found) and found == sorted(found)
    tree = yaml.safe_load(dumped[0])[talker]['ros__parameters']
    assert tree['link'] == {'rate': 5} and tree['gain'] == 1.0


def test_parameters_are_set_or_refused_with_the_reason(ros2, talker):
    large, wrong = ros2.together(f'param set {talker} gain 3.0', f'param set {talker} gain 1')
    assert large[1].startswith('Setting parameter failed: Parameter gain out') and not large[0]
    assert wrong[1].startswith('Setting parameter failed: Wrong parameter type') and wrong[2] == 0
    assert ros2.together(f'param set {talker} gain 0.5') == [('Set parameter successful\n', '', 0)]
    assert ros2.together(f'param get {talker} gain --hide-type') == [('0.5\n', '', 0)]


def test_what_there_is_is_listed(ros2, talker, managed):
    topics, nodes, services, lifecycle, states = ros2.together(
        'topic list -t', 'node list', 'service list -t', 'lifecycle nodes', 'lifecycle get'
    )
    assert '/robot/image [sensor_msgs/msg/Image]' in topics[0].splitlines()
    assert '/robot/latched [std_msgs/msg/String]' in topics[0].splitlines()
    assert nodes == ('/managed\n/robot/talker\n', '', 0)
    assert '/invert [std_srvs/srv/SetBool]' in services[0].splitlines()
    assert lifecycle == ('/managed\n', '', 0)
    assert states == ('/managed: unconfigured [1]\n', '', 0)


def test_echo_prints_yaml_with_long_arrays_cut(ros2, talker):
    text = ros2.run('topic', 'echo', '/robot/image', '--once').stdout
    assert text.endswith("- 127\n- '...'\n---\n")
    message = yaml.safe_load(text.removesuffix('---\n'))
    assert list(message) == [
        'header', 'height', 'width', 'encoding', 'is_bigendian', 'step', 'data',
    ]  # fmt: skip
    assert message['data'] == [*range(128), '...'] and message['encoding'] == 'mono8'


def test_echo_selects_cuts_adapts_and_refuses(ros2, talker):
    field, stamp, latched, typed, arrays, unknown, no_type = ros2.together(
        'topic echo --once /robot/image --field encoding',
        'topic echo --once /robot/image --field header.stamp',
        'topic echo --once /robot/latched',
        'topic echo --once /robot/latched std_msgs/msg/String',
        'topic echo --once /robot/image --no-arr',
        'topic echo --once /robot/image --field no.such',
        'topic echo /x std_msgs/msg/Nothing',
    )
    assert field[0] == 'mono8\n---\n'
    assert stamp[0] == 'sec: 0\nnanosec: 0\n---\n'
    assert latched[0] == typed[0] == 'data: kept\n---\n'
    assert "data: '<sequence type: uint8, length: 200>'\n" in arrays[0]
    assert unknown[1].startswith("Invalid field 'no.such'") and unknown[2] == 1
    assert 'invalid' in no_type[1] and no_type[2] == 1


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_hz_measures_and_ends_quietly(ros2, talker, eventually, number):
    process = ros2.start('topic', 'hz', '/robot/image', '--window', '20')
    lines = [process.stdout.readline() for _ in range(4)]
    process.send_signal(number)
    rest = process.communicate(timeout=60)[0]
    rates = [float(m[1]) for m in re.finditer(r'average rate: ([\d.]+)', ''.join(lines))]
    assert 8.0 < rates[-1] < 25.0  # 20 on a machine that has the time
    assert re.search(
        r'\tmin: \d+\.\d{3}s max: \d+\.\d{3}s std dev: \d+\.\d{5}s window: \d+\n', ''.join(lines)
    )
    assert 'Traceback' not in rest


def test_packages_and_executables_are_found(ros2, package):
    package('seven', 'import sys; print(sys.argv[1:]); sys.exit(7)')
    done = ros2.run('run', 'stand_in_test', 'seven', '--help', '--ros-args', '-p', 'a:=1')
    assert done.returncode == 7
    assert done.stdout.startswith("['--help', '--ros-args', '-p', 'a:=1']\n")
    assert ros2.run('pkg', 'prefix', 'stand_in_test').stdout == f'{ros2.prefix}\n'
    for words, message in [
        (['run', 'stand_in_test', 'none'], 'No executable found\n'),
        (['run', 'no_such', 'none'], "Package 'no_such' not found\n"),
        (['pkg', 'prefix', 'no_such'], 'Package not found\n'),
    ]:
        failed = ros2.run(*words)
        assert (failed.stderr, failed.returncode) == (message, 1)


def test_lifecycle_nodes_are_asked_and_changed(ros2, talker, managed):
    state, early, stranger = ros2.together(
        'lifecycle get managed', f'lifecycle set {managed} activate', f'lifecycle get {talker}'
    )
    assert state == ('unconfigured [1]\n', '', 0)
    assert early[1:] == (
        'Unknown transition requested, available ones are:\n- configure [1]\n- shutdown [5]\n',
        1,
    )
    assert stranger == ('', 'Node not found\n', 1)
    for words, expected in [
        ('set /managed configure', ('Transitioning successful\n', '', 0)),
        ('set /managed 3', ('', 'Transitioning failed\n', 0)),
        ('get /managed', ('inactive [2]\n', '', 0)),
    ]:
        assert ros2.together(f'lifecycle {words}') == [expected]


def test_services_are_called(ros2, managed):
    done = ros2.run('service', 'call', '/invert', 'std_srvs/srv/SetBool', '{data: true}')
    assert done.returncode == 0
    assert done.stdout.removeprefix('waiting for service to become available...\n') == (
        'requester: making request: std_srvs.srv.SetBool_Request(data=True)\n\nresponse:\n'
        "std_srvs.srv.SetBool_Response(success=False, message='inverted')\n\n"
    )
    invalid, unfit = ros2.together(
        'service call /invert std_srvs/srv/None', 'service call /invert std_srvs/srv/SetBool {x:}'
    )
    assert invalid == ('', 'The passed service type is invalid\n', 1)
    assert unfit[1].startswith('Failed to populate field: ') and unfit[2] == 1


def test_interfaces_are_shown(ros2):
    shown = ros2.run('interface', 'show', 'std_msgs/msg/Header').stdout
    assert shown.endswith(
        'builtin_interfaces/Time stamp\n\tint32 sec\n\tuint32 nanosec\n\n'
        '# Transform frame with which this data is associated.\nstring frame_id\n'
    )
    failed = ros2.run('interface', 'show', 'std_msgs/msg/None')
    assert failed.returncode == 1 and failed.stderr.startswith('Could not find the interface')


def test_messages_are_published_once_and_often(ros2):
    echo = ros2.start('topic', 'echo', '/pose', 'geometry_msgs/msg/PoseArray')
    values = '{header: {frame_id: map}, poses: [{position: {x: 1}}]}'
    done = ros2.run('topic', 'pub', '--once', '/pose', 'geometry_msgs/msg/PoseArray', values)
    assert done.returncode == 0
    lines = [line for line in done.stdout.splitlines() if line]
    assert lines[-2] == 'publisher: beginning loop'
    assert lines[-1].startswith('publishing #1: geometry_msgs.msg.PoseArray(header=std_msgs.msg.')
    done = ros2.run('topic', 'pub', '-t', '3', '-r', '20', '/pose', 'geometry_msgs/msg/PoseArray')
    assert done.stdout.count('publishing #') == 3
    often = ros2.start('topic', 'pub', '-r', '20', '/pose', 'geometry_msgs/msg/PoseArray', values)
    # Which of few messages an echo hears that was there first is a matter of discovery, as with
    # upstream's: it subscribes best-effort. One that comes to a publisher hears it.
    heard = ros2.run('topic', 'echo', '--once', '/pose', 'geometry_msgs/msg/PoseArray')
    (first,) = yaml.safe_load_all(heard.stdout.removesuffix('---\n'))
    assert first['header']['frame_id'] == 'map' and first['poses'][0]['position']['x'] == 1.0
    for process in (often, echo):
        process.send_signal(signal.SIGINT)
        text = process.communicate(timeout=60)[0]
        assert text and 'Traceback' not in text
    failed = ros2.run('topic', 'pub', '/pose', 'no/such')
    assert (failed.stderr, failed.returncode) == ('The passed message type is invalid\n', 1)
