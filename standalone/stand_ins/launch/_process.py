# SPDX-License-Identifier: Apache-2.0
"""Processes: start, output, end.

Each runs in a session of its own. Signals go to the whole session, and a process counts as ended
when the last one of it is gone, so no grandchild stays behind. Ctrl-C in a terminal reaches the
launch only, which passes it on.
"""

import asyncio
from collections.abc import Iterable
import ctypes
import itertools
import os
import pty
import shlex
from signal import SIGINT, SIGKILL, SIGTERM, Signals
import subprocess
import traceback
from typing import Any

from . import logging
from .action import Action
from .event_handlers import OnProcessExit
from .events.process import ProcessExited, ProcessIO, ProcessStarted
from .substitution import normalize, perform, perform_typed

_SHOWN = {'screen': ('out', 'err'), 'log': ('err',), 'both': ('out', 'err')}
_SIGNALS = (SIGINT, SIGTERM, SIGKILL)
_numbers = itertools.count(1)
_libc = ctypes.CDLL(None)


def _die_with_parent() -> None:
    """Ask Linux for SIGTERM should the launch be killed without a chance to clean up."""
    _libc.prctl(1, SIGTERM)  # PR_SET_PDEATHSIG


async def _exit_code(popen: subprocess.Popen[bytes]) -> int:
    """Wait for the end of a process; readers of its output may go on for longer."""
    loop, pidfd = asyncio.get_running_loop(), os.pidfd_open(popen.pid)
    ended = asyncio.Event()
    loop.add_reader(pidfd, ended.set)
    await ended.wait()
    loop.remove_reader(pidfd)
    os.close(pidfd)
    return popen.wait()


class ExecuteLocal(Action):
    """A process on this machine; `ExecuteProcess` and `Node` give it its command."""

    def __init__(
        self,
        *,
        cmd: Iterable[Any],
        name: Any = None,
        cwd: Any = None,
        env: dict[Any, Any] | None = None,
        additional_env: dict[Any, Any] | None = None,
        prefix: Any = None,
        shell: bool = False,
        output: Any = 'log',
        emulate_tty: Any = False,
        log_cmd: bool = False,
        sigterm_timeout: Any = 5,
        sigkill_timeout: Any = 5,
        respawn: Any = False,
        respawn_delay: Any = None,
        respawn_max_retries: int = -1,
        on_exit: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.cmd = [normalize(part) for part in cmd]
        self._name, self._cwd, self._prefix = name, cwd, prefix
        self._env, self._additional_env = env, additional_env or {}
        self._shell, self._output, self._emulate_tty = shell, output, emulate_tty
        self._log_cmd, self._on_exit = log_cmd, on_exit
        self._timeouts = (sigterm_timeout, sigkill_timeout)
        self._respawn, self._respawn_delay = respawn, respawn_delay
        self._retries_left = respawn_max_retries
        self._stopping: asyncio.Task[Any] | None = None
        self._popen: subprocess.Popen[bytes] | None = None
        self._running = False
        self.process_details: dict[str, Any] | None = None

    @property
    def name(self) -> str:
        """The name in the log: executable and number."""
        assert self.process_details is not None, 'the process has no name before it is executed'
        return self.process_details['name']

    @property
    def return_code(self) -> int | None:
        """The return code, None while it runs."""
        return None if self._popen is None else self._popen.returncode

    def execute(self, context: Any) -> None:
        if self.process_details is not None:
            raise RuntimeError(f"ExecuteProcess '{self.name}': executed more than once")
        if context.is_shutdown:
            return
        cmd = [perform(context, part) for part in self.cmd]
        program = cmd[0].split()[0] if self._shell else cmd[0]
        name = perform(context, self._name) if self._name else os.path.basename(program)
        prefix = self._prefix or context.launch_configurations.get('launch-prefix')
        cmd = (shlex.split(perform(context, prefix)) if prefix else []) + cmd
        env = dict(context.environment) if self._env is None else {}
        for key, value in {**(self._env or {}), **self._additional_env}.items():
            env[perform(context, key)] = perform(context, value)
        output = os.environ.get('OVERRIDE_LAUNCH_PROCESS_OUTPUT') or perform(context, self._output)
        if output not in _SHOWN:
            raise ValueError(
                f"output='{output}' is not supported without a ROS 2 installation "
                f'({", ".join(_SHOWN)} are)'
            )
        self._shown, self._filed = _SHOWN[output], output != 'screen'
        self._emulate_tty = perform_typed(context, self._emulate_tty, bool)
        self._respawn = perform_typed(context, self._respawn, bool)
        self._respawn_delay = perform_typed(context, self._respawn_delay, float) or 0.0
        self._timeouts = tuple(perform_typed(context, t, float) for t in self._timeouts)
        self.process_details = {
            'action': self,
            'name': f'{name}-{next(_numbers)}',
            'cmd': cmd,
            'env': env,
            'cwd': None if self._cwd is None else perform(context, self._cwd),
            'pid': -1,
        }
        self._log = logging.get_logger(self.name)
        if self._on_exit is not None:
            context.register_event_handler(OnProcessExit(target_action=self, on_exit=self._on_exit))
        context._processes.append(self)
        context._spawn(self._run(context))

    async def _run(self, context: Any) -> None:
        details = self.process_details
        assert details is not None
        while not context.is_shutdown:
            try:
                readers = self._start(context)
            except Exception:  # what is wrong with the command stands in the traceback's end
                self._log.error(
                    f'exception occurred while executing process:\n{traceback.format_exc()}'
                )
                return
            assert self._popen is not None
            context.emit_event_sync(ProcessStarted(**details))
            code = await _exit_code(self._popen)
            if self._stopping is None and self._group_lives():
                self.stop(context, _SIGNALS[1:])
            while self._group_lives():
                await asyncio.sleep(0.02)
            self._running = False
            for reader in readers:
                reader.close()
            if self._stopping is not None:
                self._stopping.cancel()
                self._stopping = None
            if code == 0:
                self._log.info(f'process has finished cleanly [pid {details["pid"]}]')
            else:
                self._log.error(
                    f'process has died [pid {details["pid"]}, exit code {code}, cmd '
                    f"'{' '.join(part for part in details['cmd'] if part.strip())}']."
                )
            context.emit_event_sync(ProcessExited(returncode=code, **details))
            if context.is_shutdown or not self._respawn or self._retries_left == 0:
                return
            self._retries_left -= 1
            await context._sleep_unless_shutdown(self._respawn_delay)

    def _start(self, context: Any) -> list['_Reader']:
        details = self.process_details
        assert details is not None
        pairs = [pty.openpty() if self._emulate_tty else os.pipe() for _ in range(2)]
        cmd = details['cmd']
        if self._log_cmd:
            self._log.info(
                f"process details: cmd='{' '.join(cmd)}', cwd='{details['cwd']}', "
                f'custom_env?={self._env is not None}'
            )
        try:
            self._popen = subprocess.Popen(
                ' '.join(cmd) if self._shell else cmd,
                shell=self._shell,
                cwd=details['cwd'],
                env=details['env'],
                stdin=subprocess.PIPE,
                stdout=pairs[0][1],
                stderr=pairs[1][1],
                start_new_session=True,
                preexec_fn=_die_with_parent,  # noqa: PLW1509 (one system call, no lock taken)
            )
        except Exception:
            for master, _ in pairs:
                os.close(master)
            raise
        finally:
            for _, slave in pairs:
                os.close(slave)
        details['pid'], self._running = self._popen.pid, True
        self._log.info(f'process started with pid [{self._popen.pid}]')
        return [_Reader(context, self, master, fd) for fd, (master, _) in enumerate(pairs, 1)]

    def _group_lives(self) -> bool:
        """Return whether anything of the process's session still runs."""
        assert self._popen is not None
        try:
            os.killpg(self._popen.pid, 0)
        except ProcessLookupError:
            return False
        return True

    def signal(self, number: Signals) -> None:
        """Send a signal to the process and what it started."""
        if self._running and self._group_lives():
            self._log.info(f"sending signal '{number.name}' to process[{self.name}]")
            os.killpg(self._popen.pid, number)

    def stop(self, context: Any, signals: tuple[Signals, ...] = _SIGNALS) -> None:
        """Ask the process to end, ever more firmly."""
        if self._stopping is None and self._running:
            self._stopping = context._spawn(self._escalate(signals))

    async def _escalate(self, signals: tuple[Signals, ...]) -> None:
        timeouts = self._timeouts[-len(signals) + 1 :]
        for number, timeout, harder in zip(signals[:-1], timeouts, signals[1:], strict=True):
            self.signal(number)
            await asyncio.sleep(timeout)  # the end of the process cancels this
            self._log.error(
                f"process[{self.name}] failed to terminate '{timeout}' seconds after "
                f"receiving '{number.name}', escalating to '{harder.name}'"
            )
        self.signal(signals[-1])


class _Reader:
    """Cuts one output of a process into lines."""

    def __init__(self, context: Any, action: ExecuteLocal, fd: int, number: int) -> None:
        self._context, self._action, self._fd, self._number = context, action, fd, number
        self._rest = b''
        os.set_blocking(fd, False)
        asyncio.get_running_loop().add_reader(fd, self._read)

    def _read(self) -> bool:
        try:
            data = os.read(self._fd, 65536)
        except BlockingIOError:
            return False
        except OSError:  # how a terminal says that its other end is gone
            data = b''
        if not data:
            asyncio.get_running_loop().remove_reader(self._fd)
            return False
        details = self._action.process_details
        assert details is not None
        self._context.emit_event_sync(ProcessIO(text=data, fd=self._number, **details))
        *lines, self._rest = (self._rest + data).split(b'\n')
        for line in lines:
            self._write(line)
        return True

    def _write(self, line: bytes) -> None:
        text = line.decode(errors='replace').rstrip('\r')
        action = self._action
        logging.write(
            f'[{action.name}] {text}',
            file=action._filed,
            screen=('out', 'err')[self._number - 1] in action._shown,
        )

    def close(self) -> None:
        """Take what is left."""
        while self._read():
            pass
        if self._rest:
            self._write(self._rest)
        asyncio.get_running_loop().remove_reader(self._fd)
        os.close(self._fd)


class ExecuteProcess(ExecuteLocal):
    """A command."""
