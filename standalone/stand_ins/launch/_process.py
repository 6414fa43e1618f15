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

from ._entities import Action, log, write
from .events.process import ProcessExited, ProcessIO, ProcessStarted
from .substitutions import normalize, perform, perform_typed

_SHOWN = {'screen': (1, 2), 'log': (2,), 'both': (1, 2)}  # there is no log file
_SIGNALS = (SIGINT, SIGTERM, SIGKILL)
_numbers = itertools.count(1)
_libc = ctypes.CDLL(None)

def die_with_parent():
    """Ask Linux for SIGTERM should the parent be killed without a chance to clean up."""
    _libc.prctl(1, SIGTERM)  # PR_SET_PDEATHSIG

class ExecuteProcess(Action):
    def __init__(self, *, cmd, name=None, cwd=None, env=None, additional_env=None, output='log',
                 sigterm_timeout=5, sigkill_timeout=5, **kwargs):
        super().__init__(**kwargs)
        self.cmd = [normalize(part) for part in cmd]
        self._name, self._cwd, self._env, self._additional_env = name, cwd, env, additional_env
        self._output, self._timeouts = output, (sigterm_timeout, sigkill_timeout)
        self._stopping = self.process_details = self.return_code = None

    def execute(self, context):
        cmd = [perform(context, part) for part in self.cmd]
        name = os.path.basename(cmd[0]) if self._name is None else perform(context, self._name)
        env = dict(context.environment) if self._env is None else {}
        for key, value in {**(self._env or {}), **(self._additional_env or {})}.items():
            env[perform(context, key)] = perform(context, value)
        output = perform(context, self._output)
        if output not in _SHOWN:
            raise ValueError(f"output='{output}' is not supported without a ROS 2 installation")
        self._shown = _SHOWN[output]
        self._timeouts = [perform_typed(context, t, float) for t in self._timeouts]
        self.process_details = {
            'action': self, 'name': f'{name}-{next(_numbers)}', 'cmd': cmd, 'env': env, 'pid': -1,
            'cwd': None if self._cwd is None else perform(context, self._cwd)}
        if not context.is_shutdown:
            context.spawn(self._run(context, **self.process_details))

    def _log(self, level, text):
        log(level, self.process_details['name'], text)

    async def _run(self, context, cmd, cwd, env, **_):
        output = _Output(context, self)
        try:
            transport, _ = await context.asyncio_loop.subprocess_exec(
                lambda: output, *cmd, cwd=cwd, env=env, start_new_session=True,
                preexec_fn=die_with_parent)
        except OSError as error:
            self._log('ERROR', f'exception occurred while executing process: {error}')
            return
        await output.exited.wait()
        code = transport.get_returncode()
        if self._stopping is None:
            self.stop(context, _SIGNALS[1:])  # what it left behind
        while self._lives():
            await asyncio.sleep(0.02)
        with contextlib.suppress(asyncio.TimeoutError):  # who left the session may keep its output
            await asyncio.wait_for(output.read.wait(), 1.0)
        transport.close()
        context.processes.remove(self)
        if self._stopping is not None:
            self._stopping.cancel()
        self.return_code, pid = code, self.process_details['pid']
        if code == 0:
            self._log('INFO', f'process has finished cleanly [pid {pid}]')
        else:
            self._log('ERROR', f'process has died [pid {pid}, exit code {code}, cmd '
                               f"'{' '.join(filter(str.strip, cmd))}'].")
        context.emit_event_sync(ProcessExited(returncode=code, **self.process_details))

    def started(self, context, pid):
        self.process_details['pid'] = pid
        self._log('INFO', f'process started with pid [{pid}]')
        context.processes.append(self)
        context.emit_event_sync(ProcessStarted(**self.process_details))
        if context.is_shutdown:
            self.stop(context)

    def _lives(self):
        """Return whether anything of the process's session still runs."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process_details['pid'], 0)
            return True

    def stop(self, context, signals=_SIGNALS):
        """Ask the process to end, ever more firmly."""
        if self._stopping is None and self._lives():
            self._stopping = context.spawn(self._escalate(signals))

    async def _escalate(self, signals):
        name = self.process_details['name']
        for number, harder, timeout in zip(
            signals, (*signals[1:], None), (*self._timeouts[-len(signals) + 1:], None), strict=True
        ):
            self._log('INFO', f"sending signal '{number.name}' to process[{name}]")
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process_details['pid'], number)
            if harder is not None:
                await asyncio.sleep(timeout)  # the end of the process cancels this
                self._log('ERROR', f"process[{name}] failed to terminate '{timeout}' seconds after "
                                   f"receiving '{number.name}', escalating to '{harder.name}'")

    def show(self, fd, lines):
        for line in lines if fd in self._shown else ():
            text = line.decode(errors='replace').rstrip('\r')
            write(f'[{self.process_details["name"]}] {text}')

class _Output(asyncio.SubprocessProtocol):
    """Cuts the output into lines; knows when the process has exited and all of it is read."""

    def __init__(self, context, action):
        self._context, self._action = context, action
        self._rest, self.exited, self.read = {1: b'', 2: b''}, asyncio.Event(), asyncio.Event()

    def connection_made(self, transport):
        self._action.started(self._context, transport.get_pid())

    def pipe_data_received(self, fd, data):
        details = self._action.process_details
        self._context.emit_event_sync(ProcessIO(text=data, fd=fd, **details))
        *lines, self._rest[fd] = (self._rest[fd] + data).split(b'\n')
        self._action.show(fd, lines)

    def pipe_connection_lost(self, fd, error):
        if self._rest.get(fd):
            self._action.show(fd, [self._rest[fd]])

    def process_exited(self):
        self.exited.set()

    def connection_lost(self, error):
        self.read.set()
