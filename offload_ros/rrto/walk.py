"""A unit being replayed: the program walks along it while the server already runs it."""

from __future__ import annotations

from collections.abc import Sequence
import sys
from threading import get_ident
from typing import TYPE_CHECKING, Any

import torch
from torch._ops import OpOverload

from offload_ros.rrto.calls import Template, data_of, payloads_in
from offload_ros.rrto.client_unit import ClientStep, ClientUnit, never
from offload_ros.rrto.matching import WHICHEVER
from offload_ros.rrto.messages import Code
from offload_ros.rrto.results import Fresh, Same, put_together
from offload_ros.rrto.sequences import OUTPUT_BITS, OUTPUT_MASK, Carried, Entry, External, Kind
from offload_ros.rrto.shim.classify import finish_read, tensors_in
from offload_ros.rrto.shim.tensor import HandleOwner, RemoteTensor, remote, set_metadata
from offload_ros.rrto.spares import Frame

if TYPE_CHECKING:
    from offload_ros.rrto.client import OperatorClient

NOT_HANDLED: tuple[bool, Any] = (False, None)
# Without the GIL two threads may each see what the other has written too late.
_LOCK_FREE: bool = getattr(sys, '_is_gil_enabled', bool)() or not hasattr(sys, '_is_gil_enabled')


class Walk:
    """``candidates`` begin alike; the first is the one that is walked, until another call than its
    next one comes. The client's lock is held in every method."""

    def __init__(self, client: OperatorClient, thread: int, candidates: list[ClientUnit]) -> None:
        self.unit = candidates[0]
        self.at = 0  # steps walked
        self._client = client
        self._thread = thread
        self._others = candidates[1:]
        # Room for the longest: which of them it will be is not known.
        self.base = client.reserve(max(len(unit) for unit in candidates))
        self._shifted = self.base << OUTPUT_BITS
        self._payloads: list[bytes] = []
        self._sent_payloads = 0
        self._asked = 0  # steps that the server was asked to run
        self._told: ClientUnit | None = None  # which it takes this for
        self._sure = False  # and that it is no other
        self._unanswered = False  # nobody has waited yet for what it was asked last
        self._candidates = candidates
        self._dead: set[int] = set()
        self._held: list[int] = []  # dead, but a new run of the steps would need them
        self.reading = False  # another thread may have the lock meanwhile
        self._pushed = client.answers.expect_frame(self.base)
        self._branches = self._branch_points()
        self._held_by_program: list[int] | None = None  # offsets of handles, when that is known
        # Of the fast path, which takes no lock: see ``OperatorClient.call``.
        self.open = _LOCK_FREE
        self.busy = False
        self._ident = get_ident()
        self._take_spares()

    @property
    def complete(self) -> bool:
        """All steps were walked, and it can be no longer unit."""
        return self.at == len(self.unit) and not self._others

    def stop(self) -> bool:
        """End the fast path. False when another thread is on it just now, or waits for a read:
        then nothing may be done with this before it has left."""
        self.open = False  # before the other is looked at; the fast path has them the other way
        return self._ident == get_ident() or not (self.busy or self.reading)

    def uses(self, unit: ClientUnit) -> bool:
        """Whether this may be a walk along ``unit``."""
        return unit is self.unit or unit in self._others

    def owns(self, handle: int) -> bool:
        """Whether a handle is of one of its results."""
        return 0 <= (handle >> OUTPUT_BITS) - self.base < len(self.unit)

    def take_dead(self, handles: list[int]) -> list[int]:
        """Keep those that are its own or that it refers to, give back the others."""
        low = self._shifted
        high = low + (len(self.unit) << OUTPUT_BITS)
        self._dead.update([handle for handle in handles if low <= handle < high])
        rest = [handle for handle in handles if not low <= handle < high]
        others = []
        for handle in rest:
            if handle in self._carried or any(each.refers_to(handle) for each in self._candidates):
                self._held.append(handle)
            else:
                others.append(handle)
        return others

    def step(
        self, func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[bool, Any]:
        """(True, what the program gets) when this call is the next one."""
        at = self.at
        if at in self._branches or at == len(self.unit):
            self._choose(func, args, kwargs)
            if at == len(self.unit):
                return NOT_HANDLED
        step = self.unit.steps[at]
        made = step.match(func, args, kwargs, self.results, self.owners, self.frame)
        if made is None:
            return NOT_HANDLED
        self.at = at + 1
        if step.quick:
            if self._asked <= at:
                self._start()
            return True, made
        if step.kind is Kind.GET:
            return True, self._read(step, func, args, kwargs)
        if step.signature.template.payloads:
            self._capture(step.signature.template, args, kwargs)
        self._start()
        return True, self._outputs(step, at, args, kwargs)

    def entries(self, count: int) -> list[Entry]:
        """The first steps as a log has them."""
        made = []
        for index, step in enumerate(self.unit.steps[:count]):
            handles = tuple(self._handle(step, each) for each in range(len(step.references)))
            signature = step.signature
            made.append(
                Entry(
                    self.base + index,
                    signature.number,
                    handles,
                    step.kind,
                    signature.operator.factory,
                )
            )
        return made

    def finish(self) -> None:
        """All was walked: the server may keep and free what the unit does."""
        self._let_go()
        self._run_to(len(self.unit), sure=True, now=False)

    def abort(self) -> list[Entry]:
        """End here: what was walked stands, on the server, too. Gives it as log entries."""
        client, count = self._client, self.at
        self._let_go()
        if self._asked:
            if self._told is not self.unit or self._sent_payloads < len(self._payloads):
                self._tell(self._asked, sure=False)
            client.statistics.aborts += 1
        client.send_frees()
        alive = self._alive(count)
        if self._asked:
            client.command([Code.ABORT, self.base, count, alive], now=True)
        else:
            self._send_single(count, alive)
        client.statistics.replayed += count
        self._end(alive)
        return self.entries(count)

    def settle(self) -> None:
        """After its end: results that the program holds, although it did not when the unit was
        recorded, are computed again; from now on they are kept."""
        client, unit = self._client, self.unit
        client.send_frees()
        alive = self._alive(len(unit))
        kept = {self._shifted + (step << OUTPUT_BITS | output) for step, output in unit.kept}
        more = [handle for handle in alive if handle not in kept]
        if more:
            client.statistics.recomputed += len(more)
            client.command([Code.ABORT, self.base, len(unit), alive])
            places = [self._place(handle) for handle in more]
            unit.kept.update(places)
            client.command([Code.KEEP, unit.number, [list(each) for each in places]])
        else:
            dead = sorted(kept.difference(alive))
            if dead:
                client.command([Code.FREE, dead])
        self._end(alive)

    def _let_go(self) -> None:
        """What the program has dropped dies now: one by one, while it walked, costs it more."""
        if self._held_by_program is None:
            self.open = False
            self._held_by_program = self._spares.give_up(self.at)
            self._home.give_back(self._spares)

    def _end(self, alive: list[int]) -> None:
        client = self._client
        client.answers.drop_frame(self.base)
        client.live.update(alive)
        client.freed.extend(self._held)  # now they may go

    # --- what the program gets

    def _outputs(
        self, step: ClientStep, at: int, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        form = step.signature.result
        assert form is not None
        tensors = _remote_tensors(args, kwargs)
        made: list[Any] = []
        for index, output in enumerate(form.outputs):
            if isinstance(output, Fresh):
                handle = self._shifted + (at << OUTPUT_BITS | index)
                made.append(remote(HandleOwner(handle, self._client.freed), output.meta))
            elif isinstance(output, Same):
                made.append(tensors[output.index])
            else:
                made.append(output.value)
        for index, meta in form.changed:
            set_metadata(tensors[index], meta)
        return put_together(form.form, made)

    def _read(
        self, step: ClientStep, func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        client, at = self._client, self.at - 1
        self._run_to(self.at, sure=not self._others)
        messages = client.statistics.messages
        if self._unanswered and at not in self._pushed.values:
            client.statistics.blocking += 1
            self._unanswered = False
        self.reading = True
        if self.complete:  # while the server computes
            self._let_go()
            self._home.fill_spares(client.freed)
        try:
            value = client.answers.wait_pushed(self._pushed, at)
        finally:
            self.reading = False
            client.turn.notify_all()
        if self._sure and self.at == len(self.unit):
            client.all_done(messages)
        fetched = value if isinstance(value, torch.Tensor) else torch.tensor(value)
        return finish_read(func, args, kwargs, fetched)

    # --- the server

    def _start(self) -> None:
        """As soon as the first uploads are there, and it is sure which unit this is."""
        if not self._others and self.at >= self.unit.start_at:
            self._run_to(len(self.unit), sure=True)

    def _run_to(self, until: int, sure: bool, now: bool = True) -> None:
        if sure:
            until = len(self.unit)
        told = self._told is self.unit and (self._sure or not sure)
        if told and self._asked >= until and self._sent_payloads == len(self._payloads):
            return
        self._tell(until, sure, now or until > self._asked)

    def _tell(self, until: int, sure: bool, now: bool = True) -> None:
        new = self._payloads[self._sent_payloads :]
        self._sent_payloads = len(self._payloads)
        unit = self.unit
        fields = [self._thread, self.base, unit.number, until, sure, self._carried, len(new)]
        if now:
            self._client.send_frees()
        self._client.command([Code.RUN, *fields], new, now)
        self._asked, self._told, self._sure = until, unit, sure
        self._unanswered = True

    def _capture(self, template: Template, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = [*payloads_in(template.args, args), *payloads_in(template.kwargs, kwargs)]
        self._payloads.extend(data_of(tensor) for tensor in given)

    def _send_single(self, count: int, alive: list[int]) -> None:
        """Nothing was started: the steps go to the server one by one."""
        payloads = iter(self._payloads)
        for index, step in enumerate(self.unit.steps[:count]):
            signature = step.signature
            handles = [self._handle(step, each) for each in range(len(step.references))]
            data = [next(payloads) for _ in signature.template.payloads]
            number = self.base + index
            self._client.command([Code.CALL, 0, number, signature.number, handles], data)
        made = [self._shifted + each for each in self.unit.fresh if each >> OUTPUT_BITS < count]
        dead = sorted(set(made).difference(alive))
        if dead:
            self._client.command([Code.FREE, dead])

    # --- which unit

    def _branch_points(self) -> dict[int, list[ClientUnit]]:
        points: dict[int, list[ClientUnit]] = {}
        for other in self._others:
            points.setdefault(self.unit.common(other), []).append(other)
        return points

    def _take_spares(self) -> None:
        """Follow ``unit`` from now on."""
        self._home, self._spares = self.unit, self.unit.take_spares(self._client.freed)
        self.frame = self._spares.frame
        self._carried = self.unit.carried
        self.frame.shifted, self.frame.carried = self._shifted, self._carried
        self.results, self.owners = self._spares.results, self._spares.owners
        self._plan()

    def _plan(self) -> None:
        """Which steps are quick: those of the unit, but for where another one may branch off."""
        self.matches = self.unit.quick
        if self._branches:
            self.matches = list(self.matches)
            for at in self._branches:
                self.matches[at] = never

    def _choose(self, func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Here some candidates go on otherwise than the first one: stay with it or leave it."""
        at, unit = self.at, self.unit
        here = self._branches.pop(at, [])
        if self._goes_on(unit, self._carried, func, args, kwargs):
            self._others = [each for each in self._others if each not in here]
            return
        for other in here:
            carried = self._carried_by(other)
            if self._goes_on(other, carried, func, args, kwargs):
                self._others = [
                    each for each in here if each is not other and other.common(each) > at
                ]
                self.unit = other
                self._branches = self._branch_points()
                home, spares = self._home, self._spares
                self._take_spares()
                spares.exchange(self._spares, at)
                home.give_back(spares)
                self._carried = self.frame.carried = carried
                return
        self._others = []
        shorter = next((each for each in here if len(each) == at), None)
        if shorter is not None and at < len(unit):
            self._carried = self.frame.carried = self._carried_by(shorter)
            self.unit = shorter

    def _goes_on(
        self,
        unit: ClientUnit,
        carried: list[int],
        func: OpOverload,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> bool:
        if self.at == len(unit):
            return False
        match, frame = unit.steps[self.at].match, Frame(self._shifted, carried)
        return match(func, args, kwargs, WHICHEVER, self.owners, frame) is not None

    def _carried_by(self, other: ClientUnit) -> list[int]:
        """Handles that ``other`` takes over; those of the steps so far have been compared."""
        carried = list(other.carried)
        for place, slot in self.unit.slots.items():
            if self.unit.first_use[place] < self.at:
                carried[other.slots[place]] = self._carried[slot]
        return carried

    # --- handles

    def _handle(self, step: ClientStep, index: int) -> int:
        reference = step.references[index]
        if isinstance(reference, External):
            return reference.handle
        if isinstance(reference, Carried):
            return self._carried[self.unit.slots[reference.step, reference.output]]
        return self._shifted + (reference.step << OUTPUT_BITS | reference.output)

    def _place(self, handle: int) -> tuple[int, int]:
        return (handle >> OUTPUT_BITS) - self.base, handle & OUTPUT_MASK

    def _alive(self, count: int) -> list[int]:
        end, unit = count << OUTPUT_BITS, self.unit
        low, dead = self._shifted, self._dead
        places: Sequence[int] = unit.fresh
        if self._held_by_program is not None:
            places = [*self._held_by_program, *unit.fresh_late]
        return [low + each for each in places if each < end and low + each not in dead]


def _remote_tensors(args: Sequence[Any], kwargs: dict[str, Any]) -> list[RemoteTensor]:
    """In the order of a template's holes."""
    return [
        tensor
        for argument in (*args, *kwargs.values())
        for tensor in tensors_in(argument)
        if isinstance(tensor, RemoteTensor)
    ]
