"""What a server was told, as far as it is needed to have another session in the same state.

Commands are kept in their order; those that left nothing behind which still matters are dropped. To
know that, tensors are put into groups: those that an operator makes, and those that share memory
with them. A command matters when it made or changed a group that the program still holds a tensor
of, or that a later command which matters has read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from offload_ros.rrto.answers import Awaited
from offload_ros.rrto.client_unit import Signature
from offload_ros.rrto.compiled import draws, written_by
from offload_ros.rrto.messages import Code
from offload_ros.rrto.sequences import OUTPUT_BITS
from offload_ros.rrto.server_unit import EXTERNAL
from offload_ros.rrto.unit_effects import NotedUnit, noted, shares_memory

SWEEP_ENTRIES = 512
SWEEP_BYTES = 32 << 20
CHECKPOINT_ENTRIES = 64
FREE_AT_ONCE = 4096
MANY = 256  # results that an operator may have of which this is not known
RANDOM = 0  # the group of all random generators
Command = tuple[list[Any], list[bytes]]


@dataclass(eq=False)
class Entry:
    """``made``: group of what it makes. ``changed``, ``read``: groups of tensors before it.
    ``reply``: the answer that somebody waits for. ``base``: of a replay's first operator.
    ``freed``: of a replay that may still be taken back; commands behind it may have read them."""

    commands: list[Command]
    made: int
    changed: tuple[int, ...] = ()
    read: tuple[int, ...] = ()
    reply: int = 0
    number: int = 0  # of the operator, 0: none
    signature: Signature | None = None
    units: set[int] = field(default_factory=set)
    fixed: bool = False  # a checkpoint leaves it
    restores: bool = False  # what it changes has nothing from before
    freed: list[int] = field(default_factory=list)

    @property
    def groups(self) -> tuple[int, ...]:
        """All that it has to do with."""
        return (self.made, *self.changed, *self.read)

    @property
    def payload_bytes(self) -> int:
        """That it keeps."""
        return sum(len(each) for _, payloads in self.commands for each in payloads)


class Journal:
    """``live``: handles that the program holds; ``running``: operators whose results are not
    among them yet. ``awaited``: whether an answer is still awaited. The client's lock is held in
    every method."""

    def __init__(self, live: set[int], running: set[int], awaited: Callable[[int], bool]) -> None:
        self._live = live
        self._running = running
        self._awaited = awaited
        self._calls: dict[int, tuple[list[Any], Signature]] = {}
        self._undefined: set[int] = set()
        self.units: dict[int, NotedUnit] = {}
        self._entries: list[Entry] = []
        self._frames: dict[int, Entry] = {}  # by thread: the last replay, by its base
        self._groups: dict[int, int] = {}  # of what an operator number made
        self._parents = [RANDOM]
        self._sweep_entries, self._sweep_bytes = SWEEP_ENTRIES, SWEEP_BYTES
        self._marker: Entry | None = None  # where a checkpoint was asked for
        self._asked: list[int] = []
        self._state: Awaited | None = None
        self.payload_bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    def define(self, number: int, name: str, template: bytes, signature: Signature) -> None:
        """A call has a number from now on."""
        self._calls[number] = [Code.DEFINE, number, name, template], signature

    def append(self, commands: Sequence[list[Any]], payloads: Sequence[bytes]) -> None:
        """What is being sent."""
        if self._state is not None and self._state.done:
            self._restore_from(self._state)
        given = iter(payloads)
        for command in commands:
            self._append(command, given)
        if len(self._entries) > self._sweep_entries or self.payload_bytes > self._sweep_bytes:
            self.sweep()
            self._sweep_entries = 2 * len(self._entries) + SWEEP_ENTRIES
            self._sweep_bytes = 2 * self.payload_bytes + SWEEP_BYTES

    @property
    def long(self) -> bool:
        """A checkpoint may be due."""
        enough = len(self._entries) >= CHECKPOINT_ENTRIES
        return enough and self._state is None and bool(self.units)

    def checkpoint(self) -> list[int] | None:
        """Handles whose values would make most of this journal superfluous; None: it is short.

        To be asked for while no replay is unsettled, and told to ``await_state``.
        """
        self._frames.clear()
        self.sweep()
        late = [entry for entry in self._entries if not entry.fixed]
        if len(late) < CHECKPOINT_ENTRIES:
            return None
        if any(each.number in self._running or self._awaited(each.reply) for each in late):
            return None
        touched = {self._root(each) for entry in late for each in (entry.made, *entry.changed)}
        groups = self._groups
        return [
            handle
            for handle in self._live
            if (number := handle >> OUTPUT_BITS) in groups and self._root(groups[number]) in touched
        ]

    def await_state(self, handles: list[int], state: Awaited) -> None:
        """The values of ``handles`` are on their way; the command is the next to be appended."""
        self._asked, self._state = handles, state

    def commands(self) -> Iterator[Command]:
        """What brings a new session into the state of the one before, and gives the answers that
        are still awaited."""
        self.sweep()
        for command, _ in self._calls.values():
            yield command, []
        for unit in self.units.values():
            yield [*unit.install[:3], [list(each) for each in unit.kept], *unit.install[4:]], []
        for entry in self._entries:
            yield from entry.commands
        dead = list(self._dead())
        for begin in range(0, len(dead), FREE_AT_ONCE):
            yield [Code.FREE, dead[begin : begin + FREE_AT_ONCE]], []
        for number, unit in self.units.items():
            if unit.forgotten:
                yield [Code.FORGET, number], []

    def sweep(self) -> None:
        """Drop what does not matter any more."""
        needed = {RANDOM}
        for handle in self._live:
            group = self._groups.get(handle >> OUTPUT_BITS)
            if group is not None:
                needed.add(self._root(group))
        last = set(map(id, self._frames.values()))
        kept: list[Entry] = []
        for entry in reversed(self._entries):
            touched = [self._root(each) for each in (entry.made, *entry.changed)]
            if (
                any(each in needed for each in touched)
                or id(entry) in last
                or entry.number in self._running
                or (entry.reply and self._awaited(entry.reply))
            ):
                needed.update(touched)
                needed.update(self._root(each) for each in entry.read)
                kept.append(entry)
                if entry.restores:
                    needed.difference_update(touched)
        self._entries = kept[::-1]
        self.payload_bytes = sum(entry.payload_bytes for entry in kept)
        self._renumber()
        self._forget_definitions()

    def _restore_from(self, state: Awaited) -> None:
        self._state = None
        marker, self._marker = self._marker, None
        if state.error is not None or marker is None:
            return
        tensors, generators, count, payloads = state.value
        at = self._entries.index(marker)
        restore = Entry(
            [([Code.RESTORE, tensors, generators, count], payloads)],
            RANDOM,
            tuple(self._of(handle) for handle in self._asked),
            fixed=True,
            restores=True,
        )
        before = [entry for entry in self._entries[:at] if entry.fixed]
        self._entries = [*before, restore, *self._entries[at + 1 :]]
        self.sweep()

    # --- groups

    def _new_group(self) -> int:
        self._parents.append(len(self._parents))
        return len(self._parents) - 1

    def _root(self, group: int) -> int:
        parents = self._parents
        while parents[group] != group:
            parents[group] = parents[parents[group]]
            group = parents[group]
        return group

    def _join(self, group: int, other: int) -> None:
        self._parents[self._root(other)] = self._root(group)

    def _renumber(self) -> None:
        """Groups that nothing needs any more are forgotten."""
        named = {self._root(each) for entry in self._entries for each in entry.groups}
        numbers = {root: index for index, root in enumerate(sorted(named | {RANDOM}))}

        def new(group: int) -> int:
            return numbers[self._root(group)]

        for entry in self._entries:
            entry.made = new(entry.made)
            entry.changed = tuple(map(new, entry.changed))
            entry.read = tuple(map(new, entry.read))
        self._groups = {
            number: new(group)
            for number, group in self._groups.items()
            if self._root(group) in numbers
        }
        self._parents = list(range(len(numbers)))

    def _of(self, handle: int) -> int:
        """The group of a tensor; one that nobody knows matters to nobody."""
        number = handle >> OUTPUT_BITS
        group = self._groups.get(number)
        if group is None:
            group = self._groups[number] = self._new_group()
        return group

    # --- commands

    def _append(self, command: list[Any], payloads: Iterator[bytes]) -> None:
        code = command[0]
        if code == Code.CALL:
            self._call(command, payloads)
        elif code == Code.RUN:
            self._run(command, payloads)
        elif code == Code.ABORT:
            self._abort(command)
        elif code == Code.INSTALL:
            self._install(command)
        elif code == Code.KEEP:
            self.units[command[1]].kept.update((step, output) for step, output in command[2])
        elif code == Code.FORGET:
            self.units[command[1]].forgotten = True
        elif code == Code.UNDEFINE:
            self._undefined.update(command[1])
        elif code == Code.FREE:
            self._free(command[1])
        elif code == Code.SEED:
            self._note(Entry([(command, [])], RANDOM))
        elif code == Code.SET_RANDOM_STATE:
            self._note(Entry([(command, [next(payloads)])], RANDOM))
        elif code != Code.DEFINE:  # READ, SYNCHRONIZE, GET_RANDOM_STATE, MEMORY
            read = (self._of(command[2]),) if code == Code.READ else ()
            self._note(Entry([(command, [])], self._new_group(), read=read, reply=command[1]))
            if code == Code.STATE:
                self._marker = self._entries[-1]

    def _note(self, entry: Entry) -> None:
        self._entries.append(entry)
        self.payload_bytes += entry.payload_bytes

    def _call(self, command: list[Any], payloads: Iterator[bytes]) -> None:
        _, reply, number, call, handles = command
        signature = self._calls[call][1]
        operator, template = signature.operator, signature.template
        made = self._groups[number] = self._new_group()
        read = tuple(self._of(handle) for handle in handles)
        changed = tuple(read[index] for index in written_by(operator, template))
        if shares_memory(operator):
            for each in read:
                self._join(made, each)
        if draws(operator, template):
            changed = (*changed, RANDOM)
        data = [next(payloads) for _ in template.payloads]
        self._note(Entry([(command, data)], made, changed, read, reply, number, signature))

    def _install(self, command: list[Any]) -> None:
        if not self.units:  # what comes from now on comes again and again
            for entry in self._entries:
                entry.fixed = True
        number = command[1]
        of_calls = {call: each for call, (_, each) in self._calls.items()}
        self.units[number] = noted(command, of_calls)

    def _run(self, command: list[Any], payloads: Iterator[bytes]) -> None:
        _, thread, base, number, _, _, carried, count = command
        unit = self.units[number]
        data = [next(payloads) for _ in range(count)]
        entry = self._frames.get(thread)
        if entry is None or entry.number != base:
            entry = Entry([], self._new_group(), number=base)
            self._frames[thread] = entry
            self._entries.append(entry)
        entry.commands.append((command, data))
        entry.units.add(number)
        self.payload_bytes += sum(map(len, data))

        def group(where: tuple[int, int]) -> int:
            return self._of(where[1] if where[0] == EXTERNAL else carried[where[1]])

        changed = [group(each) for each in unit.changed]
        if unit.random:
            changed.append(RANDOM)
        entry.changed = (*entry.changed, *changed)
        read = {self._of(each) for each in (*unit.externals, *carried)}
        entry.read = tuple(read.union(entry.read))
        for step, _ in unit.kept:
            self._groups[base + step] = entry.made
        for step in {step for step, _ in unit.kept} & unit.shares.keys():
            for each in unit.shares[step]:
                self._join(entry.made, group(each))

    def _abort(self, command: list[Any]) -> None:
        _, base, _, alive = command
        thread = next((key for key, each in self._frames.items() if each.number == base), None)
        if thread is None:
            return
        entry = self._frames[thread]
        entry.commands.append((command, []))
        steps = {(handle >> OUTPUT_BITS) - base for handle in alive}
        for number in entry.units:
            unit = self.units[number]
            for each in (each for step in steps for each in unit.shares.get(step, ())):
                carried = entry.commands[-2][0][6]
                where = each[1] if each[0] == EXTERNAL else carried[each[1]]
                self._join(entry.made, self._of(where))
        for step in steps:
            self._groups[base + step] = entry.made

    def _free(self, handles: list[int]) -> None:
        generators = [each for each in handles if each < 0]
        if generators:
            self._note(Entry([([Code.FREE, generators], [])], RANDOM))
        for entry in self._frames.values():  # these stay for now, see ``_dead``
            own = [each for each in handles if self._groups.get(each >> OUTPUT_BITS) == entry.made]
            entry.freed += own

    def _dead(self) -> Iterator[int]:
        """Handles that the commands make and that the program does not hold."""
        last = set(map(id, self._frames.values()))
        for entry in self._entries:
            if id(entry) in last or entry.number in self._running:
                yield from entry.freed
                continue
            if entry.units:
                handles = {
                    (entry.number + step) << OUTPUT_BITS | output
                    for number in entry.units
                    for step, output in self.units[number].kept
                }
                for command, _ in entry.commands:
                    if command[0] == Code.ABORT:
                        handles.update(command[3])
                yield from sorted(handles - self._live)
            elif entry.restores:
                tensors = entry.commands[0][0][1]
                yield from (handle for handle, *_ in tensors if handle not in self._live)
            elif entry.signature is not None:
                result = entry.signature.result
                first = entry.number << OUTPUT_BITS
                made = range(first, first + (MANY if result is None else len(result.outputs)))
                yield from (each for each in made if each not in self._live)

    def _forget_definitions(self) -> None:
        used = {number for entry in self._entries for number in entry.units}
        for number, unit in list(self.units.items()):
            if unit.forgotten and number not in used:
                del self.units[number]
        calls = {each.signature.number for each in self._entries if each.signature is not None}
        calls.update(call for unit in self.units.values() for call in unit.calls)
        for call in self._undefined - calls:
            self._calls.pop(call, None)
        self._undefined &= calls
