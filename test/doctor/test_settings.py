"""Checks of the shell: each with what it accepts and what it must find."""

from pathlib import Path

import pytest

from offload_ros.doctor import middleware
from offload_ros.doctor.examine import Surroundings, before_ros, guarded, settings
from offload_ros.doctor.finding import Finding, Level, exit_status, fail, ok, warn
from offload_ros.doctor.report import line_of, verdict
from offload_ros.doctor.seen import ManagerSeen, NetworkSeen
from offload_ros.doctor.shell import HostProcess, host_processes, profile_of

PROFILE = str(Path(__file__).parents[2] / 'config' / 'dds' / 'fastdds.xml')
INSTALLED = ['rmw_fastrtps_cpp', 'rmw_zenoh_cpp']


def test_a_warning_without_remedy_is_refused():
    with pytest.raises(ValueError, match='needs a remedy'):
        Finding('x', Level.WARN, 'bad')


def test_exit_status_counts_failures_only():
    assert exit_status([ok('a', ''), warn('b', 'x', 'y')]) == 0
    assert exit_status([ok('a', ''), fail('b', 'x', 'y')]) == 1


def test_a_line_has_level_name_text_and_remedy_and_no_control_characters():
    line = line_of(fail('server', 'named \x1b[2J\n', 'start it'), 10).plain
    assert line == 'FAIL  server      named ?[2J?  ->  start it'


def test_the_verdict_names_the_first_failure_with_its_remedy():
    text = verdict([warn('a', '', 'w'), fail('b', '', 'do this'), fail('c', '', 'z')]).plain
    assert text == '2 FAIL, 1 WARN; begin with b: do this'
    assert verdict([ok('a', '')]).plain == 'everything is as it should be'


def test_a_check_that_fails_itself_is_said_and_no_traceback():
    def broken() -> None:
        raise KeyError('slip')

    (finding,) = guarded('x', broken)
    assert finding.level is Level.FAIL and 'KeyError' in finding.text


@pytest.mark.parametrize(
    ('env', 'level', 'text'),
    [
        ({}, Level.OK, 'rmw_fastrtps_cpp (Fast DDS)'),
        ({'RMW_IMPLEMENTATION': 'rmw_zenoh_cpp'}, Level.OK, 'rmw_zenohd'),
        ({'RMW_IMPLEMENTATION': 'rmw_cyclonedds_cpp'}, Level.FAIL, 'is not installed'),
    ],
)
def test_rmw(env, level, text):
    finding = middleware.check_rmw({'ROS_DISTRO': 'jazzy', **env}, INSTALLED)
    assert finding.level is level and text in finding.text
    if level is Level.FAIL:
        assert 'apt install ros-jazzy-rmw-cyclonedds-cpp' in finding.remedy


NEW, OLD = 'FASTDDS_DEFAULT_PROFILES_FILE', 'FASTRTPS_DEFAULT_PROFILES_FILE'


@pytest.mark.parametrize(
    ('env', 'manager', 'level', 'text'),
    [
        ({}, None, Level.OK, 'launch files set'),
        ({NEW: PROFILE}, None, Level.OK, 'may have another'),
        ({OLD: PROFILE}, None, Level.OK, 'may have another'),
        ({NEW: PROFILE}, {NEW: PROFILE}, Level.OK, PROFILE),
        ({}, {NEW: PROFILE}, Level.OK, 'none in this shell'),
        ({NEW: '/nowhere.xml'}, None, Level.FAIL, 'no such file'),
        ({}, {NEW: '/nowhere.xml'}, Level.FAIL, 'the running manager has'),
        ({NEW: PROFILE, OLD: PROFILE}, None, Level.WARN, 'loaded twice'),
        ({'ROS_DISTRO': 'humble', NEW: PROFILE}, None, Level.WARN, 'not known to humble'),
        ({'ROS_DISTRO': 'humble', NEW: PROFILE, OLD: PROFILE}, None, Level.OK, PROFILE),
        ({NEW: PROFILE}, {}, Level.WARN, 'running manager has none'),
        ({}, {'FASTDDS_BUILTIN_TRANSPORTS': 'LARGE_DATA'}, Level.OK, 'LARGE_DATA in the running'),
        ({NEW: PROFILE}, {NEW: __file__}, Level.FAIL, 'not a readable XML file'),
    ],
)
def test_dds_profile(env, manager, level, text):
    finding = middleware.check_profile(env, PROFILE, 'rmw_fastrtps_cpp', manager)
    assert finding.level is level and text in finding.text


def test_a_profile_that_differs_from_the_managers_is_named(tmp_path):
    other = tmp_path / 'other.xml'
    other.write_text('<dds/>')
    finding = middleware.check_profile(
        {NEW: PROFILE}, PROFILE, 'rmw_fastrtps_cpp', {NEW: str(other)}
    )
    assert finding.level is Level.WARN and finding.remedy == f'export {NEW}={other}'


def test_other_middleware_has_no_profile():
    assert middleware.check_profile({}, PROFILE, 'rmw_cyclonedds_cpp').level is Level.SKIP


@pytest.mark.parametrize(
    ('value', 'level'),
    [('', Level.OK), ('7', Level.OK), ('120', Level.WARN), ('233', Level.FAIL), ('a', Level.FAIL)],
)
def test_domain(value, level):
    assert middleware.check_domain({'ROS_DOMAIN_ID': value}).level is level


@pytest.mark.parametrize(
    ('env', 'level', 'text'),
    [
        ({}, Level.OK, 'this subnet'),
        ({'ROS_AUTOMATIC_DISCOVERY_RANGE': 'LOCALHOST'}, Level.OK, 'this machine only'),
        ({'ROS_STATIC_PEERS': '10.0.0.2'}, Level.OK, '10.0.0.2'),
        ({'ROS_AUTOMATIC_DISCOVERY_RANGE': 'OFF'}, Level.FAIL, 'no node finds another'),
        ({'ROS_AUTOMATIC_DISCOVERY_RANGE': 'LAN'}, Level.WARN, 'not one of'),
        ({'ROS_LOCALHOST_ONLY': '1'}, Level.WARN, 'deprecated'),
        ({'ROS_DISTRO': 'humble', 'ROS_LOCALHOST_ONLY': '1'}, Level.OK, 'this machine only'),
        ({'ROS_DISTRO': 'humble', 'ROS_STATIC_PEERS': 'a'}, Level.WARN, 'not known to humble'),
    ],
)
def test_discovery_range(env, level, text):
    finding = middleware.check_range({'ROS_DISTRO': 'jazzy', **env})
    assert finding.level is level and text in finding.text


@pytest.mark.parametrize(
    ('round_trip_s', 'level'), [(0.002, Level.OK), (0.5, Level.WARN), (None, Level.FAIL)]
)
def test_loopback(round_trip_s, level):
    seen = NetworkSeen(round_trip_s=round_trip_s)
    assert middleware.check_loopback(seen).level is level


def test_other_nodes_are_counted_and_their_absence_is_a_warning():
    assert (
        '6 seen: /a'
        in middleware.check_nodes(NetworkSeen(tuple('/' + c for c in 'abcdef')), {}).text
    )
    assert middleware.check_nodes(NetworkSeen(), {}).level is Level.WARN


def test_settings_that_end_every_ros_program_are_found_before_ros_is_started():
    findings = before_ros(Surroundings({'ROS_DOMAIN_ID': '999'}, PROFILE, INSTALLED))
    assert [finding.level for finding in findings] == [Level.OK, Level.FAIL]


def test_the_profile_of_the_manager_that_was_looked_for_is_judged():
    processes = [
        HostProcess(1, 'offload_manager', '/offload_manager', {'ROS_DOMAIN_ID': '5'}),
        HostProcess(2, 'offload_manager', '/offload_manager', {NEW: PROFILE}),
    ]
    around = Surroundings({}, PROFILE, INSTALLED, processes)
    assert settings(around, ManagerSeen(present=True))[0].text.startswith(PROFILE)


def test_processes_of_this_machine_are_found_with_node_name_and_settings(tmp_path):
    words = 'python3', '/x/lib/offload_ros/offload_manager', '--ros-args', '-r', '__ns:=/robot1'
    for pid, command in (('12', words), ('13', ('vim', 'offload_manager'))):
        (tmp_path / pid).mkdir()
        (tmp_path / pid / 'cmdline').write_bytes('\0'.join(command).encode())
        (tmp_path / pid / 'environ').write_bytes(
            b'ROS_DOMAIN_ID=5\0SECRET=x\0' + OLD.encode() + b'=/p'
        )
    (process,) = host_processes(tmp_path)
    assert (process.pid, process.node, process.domain) == (12, '/robot1/offload_manager', '5')
    assert 'SECRET' not in process.environment
    assert profile_of(process.environment) == '/p'
