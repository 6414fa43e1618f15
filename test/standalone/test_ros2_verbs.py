# SPDX-License-Identifier: Apache-2.0
"""The verbs of the `ros2` stand-in against a real node."""

import re
import signal
import time

import pytest
import yaml

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


@pytest.fixture(scope='module')
def talker(ros2, package):
    package('talker', NODE)
    process = ros2.start('run', 'stand_in_test', 'talker')
    assert process.stdout.readline() == 'ready\n'
    yield '/robot/talker'
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 7, 'ros2 run passes SIGTERM on and returns the exit code'


def test_help_and_wrong_words_are_answered_as_argparse_does(ros2):
    start = time.monotonic()
    done = ros2.run('--help')
    assert done.returncode == 0 and 'launch' in done.stdout
    assert time.monotonic() - start < 2.0, 'help must not import rclpy'
    for words in (['nonsense'], ['param', 'nonsense'], ['param', 'get', '/n']):
        failed = ros2.run(*words)
        assert failed.returncode == 2 and 'error: ' in failed.stderr


def test_parameters_are_read_set_refused_and_described(ros2, talker):
    def param(*words):
        done = ros2.run('param', *words)
        return done.stdout, done.stderr, done.returncode

    assert param('get', talker, 'gain') == ('Double value is: 1.0\n', '', 0)
    assert param('set', talker, 'gain', '0.5') == ('Set parameter successful\n', '', 0)
    assert param('get', talker, 'gain', '--hide-type') == ('0.5\n', '', 0)
    out, err, code = param('set', talker, 'gain', '3.0')
    assert (out, code) == ('', 0) and err.startswith('Setting parameter failed: Parameter gain out')
    out, err, code = param('set', talker, 'gain', '1')
    assert err.startswith('Setting parameter failed: Wrong parameter type') and code == 0
    assert param('get', talker, 'names') == ("String values are: ['a', 'b']\n", '', 0)
    assert param('get', talker, 'none') == ('', 'Parameter not set\n', 1)
    assert param('describe', talker, 'gain')[0] == (
        'Parameter name: gain\n  Type: double\n  Description: a gain\n  Constraints:\n'
        '    Min value: 0.0\n    Max value: 2.0\n'
    )
    names = param('list', 'robot/talker')[0].split()
    assert {'gain', 'link.rate', 'names'} <= set(names) and names == sorted(names)
    dumped = yaml.safe_load(param('dump', talker)[0])[talker]['ros__parameters']
    assert dumped['link'] == {'rate': 5} and dumped['gain'] == 0.5


def test_a_node_that_is_not_there_is_named_missing(ros2):
    done = ros2.run('param', 'get', '/nobody', 'gain')
    assert (done.stdout, done.stderr, done.returncode) == ('', 'Node not found\n', 1)


def test_topics_are_listed_with_types(ros2, talker):
    lines = ros2.run('topic', 'list', '-t').stdout.splitlines()
    assert '/robot/image [sensor_msgs/msg/Image]' in lines
    assert '/robot/latched [std_msgs/msg/String]' in lines


def test_echo_prints_yaml_with_long_arrays_cut(ros2, talker):
    text = ros2.run('topic', 'echo', '/robot/image', '--once').stdout
    assert text.endswith("- 127\n- '...'\n---\n")
    message = yaml.safe_load(text.removesuffix('---\n'))
    assert list(message) == [
        'header', 'height', 'width', 'encoding', 'is_bigendian', 'step', 'data',
    ]  # fmt: skip
    assert message['data'] == [*range(128), '...'] and message['encoding'] == 'mono8'


@pytest.mark.parametrize(
    ('words', 'expected'),
    [
        (['/robot/image', '--field', 'encoding'], 'mono8\n---\n'),
        (['/robot/image', '--field', 'header.stamp'], 'sec: 0\nnanosec: 0\n---\n'),
        (
            ['/robot/image', '--csv', '--truncate-length', '3'],
            '0,0,,10,20,mon...,0,20,0,1,2,...\n',
        ),
        (['/robot/latched'], 'data: kept\n---\n'),
        (['/robot/latched', '--no-str'], "data: '<string length: <4>>'\n---\n"),
        (
            ['/robot/latched', 'std_msgs/msg/String', '--qos-durability', 'transient_local',
             '--qos-reliability', 'reliable'],
            'data: kept\n---\n',
        ),
    ],
)  # fmt: skip
def test_echo_selects_cuts_and_adapts_to_the_publisher(ros2, talker, words, expected):
    assert ros2.run('topic', 'echo', '--once', *words).stdout == expected


def test_echo_without_arrays_names_them_and_refuses_unknown_fields(ros2, talker):
    text = ros2.run('topic', 'echo', '/robot/image', '--once', '--no-arr').stdout
    assert "data: '<sequence type: uint8, length: 200>'\n" in text
    failed = ros2.run('topic', 'echo', '/robot/image', '--once', '--field', 'no.such')
    assert failed.returncode == 1 and failed.stderr.startswith("Invalid field 'no.such'")
    failed = ros2.run('topic', 'echo', '/x', 'std_msgs/msg/Nothing')
    assert failed.returncode == 1 and 'invalid' in failed.stderr


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_hz_measures_and_ends_quietly(ros2, talker, eventually, number):
    process = ros2.start('topic', 'hz', '/robot/image', '--window', '20')
    lines = [process.stdout.readline() for _ in range(4)]
    process.send_signal(number)
    rest = process.communicate(timeout=5)[0]
    rates = [float(m[1]) for m in re.finditer(r'average rate: ([\d.]+)', ''.join(lines))]
    assert 15.0 < rates[-1] < 25.0
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
    assert 'stand_in_test' in ros2.run('pkg', 'list').stdout.split()
    assert 'seven' in ros2.run('pkg', 'executables', 'stand_in_test').stdout.split()
    for words, message in [
        (['run', 'stand_in_test', 'none'], 'No executable found\n'),
        (['run', 'no_such', 'none'], "Package 'no_such' not found\n"),
        (['pkg', 'prefix', 'no_such'], 'Package not found\n'),
    ]:
        failed = ros2.run(*words)
        assert (failed.stderr, failed.returncode) == (message, 1)
