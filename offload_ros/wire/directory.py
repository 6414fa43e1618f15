"""Which servers are alive, from their heartbeats on the robot's steady clock, and which one to
use."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
import threading
import time
from typing import NamedTuple

MAX_SERVERS = 64  # more names than this on one network are noise
PROBATION_S = 1.0  # a server that has not answered by then makes room for another name
MAX_TRIED = 1024  # names that made room and are remembered
# Sooner than this after the last heartbeat, one of another session is no restart: another node has
# the same name.
RESTART_S = 0.25


class HeldModel(NamedTuple):
    """A model as a server has it: content hash, and whether its weights are trained."""

    hash: str
    weights_trained: bool


@dataclass(frozen=True)
class ServerState:
    """One server as last heard. ``models``: name to content hashes; ``variants``: name and variant
    to what is held. ``connected``: both directions are open."""

    name: str
    session: str
    runtime: str = ''
    device: str = ''
    queue_length: int = 0
    queue_limit: int = 0
    busy: float = 0.0
    models: Mapping[str, frozenset[str]] = field(default_factory=dict)
    variants: Mapping[tuple[str, str], HeldModel] = field(default_factory=dict)
    connected: bool = False


class ServerDirectory:
    """Servers by name; ``on_lost(name, session, why)`` is called when a session of one ends.

    A server that is silent for ``lost_after_s`` is lost at once for all: requests in flight end,
    the next frame does not wait for it. DDS itself reports a killed peer only after its 20 s lease.
    """

    def __init__(
        self,
        lost_after_s: float = 0.5,
        on_lost: Callable[[str, str, str], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not lost_after_s > 0:
            raise ValueError('lost_after_s must be above 0')
        self.lost_after_s = lost_after_s
        self.on_lost = on_lost
        self._clock = clock
        self._lock = threading.Lock()
        self._servers: dict[str, tuple[ServerState, float]] = {}  # and when it was heard last
        self._since_s: dict[str, float] = {}  # server name -> when it was taken up
        self._tried: dict[str, None] = {}  # names that made room; a set in order of time
        self._last_gone = ''  # which server went last, and how

    def heard(self, state: ServerState) -> bool:
        """Take up a heartbeat; True when this server (or this session of it) is new.

        Not taken up, and not new, for nothing may be opened for it (``holds`` tells): a name beyond
        ``MAX_SERVERS``, unless one there has not answered for ``PROBATION_S``; and another session
        of a server that was just heard, which is a second server of that name.
        """
        now = self._clock()
        with self._lock:
            known = self._servers.get(state.name)
            restarted = known is not None and known[0].session != state.session
            if known is not None and not restarted:
                state = replace(state, connected=known[0].connected)
            if known is not None and restarted and now - known[1] < RESTART_S:
                return False
            if known is None and not self._has_room(state.name, now):
                return False
            self._servers[state.name] = (state, now)
            if known is None or restarted:
                self._since_s[state.name] = now
        if known is not None and restarted:
            self._report(known[0], 'was restarted')
        return known is None or restarted

    def connect(self, name: str, session: str) -> None:
        """Both directions to this session of the server work: it may be used."""
        with self._lock:
            known = self._servers.get(name)
            if known is not None and known[0].session == session:
                self._servers[name] = (replace(known[0], connected=True), known[1])

    def disconnect(self, name: str, session: str, why: str) -> None:
        """It beats, but nothing else passes between us: not to be used, and calls end."""
        with self._lock:
            known = self._servers.get(name)
            if known is None or known[0].session != session or not known[0].connected:
                return
            self._servers[name] = (replace(known[0], connected=False), known[1])
        self._report(known[0], why)

    def _has_room(self, name: str, now: float) -> bool:
        """Whether a new name may come in; whoever only talks and never answers makes room for it.

        Not for a name that had its time itself: many of them would take turns for ever.
        """
        if len(self._servers) < MAX_SERVERS:
            return True
        silent = [
            other
            for other, (state, _) in self._servers.items()
            if not state.connected and now - self._since_s[other] > PROBATION_S
        ]
        if name in self._tried or not silent:
            return False
        replaced = min(silent, key=lambda other: self._since_s[other])
        self._drop(replaced)
        self._tried[replaced] = None
        if len(self._tried) > MAX_TRIED:
            del self._tried[next(iter(self._tried))]
        return True

    def _drop(self, name: str) -> None:
        del self._servers[name]
        del self._since_s[name]

    def leave(self, name: str, session: str) -> bool:
        """A server said that it ends; True when this session of it was known."""
        with self._lock:
            known = self._servers.get(name)
            if known is None or known[0].session != session:
                return False
            self._drop(name)
            self._last_gone = f' ({name} ended)'
        self._report(known[0], 'ended')
        return True

    def holds(self, name: str, session: str) -> bool:
        """Whether this session of the server is known and not lost yet."""
        with self._lock:
            known = self._servers.get(name)
            return known is not None and known[0].session == session

    def expire(self) -> list[str]:
        """Drop silent servers and return their names; to be called every few ten milliseconds."""
        now = self._clock()
        with self._lock:
            lost = [
                state
                for state, heard_s in self._servers.values()
                if now - heard_s > self.lost_after_s
            ]
            for state in lost:
                self._drop(state.name)
                self._last_gone = f' ({state.name} is lost)'
        for state in lost:
            self._report(state, 'is lost')
        return [state.name for state in lost]

    def names(self) -> set[str]:
        """All that are known and not lost yet."""
        with self._lock:
            return set(self._servers)

    def excuse(self, pause_s: float) -> None:
        """Nobody could listen for ``pause_s`` until now: that is not counted as their silence."""
        now = self._clock()
        with self._lock:
            for name, (state, heard_s) in self._servers.items():
                self._servers[name] = (state, min(now, heard_s + pause_s))

    def alive(self) -> list[ServerState]:
        """Servers heard within the last ``lost_after_s``, by name."""
        now = self._clock()
        with self._lock:
            return sorted(
                (
                    state
                    for state, heard_s in self._servers.values()
                    if now - heard_s <= self.lost_after_s
                ),
                key=lambda state: state.name,
            )

    def named(self, name: str) -> tuple[ServerState | None, str]:
        """The server of this full name if requests can be sent to it now, or None and why not."""
        for state in self.alive():
            if state.name == name:
                if state.connected:
                    return state, ''
                return None, f'server {name} is connecting'
        return None, f'server {name} is not there'

    def choose(
        self, model: str, content_hash: str, preferred: str = ''
    ) -> tuple[ServerState | None, str]:
        """The server to use for a model, or None and why there is none.

        Only ``preferred`` when it is given (a name), else the least loaded.
        """
        alive = self.alive()
        if preferred:
            alive = [state for state in alive if state.name.strip('/') == preferred.strip('/')]
        if not alive:
            if preferred:
                return None, f'server {preferred} is not there'
            return None, f'no server is there{self._last_gone}'
        usable = [
            state
            for state in alive
            if state.connected and content_hash in state.models.get(model, ())
        ]
        if usable:
            return min(usable, key=lambda state: (state.queue_length, state.busy, state.name)), ''
        return None, '; '.join(_why_not(state, model, content_hash) for state in alive)

    def _report(self, state: ServerState, why: str) -> None:
        if self.on_lost is not None:
            self.on_lost(state.name, state.session, f'server {state.name} {why}')


def _why_not(state: ServerState, model: str, content_hash: str) -> str:
    theirs = state.models.get(model)
    if theirs is None:
        listed = ', '.join(sorted(state.models)) or 'none'
        return (
            f"server {state.name} has no model '{model}' (it has: {listed}): add it to its "
            'models.yaml'
        )
    if content_hash not in theirs:
        return (
            f"server {state.name} has another '{model}' "
            f"({', '.join(sorted(key[:8] for key in theirs))}, the robot's is {content_hash[:8]}): "
            'use the same weights, source and preprocessing on both'
        )
    return f'server {state.name} is connecting'
