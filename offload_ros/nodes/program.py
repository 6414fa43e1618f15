"""A transparent program's own contact with servers: a hidden node in a context of its own."""

from __future__ import annotations

import atexit
from collections import deque
import contextlib
from functools import partial
import os
import secrets
import signal
import threading
import time
from typing import Any

from offload_ros.models.errors import ConfigError
from offload_ros.nodes.hidden_contact import HiddenContact
from offload_ros.nodes.process import keep_freed_memory
from offload_ros.rrto.channel_link import ChannelLink
from offload_ros.rrto.client import OperatorClient
from offload_ros.rrto.link import Link, ServerLost, on_this_machine
from offload_ros.rrto.options import Options, options_here
from offload_ros.rrto.outbox import Standby
from offload_ros.rrto.shim import tensor
from offload_ros.rrto.shim.install import install
from offload_ros.rrto.shim.interrupts import defer_interrupts
from offload_ros.wire.channel import Channel
from offload_ros.wire.directory import ServerState

# What is lost stays lost: later than a manager, which has the robot itself. Without a fallback the
# program ends, so a server that is only slow gets more time.
LOST_AFTER_S = {'none': 2.0, 'local': 0.7}
LOOK_S = 0.02
STDERR = 2


class ProgramContact(HiddenContact):
    """Finds a server and keeps the channel to it, beside whatever the program does with ROS."""

    def __init__(self, options: Options) -> None:
        super().__init__(
            f'_transparent_{os.getpid()}_{secrets.token_hex(2)}',
            options.key_file,
            LOST_AFTER_S[options.fallback],
        )
        self._wanted = options.server.strip('/')
        self._max_message_bytes = int(options.max_message_mb * 1e6)

    def link(self, wait_s: float) -> tuple[ServerState, ChannelLink]:
        """A server and the way to it; ``ServerLost`` when none is there in time."""
        end_s = time.monotonic() + wait_s
        while True:
            servers = self._contacts.directory.alive()
            for state in sorted(servers, key=lambda each: each.queue_length):
                channel = self._contacts.channel_to(state.name)
                if channel is not None and self._wanted in ('', state.name.strip('/')):
                    return state, ChannelLink(channel, self._max_message_bytes)
            if time.monotonic() >= end_s:
                raise ServerLost(self._why_not(wait_s))
            time.sleep(LOOK_S)

    def channel(self, server: str) -> Channel | None:
        """To a server, while it is there."""
        return self._contacts.channel_to(server)

    def _why_not(self, wait_s: float) -> str:
        wanted = f'server {self._wanted}' if self._wanted else 'offload server'
        text = f'no {wanted} is ready within {wait_s:g} s'
        if self._contacts.refused:
            return f'{text}: {self._contacts.refused}'
        seen = ', '.join(state.name for state in self._contacts.directory.alive())
        return (
            f'{text} (seen: {seen or "none"}): start one with "ros2 launch offload_ros '
            'server.launch.py" in this ROS domain, or wait longer with --wait-s'
        )


class LateDevice:
    """The device of a program that has not used it yet; the first use finds a server.

    While torch is being imported no thread may be waited for: their imports would wait for ours.
    """

    def __init__(self, options: Options) -> None:
        self.freed: deque[int] = deque()
        self._options = options
        self._process = 0  # that opened it
        self._lock = threading.Lock()
        self._client: OperatorClient | None = None
        self._contact: ProgramContact | None = None
        self._standby: Standby | None = None
        self._seeds: dict[int, int] = {}
        self._wait_s = options.wait_s

    def __getattr__(self, name: str) -> Any:
        return getattr(self.client(), name)

    @property
    def opened(self) -> bool:
        """Whether there are threads and a session, which no forked child has."""
        return self._contact is not None

    def call(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """See ``shim.device.Device``."""
        return self.client().call(func, args, kwargs)

    def available(self) -> bool:
        """What ``torch.cuda.is_available()`` tells: whether there is a server. Waits for one, the
        first time; says on stderr why there is none."""
        waits = self._wait_s > 0.0
        try:
            self.client()
        except (ServerLost, ConfigError) as error:
            if waits:
                _say([f'{error} (torch.cuda.is_available() is False)'])
            return False
        return True

    def manual_seed(self, seed: int, generator: int = 0) -> None:
        """See ``shim.device.Device``; seeding alone does not need a server."""
        with self._lock:
            if self._client is None:
                self._seeds[generator] = seed
                return
        self._client.manual_seed(seed, generator)

    def synchronize(self) -> None:
        """See ``shim.device.Device``."""
        if self._client is not None:
            self._client.synchronize()

    def client(self) -> OperatorClient:
        """The session; ``ServerLost`` or ``ConfigError`` when there can be none."""
        with self._lock:
            if self._client is None:
                self._client = self._connect()
            return self._client

    def status(self) -> list[str]:
        """For a terminal."""
        if self._client is None:
            return ['the program has not used its device']
        lines = self._client.statistics.lines(self._client.mode)
        return lines + (self._standby.lines() if self._standby is not None else [])

    def close(self) -> None:
        """End the session and tell what it was."""
        if self._process not in (0, os.getpid()):
            return  # a forked child: the session and its threads are its parent's
        client, contact = self._client, self._contact
        if client is not None and not self._options.quiet:
            _say(self.status())
        if client is not None:
            client.close()
        if contact is not None:
            contact.close()

    def _connect(self) -> OperatorClient:
        options = self._options
        if self._contact is None:
            keep_freed_memory()
            self._process = os.getpid()
            self._contact = ProgramContact(options)
        # Who has waited once in vain does so no more: a program asks often.
        wait_s, self._wait_s = self._wait_s, 0.0
        standby = Standby(on_this_machine, _told) if options.fallback == 'local' else None
        link: Link
        try:
            state, link = self._contact.link(wait_s)
            if standby is not None:
                contact, name = self._contact, state.name
                standby.place(
                    options.placement,
                    partial(contact.link_state, name),
                    partial(contact.channel, name),
                )
                self._standby = standby
            name = f'{state.name} ({state.device}, {state.runtime})'
        except ServerLost as error:
            if standby is None:
                raise
            _say([str(error)])
            link, standby, name = on_this_machine(), None, 'this machine'
        client = OperatorClient(link, options.mode, standby)
        client.freed = self.freed
        for generator, seed in self._seeds.items():
            client.manual_seed(seed, generator)
        tensor.bind(client)
        if not options.quiet:
            _say([f'cuda:0 is {name}'])
        return client


def offload_this_process() -> None:
    """Called once torch has been imported, before the program goes on."""
    try:
        options = options_here()
        device = LateDevice(options)
        install(device)
    except (RuntimeError, ValueError) as error:
        _say([f'error: {error}'])
        raise SystemExit(1) from None
    atexit.register(device.close)
    if _in_main_thread():
        defer_interrupts()
    if signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL and _in_main_thread():
        signal.signal(signal.SIGUSR1, lambda *_: _say(device.status()))


def _told(why: str) -> None:
    _say([f'{why}: the program goes on on this machine'])


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def _say(lines: list[str]) -> None:
    # Not through sys.stderr: a signal may come while the program is writing there.
    text = ''.join(f'offload_ros: {line}\n' for line in lines)
    with contextlib.suppress(OSError):
        os.write(STDERR, text.encode())
