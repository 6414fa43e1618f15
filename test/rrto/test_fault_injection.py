"""One argument of a replayed sequence is another one, once: that must be noticed."""

import pytest
import torch

from .sessions import assert_equal, image, layers, on_cpu

FUNCTIONAL = torch.nn.functional
USUAL = {
    'eps': 1e-5,
    'stride': [1, 1],
    'padding': [0, 0],
    'dtype': torch.float32,
    'alpha': 1,
    'scalar': 2,
    'zero': 0.0,
    'axis': 0,
    'keepdim': False,
    'constant': torch.tensor(3.0),
    'producer': 0,
    'weight': 0,
    'shape': [4, 9],
    'mode': 'mean',
    'value': None,
    'generator': 0,
    'list': [1.0, 2.0],
    'complex': 1 + 1j,
    'order': torch.contiguous_format,
    'inputs': 2,
    'upload': torch.float32,
    'in place': False,
}
FAULTS = {
    'eps': [1e-4, 1.0000001e-5],
    'stride': [[1, 2], [2, 1]],
    'padding': [[1, 0]],
    'dtype': [torch.float64, torch.int32],
    'alpha': [2, -1],
    'scalar': [2.0, True, 3, torch.tensor(2), torch.tensor(2.0), 'on the device'],
    'zero': [-0.0, 0, False, float('nan')],
    'axis': [1, -1],
    'keepdim': [True],
    'constant': [torch.tensor(3), torch.tensor(4.0), torch.tensor(3.0, dtype=torch.float64)],
    'producer': [1],
    'weight': [1],
    'shape': [[9, 4], [36, 1]],
    'mode': ['sum'],
    'value': [0.5],
    'generator': [1],
    'list': [[1.0, 3.0], [2.0, 1.0]],
    'complex': [1 - 1j, 1.0, 2 + 1j],
    'order': [torch.channels_last],
    'inputs': [3],
    'upload': [torch.float64],
    'in place': [True],
}
CASES = [(name, value) for name, values in FAULTS.items() for value in values]


def program_with(name, value, at):
    """A sequence with every kind of argument; ``name`` is ``value`` in frame ``at``."""

    def program(device):
        weights = [torch.linspace(-1, 1, 36).reshape(2, 2, 3, 3).to(device) + k for k in range(2)]
        generators = [torch.Generator(device).manual_seed(k) for k in range(2)]
        model = layers(0, 36, 36).to(device)

        def frame(index):
            given = {**USUAL, name: value} if index == at else dict(USUAL)
            if given['scalar'] == 'on the device':
                given['scalar'] = torch.tensor(2).to(device)
            picture = image(index, 1, 2, 6, 6).to(given['upload']).to(device).float()
            values = torch.conv2d(
                picture, weights[given['weight']], None, given['stride'], given['padding']
            )
            if given['order'] is torch.channels_last:
                values = values.contiguous(memory_format=torch.channels_last)
            values = FUNCTIONAL.layer_norm(values, values.shape[-1:], eps=given['eps'])
            values = FUNCTIONAL.adaptive_avg_pool2d(values, 6)[0, 0]
            pair = values.sin(), values.cos()
            values = pair[given['producer']].reshape(given['shape']).reshape(1, 36)
            values = torch.add(model(values), values, alpha=given['alpha'])
            whole = values.abs().mul(10).to(torch.int64) * given['scalar']
            values = values + whole.float() + given['zero']
            values = values.reshape(6, 6) * given['constant']
            values = values + values.sum(given['axis'], keepdim=given['keepdim'])
            values = values + torch.rand(6, device=device, generator=generators[given['generator']])
            values = values.clamp(given['value'], 100.0)
            values = torch.cat([values] * given['inputs'])
            values = (values.relu_() if given['in place'] else values.relu()) + values
            loss = FUNCTIONAL.mse_loss(values, values * 2, reduction=given['mode'])
            grown = FUNCTIONAL.interpolate(
                values[None, None], scale_factor=given['list'], mode='nearest'
            )
            turned = values.to(torch.complex64) * given['complex']
            return loss.cpu(), grown.sum(-1).cpu(), turned.cpu(), values.to(given['dtype']).cpu()

        return frame

    return program


@pytest.mark.parametrize(('name', 'value'), CASES, ids=lambda each: str(each).replace(' ', ''))
def test_a_changed_argument_diverges_and_stays_right(open_session, name, value):
    program = program_with(name, value, at=5)
    session = open_session()
    assert_equal(session.play(program, 8), on_cpu(program, 8))
    assert session.costs[4].replayed and not session.costs[4].aborts
    assert session.costs[5].aborts or not session.costs[5].replayed, 'the fault went unnoticed'
    assert session.costs[7].replayed and not session.costs[7].aborts


def test_an_unchanged_sequence_does_not_diverge(open_session):
    session = open_session()
    session.play(program_with('eps', USUAL['eps'], at=5), 8)
    assert all(cost.replayed and not cost.aborts for cost in session.costs[2:])
