"""The shell's settings and those of managers and servers that run on this machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
import os
from pathlib import Path

OLDER_DISTRIBUTIONS = ('humble', 'iron')  # their Fast DDS 2 knows the profile's older variable only
NEW_PROFILE, OLD_PROFILE = 'FASTDDS_DEFAULT_PROFILES_FILE', 'FASTRTPS_DEFAULT_PROFILES_FILE'
TRANSPORTS = 'FASTDDS_BUILTIN_TRANSPORTS'
# What decides whether two processes hear each other; nothing else is kept of an environment.
VARIABLES = (
    'OFFLOAD_ROS_STANDALONE',
    'ROS_DISTRO',
    'ROS_DOMAIN_ID',
    'ROS_AUTOMATIC_DISCOVERY_RANGE',
    'ROS_LOCALHOST_ONLY',
    'ROS_STATIC_PEERS',
    'RMW_IMPLEMENTATION',
    NEW_PROFILE,
    OLD_PROFILE,
    TRANSPORTS,
)
EXECUTABLES = ('offload_manager', 'offload_server')


@dataclass(frozen=True)
class HostProcess:
    """A manager or server on this machine: ``executable``, and its node's full name."""

    pid: int
    executable: str
    node: str
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def domain(self) -> str:
        """Its ROS_DOMAIN_ID."""
        return domain_of(self.environment)


def domain_of(environment: Mapping[str, str]) -> str:
    """ROS_DOMAIN_ID as ROS takes it."""
    return environment.get('ROS_DOMAIN_ID', '').strip() or '0'


def older(environment: Mapping[str, str]) -> bool:
    """Whether the distribution has Fast DDS 2 and no static peers."""
    return environment.get('ROS_DISTRO', '') in OLDER_DISTRIBUTIONS


def profile_variable(environment: Mapping[str, str]) -> str:
    """The variable that names the Fast DDS profile file in this distribution."""
    return OLD_PROFILE if older(environment) else NEW_PROFILE


def profile_of(environment: Mapping[str, str]) -> str:
    """The profile file that is in use; empty: none."""
    if older(environment):
        return environment.get(OLD_PROFILE, '')
    return environment.get(NEW_PROFILE, '') or environment.get(OLD_PROFILE, '')


def host_processes(proc: Path = Path('/proc')) -> list[HostProcess]:
    """Managers and servers of this machine whose environment may be read."""
    found = []
    for folder in proc.glob('[0-9]*'):
        try:
            words = (folder / 'cmdline').read_bytes().decode(errors='replace').split('\0')
            executable = next(
                (name for name in EXECUTABLES for word in words[:3] if word.endswith('/' + name)),
                '',
            )
            if not executable:
                continue
            entries = (folder / 'environ').read_bytes().decode(errors='replace').split('\0')
        except OSError:  # it has ended, or is another user's
            continue
        settings = dict(entry.partition('=')[::2] for entry in entries)
        environment = {key: settings[key] for key in VARIABLES if key in settings}
        node = _node_name(words, executable)
        found.append(HostProcess(int(folder.name), executable, node, environment))
    return sorted(found, key=lambda process: process.pid)


def _node_name(words: list[str], executable: str) -> str:
    name, namespace = executable, ''
    for word in words:
        key, assigned, value = word.partition(':=')
        if assigned and key.split(':')[-1] == '__node':
            name = value
        elif assigned and key.split(':')[-1] == '__ns':
            namespace = value.strip('/')
    return f'/{namespace}/{name}' if namespace else f'/{name}'


def shell_environment() -> dict[str, str]:
    """The variables of this shell that matter."""
    return {key: os.environ[key] for key in VARIABLES if key in os.environ}
