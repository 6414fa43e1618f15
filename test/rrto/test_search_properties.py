"""Operator Sequence Search: what holds for any log; logging in bulk; bounded memory."""

from __future__ import annotations

from dataclasses import replace
import random

from hypothesis import given, settings
from hypothesis import strategies as st
import pytest

from offload_ros.rrto.search import (
    Carried,
    Entry,
    External,
    InFrame,
    Kind,
    OperatorSequence,
    Reference,
    SequenceSearch,
    Step,
    Wiring,
)

from ..draws import examples
from .synthetic_log import FACTORY, NOISE, READ, UPLOAD, A, B, Program, check_sound, whole

# An inference: segments that end with a read, of layers, and whether an upload begins them. Each
# number of a layer chooses one more argument among weights, states and what was computed so far.
LAYERS = st.lists(st.lists(st.integers(0, 99), max_size=3), min_size=1, max_size=8)
SEGMENTS = st.lists(st.tuples(LAYERS, st.booleans()), min_size=1, max_size=4)


class RandomProgram(Program):
    """Runs the inference that the drawn numbers describe, and says which steps that has."""

    def __init__(self, segments, states: int, stride: int) -> None:
        super().__init__(stride=stride)
        self.segments = segments
        self.constants = [self.call(NOISE) for _ in range(3)]
        self.states = [(self.call(NOISE), Carried(0, 0)) for _ in range(states)]

    def infer_randomly(self) -> tuple[Step, ...]:
        """The steps hold from the second inference on. Each state is replaced by the last tensor
        of one of the segments."""
        self.steps: list[Step] = []
        self.there: list[tuple[int, Reference]] = [(c, External(c)) for c in self.constants]
        self.there += self.states
        signature, results, last = 10, [], self.there[0]
        for number, (layers, upload) in enumerate(self.segments):
            if upload or not number:
                last = self.step(FACTORY, factory=True)
                self.step(UPLOAD + 100 * number, last, kind=Kind.IN)
            for choices in layers:
                chosen = [self.there[choice % len(self.there)] for choice in choices]
                last = self.step(signature, last, *chosen)
                signature += 1
            results.append(last)
            self.step(READ, last, kind=Kind.GET)
        for index in range(len(self.states)):
            handle, reference = results[index % len(results)]
            self.states[index] = handle, Carried(reference.step, 0)
        return tuple(self.steps)

    def step(self, signature, *arguments, kind=Kind.OP, factory=False) -> tuple[int, Reference]:
        handles = (handle for handle, _ in arguments)
        handle = self.call(signature, *handles, kind=kind, factory=factory)
        self.steps.append(Step(signature, kind, tuple(reference for _, reference in arguments)))
        self.there.append((handle, InFrame(len(self.steps) - 1, 0)))
        return self.there[-1]


@settings(max_examples=examples(100, 3000))
@given(
    segments=SEGMENTS,
    states=st.integers(0, 3),
    stride=st.sampled_from((1, 3)),
    initial=st.integers(0, 20),
    uploads=st.integers(0, 2),
    initial_read=st.booleans(),
    between=st.integers(0, 3),
    seed=st.integers(0, 1 << 30),
)
def test_the_true_unit_is_found_at_the_end_of_the_second_inference(
    segments, states, stride, initial, uploads, initial_read, between, seed
):
    program, rng = RandomProgram(segments, states, stride), random.Random(seed)
    program.noise(rng, initial)
    for _ in range(uploads):
        program.upload(UPLOAD + 50)
    if initial_read:
        program.read(program.weight, READ + 50)
    for index in range(5):
        steps = program.infer_randomly()
        found = program.found[-1]
        assert (found is None) == (index == 0)
        assert index == 0 or found.steps == steps
        assert index == 0 or list(found.numbers) == [e.number for e in program.log[-len(steps) :]]
        program.noise(rng, between and rng.randrange(between + 1))


@settings(max_examples=examples(150, 5000))
@given(
    calls=st.lists(
        st.tuples(
            st.sampled_from((0, 0, 0, 1, 2, 2, 3)),
            st.integers(0, 1),
            st.lists(st.integers(1, 9), max_size=2),
            st.booleans(),
        ),
        max_size=60,
    ),
    repetitions=st.integers(1, 4),
    stride=st.sampled_from((1, 2)),
)
def test_what_is_returned_did_occur_twice_whatever_the_log(calls, repetitions, stride):
    program = Program(stride=stride)  # checks each sequence that is returned
    for kind, signature, distances, old in calls * repetitions:
        handles = [
            program.log[0 if old else -min(distance, len(program.log))].number << 16
            for distance in distances
        ]
        program.call(10 * kind + signature, *handles[: 1 + signature], kind=Kind(kind))


@settings(max_examples=examples(50, 1000))
@given(order=st.lists(st.sampled_from((A, B)), min_size=12, max_size=30), split=st.integers(0, 9))
def test_calls_logged_in_bulk_count_as_those_that_were_appended(order, split):
    program = Program()
    for first in order:
        program.infer(first)
    bulk = SequenceSearch()
    middle = len(program.log) * split // 10
    bulk.extend(program.log[:middle])
    found = [bulk.append(entry) for entry in program.log[middle:]]
    appended = [None if f is None else (f.steps, f.last_base) for f in program.found[middle:]]
    assert [None if f is None else (f.steps, f.last_base) for f in found] == appended


def counting(program, count) -> int:
    """An inference with state, noise after it; the state."""
    tensor = program.layers(program.upload(), A)
    count = program.call(B, count, tensor)
    program.read(count)
    return count


@pytest.mark.parametrize('stride', [1, 2])
@pytest.mark.parametrize('confirmed', [0, 1, 4, 8])
def test_repeat_logs_the_same_as_the_calls_themselves(confirmed, stride):
    program = Program(stride=stride)
    count = program.weight
    for _ in range(2):
        count = counting(program, count)
    unit, done = program.found[-1], len(program.log)
    assert unit.steps[6].references[0] == Carried(6, 0)
    program.infer(B)
    replayed, begin = SequenceSearch(), len(program.log)
    replayed.extend(program.log)
    for _ in range(3):
        count = counting(program, count)
    previous = [entry.number for entry in program.log[done - 8 : done]]
    for index in range(3):  # the last one perhaps only in part
        entries = program.log[begin + 8 * index :][: 8 if index < 2 else confirmed]
        numbers = [entry.number for entry in entries]
        replayed.repeat(unit, numbers, previous)
        previous = numbers
    assert replayed.size == begin + 16 + confirmed
    found = [replayed.append(entry) for entry in program.log[begin + 16 + confirmed :]]
    if confirmed < 8:
        check_sound(program.log, found[-1])
        assert found[-1] == unit == program.found[-1]
    assert (replayed._references, replayed._keys) == (
        program.search._references,
        program.search._keys,
    )


def test_a_sequence_can_be_made_of_its_steps():
    program = Program()
    count = program.weight
    for _ in range(2):
        count = counting(program, count)
    unit = program.found[-1]
    same = OperatorSequence(Wiring.of(unit.steps), unit.numbers)
    assert same == unit and hash(same) == hash(unit) and same.steps == unit.steps
    for change in ({'signature': 9}, {'kind': Kind.IN}, {'references': (External(5),)}):
        step = replace(unit.steps[-1], **change)
        assert OperatorSequence(Wiring.of((*unit.steps[:-1], step)), unit.numbers) != unit
    assert OperatorSequence(Wiring.of(unit.steps[:-1]), unit.numbers) != unit


def test_repeat_refuses_numbers_that_do_not_fit():
    program = Program()
    program.infer(A)
    program.infer(A)
    unit = program.found[-1]
    above = unit.numbers[-1] + 1
    with pytest.raises(ValueError, match='8 and 7 op numbers for 7 steps'):
        program.search.repeat(unit, range(above, above + 8), unit.numbers)
    with pytest.raises(ValueError, match='must increase'):
        program.search.repeat(unit, unit.numbers, unit.numbers)


def test_op_numbers_must_increase():
    search = SequenceSearch()
    search.append(Entry(5, 1, (), Kind.OP))
    with pytest.raises(ValueError, match='op number 5 after 5'):
        search.append(Entry(5, 1, (), Kind.OP))
    with pytest.raises(ValueError, match='at least 16'):
        SequenceSearch(max_entries=4)


def test_old_calls_are_forgotten_and_units_stay_as_they_were():
    program, rng = Program(SequenceSearch(max_entries=200)), random.Random(5)
    program.noise(rng, 500)
    for index in range(100):
        program.read(program.layers(program.upload(UPLOAD), A))
        program.read(program.layers(program.upload(UPLOAD), B))
        assert program.search.size <= 200
        assert index == 0 or len(program.found[-1].steps) == 14
    assert program.units == {whole(A), whole(A) + whole(B)}
    # What was forgotten is not a partner any more.
    program.noise(rng, 250)
    assert program.infer(A) is None
    assert program.infer(A) is not None


@pytest.mark.parametrize('max_entries', range(196, 212, 3))
def test_a_unit_that_was_replayed_for_long_stays_as_it_was(max_entries):
    program = Program(SequenceSearch(max_entries))
    program.infer(A)
    for first in (B, A, B):
        program.infer(first)
    unit = program.found[-1]
    assert len(unit.steps) == 14
    numbers = unit.numbers
    for _ in range(100):
        previous, numbers = numbers, range(numbers[-1] + 1, numbers[-1] + 15)
        program.search.repeat(unit, numbers, previous)
    assert program.search.size <= max_entries
    program.log = [Entry(numbers[-1], READ, (), Kind.GET)]
    found = []
    for first in (A, B) * 2:
        tensor = program.layers(program.upload(), first)
        entry = Entry(program.log[-1].number + 1, READ, (tensor,), Kind.GET)
        program.log.append(entry)
        found.append(program.search.append(entry))
    assert found == [found[0], unit] * 2
    assert found[0].steps == unit.steps[:7]
