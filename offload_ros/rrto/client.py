"""The program's side of a session: each operator goes to the server, is recorded, and replayed.

Modes (``MODES``): ``rpc`` waits for the server at each operator, as transparent offloading does it
without RRTO. ``pipelined`` waits only where the program wants values. ``replay`` (RRTO, arXiv
2507.21739) finds the sequence that an inference repeats, and then sends it as one command.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
import threading
from typing import Any

import torch
from torch._ops import OpOverload

from offload_ros.rrto.answers import Answers, Awaited
from offload_ros.rrto.calls import CallPacker, data_of, unpack_template
from offload_ros.rrto.client_unit import Signature
from offload_ros.rrto.journal import Journal
from offload_ros.rrto.link import Link
from offload_ros.rrto.messages import Code
from offload_ros.rrto.operators import by_mask, operator_of
from offload_ros.rrto.options import MODES
from offload_ros.rrto.outbox import Outbox, Standby
from offload_ros.rrto.recording import Recording
from offload_ros.rrto.results import Fresh, ResultForm, Same, put_together
from offload_ros.rrto.sequences import OUTPUT_BITS, Entry, Kind
from offload_ros.rrto.shim.classify import (
    check_devices,
    finish_read,
    is_read,
    read_source,
    server_arguments,
)
from offload_ros.rrto.shim.device import DeviceProperties
from offload_ros.rrto.shim.interrupts import deferred
from offload_ros.rrto.shim.tensor import HandleOwner, RemoteTensor, remote, set_metadata
from offload_ros.rrto.signatures import Signatures
from offload_ros.rrto.statistics import Statistics


class _Here(threading.local):
    """Of the thread that looks at it."""

    recording: Recording | None = None


class OperatorClient:
    """The ``Device`` of the shim, on a link to a server's ``OperatorSession``.

    With a ``standby`` the program goes on there when the server is lost; without one it gets
    ``ServerLost``.
    """

    def __init__(self, link: Link, mode: str = 'replay', standby: Standby | None = None) -> None:
        if mode not in MODES:
            raise ValueError(f'mode {mode!r} is not one of {", ".join(MODES)}')
        self.mode = mode
        self.freed: deque[int] = deque()
        self.statistics = Statistics()
        self.lock = threading.RLock()
        self.turn = threading.Condition(self.lock)  # a thread has got what it waited for
        self.answers = Answers(self.lock)
        self.live: set[int] = set()  # handles that the program holds
        self.signatures = Signatures()
        self._packer = CallPacker(RemoteTensor)
        self._number = 1  # handle 0 is none
        self._done = 0  # messages
        self._running: set[int] = set()  # operators whose results have no tensors yet
        self._units = 0
        self._here = _Here()
        self._recordings: list[Recording] = []
        journal = Journal(self.live, self._running, self.answers.awaits) if standby else None
        self._outbox = Outbox(link, self.answers, self.statistics, self.lock, standby, journal)

    # --- the shim's interface

    def call(self, func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run one operator; see ``shim.device.Device``.

        Some hundred times for each inference that is replayed: one comparison, and a result that is
        there already. To take the lock would cost half of that, so a walk is left to its thread as
        long as it is ``open``: who ends that waits until the thread is not ``busy``.
        """
        recording = self._here.recording
        walk = recording.walk if recording is not None else None
        if recording is not None and walk is not None and not walk.busy:
            walk.busy = True
            try:
                if walk.open:
                    at = walk.at
                    made = walk.matches[at](
                        func, args, kwargs, walk.results, walk.owners, walk.frame
                    )
                    # Collected garbage may have called operators, too.
                    if made is not None and walk.at == at and recording.walk is walk:
                        walk.at = at + 1
                        return made
            finally:
                walk.busy = False
        with deferred, self.lock:
            recording = self._here.recording or self._recording()
            if recording.ready:
                handled, result = recording.replay(func, args, kwargs)
                if handled:
                    return result
                recording.settle()
            if is_read(func, args, kwargs):
                return self._read(recording, func, args, kwargs)
            return self._run(recording, func, args, kwargs)

    def read(self, tensor: torch.Tensor) -> torch.Tensor:
        """Values of a tensor of the device; see ``shim.device.Device``."""
        copy = torch.ops.aten._to_copy.default
        values: torch.Tensor = self.call(copy, (tensor,), {'device': torch.device('cpu')})
        return values

    def synchronize(self) -> None:
        """Wait for all before; in replay the read of the inference does that."""
        with deferred, self.lock:
            self.answers.check()
            done = self._done == self.statistics.messages and not self._outbox
            if self._recording().walk is None and not done:
                self._ask(Code.SYNCHRONIZE)

    def manual_seed(self, seed: int, generator: int = 0) -> None:
        """Seed a generator of the server."""
        with deferred, self.lock:
            self._recording().interrupt()
            self.command([Code.SEED, generator, seed])

    def get_rng_state(self, generator: int = 0) -> torch.Tensor:
        """State of a generator, uint8."""
        with deferred, self.lock:
            self._recording().interrupt()
            state: torch.Tensor = self._ask(Code.GET_RANDOM_STATE, generator)
            return state

    def set_rng_state(self, state: torch.Tensor, generator: int = 0) -> None:
        """Put back what ``get_rng_state`` gave."""
        with deferred, self.lock:
            self._recording().interrupt()
            self.command([Code.SET_RANDOM_STATE, generator], [data_of(state)])

    def memory(self) -> tuple[int, int]:
        """Free and total bytes that the server gives this program."""
        with deferred, self.lock:
            free, total = self._ask(Code.MEMORY)[:2]
            return int(free), int(total)

    def properties(self) -> DeviceProperties:
        """Name and size of the server's device."""
        with deferred, self.lock:
            _, total, name = self._ask(Code.MEMORY)
            return DeviceProperties(str(name), int(total))

    def recording_here(self) -> Recording:
        """Of the calling thread."""
        with self.lock:
            return self._recording()

    def flush(self) -> None:
        """Send what was held back."""
        with deferred, self.lock:
            self.send_frees()
            self._outbox.flush()

    def close(self) -> None:
        """End the session."""
        self._outbox.close()
        self.answers.on_lost('the session is closed')

    # --- what recordings use; the lock is held

    def reserve(self, count: int) -> int:
        """The first of so many operator numbers."""
        number = self._number
        self._number += count
        return number

    def reserve_unit(self) -> int:
        """The number of a new unit."""
        self._units += 1
        return self._units

    def command(
        self, command: list[Any], payloads: Sequence[bytes] = (), now: bool = False
    ) -> None:
        """Send a command, soon."""
        if now:
            self._outbox.add(command, payloads)
            self._outbox.flush()
        else:
            self._outbox.add_soon(command, payloads)

    def command_now(self, command: list[Any], payloads: Sequence[bytes] = ()) -> None:
        """Send a command, and what was held back before it."""
        self.send_frees()
        self.command(command, payloads, now=True)

    def all_done(self, messages: int) -> None:
        """The server has done all that the first ``messages`` asked for, and told what failed."""
        self._done = max(self._done, messages)

    def send_frees(self) -> None:
        """Tell the server what the program has dropped."""
        handles = self.drain()
        if handles:
            self._outbox.add([Code.FREE, handles])

    def checkpoint(self) -> None:
        """What a standby would have to compute again is fetched, if it has become much."""
        journal = self._outbox.journal
        if journal is None or not journal.long or any(e.unsettled for e in self._recordings):
            return
        self._outbox.flush()  # so that the journal has all
        handles = journal.checkpoint() if self._outbox.journal is journal else None
        if handles is not None:
            reply, awaited = self.answers.expect(0)
            journal.await_state(handles, awaited)
            self.command([Code.STATE, reply, handles])

    def drain(self) -> list[int]:
        """Handles that died and that the server may hold."""
        dead: list[int] = []
        while self.freed:
            handle = self.freed.popleft()
            if handle:  # 0: one that was made in advance and never given out
                dead.append(handle)
        for recording in self._recordings:
            if dead:
                dead = recording.take_dead(dead)
        for handle in dead:
            self.live.discard(handle)
        for recording in self._recordings:
            if dead:
                recording.forget_units_on(dead)
        return dead

    def wait(self, awaited: Awaited) -> Any:
        """Its value; other threads may go on meanwhile. Raises what went wrong."""
        self.statistics.blocking += 1
        return self.answers.wait(awaited)

    def outputs(self, form: ResultForm, number: int, tensors: Sequence[RemoteTensor]) -> Any:
        """What an operator gives to the program."""
        made: list[Any] = []
        for index, output in enumerate(form.outputs):
            if isinstance(output, Fresh):
                handle = number << OUTPUT_BITS | index
                self.live.add(handle)
                made.append(remote(HandleOwner(handle, self.freed), output.meta))
            elif isinstance(output, Same):
                made.append(tensors[output.index])
            else:
                made.append(output.value)
        for index, meta in form.changed:
            set_metadata(tensors[index], meta)
        return put_together(form.form, made)

    # --- one operator

    def _recording(self) -> Recording:
        recording = self._here.recording
        if recording is None:
            recording = next((each for each in self._recordings if each.abandoned), None)
            if recording is None:
                recording = Recording(self, len(self._recordings))
                self._recordings.append(recording)
            self._here.recording = recording
            recording.take_over()
        return recording

    def _run(
        self, recording: Recording, func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        check_devices(func, args, kwargs)
        server_arguments(kwargs)  # refuses what the server has not
        uploads = func is torch.ops.aten.copy_.default
        template, tensors, payloads = self._packer.pack(args, kwargs, constants=not uploads)
        data = [data_of(each) for each in payloads]  # now: the program may change them
        self._settle_others(recording, tensors)
        signature = self._signature(func, template, bool(payloads), tensors)
        number = self.reserve(1)
        handles = [tensor._h for tensor in tensors]
        self.statistics.count(signature.kind, sum(map(len, data)))
        self.send_frees()
        self._running.add(number)
        try:
            form = self._ask_for(signature, number, handles, data)
            result = self.outputs(form, number, tensors)
        finally:
            self._running.discard(number)
        recording.append(
            Entry(
                number,
                signature.number,
                tuple(handles),
                signature.kind,
                signature.operator.factory,
            )
        )
        return result

    def _ask_for(
        self, signature: Signature, number: int, handles: list[int], data: list[bytes]
    ) -> ResultForm:
        form = signature.result
        if self.mode != 'rpc' and form is not None and signature.kind is not Kind.DYN:
            self.command([Code.CALL, 0, number, signature.number, handles], data)
            return form
        reply, awaited = self.answers.expect(len(handles))
        self._outbox.add([Code.CALL, reply, number, signature.number, handles], data)
        self._outbox.flush()
        told: ResultForm = self.wait(awaited)
        if signature.kind is not Kind.DYN:
            signature.result = told
        return told

    def _read(
        self, recording: Recording, func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        template, tensors, _ = self._packer.pack(args, kwargs, constants=False)
        self._settle_others(recording, tensors)
        source = read_source(func, args, kwargs)
        signature = self._signature(func, template, False, tensors, read=True, source=source)
        number = self.reserve(1)
        handles = [tensor._h for tensor in tensors]
        self.statistics.count(Kind.GET, 0)
        self.send_frees()
        reply, awaited = self.answers.expect(len(tensors))
        if source is None:
            self._outbox.add([Code.CALL, reply, number, signature.number, handles])
        else:
            self._outbox.add([Code.READ, reply, source._h])
        self._outbox.flush()
        messages = self.statistics.messages
        value = fetched_value(self.wait(awaited))
        if source is not None:
            self.all_done(messages)
        recording.append(Entry(number, signature.number, tuple(handles), Kind.GET))
        return finish_read(func, args, kwargs, value)

    def _signature(
        self,
        func: OpOverload,
        template: bytes,
        uploads: bool,
        tensors: Sequence[RemoteTensor],
        read: bool = False,
        source: Any = None,
    ) -> Signature:
        known = self.signatures.find(func, template)
        if known is not None:
            return known
        if self.signatures.full:
            needed = {number for each in self._recordings for number in each.signatures()}
            self.command([Code.UNDEFINE, [e.number for e in self.signatures.forget(needed)]])
        operator = operator_of(func)
        unpacked = unpack_template(template)
        kind = Kind.IN if uploads else Kind.OP
        if read:
            kind = Kind.GET
        elif operator.dynamic or by_mask(
            operator, [each.dtype for each in (*unpacked.tensors[1:], *unpacked.payloads)]
        ):
            kind = Kind.DYN
        fetches = read and source is not None
        number = self.signatures.reserve()
        signature = Signature(number, operator, unpacked, kind, fetches)
        self.signatures.add(func, template, signature)
        if not fetches:
            self._outbox.add([Code.DEFINE, number, operator.name, template])
            if self._outbox.journal is not None:
                self._outbox.journal.define(number, operator.name, template, signature)
        return signature

    def _settle_others(self, recording: Recording, tensors: Sequence[RemoteTensor]) -> None:
        """Results of another thread's replay have no handles on the server before it is settled."""
        for other in self._recordings:
            if other is recording:
                continue
            while other.reading and other.owns_any(tensors):
                self.turn.wait()
            if other.owns_any(tensors):
                other.interrupt()

    def _ask(self, code: Code, *fields: Any) -> Any:
        reply, awaited = self.answers.expect(0)
        self.command_now([code, reply, *fields])
        return self.wait(awaited)


def fetched_value(value: Any) -> torch.Tensor:
    """Of an awaited answer: a tensor, or the bool of an operator that has run."""
    if isinstance(value, ResultForm):
        value = value.outputs[0].value  # type: ignore[union-attr]
    return value if isinstance(value, torch.Tensor) else torch.tensor(value)
