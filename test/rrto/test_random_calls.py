"""Which calls draw random numbers on the server, and from which generator."""

import pytest
import torch

from offload_ros.rrto.calls import CallPacker
from offload_ros.rrto.compiled import CompiledCall
from offload_ros.rrto.operators import operator_of
from offload_ros.rrto.shim import RemoteTensor

aten = torch.ops.aten
HEADS = [torch.randn(1, 2, 5, 4) for _ in range(3)]
SOUND, STATE = torch.randn(6, 2, 3), torch.zeros(1, 2, 4)
WEIGHTS = [torch.randn(16, 3), torch.randn(16, 4)]


def compiled(func, *args, **kwargs):
    """A call on a server whose session has a generator of its own; its payloads; that generator."""
    data, _, payloads = CallPacker(RemoteTensor).pack(args, kwargs, constants=False)
    session = torch.Generator()
    session.manual_seed(5)
    call = CompiledCall(operator_of(func), data, torch.device('cpu'), lambda number: session)
    return call, payloads, session


def lstm(dropout, train):
    """Arguments of an LSTM without biases."""
    return SOUND, [STATE, STATE], WEIGHTS, False, 1, dropout, train, False, False


@pytest.mark.parametrize(
    ('func', 'args', 'kwargs'),
    [
        (aten.scaled_dot_product_attention.default, HEADS, {}),
        (aten.scaled_dot_product_attention.default, HEADS, {'dropout_p': 0.0}),
        (aten.scaled_dot_product_attention.default, [*HEADS, None, 0, True], {}),
        (aten.lstm.input, lstm(0.0, True), {}),
        (aten.lstm.input, lstm(0.5, False), {}),
        (aten.native_dropout.default, [HEADS[0], 0.5, False], {}),
    ],
)
def test_call_without_dropout_leaves_every_generator_alone(func, args, kwargs):
    call, payloads, session = compiled(func, *args, **kwargs)
    assert not call.random
    before = session.get_state(), torch.default_generator.get_state()
    found = call.run([], payloads)
    assert torch.equal(session.get_state(), before[0])
    assert torch.equal(torch.default_generator.get_state(), before[1])
    for one, other in zip(found, func(*args, **kwargs), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    ('func', 'args', 'kwargs'),
    [
        (aten.scaled_dot_product_attention.default, HEADS, {'dropout_p': 0.5}),
        (aten.native_dropout.default, [HEADS[0], 0.5, True], {}),
        (aten.multinomial.default, [torch.rand(3, 40), 5], {}),
    ],
)
def test_call_draws_from_the_generator_of_its_session(func, args, kwargs):
    call, payloads, session = compiled(func, *args, **kwargs)
    assert call.random
    state = session.get_state()
    before = torch.default_generator.get_state()
    found = call.run([], payloads)
    assert torch.equal(torch.default_generator.get_state(), before)
    assert not torch.equal(session.get_state(), state)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        expected = func(*args, **kwargs)
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)
