"""Programs whose inferences repeat: they end up replaying, and every bit stays right."""

import random

import pytest
import torch
from torch import nn

from .sessions import assert_replays, image, layers


@pytest.mark.parametrize('noise', [0, 1, 7, 40])
def test_initialisation_of_any_length_before_it(run_everywhere, noise):
    def program(device):
        model = layers(0, 6, 5, 4).to(device)
        grid = torch.zeros(4, device=device)
        for index in range(noise):
            grid = grid + torch.arange(4, device=device) * index

        return lambda index: (model(image(index, 3, 6).to(device)) + grid).cpu()

    assert_replays(run_everywhere(program), 2)


def test_a_first_inference_that_differs(run_everywhere):
    def program(device):
        model, cache = layers(0, 6, 4).to(device), {}

        def frame(index):
            if 'grid' not in cache:
                cache['grid'] = torch.linspace(0, 1, 4, device=device).expand(3, 4).clone()
            return (model(image(index, 3, 6).to(device)) * cache['grid']).cpu()

        return frame

    session = run_everywhere(program)
    assert all(cost.is_replay for cost in session.costs[3:])


def test_random_operators_between_frames(run_everywhere):
    def program(device):
        model, chance = layers(0, 6, 5).to(device), random.Random(3)

        def frame(index):
            other = torch.zeros(3, device=device)
            for _ in range(chance.randrange(4)):
                other = other + chance.choice([1.0, 2.0])
            return model(image(index, 3, 6).to(device)).cpu()

        return frame

    session = run_everywhere(program, 16)
    assert sum(cost.replayed for cost in session.costs) >= 12


def test_several_reads_of_an_inference_wait_for_one_message(run_everywhere):
    def program(device):
        model = layers(0, 6, 5, 4).to(device)

        def frame(index):
            features = model(image(index, 3, 6).to(device))
            best = features.argmax().item()
            total = features.sum().item()
            return best, total, features.cpu()

        return frame

    session = run_everywhere(program)
    assert_replays(session, 2)


def test_one_of_three_reads_skipped_at_random(run_everywhere):
    def program(device):
        model, chance = layers(0, 6, 5, 4).to(device), random.Random(1)

        def frame(index):
            features = model(image(index, 3, 6).to(device))
            found = [features.sum().item()]
            if chance.random() < 0.5:
                found.append((features * 2).max().item())
            found.append(features.min().item())
            return found

        return frame

    session = run_everywhere(program, 24)
    assert sum(cost.replayed for cost in session.costs) >= 16


@pytest.mark.parametrize('order', ['in turn', 'random'])
def test_two_models_with_the_same_input_shape(run_everywhere, order):
    def program(device):
        models = [layers(0, 6, 5, 4).to(device), layers(1, 6, 5, 4).to(device)]
        chance = random.Random(5)

        def frame(index):
            model = models[index % 2 if order == 'in turn' else chance.randrange(2)]
            return model(image(index, 3, 6).to(device)).cpu()

        return frame

    session = run_everywhere(program, 24)
    assert all(cost.replayed and cost.messages <= 2 for cost in session.costs[12:])


def test_two_models_of_different_length_in_random_order(run_everywhere):
    def program(device):
        models = [layers(0, 6, 5, 4).to(device), layers(0, 6, 5, 5, 5, 4).to(device)]
        chance = random.Random(6)

        def frame(index):
            return models[chance.randrange(2)](image(index, 3, 6).to(device)).cpu()

        return frame

    session = run_everywhere(program, 24)
    assert all(cost.replayed and cost.messages <= 2 for cost in session.costs[12:])


def test_the_same_model_twice_per_frame(run_everywhere):
    def program(device):
        model = layers(0, 6, 5, 4).to(device)

        def frame(index):
            first = model(image(index, 3, 6).to(device)).cpu()
            second = model(image(-index, 3, 6).to(device)).cpu()
            return first, second

        return frame

    session = run_everywhere(program)
    assert all(cost.replayed == 2 or cost.is_replay for cost in session.costs[3:])


def test_the_same_model_twice_before_one_read(run_everywhere):
    def program(device):
        model = layers(0, 6, 5, 4).to(device)

        def frame(index):
            one, other = image(index, 3, 6).to(device), image(-index, 3, 6).to(device)
            return (model(one) - model(other)).cpu()

        return frame

    assert_replays(run_everywhere(program), 2)


def test_a_second_upload_in_the_middle_is_one_message_more(run_everywhere):
    def program(device):
        model = layers(0, 6, 5).to(device)

        def frame(index):
            features = model(image(index, 3, 6).to(device))
            return (features * image(-index, 3, 5).to(device)).cpu()

        return frame

    session = run_everywhere(program)
    assert all(cost.replayed == 1 and cost.messages <= 2 for cost in session.costs[2:])


def test_carried_hidden_state(run_everywhere):
    def program(device):
        cell = nn.GRUCell(6, 5).requires_grad_(False)
        for each in cell.parameters():
            each.data.copy_(torch.linspace(-1, 1, each.numel()).reshape(each.shape))
        cell = cell.to(device)
        state = [torch.zeros(1, 5).to(device)]

        def frame(index):
            state[0] = cell(image(index, 1, 6).to(device), state[0])
            return state[0].cpu()

        return frame

    session = run_everywhere(program, 10)
    assert all(cost.is_replay for cost in session.costs[4:])


def test_hidden_state_that_is_reset(run_everywhere):
    def program(device):
        weights = layers(0, 6, 5).to(device)
        state = [torch.zeros(1, 5, device=device)]

        def frame(index):
            if index in (9, 10, 16):
                state[0] = torch.zeros(1, 5, device=device)
            state[0] = torch.tanh(weights(image(index, 1, 6).to(device)) + state[0])
            return state[0].cpu()

        return frame

    session = run_everywhere(program, 24)
    assert all(cost.is_replay for cost in session.costs[-4:])


def test_persistent_counter_and_buffers_changed_in_place(run_everywhere):
    def program(device):
        model = layers(0, 6, 5).to(device)
        counter = torch.zeros((), dtype=torch.int64, device=device)
        history = torch.zeros(4, 5, device=device)

        def frame(index):
            features = model(image(index, 1, 6).to(device))
            counter.add_(1)
            history[1:] = history[:-1].clone()
            history[0].copy_(features[0])
            return history.mean(0).cpu(), counter.item()

        return frame

    session = run_everywhere(program)
    assert all(cost.is_replay for cost in session.costs[3:])


def test_weights_changed_in_place_and_scalars_changed_between_frames(run_everywhere):
    def program(device):
        model = layers(0, 6, 5).to(device)

        def frame(index):
            if index == 5:
                model[0].weight.mul_(2)
            if index == 10:
                model[0].load_state_dict(layers(9, 6, 5)[0].state_dict())
            scale = 0.5 if index < 14 else 0.25
            return (model(image(index, 3, 6).to(device)) * scale).cpu()

        return frame

    session = run_everywhere(program, 20)
    assert session.costs[8].is_replay and session.costs[13].is_replay
    assert session.costs[-1].is_replay


def test_a_scalar_that_is_new_in_every_frame_never_replays_and_stays_right(run_everywhere):
    def program(device):
        model = layers(0, 6, 5).to(device)
        return lambda index: (model(image(index, 3, 6).to(device)) * (0.1 * index)).cpu()

    session = run_everywhere(program)
    assert not any(cost.replayed for cost in session.costs)


def test_shape_change_and_back(run_everywhere):
    def program(device):
        model = layers(0, 6, 5, 4).to(device)

        def frame(index):
            rows = 3 if index < 6 or index >= 12 else 5
            return model(image(index, rows, 6).to(device)).cpu()

        return frame

    session = run_everywhere(program, 18)
    assert session.costs[5].is_replay and session.costs[11].is_replay
    assert all(cost.is_replay for cost in session.costs[12:])


def test_results_kept_across_frames_and_read_much_later(run_everywhere):
    def program(device):
        model, kept = layers(0, 6, 5, 4).to(device), []

        def frame(index):
            features = model(image(index, 3, 6).to(device))
            kept.append(features[1:])
            total = features.sum().item()
            if index % 5 == 4:
                kept[0].mul_(2)
                return total, [each.cpu() for each in kept], kept.clear()
            return total

        return frame

    run_everywhere(program, 22)
