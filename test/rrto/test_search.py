"""Operator Sequence Search on logs of programs that are written down call by call."""

from __future__ import annotations

import random

import pytest

from offload_ros.rrto.search import (
    Carried,
    External,
    InFrame,
    Kind,
    OperatorSequence,
)

from .synthetic_log import (
    COUNT,
    FACTORY,
    READ,
    SHAPED,
    UPLOAD,
    A,
    B,
    C,
    D,
    Program,
    signatures,
    whole,
)


def test_a_unit_is_found_at_the_read_that_ends_the_second_inference():
    program = Program()
    assert program.infer(A) is None
    found = program.infer(A)
    assert signatures(found) == whole(A)
    assert found.steps[0].references == ()
    assert found.steps[1].references == (InFrame(0, 0),)
    assert found.steps[3].references == (InFrame(2, 0), External(program.weight))
    assert found.last_base == program.log[-7].number
    again = program.infer(A)
    assert again == found and again.digest == found.digest and again.last_base > found.last_base


@pytest.mark.parametrize('uploads', [0, 1, 5])
@pytest.mark.parametrize('ends_with_read', [False, True])
def test_initialisation_before_the_first_inference_costs_no_inference(uploads, ends_with_read):
    program, rng = Program(), random.Random(uploads)
    for _ in range(uploads):
        program.noise(rng, rng.randrange(4))
        program.upload(UPLOAD + 50)
    program.noise(rng, 20)
    if ends_with_read:
        program.read(program.weight)
    assert program.infer(A) is None
    assert signatures(program.infer(A)) == whole(A)


def test_what_a_different_operator_or_argument_makes_of_an_inference_is_no_unit():
    program = Program()
    program.infer(A)
    assert program.read(program.layers(program.upload(), A, 3)) is None
    other = program.call(SHAPED)
    tensor = program.upload()
    for signature in range(A, A + 4):
        tensor = program.call(signature, tensor, other)  # another weight
    assert program.read(tensor) is None
    tensor = program.upload()
    program.layers(tensor, A)
    assert program.read(tensor) is None  # the input is read, not the result


def test_another_output_of_the_same_operator_is_different():
    program = Program()
    for output in (0, 1, 1):
        found = program.read(program.call(A, program.upload(), output=output))
    assert found.steps[-1].references == (InFrame(2, 1),)
    assert sum(each is not None for each in program.found) == 1


def several_reads(program, state=None) -> OperatorSequence | None:
    tensor = program.layers(program.upload(), A)
    program.read(tensor)
    second = program.layers(tensor, B)
    program.read(second)
    return program.read(program.layers(second, C))


def test_several_reads_per_inference_are_one_unit():
    program = Program()
    several_reads(program)
    found = several_reads(program)
    assert [step.kind for step in found.steps].count(Kind.GET) == 3
    assert len(found.steps) == 17 and found.steps[0].signature == FACTORY
    count = len(program.units)
    assert several_reads(program) == found == several_reads(program)
    assert len(program.units) == count == 3  # it and its beginnings, no rotations


def test_several_reads_are_one_unit_after_initialisation_without_a_read():
    program = Program()
    program.noise(random.Random(0), 30)
    program.upload(UPLOAD + 50)
    several_reads(program)
    assert len(several_reads(program).steps) == 17


def two_uploads(program) -> OperatorSequence | None:
    first = program.layers(program.upload(), A)
    program.read(first)
    return program.read(program.call(D, program.layers(program.upload(), B), first))


@pytest.mark.parametrize('between', [0, 3])
def test_a_unit_with_two_uploads_begins_at_the_first(between):
    program, rng = Program(), random.Random(between)
    program.upload(UPLOAD + 50)
    lengths = []
    for _ in range(6):
        found = two_uploads(program)
        lengths.append(found and len(found.steps))
        program.noise(rng, between)
    assert lengths == [None, 15, 15, 15, 15, 15]
    assert {len(unit) for unit in program.units} == {7, 15}
    assert all(unit[2] == A for unit in program.units)


def test_leftovers_after_the_read_need_not_be_equal():
    program, rng = Program(), random.Random(1)
    for index in range(5):
        found = program.infer(A)
        assert index == 0 or signatures(found) == whole(A)
        program.noise(rng, rng.randrange(5))


def test_leftovers_that_the_next_inference_needs_belong_to_the_unit():
    program = Program()
    mean = program.weight
    for _ in range(4):
        tensor = program.call(D, program.layers(program.upload(), A), mean)
        found = program.read(tensor)
        mean = program.call(D + 1, tensor)
    assert signatures(found)[:3] == (D + 1, FACTORY, UPLOAD)
    assert Carried(8, 0) not in found.steps[0].references
    assert found.steps[7].references[1] == InFrame(0, 0)
    assert isinstance(found.steps[0].references[0], Carried)


def test_noise_with_uploads_before_the_input_is_left_out():
    program, rng = Program(), random.Random(2)
    for index in range(3):
        program.upload(UPLOAD + 50 + rng.randrange(10**6))
        program.noise(rng, 3)
        found = program.infer(A)
        assert index == 0 or signatures(found) == whole(A)


def test_noise_with_uploads_is_left_out_of_a_unit_of_several_reads():
    program, rng = Program(), random.Random(2)
    for index in range(3):
        program.upload(UPLOAD + 50 + rng.randrange(10**6))
        program.noise(rng, 3)
        found = several_reads(program)
        assert index == 0 or len(found.steps) == 17


def test_a_counter_that_is_replaced_each_frame_is_carried():
    program = Program()
    count = program.weight
    for index in range(4):
        tensor = program.layers(program.upload(), A)
        count = program.call(COUNT, count)
        found = program.read(program.call(D, tensor, count))
        if index:
            assert found.steps[6].references == (Carried(6, 0),)
            assert found.steps[7].references == (InFrame(5, 0), InFrame(6, 0))


def test_a_tensor_of_this_inference_once_and_of_the_last_one_then_is_no_unit():
    program, last = Program(), None
    lengths = []
    for _ in range(3):
        tensor = program.layers(program.upload(), A)
        count = program.call(COUNT, tensor)
        found = program.read(program.call(D, tensor, last or tensor))
        last = count
        lengths.append(found and len(found.steps))
    assert lengths == [None, None, 9]
    assert found.steps[7].references == (InFrame(5, 0), Carried(6, 0))


def test_a_tensor_of_the_first_inference_that_the_second_uses_is_not_external_to_both():
    program, kept, results = Program(), None, []
    for _ in range(3):
        tensor = program.upload()
        grid = program.call(COUNT, program.weight)
        kept = kept or grid
        results.append(program.read(program.call(D, tensor, kept)))
    assert results[:2] == [None, None]
    assert results[2].steps[3].references == (InFrame(0, 0), External(kept))


def test_what_a_unit_takes_from_before_the_last_occurrence_makes_it_longer():
    program, last = Program(), None
    for branch in 'bbccbcbb':
        tensor = program.layers(program.upload(), A)
        program.read(tensor)
        second = program.call(B if branch == 'b' else C, program.upload(), last or program.weight)
        found = program.read(second)
        last = tensor
    assert [step.signature for step in found.steps].count(UPLOAD) == 2
    assert found.steps[9].references[1] == Carried(5, 0)


def test_state_from_two_inferences_ago_makes_units_of_two():
    program = Program()
    states = [program.weight, program.call(SHAPED)]
    lengths = []
    for _ in range(6):
        states.append(program.call(COUNT, program.upload(), states[-2]))
        found = program.read(states[-1])
        lengths.append(found and len(found.steps))
    assert lengths == [None, None, None, 8, None, 8]
    assert found.steps[2].references[1] == Carried(2, 0)
    assert found.steps[6].references[1] == Carried(6, 0)


def test_two_models_in_turn_are_covered():
    program = Program()
    for _ in range(4):
        program.infer(A)
        found = program.infer(B)
    assert signatures(found) == whole(A) + whole(B)
    assert program.units == {whole(A), whole(A) + whole(B)}


def test_two_models_in_random_order_are_each_a_unit():
    program, rng = Program(), random.Random(3)
    results = [program.infer(rng.choice((A, B))) for _ in range(40)]
    assert {whole(A), whole(B)} <= program.units
    assert all(results[4:])
    assert program.units <= {whole(A), whole(B), whole(A) + whole(B), whole(B) + whole(A)}


def test_the_same_model_twice_per_inference_is_a_unit_after_the_first():
    program = Program()
    program.infer(A)
    assert signatures(program.infer(A)) == whole(A)
    program.infer(C)
    assert signatures(program.infer(A)) == whole(A)
    assert signatures(program.infer(A)) == whole(A)
    assert signatures(program.infer(C)) == whole(C)  # not always the same follows A


def test_the_same_model_twice_the_second_time_on_the_result_of_the_first():
    program = Program()
    for index in range(3):
        tensor = program.upload()
        for _ in range(2):
            tensor = program.layers(tensor, A)
            found = program.read(tensor)
        assert index == 0 or len(found.steps) == 12


def test_one_of_three_reads_skipped_at_random_every_variant_becomes_a_unit():
    program, rng, lengths = Program(), random.Random(4), []
    for _ in range(60):
        skipped = rng.choice((None, 0, 1, 2))
        tensor = program.upload()
        for index, first in enumerate((A, B, C)):
            tensor = program.layers(tensor, first)
            if index != skipped:
                found = program.read(tensor)
        # Without the last read an inference ends with the second.
        lengths.append((len(found.steps) if found else 0, {None: 17, 2: 12}.get(skipped, 16)))
    assert all(found == right for found, right in lengths[30:])
    assert max(len(unit) for unit in program.units) < 34  # few pairs of inferences


@pytest.mark.parametrize('joined', [False, True])
@pytest.mark.parametrize('order', ['bcbcbc', 'bccbbc', 'bbbccc', 'b' + 20 * 'c' + 'b'])
def test_both_branches_become_units_once_each_was_seen_twice(order, joined):
    program, seen = Program(), {'b': 0, 'c': 0}
    for branch in order:
        tensor = program.layers(program.upload(), A)
        program.read(tensor)
        tensor = program.layers(tensor, B if branch == 'b' else C)
        found = program.read(tensor)
        if joined:  # both end with the same segment
            found = program.read(program.layers(tensor, D))
        seen[branch] += 1
        if seen[branch] > 1:
            assert len(found.steps) == (17 if joined else 12)
            assert found.steps[0].signature == FACTORY
            assert found.steps[7].signature == (B if branch == 'b' else C)


def test_the_first_inference_may_be_different():
    program = Program()
    tensor = program.layers(program.upload(), A)
    grid = program.call(D, program.weight)  # made once and kept
    program.read(program.call(D + 1, tensor, grid))
    for index in range(3):
        found = program.read(program.call(D + 1, program.layers(program.upload(), A), grid))
        assert index == 0 or (len(found.steps) == 8 and External(grid) in found.steps[6].references)


def test_without_uploads_a_unit_begins_after_a_read():
    program = Program()
    for index in range(3):
        found = program.read(program.layers(program.call(SHAPED), A))
        assert index == 0 or found.steps[0].signature in (SHAPED, FACTORY)
    assert signatures(found) == (SHAPED, A, A + 1, A + 2, A + 3, READ)


def test_a_unit_ends_before_an_operator_whose_shape_depends_on_data():
    program = Program()
    for index in range(3):
        boxes = program.layers(program.upload(), A)
        kept = program.call(SHAPED, boxes, kind=Kind.DYN)
        found = program.found[-1]
        assert index == 0 or signatures(found) == whole(A)[:-1]
        assert program.read(program.call(D, boxes, kept)) is None


def test_numbers_that_other_threads_took_in_between_do_not_matter():
    program = Program(stride=3)
    program.infer(A)
    found = program.infer(A)
    assert signatures(found) == whole(A)
    assert list(found.numbers) == [entry.number for entry in program.log[-7:]]
    assert found.steps[3].references == (InFrame(2, 0), External(program.weight))
