"""Doctor: looks at settings, robot, server, sensors and results, and says what to mend.

One line for each thing that can keep results from coming, with its remedy. Exit status 0 when
nothing failed, 1 otherwise, 2 for wrong usage. Imports ROS only when the shell's settings let it
start: with a middleware that is not installed it would end the process.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
import os
from pathlib import Path
import re
import signal
import sys
from typing import NoReturn

from ament_index_python.packages import get_package_share_directory
from ament_index_python.resources import get_resources
from rich.console import Console

from offload_ros.doctor.examine import Surroundings, before_ros, network, settings
from offload_ros.doctor.finding import Finding, Level, exit_status, fail
from offload_ros.doctor.host import check_host
from offload_ros.doctor.models import far_models_file, read_models
from offload_ros.doctor.report import print_findings, verdict
from offload_ros.doctor.seen import Seen
from offload_ros.doctor.shell import (
    host_processes,
    profile_of,
    profile_variable,
    shell_environment,
)
from offload_ros.models.config import ModelConfig

NODE_NAME = re.compile(r'[A-Za-z_][A-Za-z0-9_]*\Z')
NAMESPACE = re.compile(r'/?([A-Za-z_][A-Za-z0-9_]*(/[A-Za-z_][A-Za-z0-9_]*)*)?\Z')
LEAST_TIMEOUT_S, MAX_TIMEOUT_S = 2.0, 60.0


def arguments_of(words: Sequence[str]) -> argparse.Namespace:
    """The command line; ends the process with status 2 when it is wrong."""
    parser = argparse.ArgumentParser(prog='doctor', description=(__doc__ or '').splitlines()[0])
    parser.add_argument(
        '--models-file', default='', help="models.yaml (default: the running manager's)"
    )
    parser.add_argument('--namespace', default='', help='of the robot, e.g. robot1')
    parser.add_argument('--manager', default='offload_manager', help="the manager's node name")
    parser.add_argument(
        '--timeout', type=float, default=5.0, help='how long to look at the network (s, default 5)'
    )
    arguments = parser.parse_args(words)
    if not NAMESPACE.match(arguments.namespace):
        parser.error(f"--namespace '{arguments.namespace}' is no ROS namespace, e.g. robot1")
    if not NODE_NAME.match(arguments.manager):
        parser.error(f"--manager '{arguments.manager}' is no node name, e.g. offload_manager")
    if not LEAST_TIMEOUT_S <= arguments.timeout <= MAX_TIMEOUT_S:
        parser.error(f'--timeout must be {LEAST_TIMEOUT_S:.0f} to {MAX_TIMEOUT_S:.0f} seconds')
    return arguments


class Models:
    """models.yaml, once it is known which: the manager's, else the argument, else the package's."""

    def __init__(self, asked: str, default: str) -> None:
        self.configs: list[ModelConfig] = []
        self.finding: Finding | None = None
        self.path = ''  # empty: the package's own
        self._asked = asked
        self._default = default

    def read(self, of_manager: str = '') -> list[ModelConfig]:
        """Read it; ``of_manager``: the manager's parameter, empty when there is none."""
        if of_manager and not os.path.exists(of_manager):
            if not self._asked:
                self.path, self.finding = of_manager, far_models_file(of_manager)
                return []
            of_manager = ''
        path = of_manager or self._asked or self._default
        self.path = '' if os.path.realpath(path) == os.path.realpath(self._default) else path
        self.configs, self.finding = read_models(path, self._asked if of_manager else '')
        return self.configs


def examine(arguments: argparse.Namespace, around: Surroundings, models: Models) -> list[Finding]:
    """All findings, in the order of cause and effect."""
    findings = before_ros(around)
    if any(finding.level is Level.FAIL for finding in findings):
        models.read()
        return [*findings, *([models.finding] if models.finding else []), *check_host()]
    if not os.path.isfile(profile_of(around.env)):
        # As the launch files do, so that what is measured is what robot and server have.
        os.environ[profile_variable(around.env)] = around.profile
    namespace = '/' + arguments.namespace.strip('/')
    # rclpy and PyTorch take seconds to import; a wrong command line is answered at once.
    from offload_ros.nodes.doctor_observer import observe

    try:
        seen = observe(namespace, arguments.manager, arguments.timeout, models.read)
    except Exception as error:  # rcl raises many kinds, with texts of several lines
        text = ' '.join(str(error).split())
        findings.append(
            fail('ros', f'no node can be made here: {text}', 'mend the settings of this shell')
        )
        return [*findings, *settings(around, Seen().manager), *check_host()]
    findings += settings(around, seen.manager)
    assert models.finding is not None
    findings += network(around, seen, models.configs, models.finding, models.path)
    local = {each.node for each in around.processes if each.executable == 'offload_server'}
    far = any(server.name not in local for server in seen.servers)
    # Its findings slow results down rather than stop them: last.
    return findings + check_host(far, 'OFFLOAD_ROS_STANDALONE' in around.env)


def main() -> None:
    """Entry point of ``ros2 run offload_ros doctor``."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    words = sys.argv[1:]
    if '--ros-args' in words:  # of no meaning here, but some tools add them
        words = words[: words.index('--ros-args')]
    arguments = arguments_of(words)
    console = Console(highlight=False)
    share = Path(get_package_share_directory('offload_ros'))
    around = Surroundings(
        shell_environment(),
        str(share / 'config' / 'dds' / 'fastdds.xml'),
        [name for name in sorted(get_resources('rmw_typesupport')) if name != 'rmw_implementation'],
        host_processes(),
    )
    models = Models(arguments.models_file, str(share / 'config' / 'models.yaml'))
    if console.is_terminal:
        console.print('looking at robot, server and network for a few seconds ...', style='dim')
    try:
        findings = examine(arguments, around, models)
        print_findings(console, findings)
        console.print(verdict(findings), soft_wrap=True)
        sys.stdout.flush()
    except SystemExit as error:  # a signal
        _leave(int(error.code or 0))
    except BrokenPipeError:  # doctor | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    _leave(exit_status(findings))


def _leave(status: int) -> NoReturn:
    """As ``process.leave``, which needs a ROS that can be imported."""
    sys.stdout.flush()
    os._exit(status & 0xFF)
