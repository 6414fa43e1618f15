"""Logs of programs that are written down call by call, and what must hold of a sequence."""

from __future__ import annotations

from offload_ros.rrto.search import (
    Entry,
    External,
    InFrame,
    Kind,
    OperatorSequence,
    SequenceSearch,
)

FACTORY, UPLOAD, READ, COUNT, SHAPED, WEIGHT, NOISE = 1, 2, 3, 4, 5, 6, 1000
A, B, C, D = 100, 200, 300, 400  # first signatures of models


class Program:
    """Logs the calls of a program as a device would, and keeps what the search returned."""

    def __init__(
        self, search: SequenceSearch | None = None, stride: int = 1, weight: int | None = None
    ) -> None:
        self.search = search or SequenceSearch()
        self.log: list[Entry] = []
        self.stride = stride  # another thread takes numbers in between if it is above 1
        self.found: list[OperatorSequence | None] = []
        self.units: set[tuple] = set()
        self.weight = self.call(WEIGHT) if weight is None else weight

    def call(self, signature, *references, kind=Kind.OP, factory=False, output=0) -> int:
        number = self.log[-1].number + self.stride if self.log else 7
        self.log.append(Entry(number, signature, references, kind, factory))
        self.found.append(self.search.append(self.log[-1]))
        if self.found[-1] is not None:
            check_sound(self.log, self.found[-1])
            self.units.add(tuple(step.signature for step in self.found[-1].steps))
        return number << 16 | output

    def upload(self, signature=UPLOAD) -> int:
        tensor = self.call(FACTORY, factory=True)
        self.call(signature, tensor, kind=Kind.IN)
        return tensor

    def layers(self, tensor, first, count=4) -> int:
        for signature in range(first, first + count):
            tensor = self.call(signature, tensor, self.weight)
        return tensor

    def read(self, tensor, signature=READ) -> OperatorSequence | None:
        self.call(signature, tensor, kind=Kind.GET)
        return self.found[-1]

    def infer(self, first) -> OperatorSequence | None:
        """A model of one input and one output."""
        return self.read(self.layers(self.upload(), first))

    def noise(self, rng, count) -> None:
        tensor = self.weight
        for _ in range(count):
            tensor = self.call(NOISE + rng.randrange(10**6), tensor)


def whole(first, count=4) -> tuple[int, ...]:
    """The signatures of ``Program.infer``."""
    return (FACTORY, UPLOAD, *range(first, first + count), READ)


def signatures(sequence) -> tuple[int, ...] | None:
    return sequence and tuple(step.signature for step in sequence.steps)


def check_sound(log, sequence) -> None:
    """The sequence ends the log (or the segment before a DYN) and occurred before, with every
    reference as it says; computed afresh from the log."""
    place = {entry.number: index for index, entry in enumerate(log)}
    steps, count = sequence.steps, len(sequence.steps)
    now = place[sequence.last_base]
    end = len(log) - (log[-1].kind == Kind.DYN)
    assert now + count == end
    assert [entry.number for entry in log[now:end]] == list(sequence.numbers)
    assert all(step.kind != Kind.DYN for step in steps)
    assert any(occurs(log, place, steps, then, now) for then in range(now - count, -1, -1))


def occurs(log, place, steps, then, now) -> bool:
    def handle(base, reference):
        return log[base + reference.step].number << 16 | reference.output

    for index, step in enumerate(steps):
        old, new = log[then + index], log[now + index]
        if not (old.signature == new.signature == step.signature):
            return False
        if not (old.kind == new.kind == step.kind):
            return False
        if not (len(old.references) == len(new.references) == len(step.references)):
            return False
        for before, after, reference in zip(
            old.references, new.references, step.references, strict=True
        ):
            if isinstance(reference, External):
                right = before == after == reference.handle
                right = right and place.get(after >> 16, -1) < then
            elif isinstance(reference, InFrame):
                right = before == handle(then, reference) and after == handle(now, reference)
            else:
                right = after == handle(then, reference) and place.get(before >> 16, -1) < then
            if not right:
                return False
    return True
