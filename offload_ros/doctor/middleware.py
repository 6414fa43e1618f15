"""Checks of the middleware's settings in this shell; none of them needs ROS."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
import xml.etree.ElementTree as ElementTree

from offload_ros.doctor.finding import Finding, fail, ok, skip, warn
from offload_ros.doctor.seen import NetworkSeen
from offload_ros.doctor.shell import (
    NEW_PROFILE,
    OLD_PROFILE,
    TRANSPORTS,
    domain_of,
    older,
    profile_of,
    profile_variable,
)

FAST_DDS = ('rmw_fastrtps_cpp', 'rmw_fastrtps_dynamic_cpp')
RANGES = ('SUBNET', 'LOCALHOST', 'OFF', 'SYSTEM_DEFAULT')
MAX_DOMAIN = 232
EPHEMERAL_DOMAINS = range(102, 215)  # their ports are those that Linux gives to any program
SLOW_ROUND_TRIP_S = 0.1


def rmw_name(env: Mapping[str, str], installed: Sequence[str]) -> str:
    """The middleware that ROS will load."""
    named = env.get('RMW_IMPLEMENTATION', '')
    if named:
        return named
    return FAST_DDS[0] if FAST_DDS[0] in installed or not installed else installed[0]


def check_rmw(env: Mapping[str, str], installed: Sequence[str]) -> Finding:
    """``installed``: names of the middleware implementations here; a missing one ends a process."""
    name = rmw_name(env, installed)
    if installed and name not in installed:
        package = f'ros-{env.get("ROS_DISTRO", "$ROS_DISTRO")}-{name.replace("_", "-")}'
        return fail(
            'rmw',
            f'RMW_IMPLEMENTATION={name} is not installed (there is: {", ".join(installed)}): '
            'no ROS program starts',
            f'unset RMW_IMPLEMENTATION, or apt install {package}',
        )
    if name not in FAST_DDS:
        router = ', its router must run (ros2 run rmw_zenoh_cpp rmw_zenohd)'
        return ok(
            'rmw',
            f'{name}: robot and server must both use it{router if "zenoh" in name else ""}; '
            'Fast DDS profiles are not used',
        )
    return ok('rmw', f'{name} (Fast DDS)')


def check_profile(
    env: Mapping[str, str],
    default: str,
    rmw: str = FAST_DDS[0],
    manager_env: Mapping[str, str] | None = None,
) -> Finding:
    """The Fast DDS profile file; ``manager_env``: of the running manager, None when not readable.

    ``default``: the profile of this package, which the launch files set by themselves.
    """
    name, variable = 'dds profile', profile_variable(env)
    if rmw not in FAST_DDS:
        return skip(name, f'{rmw} has settings of its own')
    if older(env) and env.get(NEW_PROFILE) and not env.get(OLD_PROFILE):
        return warn(
            name,
            f'{NEW_PROFILE} is not known to {env["ROS_DISTRO"]}',
            f'export {OLD_PROFILE}={env[NEW_PROFILE]}',
        )
    if not older(env) and env.get(NEW_PROFILE) and env.get(OLD_PROFILE):
        return warn(
            name,
            f'{NEW_PROFILE} and {OLD_PROFILE} are both set: the file is loaded twice',
            f'unset {OLD_PROFILE}',
        )
    own = profile_of(env)
    problem = file_problem(own)
    if problem:
        return fail(name, f'{variable}={own}: {problem}', f'export {variable}={default}')
    if manager_env is not None:
        return _manager_profile(name, own, default, manager_env)
    if own:
        return ok(name, f'{own} (a running manager may have another)')
    return ok(name, 'none in this shell; the launch files set one by themselves (network:=)')


def _manager_profile(name: str, own: str, default: str, manager_env: Mapping[str, str]) -> Finding:
    theirs, variable = profile_of(manager_env), profile_variable(manager_env)
    problem = file_problem(theirs)
    if problem:
        return fail(
            name,
            f'the running manager has {variable}={theirs}: {problem}',
            f'export {variable}={default} and start it again',
        )
    if not theirs and manager_env.get(TRANSPORTS):
        return ok(name, f'{TRANSPORTS}={manager_env[TRANSPORTS]} in the running manager')
    if not theirs:
        return warn(
            name,
            'the running manager has none: large images take several times longer',
            f'start it by ros2 launch, or export {variable}={default} before',
        )
    if own and own != theirs:
        return warn(
            name,
            f'the running manager has {theirs}, this shell {own}',
            f'export {variable}={theirs}',
        )
    return ok(name, theirs if own else f'{theirs} in the running manager, none in this shell')


def file_problem(path: str) -> str:
    """Why Fast DDS would ignore this profile file; empty when it takes it, or none is named."""
    if not path:
        return ''
    if not Path(path).is_file():
        return 'there is no such file, so defaults are used'
    try:
        ElementTree.parse(path)
    except (OSError, ElementTree.ParseError) as error:
        return f'not a readable XML file ({error}), so defaults are used'
    return ''


def check_domain(env: Mapping[str, str]) -> Finding:
    """ROS_DOMAIN_ID: out of range, no ROS program starts."""
    text = domain_of(env)
    if not text.isascii() or not text.isdigit() or int(text) > MAX_DOMAIN:
        return fail(
            'domain',
            f"ROS_DOMAIN_ID='{text}' is no number from 0 to {MAX_DOMAIN}: no ROS program starts",
            'unset ROS_DOMAIN_ID, or export the number that robot and server have',
        )
    if int(text) in EPHEMERAL_DOMAINS:
        return warn(
            'domain',
            f'ROS_DOMAIN_ID={text}: its ports may be taken by any other program',
            'export ROS_DOMAIN_ID=<0 to 101> for all',
        )
    return ok('domain', f'ROS_DOMAIN_ID {text}; robot and server must have the same')


def check_range(env: Mapping[str, str]) -> Finding:
    """How far this shell's nodes are looked for."""
    name, distribution = 'discovery', env.get('ROS_DISTRO', '')
    limit, peers = env.get('ROS_AUTOMATIC_DISCOVERY_RANGE', ''), env.get('ROS_STATIC_PEERS', '')
    only = env.get('ROS_LOCALHOST_ONLY', '') not in ('', '0')
    if distribution == 'humble':
        if limit or peers:
            return warn(
                name,
                'ROS_AUTOMATIC_DISCOVERY_RANGE and ROS_STATIC_PEERS are not known to humble',
                'use ROS_LOCALHOST_ONLY, or initialPeersList in a Fast DDS profile',
            )
        return ok(name, 'this machine only (ROS_LOCALHOST_ONLY)' if only else 'this subnet')
    if only:
        return warn(
            name,
            'ROS_LOCALHOST_ONLY is deprecated, and overrides ROS_AUTOMATIC_DISCOVERY_RANGE: '
            'this machine only',
            'unset ROS_LOCALHOST_ONLY; export ROS_AUTOMATIC_DISCOVERY_RANGE=LOCALHOST or SUBNET',
        )
    if limit and limit not in RANGES:
        return warn(
            name,
            f"ROS_AUTOMATIC_DISCOVERY_RANGE='{limit}' is not one of {', '.join(RANGES)}: "
            'LOCALHOST is taken',
            'export ROS_AUTOMATIC_DISCOVERY_RANGE=SUBNET',
        )
    if limit == 'OFF':
        return fail(
            name,
            'ROS_AUTOMATIC_DISCOVERY_RANGE=OFF: no node finds another',
            'export ROS_AUTOMATIC_DISCOVERY_RANGE=SUBNET',
        )
    where = 'this machine only' if limit == 'LOCALHOST' else 'this subnet'
    return ok(name, f'{where} ({limit or "default"}), static peers: {peers or "none"}')


def this_machine_only(env: Mapping[str, str]) -> bool:
    """Whether servers on other machines cannot be found from this shell."""
    if env.get('ROS_LOCALHOST_ONLY', '') not in ('', '0'):
        return True
    limit = env.get('ROS_AUTOMATIC_DISCOVERY_RANGE', '')
    return (
        env.get('ROS_DISTRO') != 'humble'
        and not env.get('ROS_STATIC_PEERS')
        and limit not in ('', 'SUBNET', 'SYSTEM_DEFAULT')
    )


def check_loopback(network: NetworkSeen) -> Finding:
    """Whether two contexts of one process find and hear each other: the least that must work."""
    if network.round_trip_s is None:
        return fail(
            'loopback',
            'two nodes of this very process do not hear each other: multicast or lo is off, or '
            'a firewall drops UDP',
            'sudo ip link set lo multicast on; sudo ufw allow in proto udp to 224.0.0.0/4',
        )
    text = f'message and answer in {1000 * network.round_trip_s:.1f} ms'
    if network.round_trip_s > SLOW_ROUND_TRIP_S:
        return warn('loopback', f'{text}: this machine is too busy', 'top (what takes the cores?)')
    return ok('loopback', text)


def check_nodes(network: NetworkSeen, env: Mapping[str, str]) -> Finding:
    """Other nodes that were found."""
    if network.nodes:
        shown = ', '.join(network.nodes[:5]) + (', ...' if len(network.nodes) > 5 else '')
        return ok('nodes', f'{len(network.nodes)} seen: {shown}')
    return warn(
        'nodes',
        f'no other node is seen in ROS_DOMAIN_ID {domain_of(env)}',
        'start the robot, or use its ROS_DOMAIN_ID and RMW_IMPLEMENTATION in this shell',
    )
