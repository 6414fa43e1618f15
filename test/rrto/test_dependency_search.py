"""Data Dependency Search, as RRTO's first paper describes it, and where it ends."""

from __future__ import annotations

import random

import pytest

from offload_ros.rrto.dependency_search import candidates, dependencies, find_sequence, spans
from offload_ros.rrto.search import External, InFrame

from .synthetic_log import COUNT, A, B, Program, signatures, whole


def clean(inferences, model=Program.infer, **arguments) -> Program:
    """A program whose weights were made before the log begins."""
    program = Program(weight=1 << 16, **arguments)
    for _ in range(inferences):
        model(program, A)
    return program


def test_an_edge_goes_from_an_output_to_a_later_argument():
    log = clean(1).log
    edges = dependencies(log)
    assert edges == [(), (0,), (0, -1), (2, -1), (3, -1), (4, -1), (5,)]


def test_starts_depend_on_nothing_and_ends_are_reads_that_feed_nothing():
    log = clean(2).log
    assert candidates(log, dependencies(log)) == ([0, 7], [6, 13])


def test_the_span_is_from_the_start_that_the_last_read_depends_on():
    log = clean(3).log
    assert spans(log, dependencies(log)) == [(14, 20)]


@pytest.mark.parametrize('stride', [1, 3])
@pytest.mark.parametrize('inferences', [2, 3, 4])
def test_a_log_of_inferences_alone_gives_their_sequence(inferences, stride):
    program = clean(inferences, stride=stride)
    found = find_sequence(program.log)
    assert signatures(found) == whole(A)
    assert found.steps[2].references == (InFrame(0, 0), External(program.weight))
    assert found.last_base == program.log[-7].number
    assert found == program.found[-1]  # what the two-level search finds


def test_several_reads_of_one_input_are_one_sequence():
    def model(program, first):
        tensor = program.layers(program.upload(), first)
        program.read(tensor)
        program.read(program.layers(tensor, B))

    found = find_sequence(clean(2, model).log)
    assert len(found.steps) == 12


@pytest.mark.parametrize('inferences', [0, 1])
def test_one_inference_is_no_repetition(inferences):
    assert find_sequence(clean(inferences).log) is None


def test_inferences_of_different_wiring_are_no_repetition():
    program = clean(1)
    tensor = program.upload()
    program.layers(tensor, A)
    program.read(tensor)
    assert find_sequence(program.log) is None


def test_initialisation_defeats_it_whatever_follows():
    program = Program()  # its weight is made in the log
    program.noise(random.Random(0), 5)
    for _ in range(10):
        assert program.infer(A) is None or find_sequence(program.log) is None
    assert find_sequence(program.log) is None
    assert signatures(program.found[-1]) == whole(A)


def test_a_call_between_inferences_defeats_it():
    program = clean(2)
    assert find_sequence(program.log) is not None
    program.noise(random.Random(0), 1)
    program.infer(A)
    assert find_sequence(program.log) is None


def test_state_defeats_it():
    program = clean(0)
    count = program.weight
    for _ in range(4):
        count = program.call(COUNT, program.layers(program.upload(), A), count)
        found = program.read(count)
    assert find_sequence(program.log) is None
    assert len(found.steps) == 8


def test_two_inputs_read_apart_defeat_it():
    def model(program, first):
        program.infer(first)
        program.infer(B)

    program = clean(3, model)
    assert find_sequence(program.log) is None
    assert signatures(program.found[-1]) == whole(A) + whole(B)
