"""Operators that need care when they are replayed: random, of unknown shape, ``out=``, payloads."""

import torch
from torch import nn

from .sessions import assert_replays, image, layers


def test_random_tensors_in_the_sequence_are_fresh_and_the_same_stream(run_everywhere):
    def program(device):
        model = layers(0, 6, 5).to(device)
        torch.manual_seed(7)

        def frame(index):
            features = model(image(index, 3, 6).to(device))
            noise = torch.rand(3, 5, device=device)
            dropped = nn.functional.dropout(features + noise, 0.5)
            return dropped.cpu(), torch.randn(2, device=device).cpu()

        return frame

    session = run_everywhere(program, 10)
    assert session.costs[-1].replayed


def test_a_generator_of_the_program(run_everywhere):
    def program(device):
        one, other = (torch.Generator(device).manual_seed(seed) for seed in (1, 2))

        def frame(index):
            scale = torch.full((3,), float(index)).to(device)
            generator = other if index in (6, 9) else one
            return (scale * torch.rand(3, device=device, generator=generator)).cpu()

        return frame

    session = run_everywhere(program, 14)
    assert session.costs[5].is_replay and session.costs[13].is_replay


def test_out_arguments_and_metadata_changed_in_place(run_everywhere):
    def program(device):
        buffer = torch.zeros(3, 5, device=device)
        model = layers(0, 6, 5).to(device)

        def frame(index):
            features = model(image(index, 3, 6).to(device))
            torch.add(features, 1, out=buffer)
            turned = buffer.clone().t_().unsqueeze_(0)
            grown = torch.empty(0, device=device)
            torch.mul(turned, 2, out=grown)
            return grown.cpu(), buffer.cpu()

        return frame

    session = run_everywhere(program)
    assert all(cost.replayed for cost in session.costs[3:])


def test_preallocated_buffers_of_host_and_device(run_everywhere):
    def program(device):
        model = layers(0, 6, 5).to(device)
        given, result = torch.empty(3, 6, device=device), torch.empty(3, 5)

        def frame(index):
            given.copy_(image(index, 3, 6))
            result.copy_(model(given))
            return result.clone()

        return frame

    assert_replays(run_everywhere(program), 2)


def test_units_that_end_before_an_operator_of_unknown_shape(run_everywhere):
    def program(device):
        model = layers(0, 6, 8).to(device)

        def frame(index):
            features = model(image(index, 3, 6).to(device))
            places = (features > 0.5).nonzero()
            return (
                features[features > 0.5].cpu(),
                (places + 1).cpu(),
                features.unique().sum().item(),
            )

        return frame

    session = run_everywhere(program, 10)
    assert all(cost.replayed for cost in session.costs[5:])


def test_a_number_made_of_values_is_asked_each_time(run_everywhere):
    def program(device):
        fixed = torch.ones(3, device=device)

        def frame(index):
            given = torch.full((3,), float(index % 3 == 0)).to(device)
            with torch.inference_mode(index % 2 == 0):
                return torch.allclose(given, fixed), torch.equal(given, fixed), bool(given[0])

        return frame

    run_everywhere(program, 12)


def test_masks_of_the_host_select_another_number_each_time(run_everywhere):
    def program(device):
        values = torch.arange(100.0).to(device)

        def frame(index):
            mask = torch.arange(100) % (index % 3 + 1) == 0
            found = torch.ops.aten.index.Tensor(values, [mask])
            return found.cpu(), values[mask].sum().item()

        return frame

    run_everywhere(program, 12)


def test_a_constant_of_the_host_beside_a_payload(run_everywhere):
    def program(device):
        def frame(index):
            values = torch.zeros(40, device=device)
            where = torch.arange(40).roll(index)[:20]
            values.index_put_((where,), torch.tensor(3.0 if index < 6 else 4.0))
            return values.cpu()

        return frame

    session = run_everywhere(program, 12)
    assert session.costs[-1].replayed
