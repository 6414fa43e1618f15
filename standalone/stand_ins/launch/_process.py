# SPDX-License-Identifier: Apache-2.0
"""Processes: start, output, end.

Each runs in a session of its own. Signals go to the whole session, and a process counts as ended
when the last one of it is gone, so no grandchild stays behind. Ctrl-C in a terminal reaches the
launch only, which passes it on.
"""

import asyncio
import contextlib
import ctypes
import itertools
import os
from signal import SIGINT, SIGKILL, SIGTERM
import subprocess

from .event_handlers import OnProcessExit
from .events.process import ProcessExited, ProcessIO, ProcessStarted
from .launch_description import Action
from .logging import get_logger, write
from .substitutions import normalize, perform, perform_typed

_SHOWN = {'screen': (1, 2), 'log': (2,), 'both': (1, 2)}  # there is no log file
_SIGNALS = (SIGINT, SIGTERM, SIGKILL)
_numbers = itertools.count(1)
_libc = ctypes.CDLL(None)

def die_with_parent():
    """Ask Linux for SIGTERM should the parent be killed without a chance to clean up."""
    _libc.prctl(1, SIGTERM)  # PR_SET_PDEATHSIG

class ExecuteProcess(Action):
    """A command."""

    def __init__(self, *, cmd, name=None, cwd=None, env=None, additional_env=None, output='log',
                 sigterm_timeout=5, sigkill_timeout=5, on_exit=None, **kwargs):
        super().__init__(**kwargs)
        self.cmd = [normalize(part) for part in cmd]
        self._name, self._cwd, self._env, self._additional_env = name, cwd, env, additional_env
        self._output, self._on_exit = output, on_exit
        self._timeouts = (sigterm_timeout, sigkill_timeout)
        self._popen = self._stopping = self.process_details = None

    @property
    def return_code(self):
        """The return code, None while it runs."""
        return self._popen and self._popen.returncode

    def execute(self, context):
        if context.is_shutdown:
            return
        cmd = [perform(context, part) for part in self.cmd]
        name = os.path.basename(cmd[0]) if self._name is None else perform(context, self._name)
        env = dict(context.environment) if self._env is None else {}
        for key, value in {**(self._env or {}), **(self._additional_env or {})}.items():
            env[perform(context, key)] = perform(context, value)
        output = os.environ.get('OVERRIDE_LAUNCH_PROCESS_OUTPUT') or perform(context, self._output)
        if output not in _SHOWN:
            raise ValueError(f"output='{output}' is not supported without a ROS 2 installation")
        self._shown = _SHOWN[output]
        self._timeouts = [perform_typed(context, t, float) for t in self._timeouts]
        self.process_details = details = {
            'action': self, 'name': f'{name}-{next(_numbers)}', 'cmd': cmd, 'env': env, 'pid': -1,
            'cwd': None if self._cwd is None else perform(context, self._cwd)}
        self._log = get_logger(details['name'])
        if self._on_exit is not None:
            context.register_event_handler(OnProcessExit(target_action=self, on_exit=self._on_exit))
        context.spawn(self._run(context, details))

    async def _run(self, context, details):
        if context.is_shutdown:
            return
        pipes = [os.pipe(), os.pipe()]
        try:
            self._popen = subprocess.Popen(
                details['cmd'], cwd=details['cwd'], env=details['env'], stdin=subprocess.PIPE,
                stdout=pipes[0][1], stderr=pipes[1][1], start_new_session=True,
                preexec_fn=die_with_parent)  # noqa: PLW1509 (one system call, no lock taken)
        except OSError as error:
            self._log.error(f'exception occurred while executing process: {error}')
            return
        finally:
            for _, end in pipes:
                os.close(end)
        details['pid'] = self._popen.pid
        context.processes.append(self)
        self._log.info(f'process started with pid [{self._popen.pid}]')
        readers = [_Reader(context, self, end, fd) for fd, (end, _) in enumerate(pipes, 1)]
        context.emit_event_sync(ProcessStarted(**details))
        loop, pidfd, ended = context.asyncio_loop, os.pidfd_open(self._popen.pid), asyncio.Event()
        loop.add_reader(pidfd, ended.set)  # readers of its output may go on for longer
        await ended.wait()
        loop.remove_reader(pidfd)
        os.close(pidfd)
        code = self._popen.wait()
        if self._stopping is None:
            self.stop(context, _SIGNALS[1:])  # what it left behind
        while self._lives():
            await asyncio.sleep(0.02)
        context.processes.remove(self)
        for reader in readers:
            reader.close()
        if self._stopping is not None:
            self._stopping.cancel()
        if code == 0:
            self._log.info(f'process has finished cleanly [pid {details["pid"]}]')
        else:
            self._log.error(f'process has died [pid {details["pid"]}, exit code {code}, cmd '
                            f"'{' '.join(filter(str.strip, details['cmd']))}'].")
        context.emit_event_sync(ProcessExited(returncode=code, **details))

    def _lives(self):
        """Return whether anything of the process's session still runs."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._popen.pid, 0)
            return True

    def stop(self, context, signals=_SIGNALS):
        """Ask the process to end, ever more firmly."""
        if self._stopping is None and self._lives():
            self._stopping = context.spawn(self._escalate(signals))

    async def _escalate(self, signals):
        name, timeouts = self._log.name, [*self._timeouts[-len(signals) + 1:], None]
        for number, timeout in zip(signals, timeouts, strict=True):
            self._log.info(f"sending signal '{number.name}' to process[{name}]")
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._popen.pid, number)
            if timeout is not None:
                await asyncio.sleep(timeout)  # the end of the process cancels this
                self._log.error(
                    f"process[{name}] failed to terminate '{timeout}' seconds after receiving "
                    f"'{number.name}', escalating to '{_SIGNALS[_SIGNALS.index(number) + 1].name}'")

class _Reader:
    """Cuts one output of a process into lines."""

    def __init__(self, context, action, end, fd):
        self._context, self._action, self._end, self._fd = context, action, end, fd
        self._rest = b''
        os.set_blocking(end, False)
        context.asyncio_loop.add_reader(end, self._read)

    def _read(self):
        try:
            data = os.read(self._end, 65536)
        except BlockingIOError:
            return False
        if not data:
            self._context.asyncio_loop.remove_reader(self._end)
            return False
        details = self._action.process_details
        self._context.emit_event_sync(ProcessIO(text=data, fd=self._fd, **details))
        *lines, self._rest = (self._rest + data).split(b'\n')
        for line in lines:
            self._write(line)
        return True

    def _write(self, line):
        if self._fd in self._action._shown:
            write(f'[{self._action._log.name}] {line.decode(errors="replace").rstrip()}')

    def close(self):
        """Take what is left."""
        while self._read():
            pass
        if self._rest:
            self._write(self._rest)
        self._context.asyncio_loop.remove_reader(self._end)
        os.close(self._end)
