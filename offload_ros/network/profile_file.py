"""Fast DDS profile files with what only the user knows in them: peers and a TCP port."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
import hashlib
import ipaddress
from pathlib import Path
import re
import socket
import tempfile
import xml.etree.ElementTree as ElementTree

TCP_PORT = 5100  # where a server listens unless told otherwise
NAMESPACE = 'http://www.eprosima.com'
DISCOVERY_GROUP = '239.255.0.1'  # the multicast address of RTPS discovery (DDSI-RTPS 9.6.1.4)
HOST = re.compile(
    r'[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?)*'
)
# LARGE_DATA's own TCP transport, but for the port; TCP has check sums anyway.
TCP_TRANSPORT = {
    'transport_id': 'offload_tcp',
    'type': 'TCPv4',
    'sendBufferSize': '1048576',
    'receiveBufferSize': '1048576',
    'maxMessageSize': '64000',
    'calculate_crc': 'false',
    'check_crc': 'false',
    'enable_tcp_nodelay': 'true',
}


class NetworkError(ValueError):
    """A wrong launch argument; the text says which values are right."""


@dataclass(frozen=True)
class Peer:
    """Another machine: IPv4 address or host name, and the TCP port where it listens (0: none)."""

    host: str
    port: int = 0


def peers_of(text: str) -> tuple[Peer, ...]:
    """The peers in ``host[:port],host[:port]``; NetworkError names the one that is wrong."""
    return tuple(_peer(word) for word in re.split(r'[,;\s]+', text.strip()) if word)


def _peer(word: str) -> Peer:
    host, colon, port = word.partition(':')
    wrong = f"peers: '{word}' is no IPv4 address or host name (with a TCP port: 10.0.0.2:5100)"
    if ':' in port or not HOST.fullmatch(host) or len(host) > 253:  # IPv6 is not for these profiles
        raise NetworkError(wrong)
    if re.fullmatch(r'[\d.]+', host):
        try:
            ipaddress.IPv4Address(host)
        except ValueError:
            raise NetworkError(wrong) from None
    return Peer(host, port_of(port, f'peers: {word}') if colon else 0)


def port_of(text: str, name: str, least: int = 1) -> int:
    """A TCP port from ``least`` to 65535; ``name``: for the error."""
    if not (text.isascii() and text.isdigit() and least <= int(text) <= 65535):
        raise NetworkError(f"{name}: '{text}' is no port from {least} to 65535")
    return int(text)


def address_of(host: str) -> str:
    """The first IPv4 address of a host name; NetworkError when it has none."""
    try:
        found = socket.getaddrinfo(host, None, socket.AF_INET, socket.SOCK_STREAM)
    except OSError as error:
        raise NetworkError(
            f"peers: '{host}' cannot be resolved ({error}): give its IPv4 address"
        ) from None
    return str(found[0][4][0])


def with_peers(
    template: str,
    peers: Sequence[Peer],
    tcp: bool,
    listen: int = 0,
    resolve: Callable[[str], str] = address_of,
) -> str:
    """The profile in ``template`` with initial peers.

    ``tcp``: reach them by TCP, at their port; else by UDP, at the ports of DDS discovery.
    ``listen``: TCP port on which this process waits; 0: any, so nobody begins with this side.
    """
    ElementTree.register_namespace('', NAMESPACE)
    root = ElementTree.fromstring(template)
    rtps = _find(root, 'profiles/participant/rtps')
    found = _add(_find(rtps, 'builtin'), 'initialPeersList')
    # A list of one's own replaces the default one: this machine and this subnet stay found.
    _locator(found, 'udpv4', DISCOVERY_GROUP)
    for peer in peers:
        port = (peer.port or TCP_PORT) if tcp else 0
        _locator(found, 'tcpv4' if tcp else 'udpv4', resolve(peer.host), port)
    if listen:
        transport = _add(_find(root, 'profiles/transport_descriptors'), 'transport_descriptor')
        for key, value in TCP_TRANSPORT.items():
            _add(transport, key, value)
        _add(_add(transport, 'listening_ports'), 'port', str(listen))
        _add(_find(rtps, 'userTransports'), 'transport_id', TCP_TRANSPORT['transport_id'])
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding='unicode', xml_declaration=True) + '\n'


def path_for(text: str, folder: Path) -> Path:
    """Where a profile lies: its name follows from its content, so that launches do not collide."""
    return folder / f'peers_{hashlib.sha256(text.encode()).hexdigest()[:12]}.xml'


def write(path: Path, text: str) -> None:
    """Write it whole or not at all: another launch may be reading it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile('w', dir=path.parent, suffix='.tmp', delete=False) as file:
        file.write(text)
    Path(file.name).replace(path)


def _find(parent: ElementTree.Element, path: str) -> ElementTree.Element:
    element = parent.find('/'.join(f'{{{NAMESPACE}}}{tag}' for tag in path.split('/')))
    if element is None:
        raise NetworkError(f'the Fast DDS profile has no {path}')
    return element


def _add(parent: ElementTree.Element, tag: str, text: str | None = None) -> ElementTree.Element:
    child = ElementTree.SubElement(parent, f'{{{NAMESPACE}}}{tag}')
    child.text = text
    return child


def _locator(parent: ElementTree.Element, kind: str, address: str, port: int = 0) -> None:
    locator = _add(_add(parent, 'locator'), kind)
    if port:
        _add(locator, 'physical_port', str(port))
    _add(locator, 'address', address)
