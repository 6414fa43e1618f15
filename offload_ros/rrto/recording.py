"""What one thread of a program does: its log, the units found in it, and the one it is walking."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
import threading
from typing import TYPE_CHECKING, Any
import weakref

from torch._ops import OpOverload

from offload_ros.rrto.client_unit import ClientUnit
from offload_ros.rrto.matching import WHICHEVER
from offload_ros.rrto.messages import Code
from offload_ros.rrto.search import SequenceSearch
from offload_ros.rrto.sequences import OUTPUT_BITS, OUTPUT_MASK, Entry, Kind, OperatorSequence
from offload_ros.rrto.spares import Frame
from offload_ros.rrto.walk import Walk

if TYPE_CHECKING:
    from offload_ros.rrto.client import OperatorClient
    from offload_ros.rrto.shim.tensor import RemoteTensor

MAX_UNITS = 64
UNLOGGED = 4
LOOK_AGAIN_S = 0.001
NOT_HANDLED: tuple[bool, Any] = (False, None)


class Recording:
    """Of one thread; the client's lock is held in every method."""

    def __init__(self, client: OperatorClient, thread: int) -> None:
        self.client = client
        self.thread = thread
        self._owner = weakref.ref(threading.current_thread())
        self.walk: Walk | None = None
        self.starts: dict[OpOverload, list[ClientUnit]] = {}  # units by their first operator
        self._units: dict[bytes, ClientUnit] = {}  # by digest
        self._search = SequenceSearch()
        self._found: OperatorSequence | None = None
        self._last: Walk | None = None  # complete, and not yet settled
        self._unlogged: deque[Walk] = deque(maxlen=UNLOGGED)  # the last replays
        self.ready = False  # ``replay`` has something to say
        self.replays = self.aborts = 0

    # --- op by op

    def append(self, entry: Entry) -> None:
        """An operator has been sent by itself."""
        if self.client.mode != 'replay':
            return
        while self._unlogged:  # only now can they be part of something longer
            walk = self._unlogged.popleft()
            self._search.extend(walk.entries(len(walk.unit)))
        found = self._search.append(entry)
        if found is None:
            return
        known = self._units.get(found.digest)
        if known is None:
            self._found = found
            self.ready = True
        else:
            self._follow(known, found.numbers)

    def replay(
        self, func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[bool, Any]:
        """(True, result) when a unit that is walked, or begins now, has this call next."""
        walk = self.walk
        if walk is not None:
            try:
                handled = walk.step(func, args, kwargs)
            except Exception:  # a read that tells what an operator raised
                if walk.complete:
                    self._completed(walk)
                raise
            if handled[0]:
                if walk.complete:
                    self._completed(walk)
                return handled
            if walk.complete:
                self._completed(walk)
            else:
                self._diverge(walk)
        found, self._found = self._found, None
        if found is not None:  # not before, since a longer one may have been found meanwhile
            self.settle()
            self._install(found)
        return self._begin(func, args, kwargs)

    # --- replay

    def _begin(
        self, func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[bool, Any]:
        if func not in self.starts:
            return NOT_HANDLED
        self.settle()
        candidates = [
            unit
            for unit in self.starts.get(func, ())
            if unit.steps[0].match(func, args, kwargs, WHICHEVER, (), Frame(0, unit.carried))
            is not None
            and self.client.live.issuperset(unit.carried)
        ]
        if not candidates:
            return NOT_HANDLED
        self.client.checkpoint()
        self.walk = walk = Walk(self.client, self.thread, candidates)
        handled = walk.step(func, args, kwargs)
        if walk.complete:
            self._completed(walk)
        return handled

    def _completed(self, walk: Walk) -> None:
        self.walk = None
        self._last = walk
        walk.finish()
        unit = walk.unit
        numbers = range(walk.base, walk.base + len(unit))
        self._follow(unit, numbers)
        self.replays += 1
        statistics = self.client.statistics
        statistics.inferences += 1
        statistics.replayed += len(unit)
        self._unlogged.append(walk)

    def _diverge(self, walk: Walk) -> None:
        """The program does something else than the unit: what it did so far stands."""
        entries = walk.abort()
        self.aborts += 1
        self.walk = None
        self._follow(walk.unit, [entry.number for entry in entries])
        for entry in entries:
            self.append(entry)
        # What was found meanwhile is installed by the next call.

    def interrupt(self) -> None:
        """Something comes that is no operator, and must not overtake those that were walked."""
        while self.walk is not None:
            if self.walk.stop():
                self._diverge(self.walk)
            else:  # the lock is given back meanwhile
                self.client.turn.wait(LOOK_AGAIN_S)
        self.settle()

    def settle(self) -> None:
        """The last replay is over: from now on its results are as if they had come one by one."""
        walk = self._last
        if walk is not None:
            walk.settle()
            self._last = None

    def owns_any(self, tensors: Sequence[RemoteTensor]) -> bool:
        """Whether one of them is a result of a replay that is not settled."""
        walks = [each for each in (self.walk, self._last) if each is not None]
        return any(walk.owns(tensor._h) for walk in walks for tensor in tensors)

    def take_dead(self, handles: list[int]) -> list[int]:
        """Keep those of unsettled replays; the others are given back."""
        for walk in (self.walk, self._last):
            if walk is not None:
                handles = walk.take_dead(handles)
        return handles

    @property
    def reading(self) -> bool:
        """Its thread waits for values of a replay."""
        return self.walk is not None and self.walk.reading

    @property
    def unsettled(self) -> bool:
        """The server may still be asked to take back what a replay did."""
        return self.walk is not None or self._last is not None

    @property
    def abandoned(self) -> bool:
        """Its thread has ended."""
        owner = self._owner()
        return owner is None or not owner.is_alive()

    def take_over(self) -> None:
        """It is of the calling thread from now on: one that works is often followed by one that
        does the same."""
        self.interrupt()
        self._owner = weakref.ref(threading.current_thread())

    def signatures(self) -> set[int]:
        """Numbers of the calls that its units and replays have."""
        walks = [each.unit for each in (self.walk, self._last) if each is not None]
        units = [*self._units.values(), *walks]
        return {step.signature.number for unit in units for step in unit.steps}

    # --- units

    def unit_sizes(self) -> list[int]:
        """Operators of each unit that is known now."""
        return [len(unit) for unit in self._units.values()]

    def _follow(self, unit: ClientUnit, numbers: Sequence[int]) -> None:
        """The first steps of ``unit`` have just occurred, with these operator numbers; so have
        those of other units that begin alike."""
        for each in self._units.values():
            each.follows(numbers, min(unit.common(each), len(numbers)))

    def forget_units_on(self, handles: Sequence[int]) -> None:
        """Units that refer to what is gone will never match again."""
        if not self._units:
            return
        gone = set(handles)
        for unit in list(self._units.values()):
            if not unit.externals.isdisjoint(gone):
                self._remove(unit)

    def _install(self, sequence: OperatorSequence) -> None:
        client = self.client
        if sequence.digest in self._units:
            return
        numbers = {step.signature for step in sequence.steps}
        signatures = {
            each: client.signatures[each] for each in numbers if each in client.signatures
        }
        known = (each.result is not None or each.kind is Kind.GET for each in signatures.values())
        if len(signatures) < len(numbers) or not all(known):
            return
        unit = ClientUnit(client.reserve_unit(), sequence, signatures, self._kept(sequence))
        if not unit.externals <= client.live:
            return  # a tensor of it has died
        for other in list(self._units.values()):
            if len(other) < len(unit) and other.common(unit) == len(other):
                self._remove(other)
        while len(self._units) >= MAX_UNITS:
            self._remove(next(iter(self._units.values())))
        self._units[sequence.digest] = unit
        self.starts.setdefault(unit.func, []).append(unit)
        client.command([Code.INSTALL, *unit.packed()])
        client.statistics.units += 1
        client.statistics.unit_operators.append(len(unit))

    def _remove(self, unit: ClientUnit) -> None:
        if self.walk is not None and self.walk.uses(unit):
            return
        del self._units[unit.sequence.digest]
        same = self.starts[unit.func]
        same.remove(unit)
        if not same:
            del self.starts[unit.func]
        self.client.command([Code.FORGET, unit.number])

    def _kept(self, sequence: OperatorSequence) -> list[tuple[int, int]]:
        """Results of the last occurrence that the program still holds."""
        self.client.send_frees()
        live = self.client.live
        places = {number: step for step, number in enumerate(sequence.numbers)}
        return [
            (places[handle >> OUTPUT_BITS], handle & OUTPUT_MASK)
            for handle in live
            if handle >> OUTPUT_BITS in places
        ]
