"""A session on the robot beside the one on the server, so that units can run there instead."""

from __future__ import annotations

import atexit
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
import math
import queue
import threading
import time
from typing import TYPE_CHECKING, Any

import torch

from offload_ros.cuts.errors import CutFailed
from offload_ros.rrto.calls import tensor_from
from offload_ros.rrto.cut_run import CutRun
from offload_ros.rrto.executor import OperatorSession
from offload_ros.rrto.journal import Command, Journal
from offload_ros.rrto.link import NO_LIMIT_BYTES, OnMessage
from offload_ros.rrto.messages import Code, Message
from offload_ros.rrto.operators import AllowedOperators
from offload_ros.rrto.placement import BOTH, CUT, ROBOT, SERVER, PlacementPolicy
from offload_ros.rrto.sequences import OUTPUT_BITS
from offload_ros.rrto.unit_effects import SHARE, NotedUnit
from offload_ros.wire.errors import WireError

if TYPE_CHECKING:
    from offload_ros.rrto.unit_cuts import UnitCuts

# They only ask; a session that nobody asks need not answer.
_QUESTIONS = {Code.READ, Code.SYNCHRONIZE, Code.GET_RANDOM_STATE, Code.MEMORY, Code.STATE}
_HARMLESS = {Code.RUN, Code.ABORT, Code.FREE}  # nothing that a unit refers to is another for them
CLOSE_S = 2.0  # for what is being planned
EXIT_S = 60.0  # longer than any call takes
MOST_WAITING = 256  # of the robot's work: one that cannot keep up gets no more
BEFORE = 1 << 20  # as a thread: of replays that are over
_QUIET = {Code.DEFINE, Code.UNDEFINE, Code.INSTALL, Code.KEEP, Code.FORGET}


@dataclass(eq=False)
class PlacedRun:
    """A replay; ``commands``: what either side was not told of it. ``handles``: results that the
    program may hold. ``cut``: of one that is cut, which the robot's session is not told either,
    unless it has to do it after all."""

    base: int
    unit: int
    side: str
    commands: list[Command] = field(default_factory=list)
    handles: set[int] = field(default_factory=set)
    dead: list[int] = field(default_factory=list)  # of them
    cut: CutRun | None = None
    prepares: bool = False  # with it a step is to be taken towards a cut
    _told: threading.Lock = field(default_factory=threading.Lock)  # never given back

    def tell(self) -> bool:
        """Whether the robot's session is still to be told a run that is cut: once."""
        return self._told.acquire(blocking=False)


@dataclass(frozen=True)
class _Work:
    """Of the mirror's thread. ``unit``: that is run, 0: none. ``run``: it is cut. ``noted``: it is
    not run, a step is taken towards its cut."""

    command: list[Any]
    payloads: list[bytes]
    unit: int = 0
    run: PlacedRun | None = None
    noted: NotedUnit | None = None


class Mirror:
    """``route`` gives what has to go to the server. The client's lock is held in every method.
    ``on_failure``, from another thread: the server has to do what was ``release``d. ``cuts``: with
    them units may also be cut."""

    def __init__(
        self,
        journal: Journal,
        policy: PlacementPolicy,
        on_message: OnMessage,
        on_failure: Callable[[], None],
        cuts: UnitCuts | None = None,
    ) -> None:
        self._journal = journal
        self.policy = policy
        self._on_message = on_message
        self._on_failure = on_failure
        self._cuts = cuts
        self._told = self._done = 0  # commands
        self._session: OperatorSession | None = None
        self._work: queue.SimpleQueue[_Work | None] = queue.SimpleQueue()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._serve, name='rrto mirror', daemon=True)
        self._runs: dict[int, PlacedRun] = {}  # by thread: the last one
        self._withheld: dict[int, PlacedRun] = {}  # by base: what the server may have to do yet

    def route(self, command: list[Any], payloads: list[bytes]) -> Iterator[Command]:
        """What is to be sent to the server, now that the program sends this."""
        code = command[0]
        if code == Code.RUN:
            yield from self._run(command, payloads)
            return
        if code == Code.ABORT:
            yield from self._abort(command)
        elif code == Code.FREE:
            self._free(command[1])
        elif code not in _QUIET:
            yield from self.release()
        elif self._cuts is not None:
            self._note(self._cuts, command)
        if self._session is not None and code not in _QUESTIONS and code != Code.ABORT:
            self._tell(_unanswered(command), payloads)
        yield command, payloads

    def release(self) -> Iterator[Command]:
        """All that the server was not told: it may be needed there from now on."""
        withheld, self._withheld = self._withheld, {}
        current = {run.base for run in self._runs.values()}
        for run in withheld.values():
            tells = run.cut is not None and run.tell()
            if tells and self._cuts is not None:
                self._cuts.needed_elsewhere(run.unit)
            run.side = BOTH
            for command, payloads in run.commands:
                if run.base not in current:  # its thread may be in the middle of another one
                    command = [Code.RUN, BEFORE, *command[2:]]
                if tells:
                    self._tell(command, payloads)
                yield command, payloads
            if run.dead:
                if tells:
                    self._tell([Code.FREE, run.dead], [])
                yield [Code.FREE, run.dead], []

    def close(self, wait_s: float = 10.0) -> None:
        """The robot's session ends, after the call that it computes; what is queued is dropped."""
        self._over.set()
        self._work.put(None)
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(wait_s)
        if self._cuts is not None:
            self._cuts.close(min(wait_s, CLOSE_S))

    def _run(self, command: list[Any], payloads: list[bytes]) -> Iterator[Command]:
        _, thread, base, unit, *_ = command
        run = self._runs.get(thread)
        if run is None or run.base != base:
            if run is not None and not run.handles:
                self._withheld.pop(run.base, None)
            run = self._runs[thread] = self._placed(command)
            if run.side in (SERVER, BOTH):
                last = self._journal.units[unit].last_read
                self.policy.sent(base, unit, last, sum(map(len, payloads)))
            timed = run.cut is not None and run.cut.timed
            self.policy.of(unit).runs['measured' if timed else run.side] += 1
        elif run.side == CUT:  # more of it comes than there was to come
            yield from self.release()
        if unit != run.unit and run.side != SERVER and not self._eligible(unit):
            if base in self._withheld:
                yield from self._withheld.pop(base).commands
            self._tell([Code.ABORT, base, 0, []], [])
            run.side = SERVER
        run.unit = unit
        if run.side != SERVER:
            run.handles.update(self._kept(base, unit))
            self._work.put(_Work(command, payloads, unit, run if run.side == CUT else None))
        if self._cuts is not None and run.prepares:
            run.prepares = False
            self._work.put(_Work(command, payloads, unit, noted=self._journal.units[unit]))
        run.commands.append((command, payloads))
        if run.side in (ROBOT, CUT):
            self._withheld[base] = run
        else:
            yield command, payloads

    def _placed(self, command: list[Any]) -> PlacedRun:
        _, _, base, unit, *_ = command
        run = PlacedRun(base, unit, SERVER)
        wanted = self._journal.units[unit].leaves_nothing and self.policy.interested(unit)
        if wanted and self._session is None:
            self._open()
        elif self._eligible(unit):
            cut = self._cut_of(run, command)
            run.side = self.policy.choose(unit)
            if cut is not None and cut.timed and run.side != BOTH:
                run.side = CUT
            if cut is None and run.side == CUT:
                run.side = SERVER
            run.cut = cut if run.side == CUT else None
        return run

    def _cut_of(self, run: PlacedRun, command: list[Any]) -> CutRun | None:
        """What may be cut of a run that can be placed; tells the policy what it would take."""
        unit, until, sure, _, count = command[3:]
        cuts, session = self._cuts, self._session
        if cuts is None or session is None:
            return None
        noted = self._journal.units[unit]
        self.policy.offer_cut(unit, math.inf)
        if not sure or until < len(noted.install[2]):  # it may be another unit yet
            return None
        usable = cuts.usable(unit, self._externals(session, unit), count)
        if usable and cuts.times_server(unit):
            return CutRun(unit, timed=True)
        run.prepares = cuts.wants(unit)
        if not usable:
            return None
        model_s = cuts.predicted_s(unit)
        self.policy.offer_cut(unit, model_s)
        return CutRun(unit, timed=False) if math.isfinite(model_s) else None

    @staticmethod
    def _externals(session: OperatorSession, unit: int) -> dict[int, torch.Tensor]:
        wanted = session.unit(unit).externals
        return {handle: session.table[handle] for handle in wanted if handle in session.table}

    @staticmethod
    def _note(cuts: UnitCuts, command: list[Any]) -> None:
        """What makes a cut impossible, or superfluous."""
        if command[0] == Code.DEFINE and command[2].startswith(SHARE):
            cuts.refuse(f'the program makes tensors share memory ({command[2]})')
        elif command[0] == Code.FORGET:
            cuts.forget(command[1])

    def _eligible(self, unit: int) -> bool:
        """Whether the robot's session has all that a unit refers to, as the server has it."""
        units = self._journal.units
        if self._session is None or not units[unit].leaves_nothing:
            return False
        if self._done != self._told:  # not before it has done all
            return False
        if any(each.changed or each.random for each in units.values()):
            return False
        table = self._session.table
        return all(handle in table for handle in units[unit].externals)

    def _kept(self, base: int, unit: int) -> set[int]:
        kept = self._journal.units[unit].kept
        return {(base + step) << OUTPUT_BITS | output for step, output in kept}

    def _abort(self, command: list[Any]) -> Iterator[Command]:
        base = command[1]
        run = next((each for each in self._runs.values() if each.base == base), None)
        if run is None or self._session is None:
            return
        if run.side == SERVER and (
            not self._journal.units[run.unit].leaves_nothing or self._work.qsize() > MOST_WAITING
        ):
            return  # the robot does without what stands, as long as nothing else needs it
        if run.cut is not None:
            run.cut.cancel()
        if run.side == SERVER or (run.cut is not None and run.tell()):
            for began, payloads in run.commands:  # it computes only what stands
                self._tell([*began[:4], 0, False, *began[6:]], payloads)
        self._tell(command, [])
        if run.side != SERVER:
            yield from self.release()

    def _free(self, handles: list[int]) -> None:
        current = {run.base for run in self._runs.values()}
        for run in list(self._withheld.values()):
            run.dead += run.handles.intersection(handles)
            run.handles.difference_update(handles)
            if not run.handles and run.base not in current:
                del self._withheld[run.base]

    def _was_cut(self, session: OperatorSession, work: _Work) -> bool:
        """Whether nothing is left to do: it was computed by both, or only a step towards that."""
        cuts = self._cuts
        run = work.run.cut if work.run is not None else None
        if cuts is None or (run is None and work.noted is None):
            return False
        unit = session.unit(work.unit)
        metas = [m for step in unit.steps if step.call for m in step.call.template.payloads]
        given = [
            tensor_from(meta.shape, meta.dtype, data)
            for meta, data in zip(metas, work.payloads, strict=False)
        ]
        if work.noted is not None:
            tensors = self._externals(session, work.unit)
            cuts.prepare(work.unit, work.noted, unit, tensors, given)
        if work.run is None or run is None:
            return True
        began_s, model_s = time.monotonic(), self.policy.of(work.unit).model_s
        try:
            values = cuts.run(run, given)
        except CutFailed:
            return not work.run.tell()  # computed here instead, unless that is under way
        if not run.timed:
            self.policy.cut_computed(work.unit, time.monotonic() - began_s, model_s)
        for step, value in values:
            session.push(work.run.base, step, value, None)
        return True

    def _open(self) -> None:
        self._session = OperatorSession(
            self._answer,
            AllowedOperators(all_there_are=True),
            memory_bytes=NO_LIMIT_BYTES,
        )
        self._thread.start()
        for command, payloads in self._journal.commands():
            if command[0] not in _QUESTIONS:
                self._tell(_unanswered(command), payloads)

    def _answer(self, buffers: list[bytes | memoryview]) -> None:
        self._on_message(memoryview(bytearray(b''.join(buffers))))

    def _tell(self, command: list[Any], payloads: list[bytes]) -> None:
        if command[0] not in _HARMLESS:
            self._told += 1
        self._work.put(_Work(command, payloads))

    def _serve(self) -> None:
        session = self._session
        assert session is not None
        # The interpreter must not end while a kernel runs here: PyTorch aborts the process then.
        atexit.register(self.close, EXIT_S)
        try:
            self._execute(session)
        finally:
            session.close()
            atexit.unregister(self.close)

    def _execute(self, session: OperatorSession) -> None:
        for work in iter(self._work.get, None):
            if self._over.is_set():
                return
            command = work.command
            began_s = time.monotonic()
            try:
                if self._was_cut(session, work):
                    continue
                session.execute(Message([command], work.payloads))  # type: ignore[arg-type]
            except WireError:
                break
            if work.unit:
                self.policy.computed(work.unit, time.monotonic() - began_s)
            elif session.failures.take() is not None:
                break  # it needs what only the server has: this is no mirror of it
            if command[0] not in _HARMLESS:
                self._done += 1
        else:
            return
        self._on_failure()


def _unanswered(command: list[Any]) -> list[Any]:
    """As it is told to a session whose answers nobody awaits."""
    return [Code.CALL, 0, *command[2:]] if command[0] == Code.CALL else command
