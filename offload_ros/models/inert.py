"""Reads Python's object streams, as ``torch.save`` writes them, as data: nothing is executed.

The standard reader imports what a stream names and calls it. This one has no way to: its
instructions (listed by the standard library's ``pickletools``) work on a stack of plain values,
names of classes are just names, and a call is either one that the reader itself knows by name or
refused. Objects of all other classes are ``Inert``: their state is kept, none of their code is
needed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
import pickletools
import re
from typing import Any

Constructor = Callable[[tuple[Any, ...]], Any]
MAX_INSTRUCTIONS = 1_000_000  # a network of a thousand layers takes a third


class StreamError(ValueError):
    """A stream that is damaged, or asks for something to be run."""


@dataclass(frozen=True)
class Name:
    """A class or function that a stream names: nothing but its name."""

    module: str
    name: str

    def __str__(self) -> str:
        return re.sub(r'[^\w.]', '?', f'{self.module}.{self.name}')[:120]


@dataclass(eq=False)
class Inert:
    """An object of a class that is not there. ``state``: what it would have got; ``items``: what
    would have been put into it, pairs of key and value where it is a mapping."""

    kind: Name
    arguments: tuple[Any, ...] = ()
    state: Any = None
    items: list[Any] = field(default_factory=list)

    def __repr__(self) -> str:  # what it holds may be endless
        return f'Inert({self.kind})'


def read_values(
    data: bytes,
    constructors: Mapping[str, Constructor],
    persistent: Callable[[Any], Any],
    inert_calls: frozenset[str] = frozenset(),
) -> Any:
    """The value that the stream ``data`` describes.

    ``constructors``: by ``module.name``, what makes the result of a call from its arguments.
    ``inert_calls``: names whose calls give an ``Inert``. Any other call is a ``StreamError``, as
    are instructions that are cut off or do not fit, keys that are not plain values, and streams of
    more than a million instructions. ``persistent`` makes the value of an external reference.
    """
    machine = _Machine(constructors, persistent, inert_calls)
    place = 0
    try:
        for count, (code, argument, position) in enumerate(pickletools.genops(data)):
            place = position or 0
            if count >= MAX_INSTRUCTIONS:
                raise StreamError(f'more than {MAX_INSTRUCTIONS:,} instructions')
            machine.step(code.name, argument)
        return machine.pop()
    except StreamError as error:
        raise StreamError(f'{error} (at byte {place})') from None
    except (ValueError, IndexError, KeyError, TypeError, OverflowError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise StreamError(f'damaged: {reason} (at byte {place})') from None


_VALUES = frozenset(
    """
    INT LONG LONG1 LONG4 BININT BININT1 BININT2 STRING BINSTRING SHORT_BINSTRING BINBYTES
    SHORT_BINBYTES BINBYTES8 BYTEARRAY8 UNICODE SHORT_BINUNICODE BINUNICODE BINUNICODE8 FLOAT
    BINFLOAT
    """.split()
)
_MADE: dict[str, Callable[[], Any]] = {
    'NONE': lambda: None,
    'NEWTRUE': lambda: True,
    'NEWFALSE': lambda: False,
    'EMPTY_LIST': list,
    'EMPTY_DICT': dict,
    'EMPTY_SET': set,
    'EMPTY_TUPLE': tuple,
}
_SKIPPED = frozenset({'PROTO', 'FRAME', 'STOP'})
_KEYS = (str, bytes, int, float, type(None))


class _Machine:
    """The stack of values, the stacks below each mark, and the values that were kept."""

    def __init__(
        self,
        constructors: Mapping[str, Constructor],
        persistent: Callable[[Any], Any],
        inert_calls: frozenset[str],
    ) -> None:
        self.constructors, self.persistent = constructors, persistent
        self.inert_calls = inert_calls
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def step(self, name: str, argument: Any) -> None:
        """One instruction."""
        if name in _VALUES:
            self.stack.append(argument)
        elif name in _MADE:
            self.stack.append(_MADE[name]())
        elif name not in _SKIPPED:
            handler = _HANDLERS.get(name)
            if handler is None:
                raise StreamError(f'instruction {name} has no place in a checkpoint')
            handler(self, argument)

    def pop(self) -> Any:
        return self.stack.pop()

    def marked(self) -> list[Any]:
        """All values since the last mark."""
        found, self.stack = self.stack, self.below.pop()
        return found

    def mark(self, _: Any) -> None:
        self.below.append(self.stack)
        self.stack = []

    def drop(self, _: Any) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self.marked()

    def keep(self, argument: Any) -> None:
        self.memo[int(argument)] = self.stack[-1]

    def recall(self, argument: Any) -> None:
        self.stack.append(self.memo[int(argument)])

    def tuple_of(self, count: int) -> None:
        if len(self.stack) < count:
            raise StreamError('damaged: a tuple of more values than there are')
        values = tuple(self.stack[-count:])
        del self.stack[-count:]
        self.stack.append(values)

    def put(self, pairs: list[Any]) -> None:
        """Keys and values, in turns, into what is on top."""
        if len(pairs) % 2:
            raise StreamError('damaged: a key without a value')
        target = self.stack[-1]
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            if isinstance(target, Inert):
                target.items.append((key, value))
            elif isinstance(target, dict):
                target[_key(key)] = value
            else:
                raise StreamError('damaged: keys into what has none')

    def extend(self, values: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, Inert):
            target = target.items
        if not isinstance(target, list):
            raise StreamError('damaged: values appended to what is no list')
        target.extend(values)

    def add(self, values: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, set):
            raise StreamError('damaged: values added to what is no set')
        target.update(map(_key, values))

    def stack_name(self) -> None:
        name, module = self.pop(), self.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise StreamError('damaged: a name that is no text')
        self.stack.append(Name(module, name))

    def call(self) -> None:
        """A call of what is named: ours of that name, or none at all."""
        arguments, kind = self.pop(), self.pop()
        if not isinstance(kind, Name) or not isinstance(arguments, tuple):
            raise StreamError('it asks for a call of what is no name: refused, nothing was run')
        text = f'{kind.module}.{kind.name}'
        if text in self.constructors:
            self.stack.append(self.constructors[text](arguments))
        elif text in self.inert_calls:
            self.stack.append(Inert(kind, arguments))
        else:
            raise StreamError(f'it asks for {kind} to be called: refused, nothing was run')

    def instance(self, kind: Any, arguments: Any) -> None:
        """An object of a class without its code."""
        if not isinstance(kind, Name) or not isinstance(arguments, tuple):
            raise StreamError('damaged: an object of what is no class')
        self.stack.append(Inert(kind, arguments))

    def new_with_names(self, _: Any) -> None:
        named, arguments, kind = self.pop(), self.pop(), self.pop()
        self.instance(kind, (*arguments, named))

    def new(self, _: Any) -> None:
        arguments, kind = self.pop(), self.pop()
        self.instance(kind, arguments)

    def refer(self) -> None:
        """What lies outside of the stream."""
        reference = self.pop()
        self.stack.append(self.persistent(reference))

    def build(self, _: Any) -> None:
        """The state of an object; what a container of ours would get beside its values is left."""
        state, target = self.pop(), self.stack[-1]
        if isinstance(target, Inert):
            target.state = state
        elif not isinstance(target, dict):
            raise StreamError('damaged: a state for what has none')


def _key(value: Any) -> Any:
    """A plain value; hashing a nested one may take for ever."""
    if not isinstance(value, _KEYS):
        raise StreamError(f'a key of type {type(value).__name__} has no place in a checkpoint')
    return value


def _named(machine: _Machine, argument: Any) -> None:
    module, _, name = str(argument).partition(' ')
    machine.stack.append(Name(module, name))


def _paired(machine: _Machine, _: Any) -> None:
    value, key = machine.pop(), machine.pop()
    machine.put([key, value])


def _dictionary(machine: _Machine, _: Any) -> None:
    pairs = machine.marked()
    machine.stack.append({})
    machine.put(pairs)


def _into(method: Callable[[_Machine, list[Any]], None]) -> Callable[[_Machine, Any], None]:
    """Values since the mark into what lies below it."""

    def run(machine: _Machine, _: Any) -> None:
        values = machine.marked()
        method(machine, values)

    return run


def _joined(kind: Callable[[list[Any]], Any]) -> Callable[[_Machine, Any], None]:
    """One value of those since the mark."""

    def run(machine: _Machine, _: Any) -> None:
        made = kind(machine.marked())
        machine.stack.append(made)

    return run


_HANDLERS: dict[str, Callable[[_Machine, Any], None]] = {
    'MARK': _Machine.mark,
    'POP': _Machine.drop,
    'POP_MARK': _into(lambda machine, values: None),
    'DUP': lambda machine, _: machine.stack.append(machine.stack[-1]),
    'PUT': _Machine.keep,
    'BINPUT': _Machine.keep,
    'LONG_BINPUT': _Machine.keep,
    'MEMOIZE': lambda machine, _: machine.keep(len(machine.memo)),
    'GET': _Machine.recall,
    'BINGET': _Machine.recall,
    'LONG_BINGET': _Machine.recall,
    'LIST': _joined(list),
    'TUPLE': _joined(tuple),
    'TUPLE1': lambda machine, _: machine.tuple_of(1),
    'TUPLE2': lambda machine, _: machine.tuple_of(2),
    'TUPLE3': lambda machine, _: machine.tuple_of(3),
    'DICT': _dictionary,
    'FROZENSET': _joined(lambda values: frozenset(map(_key, values))),
    'APPEND': lambda machine, _: machine.extend([machine.pop()]),
    'APPENDS': _into(_Machine.extend),
    'SETITEM': _paired,
    'SETITEMS': _into(_Machine.put),
    'ADDITEMS': _into(_Machine.add),
    'GLOBAL': _named,
    'STACK_GLOBAL': lambda machine, _: machine.stack_name(),
    'REDUCE': lambda machine, _: machine.call(),
    'NEWOBJ': _Machine.new,
    'NEWOBJ_EX': _Machine.new_with_names,
    'BUILD': _Machine.build,
    'BINPERSID': lambda machine, _: machine.refer(),
}
