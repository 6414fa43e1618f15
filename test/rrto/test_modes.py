"""The three modes give what the CPU gives, and differ in what they send."""

import pytest
import torch
from torch import nn

from .sessions import assert_equal, on_cpu

GRAD_MODES = [torch.enable_grad, torch.no_grad, torch.inference_mode]


def network():
    """Convolutions with in-place activations, a residual view and a linear head."""
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(inplace=True),
        nn.Conv2d(8, 8, 3, stride=2),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 10),
    ).eval()


def classifier(device, size=16, dtype=torch.float32, mode=torch.no_grad):
    model = network().to(device, dtype)

    def frame(index):
        image = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(index))
        with mode():
            return model(image.to(device, dtype)).cpu()

    return frame


def test_every_operator_waits_in_rpc_mode(open_session):
    session = open_session('rpc')
    session.play(classifier, 4)
    assert all(cost.blocking == cost.messages == 11 for cost in session.costs[1:])


def test_only_the_read_waits_in_pipelined_mode(open_session):
    session = open_session('pipelined')
    session.play(classifier, 4)
    assert all(cost.blocking == cost.messages == 1 for cost in session.costs[1:])


def test_replay_begins_with_the_third_inference(session):
    assert_equal(session.play(classifier, 6), on_cpu(classifier, 6))
    assert [cost.replayed for cost in session.costs] == [0, 0, 1, 1, 1, 1]
    assert all(cost.is_replay for cost in session.costs[2:])


def test_an_input_is_uploaded_once(open_session):
    for mode in ('rpc', 'pipelined', 'replay'):
        session = open_session(mode)
        session.play(classifier, 5)
        assert all(cost.payload_bytes == 3 * 16 * 16 * 4 for cost in session.costs)


@pytest.mark.parametrize('mode', GRAD_MODES, ids=lambda mode: mode.__name__)
def test_each_grad_mode_replays(run_everywhere, mode):
    def program(device):
        frame = classifier(device, mode=mode)
        return lambda index: frame(index).detach()

    session = run_everywhere(program, 5)
    assert session.costs[2].is_replay and session.costs[4].is_replay


def test_the_grad_mode_may_change_between_frames(run_everywhere):
    def program(device):
        model = network().to(device)

        def frame(index):
            image = torch.full((1, 3, 16, 16), 0.1 * index)
            with GRAD_MODES[index % 3]():
                return model(image.to(device)).cpu().detach()

        return frame

    session = run_everywhere(program, 9)
    assert all(cost.is_replay for cost in session.costs[6:])


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes_replay(run_everywhere, dtype):
    session = run_everywhere(lambda device: classifier(device, dtype=dtype), 5)
    assert session.costs[-1].is_replay


def test_channels_last_replays_and_keeps_its_strides(run_everywhere):
    def program(device):
        model = nn.Conv2d(3, 8, 3, padding=1)
        with torch.no_grad():
            for each in model.parameters():
                each.copy_(torch.linspace(-1, 1, each.numel()).reshape(each.shape))
        model = model.to(device, memory_format=torch.channels_last)

        def frame(index):
            image = torch.full((2, 3, 8, 8), float(index)).to(memory_format=torch.channels_last)
            with torch.no_grad():
                return model(image.to(device)).cpu()

        return frame

    session = run_everywhere(program, 5)
    assert session.costs[-1].is_replay


def test_autocast_replays(session):
    def program(device):
        model = network().to(device)

        def frame(index):
            image = torch.full((1, 3, 16, 16), 0.1 * index)
            with torch.no_grad(), torch.autocast(device, torch.bfloat16):
                return model(image.to(device)).cpu()

        return frame

    found = session.play(program, 6)
    assert found[0].dtype is torch.bfloat16
    expected = on_cpu(program, 6)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other.to(one.dtype), rtol=0.1, atol=0.05)
    assert session.costs[-1].is_replay


def test_synchronize_after_the_read_costs_nothing(session):
    frame = classifier('cuda')

    def timed(index):
        torch.cuda.synchronize()
        found = frame(index)
        torch.cuda.synchronize()
        return found

    for index in range(6):
        session.measured(lambda: timed(index))  # noqa: B023
    assert all(cost.is_replay for cost in session.costs[2:])


def test_a_mode_that_does_not_exist_is_refused(open_session):
    with pytest.raises(ValueError, match="mode 'fast' is not one of rpc, pipelined, replay"):
        open_session('fast')
