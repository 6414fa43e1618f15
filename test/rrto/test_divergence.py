"""A program that leaves the sequence it was predicted to take, at any place, stays right."""

import random

import pytest
import torch
from torch import nn

from .sessions import assert_equal, image, layers, on_cpu

FUNCTIONAL = nn.functional


@pytest.mark.parametrize('place', ['first', 'middle', 'last'])
def test_both_branches_of_a_flag_of_the_host_replay(run_everywhere, place):
    def program(device):
        model, chance = layers(0, 6, 5, 4).to(device), random.Random(4)

        def frame(index):
            flag = chance.random() < 0.5
            given = image(index, 3, 6).to(device)
            if place == 'first' and flag:
                given = given + 1
            features = model[0](given)
            if place == 'middle' and flag:
                features = features * 2
            features = model[1:](features)
            if place == 'last' and flag:
                features = features - 1
            return features.cpu()

        return frame

    session = run_everywhere(program, 30)
    assert all(cost.replayed == 1 and cost.messages <= 2 for cost in session.costs[14:])
    assert session.statistics.aborts <= 4


def test_both_branches_of_a_value_that_was_read_replay(run_everywhere):
    def program(device):
        model, head = layers(0, 6, 5).to(device), layers(1, 5, 4).to(device)

        def frame(index):
            features = model(image(index, 3, 6).to(device))
            if features.sum().item() > 9:
                features = head(features)
            return features.cpu()

        return frame

    session = run_everywhere(program, 40)
    assert all(cost.replayed and cost.messages <= 3 for cost in session.costs[20:])
    assert session.statistics.aborts <= 4


def test_many_branches(run_everywhere):
    def program(device):
        model, chance = layers(0, 6, 5).to(device), random.Random(8)
        steps = [torch.relu, torch.tanh, torch.sigmoid, torch.neg]

        def frame(index):
            features = model(image(index, 3, 6).to(device))
            for _ in range(2):
                features = steps[chance.randrange(4)](features)
            return features.cpu()

        return frame

    session = run_everywhere(program, 120)
    assert sum(cost.replayed for cost in session.costs[80:]) >= 30


@pytest.mark.parametrize('place', range(6))
def test_an_abort_before_between_and_after_changes_of_persistent_tensors(run_everywhere, place):
    def program(device):
        model = layers(0, 6, 5).to(device)
        counter = torch.zeros(3, 1, device=device)
        history = torch.zeros(4, 5, device=device)
        state = [torch.zeros(3, 5, device=device)]

        def frame(index):
            divergence = place if index in (6, 7, 13) else None
            features = model(image(index, 3, 6).to(device))

            def step(number):
                return features.sin_() if number == divergence else features

            step(0)
            counter.add_(1)
            step(1)
            state[0] = state[0] * 0.5 + features * counter
            step(2)
            history[1:] = history[:-1].clone()
            step(3)
            history[0] = state[0][0]
            step(4)
            counter.mul_(1.5)
            step(5)
            return history.cpu(), counter.cpu(), state[0].cpu(), features.cpu()

        return frame

    session = run_everywhere(program, 22)
    assert session.statistics.aborts >= 1
    assert session.costs[5].replayed and session.costs[-1].replayed


@pytest.mark.parametrize('place', range(3))
def test_an_abort_about_a_change_of_metadata(run_everywhere, place):
    def program(device):
        model = layers(0, 6, 5).to(device)
        matrix = torch.zeros(5, 5, device=device)
        grown = torch.zeros(2, device=device)

        def frame(index):
            divergence = place if index in (6, 12) else None
            features = model(image(index, 5, 6).to(device))
            if divergence == 0:
                features = features + 1
            matrix.add_(features).t_()
            if divergence == 1:
                features = features + 2
            grown.resize_(7).fill_(1)
            grown.resize_(2)
            matrix.t_()
            if divergence == 2:
                features = features + 3
            return features.cpu(), matrix.cpu(), grown.cpu()

        return frame

    session = run_everywhere(program, 16)
    assert session.statistics.aborts >= 1


def test_the_random_stream_goes_on_after_an_abort(run_everywhere):
    def program(device):
        model = layers(0, 6, 5).to(device)
        torch.manual_seed(3)

        def frame(index):
            features = model(image(index, 3, 6).to(device)) + torch.rand(3, 5, device=device)
            if index in (5, 6, 11):
                features = features * 2
            return (features + torch.randn(3, 5, device=device)).cpu()

        return frame

    session = run_everywhere(program, 16)
    assert session.statistics.aborts >= 1


def test_seeds_and_states_of_the_generator_in_mid_frame(run_everywhere):
    def program(device):
        model = layers(0, 6, 5).to(device)
        torch.manual_seed(3)

        def frame(index):
            features = model(image(index, 3, 6).to(device)) + torch.rand(3, 5, device=device)
            if index in (6, 9):
                torch.manual_seed(index)
            if index == 12 and device == 'cuda':
                torch.cuda.set_rng_state(torch.cuda.get_rng_state())
            return (features + torch.rand(3, 5, device=device)).cpu()

        return frame

    session = run_everywhere(program, 16)
    assert session.costs[8].replayed and session.costs[15].replayed


def test_a_frame_that_is_given_up_in_the_middle(run_everywhere):
    def program(device):
        model = layers(0, 6, 5, 5, 5, 4).to(device)
        counter = torch.zeros(1, device=device)

        def frame(index):
            features = image(index, 3, 6).to(device)
            for number, layer in enumerate(model):
                features = layer(features)
                if number == 3:
                    counter.add_(1)
                if index in (6, 9) and number == index - 4:
                    return 'nothing'
            return (features + counter).cpu()

        return frame

    session = run_everywhere(program, 14)
    assert session.costs[-1].is_replay


def test_an_upload_after_a_read_that_two_branches_share(run_everywhere):
    """The second input has not been sent when the program does what neither branch does."""

    def program(device):
        model, chance = layers(0, 6, 5).to(device), random.Random(2)
        seen = torch.zeros(1, device=device)

        def frame(index):
            features = model(image(index, 3, 6).to(device))
            total = features.sum().item()
            seen.add_(1)
            features = features + image(-index, 3, 5).to(device)
            kind = chance.randrange(2) if index < 30 else index % 3
            features = [features * 2, features / 3, features.exp()][kind]
            return total, (features + seen).cpu()

        return frame

    run_everywhere(program, 40)


def test_branches_with_carried_state(run_everywhere):
    def program(device):
        model, chance = layers(0, 6, 5).to(device), random.Random(9)
        state = [torch.zeros(3, 5, device=device)]

        def frame(index):
            features = model(image(index, 3, 6).to(device))
            state[0] = torch.tanh(state[0] + features)
            found = state[0] * 2 if chance.random() < 0.5 else state[0] - 1
            return found.cpu()

        return frame

    session = run_everywhere(program, 40)
    assert sum(cost.replayed for cost in session.costs[20:]) >= 15


def test_results_that_were_not_kept_before_are_computed_again_once(run_everywhere):
    def program(device):
        model = layers(0, 6, 5, 4).to(device)
        counter, kept = torch.zeros(1, device=device), []

        def frame(index):
            hidden = model[:2](image(index, 3, 6).to(device))
            counter.add_(1)
            found = (model[2:](hidden) + counter).cpu()
            kept.append(hidden if index >= 5 else None)
            return found, kept[-2].cpu() if index > 5 and index % 2 else None

        return frame

    session = run_everywhere(program, 12)
    assert session.statistics.recomputed == 1


def test_a_tensor_that_dies_in_a_frame_that_is_aborted(run_everywhere):
    def program(device):
        model = layers(0, 6, 5).to(device)
        state = [torch.ones(3, 5, device=device)]

        def frame(index):
            features = model(image(index, 3, 6).to(device))
            state[0] = features * state[0]  # the old one dies here
            more = image(-index, 3, 5).to(device)
            if index in (6, 11):
                features = features.cos()
            return (features + state[0] + more).cpu()

        return frame

    session = run_everywhere(program, 16)
    assert session.statistics.aborts >= 1


def test_a_model_that_is_deleted_and_another_that_follows(run_everywhere):
    def program(device):
        models = []

        def frame(index):
            if index % 6 == 0:
                models.clear()
                models.append(layers(index, 6, 5, 4).to(device))
            return models[0](image(index, 3, 6).to(device)).cpu()

        return frame

    session = run_everywhere(program, 24)
    assert session.costs[5].is_replay and session.costs[-1].is_replay
    assert session.handles() == 0  # the program is over


def broken_lookup(device):
    """Frames 5 and 9 look up what is not there; the program catches that and goes on."""
    table = torch.arange(20.0).reshape(10, 2).to(device)
    count = torch.zeros(1, device=device)

    def frame(index):
        places = torch.arange(20) % 10
        if index in (5, 9):
            places[3] = 99
        rows = FUNCTIONAL.embedding(places.to(device), table)
        count.add_(1)
        try:
            return (rows * 2).cpu()
        except IndexError:
            return 'out of range', count.cpu()

    return frame


def test_an_error_in_mid_replay_keeps_its_class_and_all_else_has_happened(open_session):
    for mode in ('pipelined', 'replay'):
        session = open_session(mode)
        found = session.play(broken_lookup, 14)
        for index, each in enumerate(found):
            if index in (5, 9):
                assert each[0] == 'out of range' and each[1].item() == index + 1
            else:
                rows = torch.arange(20.0).reshape(10, 2)[torch.arange(20) % 10]
                assert torch.equal(each, rows * 2)
    assert session.costs[-1].is_replay


def test_an_error_in_a_unit_that_ends_before_an_operator_of_unknown_shape(open_session):
    def program(device):
        table = torch.arange(20.0).reshape(10, 2).to(device)

        def frame(index):
            places = torch.arange(20) % 10
            if index == 6:
                places[3] = 99
            try:
                return FUNCTIONAL.embedding(places.to(device), table).nonzero().cpu()
            except IndexError:
                return 'out of range'

        return frame

    expected = on_cpu(program, 10)
    for mode in ('rpc', 'pipelined', 'replay'):
        assert_equal(open_session(mode).play(program, 10), expected, mode)


def test_an_error_that_diverges_before_it_is_told_is_told_at_the_next_read(open_session):
    open_session()
    table = torch.arange(20.0).reshape(10, 2).to('cuda')

    def frame(places, early):
        rows = FUNCTIONAL.embedding(places.to('cuda'), table)
        return (rows - 1).cpu() if early else (rows * 2).cpu()

    places = torch.arange(20) % 10
    for _ in range(5):
        frame(places, False)
    with pytest.raises(IndexError):
        frame(places + 100, True)
    assert torch.equal(frame(places, True), table.cpu()[places] - 1)
    assert torch.equal(frame(places, False), table.cpu()[places] * 2)


def test_an_exception_of_the_program_in_mid_frame(run_everywhere):
    def program(device):
        model = layers(0, 6, 5, 4).to(device)
        total = torch.zeros(1, device=device)

        def frame(index):
            try:
                features = model[:2](image(index, 3, 6).to(device))
                total.add_(features.sum())
                if index in (5, 6, 10):
                    raise LookupError(index)
                return model[2:](features).cpu(), total.cpu()
            except LookupError:
                return total.cpu()

        return frame

    run_everywhere(program, 16)


def test_a_program_that_ends_in_mid_frame_leaves_nothing(open_session):
    session = open_session()
    model = layers(0, 6, 5, 4).to('cuda')
    for index in range(5):
        model(image(index, 3, 6).to('cuda')).cpu()
    unread = model(image(7, 3, 6).to('cuda'))
    session.client.flush()
    assert torch.equal(unread.cpu(), layers(0, 6, 5, 4)(image(7, 3, 6)))
    half = model[0](image(8, 3, 6).to('cuda'))
    assert half.shape == (3, 5)
    del model, half, unread
    assert session.handles() == 0


def test_a_session_that_is_closed_in_mid_frame_says_so(open_session):
    session = open_session()
    model = layers(0, 6, 5, 4).to('cuda')
    for index in range(5):
        model(image(index, 3, 6).to('cuda')).cpu()
    model[0](image(8, 3, 6).to('cuda'))
    session.close()
    with pytest.raises(ConnectionError, match='closed'):
        model(image(9, 3, 6).to('cuda')).cpu()
