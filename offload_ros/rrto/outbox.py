"""The commands of a program on their way to its session, and to another one when that is lost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
import threading
from typing import TYPE_CHECKING, Any

from offload_ros.rrto.answers import Answers
from offload_ros.rrto.journal import Journal
from offload_ros.rrto.link import Buffers, Link, ServerLost
from offload_ros.rrto.messages import Answer, Code, decode, encode
from offload_ros.rrto.mirror import Mirror
from offload_ros.rrto.options import cut_method
from offload_ros.rrto.placement import PlacementPolicy
from offload_ros.rrto.statistics import Statistics
from offload_ros.strategy import LinkState
from offload_ros.wire.channel import Channel
from offload_ros.wire.errors import WireError

if TYPE_CHECKING:
    from offload_ros.rrto.unit_cuts import UnitCuts

FLUSH_COMMANDS = 32
FLUSH_BYTES = 64_000


class Standby:
    """``open`` makes the link to a session that takes over, None: there is none when the server is
    lost; ``told`` hears why it does. With a ``policy`` units may run on the robot also while the
    server is there, with ``cuts`` on both."""

    def __init__(
        self,
        open: Callable[[], Link] | None,
        told: Callable[[str], None] = lambda why: None,
        policy: PlacementPolicy | None = None,
        cuts: UnitCuts | None = None,
    ) -> None:
        self.open = open
        self.told = told
        self.policy = policy
        self.cuts = cuts
        self.mirror: Mirror | None = None

    def place(
        self,
        placement: str,
        link: Callable[[], LinkState],
        channel: Callable[[], Channel | None],
    ) -> None:
        """Let units run where they are predicted to be faster (``options.PLACEMENTS``)."""
        if placement == 'server':
            return
        self.policy = PlacementPolicy(link)
        method = cut_method(placement)
        if method:
            # Only here: most programs do without, and it takes a while.
            from offload_ros.rrto.unit_cuts import UnitCuts, graphs_on

            self.cuts = UnitCuts(method, lambda: graphs_on(channel()), link)

    def lines(self) -> list[str]:
        """Of the units, for a terminal."""
        if self.policy is None:
            return []
        return self.policy.lines(self.cuts.text) if self.cuts is not None else self.policy.lines()

    def close(self) -> None:
        """Nothing runs on the robot any more."""
        if self.mirror is not None:
            self.mirror.close(0.0)


class Outbox:
    """``lock`` is the client's, held by who calls. Without a ``standby`` a lost server is a
    ``ServerLost`` for the program."""

    def __init__(
        self,
        link: Link,
        answers: Answers,
        statistics: Statistics,
        lock: threading.RLock,  # type: ignore[valid-type]
        standby: Standby | None,
        journal: Journal | None,
    ) -> None:
        self._answers = answers
        self._statistics = statistics
        self._lock = lock
        self._standby = standby
        self.journal = journal  # None: nothing can take over any more
        self._commands: list[list[Any]] = []
        self._payloads: list[bytes] = []
        self._payload_bytes = 0
        self._closed = False
        self._mirror: Mirror | None = None
        if standby is not None and standby.policy is not None and journal is not None:
            self._mirror = standby.mirror = Mirror(
                journal, standby.policy, answers.on_message, self._without_mirror, standby.cuts
            )
        self._use(link)

    def __len__(self) -> int:
        return len(self._commands)

    def add(self, command: list[Any], payloads: Sequence[bytes] = ()) -> None:
        """Hold back a command until ``flush``."""
        if self._mirror is None:
            self._add(command, payloads)
            return
        if command[0] == Code.RUN and any(each[0] != Code.FREE for each in self._commands):
            self.flush()  # it is routed by what the journal has
        # The server may have been lost just now, and with it the mirror.
        routed = [(command, list(payloads))]
        if self._mirror is not None:
            routed = list(self._mirror.route(command, list(payloads)))
        for each, data in routed:
            self._add(each, data)

    def _add(self, command: list[Any], payloads: Sequence[bytes]) -> None:
        self._commands.append(command)
        self._payloads.extend(payloads)
        self._payload_bytes += sum(map(len, payloads))

    def add_soon(self, command: list[Any], payloads: Sequence[bytes] = ()) -> None:
        """Hold it back for a while."""
        self.add(command, payloads)
        if len(self._commands) >= FLUSH_COMMANDS or self._payload_bytes >= FLUSH_BYTES:
            self.flush()

    def flush(self) -> None:
        """Send what was held back."""
        if not self._commands:
            return
        commands, self._commands = self._commands, []
        payloads, self._payloads, self._payload_bytes = self._payloads, [], 0
        buffers: Buffers = encode(commands, payloads)
        self._statistics.sent(buffers, payloads)
        if self.journal is not None:
            self.journal.append(commands, payloads)
        try:
            self._link.send(buffers)
        except ServerLost as error:
            if self.journal is None:
                raise
            self._fall_back(str(error))
            if self._answers.lost:
                raise

    def close(self) -> None:
        """End the session."""
        self._closed = True
        self._link.close()
        if self._mirror is not None:
            self._mirror.close()

    def _use(self, link: Link) -> None:
        self._link = link

        def on_message(data: memoryview) -> None:
            if self._link is link:  # not of one that another has taken over from
                mirror = self._mirror
                if mirror is not None and mirror.policy.waits():
                    _note_times(mirror.policy, data)
                ended = self._answers.on_message(data)
                if ended:
                    self._on_lost(link, ended)

        link.listen(on_message, lambda why: self._on_lost(link, why))

    def _on_lost(self, link: Link, why: str) -> None:
        """From the link's thread."""
        if self.journal is None:
            if self._link is link:
                self._answers.on_lost(why)
            return
        with self._lock:
            if self._link is link and not self._closed:
                self._fall_back(why)

    def _without_mirror(self) -> None:
        with self._lock:
            mirror, self._mirror = self._mirror, None
            if mirror is not None:
                mirror.policy.end('operators outside of them used results that only it has')
                for command, payloads in mirror.release():
                    self._add(command, payloads)
                self.flush()
                mirror.close(0.0)

    def _fall_back(self, why: str) -> None:
        """Another session takes over, and gives the answers that the lost one owes."""
        journal, self.journal = self.journal, None
        mirror, self._mirror = self._mirror, None
        assert journal is not None and self._standby is not None
        if self._standby.open is None:
            self._answers.on_lost(why)
            self._standby.close()
            return
        self._use(self._standby.open())
        for command, payloads in journal.commands():
            self._link.send(encode([command], payloads))
        if mirror is not None:
            for command, payloads in mirror.release():
                self._link.send(encode([command], payloads))
            mirror.close(0.0)
        self._statistics.fallbacks += 1
        self._standby.told(why)


def _note_times(policy: PlacementPolicy, data: memoryview) -> None:
    try:
        commands = decode(data).commands
    except WireError:
        return  # whoever takes the message tells
    for code, *fields in commands:
        if code in (Answer.READ, Answer.READ_VALUE, Answer.BROKE):
            policy.answered(fields[0], fields[1], len(data))
