"""What each network makes of the environment; nothing here starts a node."""

from pathlib import Path
import xml.etree.ElementTree as ElementTree

import pytest

from offload_ros.network.profile_file import NetworkError, Peer, path_for, peers_of, write
from offload_ros.network.profiles import Network, settings_for

SHARE = Path(__file__).parents[2] / 'config' / 'dds'
HOME = Path('/robot/home')
NEW, OLD = 'FASTDDS_DEFAULT_PROFILES_FILE', 'FASTRTPS_DEFAULT_PROFILES_FILE'
RANGE, PEERS, ONLY = 'ROS_AUTOMATIC_DISCOVERY_RANGE', 'ROS_STATIC_PEERS', 'ROS_LOCALHOST_ONLY'
QOS = 'RMW_FASTRTPS_USE_QOS_FROM_XML'
OF_UDP = {QOS: '1', 'OFFLOAD_MAX_WINDOW_BYTES': '180000'}
LOCAL, LAN, UDP = (str(SHARE / name) for name in ('fastdds.xml', 'lan.xml', 'udp.xml'))
ADDRESSES = {'10.0.0.2': '10.0.0.2', '10.0.1.3': '10.0.1.3', 'gpu-server': '10.0.0.9'}


def settings(env=None, **arguments):
    values = {'network': 'auto', 'peers': '', 'transport': 'tcp', 'tcp_port': '0'}
    asked = Network.of({**values, 'dds_profile': '', **arguments})
    return settings_for(asked, env or {}, SHARE, HOME, ADDRESSES.__getitem__)


def locators(text):
    """(kind, address, port) of the initial peers in a profile."""
    space = '{http://www.eprosima.com}'
    peers = ElementTree.fromstring(text).find(f'.//{space}builtin/{space}initialPeersList')
    return [
        (
            kind.tag.removeprefix(space),
            kind.findtext(f'{space}address'),
            kind.findtext(f'{space}physical_port'),
        )
        for locator in peers
        for kind in locator
    ]


GROUP = ('udpv4', '239.255.0.1', None)


@pytest.mark.parametrize(
    ('env', 'arguments', 'variables'),
    [
        ({}, {'network': 'lan'}, {RANGE: 'SUBNET', NEW: LAN}),
        ({}, {'network': 'localhost'}, {RANGE: 'LOCALHOST', NEW: LOCAL}),
        (
            {},
            {'network': 'routed', 'transport': 'udp', 'peers': '10.0.0.2,10.0.1.3'},
            {RANGE: 'SUBNET', PEERS: '10.0.0.2;10.0.1.3', NEW: UDP, **OF_UDP},
        ),
        ({}, {'network': 'routed'}, {RANGE: 'SUBNET', NEW: LAN}),
        ({}, {}, {RANGE: 'SUBNET', NEW: LAN}),
        ({RANGE: 'LOCALHOST'}, {}, {NEW: LOCAL}),
        ({RANGE: 'SUBNET'}, {}, {NEW: LAN}),
        ({ONLY: '1'}, {}, {RANGE: 'LOCALHOST', NEW: LOCAL}),
        ({'ROS_DISTRO': 'iron'}, {'network': 'lan'}, {RANGE: 'SUBNET', OLD: UDP, **OF_UDP}),
        ({'ROS_DISTRO': 'humble'}, {'network': 'lan'}, {OLD: UDP, **OF_UDP}),
        ({'ROS_DISTRO': 'humble'}, {'network': 'localhost'}, {ONLY: '1', OLD: LOCAL}),
        ({'ROS_DISTRO': 'humble', ONLY: '1'}, {}, {OLD: LOCAL}),
        ({}, {'network': 'lan', 'dds_profile': __file__}, {RANGE: 'SUBNET', NEW: __file__}),
    ],
)
def test_variables(env, arguments, variables):
    found = settings(env, **arguments)
    assert found.variables == variables
    assert not found.files
    assert all(f'{key}={value}' in found.text for key, value in variables.items())


@pytest.mark.parametrize('variable', [NEW, OLD, 'FASTDDS_BUILTIN_TRANSPORTS'])
def test_auto_keeps_what_the_shell_has_set_and_says_so(variable):
    found = settings({variable: 'mine', RANGE: 'LOCALHOST'})
    assert not found.variables and not found.removed
    assert f'this shell has {variable}=mine' in found.text


def test_a_named_network_removes_what_the_shell_has_set_against_it():
    shell = {OLD: 'mine', QOS: '1', PEERS: '10.9.9.9', RANGE: 'LOCALHOST', ONLY: '1', 'HOME': '/x'}
    found = settings(shell, network='lan')
    assert found.variables == {RANGE: 'SUBNET', NEW: LAN}
    assert set(found.removed) == {OLD, QOS, PEERS, ONLY}


@pytest.mark.parametrize('transport', ['tcp', 'udp'])
def test_other_middleware_gets_range_and_peers_only(transport):
    arguments = {'network': 'routed', 'peers': '10.0.0.2', 'transport': transport}
    found = settings({'RMW_IMPLEMENTATION': 'rmw_cyclonedds_cpp'}, **arguments)
    assert found.variables == {RANGE: 'SUBNET', PEERS: '10.0.0.2'}
    assert 'rmw_cyclonedds_cpp has transport settings of its own' in found.text


def test_tcp_peers_are_in_a_file_with_the_port_where_they_listen():
    found = settings(network='routed', peers='10.0.0.2,gpu-server:6000')
    ((path, text),) = found.files.items()
    assert found.variables == {RANGE: 'SUBNET', NEW: str(path)} and path.parent == HOME
    assert locators(text) == [
        GROUP,
        ('tcpv4', '10.0.0.2', '5100'),
        ('tcpv4', '10.0.0.9', '6000'),
    ]
    assert 'listening_ports' not in text and '>LARGE_DATA<' in text


def test_a_tcp_port_makes_this_side_listen():
    ((_, text),) = settings(network='routed', tcp_port='6000').files.items()
    space = '{http://www.eprosima.com}'
    root = ElementTree.fromstring(text)
    assert root.findtext(f'.//{space}listening_ports/{space}port') == '6000'
    used = [each.text for each in root.iter(f'{space}transport_id')]
    assert used.count('offload_tcp') == 2  # described, and used by the participant
    assert locators(text) == [GROUP]


def test_humble_has_udp_peers_in_a_file():
    found = settings(
        {'ROS_DISTRO': 'humble'}, network='routed', transport='udp', peers='10.0.0.2,gpu-server'
    )
    ((path, text),) = found.files.items()
    assert found.variables == {OLD: str(path), **OF_UDP}
    assert locators(text) == [GROUP, ('udpv4', '10.0.0.2', None), ('udpv4', '10.0.0.9', None)]


def test_order_of_elements_is_that_of_the_profile_it_came_from():
    """Fast DDS reads top-down: transports named after LARGE_DATA would not be taken first."""
    ((_, text),) = settings(network='routed', tcp_port='6000').files.items()
    for profile in (text, Path(LAN).read_text()):
        assert profile.index('<userTransports>') < profile.index('<builtinTransports')


@pytest.mark.parametrize(
    ('env', 'arguments', 'text'),
    [
        ({}, {'network': 'wan'}, "network 'wan' is not one of auto, lan"),
        ({}, {'network': 'routed', 'transport': 'quic'}, "transport 'quic' is not one of"),
        ({}, {'network': 'lan', 'peers': '10.0.0.2'}, 'peers are for network:=routed'),
        ({}, {'network': 'routed', 'peers': '10.0.0.999'}, "'10.0.0.999' is no IPv4 address"),
        ({}, {'network': 'routed', 'peers': 'fe80::1'}, "'fe80::1' is no IPv4 address"),
        ({}, {'network': 'routed', 'peers': '<a/>'}, "'<a/>' is no IPv4 address"),
        ({}, {'network': 'routed', 'peers': '10.0.0.2:0'}, "'0' is no port from 1"),
        ({}, {'network': 'routed', 'tcp_port': '70000'}, "'70000' is no port from 0"),
        (
            {},
            {'network': 'routed', 'transport': 'udp', 'peers': '10.0.0.2:5100'},
            'ports are for transport:=tcp',
        ),
        ({}, {'dds_profile': '/nowhere.xml'}, "there is no file '/nowhere.xml'"),
        ({'ROS_DISTRO': 'humble'}, {'network': 'routed'}, 'needs ROS 2 Jazzy or newer'),
        ({'ROS_DISTRO': 'iron'}, {'network': 'routed'}, 'use transport:=udp'),
    ],
)
def test_what_cannot_be_is_refused(env, arguments, text):
    with pytest.raises(NetworkError, match=text.replace('.', r'\.')):
        settings(env, **arguments)


def test_a_name_that_cannot_be_resolved_is_refused():
    from offload_ros.network.profile_file import address_of

    with pytest.raises(NetworkError, match=r"'no\.such\.name\.invalid' cannot be resolved"):
        address_of('no.such.name.invalid')


def test_peers_may_be_separated_as_ros_does_it():
    assert peers_of(' 10.0.0.2; gpu:7000 ,') == (Peer('10.0.0.2'), Peer('gpu', 7000))


def test_files_are_told_apart_by_their_content(tmp_path):
    first, second = (path_for(text, tmp_path / 'new') for text in ('a', 'b'))
    write(first, 'a')
    write(first, 'a')
    assert first != second and first.read_text() == 'a'
    assert [each.name for each in first.parent.iterdir()] == [first.name]


@pytest.mark.parametrize('file', sorted(SHARE.glob('*.xml')), ids=lambda file: file.name)
def test_profiles_are_default_profiles_with_our_large_segment(file):
    space = '{http://www.eprosima.com}'
    root = ElementTree.parse(file).getroot()
    profiles = [each for each in root.iter() if each.get('profile_name')]
    assert profiles and all(each.get('is_default_profile') == 'true' for each in profiles)
    assert root.findtext(f'.//{space}segment_size') == str(64 << 20)
    assert root.findtext(f'.//{space}useBuiltinTransports') == 'false'
