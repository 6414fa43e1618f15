"""A machine of the testbed: its own network, process tree and /dev/shm, as Linux namespaces.

The namespaces have no names. They are held by one small process whose standard input is a pipe of
ours: when this process ends, however it ends, the pipe closes, the holder ends, and the kernel
kills every process of the host and removes its interfaces and mounts. Nothing is left to sweep.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import contextlib
import os
from pathlib import Path
import select
import shutil
import signal
import subprocess
import sys
import time
from typing import Any

TOOLS = {'ip': 'iproute2', 'tc': 'iproute2', 'unshare': 'util-linux', 'nsenter': 'util-linux'}
_START_S = 10.0  # until a host is up; it takes some 20 ms
_TERM_S = 1.0  # between SIGTERM and the end of everything in a host

_NAMESPACES = ('--net', '--mount', '--pid', '--fork', '--kill-child', '--mount-proc')
# First process of a host. Ignoring SIGCHLD lets the kernel reap what is orphaned in the host.
_HOLDER = (
    'mount -t tmpfs -o mode=1777 tmpfs /dev/shm && ip link set lo up && echo ready'
    ' && trap "" CHLD && exec cat >/dev/null'
)
# In front of every command: its folder, and its control group (0 stands for the writer itself).
_ENTER = 'cd "$1" || exit 126; [ -z "$2" ] || echo 0 >"$2" || exit 126; shift 2; exec "$@"'


class TestbedError(RuntimeError):
    """The testbed cannot be built here, or a part of it failed; the message says what to do."""

    __test__ = False  # not a test, whatever its name begins with


def unavailable() -> str:
    """What this machine lacks for a testbed, in one line; empty when nothing."""
    if not sys.platform.startswith('linux'):
        return 'the testbed needs Linux (network namespaces)'
    for tool, package in TOOLS.items():
        if shutil.which(tool) is None:
            return f'the testbed needs the command {tool!r}: install the package {package}'
    if os.geteuid() != 0:
        return 'the testbed needs root (it makes network namespaces): run it with sudo -E'
    probe = subprocess.run(
        ['unshare', '--net', '--mount', '--pid', '--fork', 'true'], capture_output=True, check=False
    )
    if probe.returncode:
        return (
            'the testbed needs the right to make namespaces (CAP_SYS_ADMIN and CAP_NET_ADMIN; in '
            'Docker: --privileged)'
        )
    return ''


def call(command: Sequence[str], lines: Sequence[str] = ()) -> None:
    """Run a tool with `lines` on its standard input.

    Raises TestbedError with the tool's own message when it fails.
    """
    done = subprocess.run(
        command, input='\n'.join(lines) + '\n', capture_output=True, text=True, check=False
    )
    if done.returncode:
        reason = done.stderr.strip() or f'exit status {done.returncode}'
        raise TestbedError(f'{" ".join(command)}: {reason}')


class HostProcess(subprocess.Popen[Any]):
    """A process in a host; signals reach the command itself, `pid` is that of its `nsenter`."""

    def command_pid(self) -> int | None:
        """Process id of the command as seen from outside the host; None once it has ended."""
        children = Path(f'/proc/{self.pid}/task/{self.pid}/children')
        end_s = time.monotonic() + 1.0
        while self.poll() is None and time.monotonic() < end_s:
            with contextlib.suppress(OSError):
                pids = children.read_text().split()
                if pids:
                    return int(pids[0])
            time.sleep(0.001)  # nsenter has not forked yet
        return None

    def send_signal(self, sig: int) -> None:
        """Send a signal to the command (terminate() and kill() come here, too)."""
        pid = self.command_pid()
        if pid is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, sig)
            if sig == signal.SIGCONT:  # nsenter stops itself when its child is stopped
                os.kill(self.pid, sig)


class Host:
    """One machine.

    name: robot, access point or server, for messages.
    ip: its address, '' for the access point of a bridged testbed.
    environment: added to the environment of its processes.
    core: the CPU core its processes are pinned to; None: not pinned.
    control_group: file that a process writes itself to (`cgroup.procs`); '' for none.
    """

    def __init__(
        self,
        name: str,
        ip: str = '',
        environment: Mapping[str, str] | None = None,
        core: int | None = None,
        control_group: str = '',
    ) -> None:
        self.name = name
        self.ip = ip
        self.environment = dict(environment or {})
        self.core = core
        self.control_group = control_group
        self._processes: list[HostProcess] = []
        self._holder = subprocess.Popen(
            ['unshare', *_NAMESPACES, 'sh', '-c', _HOLDER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # a Ctrl-C at the terminal is for us, not for the hosts
        )
        assert self._holder.stdout is not None and self._holder.stderr is not None
        answered = select.select([self._holder.stdout], [], [], _START_S)[0]
        if not answered or self._holder.stdout.readline() != b'ready\n':
            self._holder.kill()
            reason = self._holder.stderr.read().decode(errors='replace').strip()
            self.close()
            raise TestbedError(f'the namespaces of the {name} could not be made: {reason}')

    @property
    def pid(self) -> int:
        """The holder: `nsenter --target PID --net --mount` enters the host by hand."""
        return self._holder.pid

    def tool(self, *command: str) -> list[str]:
        """The command line that runs an administrative tool in the host's network."""
        return ['nsenter', f'--target={self.pid}', '--net', *command]

    def popen(
        self,
        command: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        cwd: str | os.PathLike[str] | None = None,
        **options: Any,
    ) -> HostProcess:
        """Start a program on the host; `options` are those of subprocess.Popen.

        environment: variables in addition to this process's and the host's. cwd: its folder; None:
        this process's one.
        """
        if isinstance(command, str) or options.get('shell'):
            raise TypeError("a command is a list of words; for a shell use ['sh', '-c', line]")
        if self._holder.poll() is not None:
            raise TestbedError(
                f'the {self.name} is gone: its testbed was closed or its holder killed'
            )
        pinned = [] if self.core is None else ['taskset', '--cpu-list', str(self.core)]
        enter = ['nsenter', f'--target={self.pid}', '--net', '--mount']
        enter += [f'--pid=/proc/{self.pid}/ns/pid_for_children', 'sh', '-c', _ENTER, self.name]
        folder = os.fspath(cwd) if cwd is not None else os.getcwd()
        process = HostProcess(
            [*pinned, *enter, os.path.abspath(folder), self.control_group, *command],
            env={**os.environ, **self.environment, **(environment or {})},
            **options,
        )
        self._processes = [p for p in self._processes if p.poll() is None] + [process]
        return process

    def run(
        self, command: Sequence[str], *, timeout_s: float | None = None, **options: Any
    ) -> subprocess.CompletedProcess[str]:
        """Run a program on the host to its end, as subprocess.run with captured text.

        Raises subprocess.TimeoutExpired when it takes longer; the program is ended then.
        """
        options = {'stdout': subprocess.PIPE, 'stderr': subprocess.PIPE, 'text': True, **options}
        with self.popen(command, **options) as process:
            try:
                output, errors = process.communicate(timeout=timeout_s)
            except BaseException:
                process.kill()
                raise
        return subprocess.CompletedProcess(list(command), process.returncode, output, errors)

    def close(self) -> None:
        """End every process of the host, politely for a second, and the host with them."""
        for process in self._processes:
            process.terminate()
        end_s = time.monotonic() + _TERM_S
        for process in self._processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, end_s - time.monotonic()))
        assert self._holder.stdin is not None
        self._holder.stdin.close()
        for process in self._processes:
            if process.poll() is None:
                os.kill(process.pid, signal.SIGKILL)  # a stopped nsenter would keep the host
                process.wait()
        self._processes.clear()
        self._holder.wait()
        for stream in (self._holder.stdout, self._holder.stderr):
            if stream is not None:
                stream.close()
