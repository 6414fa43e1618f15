"""``offload_ros.IntraDP`` and its contact with servers."""

from __future__ import annotations

import os
import secrets

from offload_ros.intra_dp import api
from offload_ros.nodes.hidden_contact import HiddenContact
from offload_ros.nodes.process import keep_freed_memory
from offload_ros.wire.channel import Channel
from offload_ros.wire.directory import ServerState

LOST_AFTER_S = 0.7  # as for other programs that go on by themselves


class LibraryContact(HiddenContact):
    """See ``intra_dp.api.Contact``."""

    def __init__(self, server: str = '', key_file: str = '', device: str = 'cpu') -> None:
        keep_freed_memory()
        name = f'_intra_dp_{os.getpid()}_{secrets.token_hex(2)}'
        super().__init__(name, key_file, LOST_AFTER_S, device)
        self._wanted = server.strip('/')

    def servers(self) -> list[tuple[ServerState, Channel]]:
        """Those that may be used, the least loaded first."""
        found = []
        alive = self._contacts.directory.alive()
        for state in sorted(alive, key=lambda each: each.queue_length):
            channel = self._contacts.channel_to(state.name)
            if channel is not None and self._wanted in ('', state.name.strip('/')):
                found.append((state, channel))
        return found

    def why_none(self) -> str:
        """Why there is no server."""
        if self._contacts.refused:
            return self._contacts.refused
        wanted = f'server /{self._wanted}' if self._wanted else 'offload server'
        seen = ', '.join(state.name for state in self._contacts.directory.alive())
        return (
            f'no {wanted} is there (seen: {seen or "none"}): start one with "ros2 launch '
            'offload_ros server.launch.py" in this ROS domain'
        )


class IntraDP(api.IntraDP):
    __doc__ = (
        (api.IntraDP.__doc__ or '')
        + """
    ``server``: the name of the server's node; empty for any, the least loaded first. ``key_file``:
    as for the nodes (README, Strangers). ``device``: where the models compute here. ``ConfigError``
    for a key file that is none.
    """
    )

    def __init__(self, server: str = '', key_file: str = '', device: str = 'cpu') -> None:
        super().__init__(LibraryContact(server, key_file, device))
