"""From ``network:=lan|routed|localhost`` to the environment of every node that is launched."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from offload_ros.doctor.middleware import FAST_DDS
from offload_ros.doctor.shell import (
    NEW_PROFILE,
    OLD_PROFILE,
    older,
    profile_of,
    profile_variable,
)
from offload_ros.doctor.shell import TRANSPORTS as BUILTIN_TRANSPORTS
from offload_ros.network.profile_file import (
    NetworkError,
    Peer,
    address_of,
    path_for,
    peers_of,
    port_of,
    with_peers,
)
from offload_ros.wire.host import MAX_WINDOW

NETWORKS = ('auto', 'lan', 'routed', 'localhost')
TRANSPORTS = ('tcp', 'udp')
QOS_FROM_XML = 'RMW_FASTRTPS_USE_QOS_FROM_XML'
RANGE, PEERS = 'ROS_AUTOMATIC_DISCOVERY_RANGE', 'ROS_STATIC_PEERS'
LOCALHOST_ONLY = 'ROS_LOCALHOST_ONLY'
UDP_PROFILE = 'udp.xml'
UDP_WINDOW_BYTES = '180000'
# A network that is asked for by name owns all of these: what it does not set, it removes.
VARIABLES = (
    NEW_PROFILE,
    OLD_PROFILE,
    BUILTIN_TRANSPORTS,
    QOS_FROM_XML,
    MAX_WINDOW,
    RANGE,
    PEERS,
    LOCALHOST_ONLY,
)


@dataclass(frozen=True)
class Network:
    """The launch arguments; NetworkError when they contradict each other.

    ``tcp_port``: where this side waits for TCP connections (0: any port, so it is the one that
    connects). ``profile``: a Fast DDS profile file of the user's own, empty: the network's.
    """

    network: str = 'auto'
    peers: tuple[Peer, ...] = ()
    transport: str = 'tcp'
    tcp_port: int = 0
    profile: str = ''

    def __post_init__(self) -> None:
        if self.network not in NETWORKS:
            raise NetworkError(f"network '{self.network}' is not one of {', '.join(NETWORKS)}")
        if self.transport not in TRANSPORTS:
            raise NetworkError(
                f"transport '{self.transport}' is not one of {', '.join(TRANSPORTS)}"
            )
        if self.peers and self.network != 'routed':
            raise NetworkError(f'peers are for network:=routed, not for {self.network}')
        if self.transport == 'udp' and any(peer.port for peer in self.peers):
            raise NetworkError('peers: ports are for transport:=tcp; UDP takes those of DDS')
        if self.profile and not Path(self.profile).is_file():
            raise NetworkError(f"dds_profile: there is no file '{self.profile}'")

    @classmethod
    def of(cls, values: Mapping[str, str]) -> Network:
        """From the texts of the launch arguments network, peers, transport, ... by name."""
        return cls(
            values['network'],
            peers_of(values['peers']),
            values['transport'],
            port_of(values['tcp_port'], 'tcp_port', least=0),
            values['dds_profile'],
        )


@dataclass(frozen=True)
class Settings:
    """What to do before nodes start, and the one line that says so.

    ``variables`` are set, ``removed`` are unset, ``files`` (text by path) are written.
    """

    text: str
    variables: Mapping[str, str] = field(default_factory=dict)
    removed: tuple[str, ...] = ()
    files: Mapping[Path, str] = field(default_factory=dict)


def settings_for(
    asked: Network,
    env: Mapping[str, str],
    share: Path,
    home: Path,
    resolve: Callable[[str], str] = address_of,
) -> Settings:
    """The settings for a network in the shell's environment ``env``.

    ``share``: folder with fastdds.xml, lan.xml and udp.xml. ``home``: where a file with peers is
    written. ``resolve``: IPv4 address of a host name. NetworkError: what this distribution cannot.
    """
    automatic = asked.network == 'auto'
    own = profile_of(env) or env.get(BUILTIN_TRANSPORTS, '')
    if automatic and own and not asked.profile:
        variable = next(
            each for each in (NEW_PROFILE, OLD_PROFILE, BUILTIN_TRANSPORTS) if env.get(each)
        )
        return Settings(f'network auto: this shell has {variable}={own}, which stays')
    network = asked.network
    if automatic:
        local = env.get(RANGE) == 'LOCALHOST' or env.get(LOCALHOST_ONLY, '') not in ('', '0')
        network = 'localhost' if local else 'lan'
    variables = _discovery(network, asked, env)
    files: dict[Path, str] = {}
    if asked.profile and _is_fast_dds(env):
        variables[profile_variable(env)] = asked.profile
    elif _is_fast_dds(env):
        name, of_peers, tcp = _profile(network, asked, env)
        path = share / name
        listen = asked.tcp_port if network == 'routed' and tcp else 0
        if of_peers or listen:
            text = with_peers(path.read_text(), of_peers, tcp, listen, resolve)
            path = path_for(text, home)
            files[path] = text
        variables[profile_variable(env)] = str(path)
        if name == UDP_PROFILE:
            variables[QOS_FROM_XML] = '1'
            variables[MAX_WINDOW] = UDP_WINDOW_BYTES
    if automatic:  # what the shell has set wins
        variables = {key: value for key, value in variables.items() if not env.get(key)}
        removed: tuple[str, ...] = ()
    else:
        removed = tuple(key for key in VARIABLES if env.get(key) and key not in variables)
    return Settings(_line(network, asked, env, variables), variables, removed, files)


def _is_fast_dds(env: Mapping[str, str]) -> bool:
    return (env.get('RMW_IMPLEMENTATION') or FAST_DDS[0]) in FAST_DDS


def _discovery(network: str, asked: Network, env: Mapping[str, str]) -> dict[str, str]:
    """How far nodes are looked for; the same for every middleware that has these variables."""
    if env.get('ROS_DISTRO') == 'humble':
        return {LOCALHOST_ONLY: '1'} if network == 'localhost' else {}
    variables = {RANGE: 'LOCALHOST' if network == 'localhost' else 'SUBNET'}
    if asked.peers and (asked.transport == 'udp' or not _is_fast_dds(env)):
        variables[PEERS] = ';'.join(peer.host for peer in asked.peers)
    return variables


def _profile(
    network: str, asked: Network, env: Mapping[str, str]
) -> tuple[str, tuple[Peer, ...], bool]:
    """The profile's file name, the peers that belong into it, and whether it uses TCP."""
    if network == 'localhost':
        return 'fastdds.xml', (), False
    if not older(env) and (network == 'lan' or asked.transport == 'tcp'):
        return 'lan.xml', asked.peers, True
    if network == 'routed' and asked.transport == 'tcp':
        raise NetworkError(
            f'transport:=tcp needs ROS 2 Jazzy or newer, this is {env["ROS_DISTRO"]}: '
            'use transport:=udp'
        )
    # Only Humble has no ROS_STATIC_PEERS.
    return UDP_PROFILE, asked.peers if env.get('ROS_DISTRO') == 'humble' else (), False


def _line(
    network: str, asked: Network, env: Mapping[str, str], variables: Mapping[str, str]
) -> str:
    text = f'network {network}'
    if asked.network == 'auto':
        text += ' (found by itself, network:= chooses)'
    if network == 'routed':
        names = [f'{peer.host}:{peer.port}' if peer.port else peer.host for peer in asked.peers]
        text += f' by {asked.transport}, peers: '
        text += ', '.join(names) or "none, so this machine must be among the others' peers"
        if asked.transport == 'tcp' and asked.tcp_port:
            text += f'; waits at TCP port {asked.tcp_port}'
    if not _is_fast_dds(env):
        text += f' ({env["RMW_IMPLEMENTATION"]} has transport settings of its own)'
    return ' '.join([f'{text}:', *(f'{key}={value}' for key, value in variables.items())])
