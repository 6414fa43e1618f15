# SPDX-License-Identifier: Apache-2.0
"""Launch files under the stand-ins of launch and launch_ros, in real processes."""

import os
from pathlib import Path
import signal
import textwrap

import pytest

HEAD = """
from launch import LaunchDescription
from launch.actions import *
from launch.conditions import *
from launch.event_handlers import OnProcessExit, OnProcessStart, OnShutdown
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import *
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

def generate_launch_description():
    return LaunchDescription([
"""
SLEEPER = """
import os, pathlib, signal, subprocess, sys, time
for number in map(int, sys.argv[2].split(',')):
    if number: signal.signal(number, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(100)'])
pathlib.Path(sys.argv[1]).write_text(f'{os.getpid()} {child.pid} ')
time.sleep(100)
"""
PARAMETER_PRINTER = """
import rclpy
rclpy.init()
node = rclpy.create_node('plain', automatically_declare_parameters_from_overrides=True)
found = {name: node.get_parameter(name).value for name in node.list_parameters([], 0).names}
for name in sorted(set(found) - {'use_sim_time', 'start_type_description_service'}):
    value = found[name]
    print(name, '=', value.tolist() if hasattr(value, 'tolist') else value, flush=True)
print('is', node.get_fully_qualified_name(), node.resolve_topic_name('in'), flush=True)
"""


@pytest.fixture
def write(tmp_path):
    """Write a launch file from the entities of its description; return its path."""

    def write_file(entities, name='x.launch.py'):
        path = tmp_path / name
        path.write_text(HEAD + textwrap.indent(textwrap.dedent(entities), ' ' * 8) + '\n    ])\n')
        return path

    return write_file


def alive(pid):
    try:
        state = Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[0]
    except FileNotFoundError:
        return False
    return state != 'Z'


def sleeper(tmp_path, ignored='0', extra=''):
    (tmp_path / 'sleeper.py').write_text(SLEEPER)
    return (
        f"ExecuteProcess(cmd=['python3', '{tmp_path}/sleeper.py', '{tmp_path}/pids', '{ignored}']"
        f'{extra}),'
    )


def start_sleepers(ros2, eventually, tmp_path, path):
    process = ros2.start('launch', path)
    pids = tmp_path / 'pids'
    eventually(lambda: pids.exists() and pids.read_text().endswith(' '))
    return process, [int(pid) for pid in pids.read_text().split()]


def test_arguments_conditions_groups_and_includes_have_their_effect(ros2, write):
    inner = write(
        """
        DeclareLaunchArgument('deep'),
        LogInfo(msg=['inner ', LaunchConfiguration('deep')]),
        """,
        'inner.launch.py',
    )
    path = write(f"""
        DeclareLaunchArgument('size', default_value='2', choices=['2', '3']),
        DeclareLaunchArgument('on', default_value='false'),
        SetEnvironmentVariable('STAND_IN', 'outside'),
        GroupAction([
            SetLaunchConfiguration('size', '9'), SetEnvironmentVariable('STAND_IN', 'inside'),
            LogInfo(msg=['group ', LaunchConfiguration('size'), EnvironmentVariable('STAND_IN')])]),
        LogInfo(msg=['after ', LaunchConfiguration('size'), EnvironmentVariable('STAND_IN')]),
        LogInfo(msg='if yes', condition=IfCondition(LaunchConfiguration('on'))),
        LogInfo(msg='unless no', condition=UnlessCondition(LaunchConfiguration('on'))),
        IncludeLaunchDescription(PythonLaunchDescriptionSource(
            ['{inner.parent}/', '{inner.name}']), launch_arguments={{'deep': 'down'}}.items()),
        OpaqueFunction(function=lambda context: [LogInfo(msg='opaque ' +
            LaunchConfiguration('size').perform(context))]),
        TimerAction(period=0.1, actions=[LogInfo(msg='timer')]),
    """)
    done = ros2.run('launch', path, 'size:=3', 'on:=True')
    said = [line.split(': ', 1)[1] for line in done.stdout.splitlines() if 'launch.user' in line]
    assert said == [
        'group 9inside',
        'after 3outside',
        'if yes',
        'inner down',
        'opaque 3',
        'timer',
    ]
    assert done.returncode == 0


@pytest.mark.parametrize(
    ('entities', 'words', 'message'),
    [
        ('OpaqueFunction(function=lambda context: 1 / 0)', [], 'division by zero'),
        ("DeclareLaunchArgument('a')", [], 'launch argument "a" was not provided'),
        ("DeclareLaunchArgument('a', choices=['x'])", ['a:=y'], "Valid options are: ['x']"),
        ("LogInfo(msg=LaunchConfiguration('none'))", [], "configuration 'none' does not exist"),
        ("Node(package='no_such', executable='x')", [], "package 'no_such' not found"),
        ("Node(package='rclpy', executable='x')", [], "executable 'x' not found"),
        ('__import__("launch.actions").actions.PushEnvironment()', [], "no attribute 'Push"),
        ("ExecuteProcess(cmd=['true'], output='own_log')", [], "output='own_log' is not supported"),
        ("ExecuteProcess(cmd=['true'], respawn=True)", [], 'ExecuteProcess(respawn=...) is not'),
        ("LogInfo(msg='x', condition=IfCondition('maybe'))", [], "got 'maybe'"),
    ],
)
def test_a_failing_launch_file_gives_one_line_and_exit_code_1(
    ros2, write, entities, words, message
):
    done = ros2.run('launch', write(entities), *words)
    errors = [line for line in done.stdout.splitlines() if '[ERROR]' in line]
    assert len(errors) == 1 and message in errors[0], done.stdout
    assert errors[0].startswith('[ERROR] [launch]: Caught exception in launch (see debug for')
    assert 'Traceback' not in done.stdout + done.stderr
    assert done.returncode == 1


def test_what_a_failing_launch_has_started_is_ended(ros2, write, tmp_path, eventually):
    """The exception comes while processes run."""
    path = write(
        sleeper(tmp_path)
        + '\nTimerAction(period=1.5, actions=[OpaqueFunction(function=lambda context: 1 / 0)]),'
    )
    process, pids = start_sleepers(ros2, eventually, tmp_path, path)
    assert process.wait(60) == 1
    assert not any(map(alive, pids))


@pytest.mark.parametrize(('number', 'code'), [(signal.SIGINT, 0), (signal.SIGTERM, 1)])
def test_a_signal_ends_everything_and_leaves_no_orphan(
    ros2, write, tmp_path, eventually, number, code
):
    path = write(sleeper(tmp_path))
    process, pids = start_sleepers(ros2, eventually, tmp_path, path)
    assert all(map(alive, pids))
    os.killpg(process.pid, number)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == code
    assert not any(map(alive, pids))
    assert "sending signal 'SIGINT' to process[python3-1]" in output
    assert 'escalating' not in output
    assert '\nTraceback' not in output  # a child's own would stand behind its prefix


def test_a_launch_whose_reader_has_gone_goes_on_and_ends(ros2, write, tmp_path, eventually):
    """As `ros2 launch ... | head`."""
    process, pids = start_sleepers(ros2, eventually, tmp_path, write(sleeper(tmp_path)))
    process.stdout.close()
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 0
    assert not any(map(alive, pids))


def test_a_process_that_ignores_signals_is_killed_in_steps(ros2, write, tmp_path, eventually):
    timeouts = ", sigterm_timeout='0.3', sigkill_timeout='0.3'"
    path = write(sleeper(tmp_path, '2,15', timeouts))
    process, pids = start_sleepers(ros2, eventually, tmp_path, path)
    process.send_signal(signal.SIGINT)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 0
    assert not any(map(alive, pids))
    assert "after receiving 'SIGINT', escalating to 'SIGTERM'" in output
    assert "after receiving 'SIGTERM', escalating to 'SIGKILL'" in output
    assert 'exit code -9' in output


def test_a_killed_launch_takes_its_processes_along(ros2, write, tmp_path, eventually):
    process, pids = start_sleepers(ros2, eventually, tmp_path, write(sleeper(tmp_path)))
    process.kill()
    try:
        eventually(lambda: not alive(pids[0]))
    finally:
        os.kill(pids[1], signal.SIGKILL)  # a grandchild is beyond what the kernel promises


def test_output_exit_codes_and_handlers_come_as_from_upstream(ros2, write):
    path = write("""
        ExecuteProcess(cmd=['sh', '-c', 'echo out; echo err >&2; printf part'], output='screen'),
        first := ExecuteProcess(cmd=['sh', '-c', 'echo hidden; echo seen >&2; exit 3'],
                                name='named'),
        RegisterEventHandler(OnProcessStart(target_action=first, on_start=[LogInfo(msg='start')])),
        RegisterEventHandler(OnProcessExit(target_action=first, on_exit=lambda event, context: [
            LogInfo(msg=f'code {event.returncode}'),
            ExecuteProcess(cmd=['sh', '-c', 'echo $GIVEN | tr a b'], output='both',
                           additional_env={'GIVEN': 'aaa'})])),
        RegisterEventHandler(OnShutdown(on_shutdown=[LogInfo(msg='shutdown')])),
    """)
    done = ros2.run('launch', path)
    lines = done.stdout.splitlines()
    for line in ('[sh-1] out', '[sh-1] err', '[sh-1] part', '[named-2] seen', '[sh-3] bbb'):
        assert lines.count(line) == 1, done.stdout
    assert '[named-2] hidden' not in lines
    assert any(line.startswith('[INFO] [sh-1]: process started with pid [') for line in lines)
    assert '[INFO] [sh-1]: process has finished cleanly [pid ' in done.stdout
    died = next(line for line in lines if line.startswith('[ERROR] [named-2]: process has died'))
    assert "exit code 3, cmd 'sh -c echo hidden; echo seen >&2; exit 3']." in died
    said = [line.split(': ', 1)[1] for line in lines if 'launch.user' in line]
    assert {'start', 'code 3', 'shutdown'} == set(said) and said[-1] == 'shutdown'
    assert done.returncode == 0


def test_the_end_of_one_process_can_end_the_launch(ros2, write):
    path = write("""
        short := ExecuteProcess(cmd=['sleep', '0.3']),
        ExecuteProcess(cmd=['sleep', '100'], name='other'),
        RegisterEventHandler(OnProcessExit(target_action=short, on_exit=[Shutdown()])),
        RegisterEventHandler(OnShutdown(on_shutdown=[LogInfo(msg='shutdown')])),
    """)
    done = ros2.run('launch', path)
    assert done.returncode == 0
    assert "sending signal 'SIGINT' to process[other-2]" in done.stdout


def test_a_node_gets_name_namespace_parameters_and_remappings(ros2, package, write, tmp_path):
    package('printer', PARAMETER_PRINTER)
    (tmp_path / 'p.yaml').write_text('/**: {ros__parameters: {from_file: 1, gain: 0.5}}')
    path = write(f"""
        DeclareLaunchArgument('gain', default_value='2'),
        DeclareLaunchArgument('tmp', default_value='{tmp_path}'),
        GroupAction([
            Node(package='stand_in_test', executable='printer', name='one', namespace='fleet/robot',
                 output='screen', remappings=[('in', 'out')], parameters=[
                [LaunchConfiguration('tmp'), '/p.yaml'],
                {{'gain': ParameterValue(LaunchConfiguration('gain'), value_type=float),
                  'nested': {{'a': {{'b': 'y'}}, 'list': [1, 2]}}, 'own': 5, 'text': 'a b',
                  'number': '12',
                  'as_text': ParameterValue(LaunchConfiguration('gain'), value_type=str),
                  'read': LaunchConfiguration('gain'), 'names': ['yes', 'x']}}])]),
        Node(package='stand_in_test', executable='printer', output='screen',
             parameters=[{{'alone': 1.0}}]),
    """)
    done = ros2.run('launch', path)
    said = {line for line in done.stdout.splitlines() if line.startswith('[printer-')}
    assert said == {
        '[printer-1] as_text = 2',
        '[printer-1] from_file = 1',
        '[printer-1] gain = 2.0',
        "[printer-1] names = ['yes', 'x']",
        '[printer-1] nested.a.b = y',
        '[printer-1] nested.list = [1, 2]',
        '[printer-1] own = 5',
        '[printer-1] read = 2',
        '[printer-1] number = 12',
        '[printer-1] text = a b',
        '[printer-1] is /fleet/robot/one /fleet/robot/out',
        '[printer-2] alone = 1.0',
        '[printer-2] is /plain /in',
    }, done.stdout
    assert 'died' not in done.stdout and done.returncode == 0


def test_parameter_files_are_gone_after_the_launch(ros2, package, write, tmp_path):
    package(
        'show',
        'import sys; print("args", *sys.argv[1:]); print("key", open(sys.argv[-1]).readline())',
    )
    path = write("""
        Node(package='stand_in_test', executable='show', name='n', namespace='s', output='screen',
             parameters=[{'a': 1}], arguments=['--flag']),
    """)
    done = ros2.run('launch', path)
    words = next(line for line in done.stdout.splitlines() if '] args' in line).split()[2:]
    file = words[-1]
    assert words[:-1] == [
        '--flag', '--ros-args', '-r', '__node:=n',
        '-r', '__ns:=/s', '--params-file',
    ]  # fmt: skip
    assert 'launch_params_' in file and not os.path.exists(file)
    assert '[show-1] key "/s/n":' in done.stdout


def test_arguments_are_shown_and_a_launch_file_is_found_in_its_package(ros2, package, write):
    text = write("""
        DeclareLaunchArgument('first', default_value='1', description='The first'),
        GroupAction([DeclareLaunchArgument('second', choices=['a', 'b'])],
                    condition=IfCondition('false')),
    """).read_text()
    (package.share / 'launch').mkdir()
    (package.share / 'launch' / 'found.launch.py').write_text(text)
    done = ros2.run('launch', 'stand_in_test', 'found.launch.py', '--show-args')
    assert done.returncode == 0
    assert done.stdout.split('\n\n')[1:] == [
        "    'first':\n        The first\n        (default: '1')",
        "    'second':*\n        One of: ['a', 'b']",
        '* argument(s) which are only used if specific conditions occur\n',
    ]
    for words, message in [
        (['stand_in_test', 'none.launch.py'], 'was not found in the share directory of package'),
        (['no_such', 'found.launch.py'], "Package 'no_such' not found"),
        (['stand_in_test', 'found.launch.py', 'x'], "malformed launch argument 'x'"),
    ]:
        failed = ros2.run('launch', *words)
        assert failed.returncode == 1 and message in failed.stderr and not failed.stdout
