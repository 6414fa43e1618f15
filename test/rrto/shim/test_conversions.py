"""The ways to the device and back: torch's own results and errors."""

import copy

import pytest
import torch
from torch import nn

from offload_ros.rrto.shim import RemoteTensor

from .conftest import assert_same, reset_default_device, run_both

ON_CUDA = torch.device('cuda', 0)


@pytest.mark.parametrize(
    'move',
    [
        lambda x: x.to('cuda'),
        lambda x: x.to(torch.device('cuda')),
        lambda x: x.to(0),
        lambda x: x.to(device='cuda:0', non_blocking=True),
        lambda x: x.cuda(),
        lambda x: x.cuda(0, non_blocking=True),
        lambda x: x.pin_memory().to('cuda', non_blocking=True),
        lambda x: x.type('torch.cuda.FloatTensor'),
        lambda x: x.type(torch.cuda.FloatTensor),
        lambda x: x.to(torch.empty(1, device='cuda')),
        lambda x: torch.empty_like(x, device='cuda').copy_(x),
        lambda x: torch.tensor(x.tolist(), device='cuda'),
        lambda x: torch.tensor(x.numpy(), device=torch.device('cuda')),
        lambda x: torch.as_tensor(x, device='cuda'),
        lambda x: torch.as_tensor(x.numpy(), device='cuda'),
        lambda x: torch.asarray(x.numpy(), device='cuda'),
        lambda x: torch.cuda.FloatTensor(x.tolist()),
        lambda x: torch.zeros(3, device='cuda').new_tensor(x.tolist()),
    ],
)
def test_every_way_to_the_device_carries_the_values(device, move):
    values = torch.tensor([1.0, -2.5, 3.0])
    moved = move(values)
    assert_same(moved, values)
    assert moved.device == ON_CUDA


@pytest.mark.parametrize(
    'move',
    [
        lambda x: x.cpu(),
        lambda x: x.to('cpu'),
        lambda x: x.to(torch.zeros(1)),
        lambda x: torch.empty_like(x, device='cpu').copy_(x),
        lambda x: torch.as_tensor(x, device='cpu'),
        lambda x: torch.tensor(x.tolist()),
    ],
)
def test_every_way_back_carries_the_values(device, move):
    values = torch.tensor([1.0, -2.5, 3.0])
    back = move(values.cuda())
    assert type(back) is torch.Tensor and torch.equal(back, values)


def test_read_keeps_strides_as_cuda_does(device):
    def strides(d):
        x = torch.arange(48.0).reshape(1, 3, 4, 4).to(d)
        tensors = (x.permute(0, 2, 3, 1), x[:, :, ::2], x.to(memory_format=torch.channels_last))
        gaps = torch.arange(96.0).reshape(1, 4, 4, 6).to(d).permute(0, 3, 1, 2)[:, :3]
        return [torch.empty_like(each.cpu()).copy_(each).stride() for each in (*tensors, gaps)] + [
            torch.ops.aten._to_copy.default(each, device='cpu').stride()
            for each in (*tensors, gaps, x.expand(2, 3, 4, 4))
        ]

    assert strides('cuda') == strides('cpu')


def test_read_converts_the_dtype_and_the_memory_format(device):
    values = torch.rand(1, 3, 4, 4)
    found = values.cuda().to('cpu', torch.float16, memory_format=torch.channels_last)
    expected = values.to(torch.float16, memory_format=torch.channels_last)
    assert torch.equal(found, expected) and found.stride() == expected.stride()


def test_payload_is_captured_at_the_call(device):
    values = torch.ones(3)
    moved = values.to('cuda', non_blocking=True)
    values.fill_(7)
    assert moved.tolist() == [1, 1, 1]


def test_pinned_memory_says_so_and_is_another_copy(device):
    values = torch.ones(3)
    pinned = values.pin_memory()
    assert pinned.is_pinned() and not values.is_pinned() and pinned.pin_memory() is pinned
    values.fill_(7)
    assert pinned.tolist() == [1, 1, 1]
    assert torch.empty(2, pin_memory=True).is_pinned()
    with pytest.raises(RuntimeError, match='only dense CPU tensors can be pinned'):
        values.cuda().pin_memory()


def test_second_device_does_not_exist(device):
    for use in (
        lambda: torch.zeros(2, device='cuda:1'),
        lambda: torch.zeros(2).to('cuda:1'),
        lambda: torch.zeros(2).cuda(1),
        lambda: torch.cuda.set_device(1),
    ):
        with pytest.raises(RuntimeError, match='invalid device ordinal'):
            use()


def test_default_device(device):
    torch.set_default_device('cuda')
    try:
        for tensor in (
            torch.zeros(2),
            torch.tensor([1.0]),
            torch.arange(3),
            nn.Linear(2, 2).weight,
        ):
            assert isinstance(tensor, RemoteTensor)
        assert torch.tensor([1.0], device='cpu').device.type == 'cpu'
    finally:
        reset_default_device()
    assert torch.zeros(2).device.type == torch.tensor([1.0]).device.type == 'cpu'
    with torch.device('cuda'):
        assert torch.tensor([1.0]).is_cuda and torch.ones(2).is_cuda
    assert not torch.tensor([1.0]).is_cuda


def test_legacy_types(device):
    tensor = torch.cuda.LongTensor([1, 2])
    assert tensor.dtype is torch.int64 and tensor.type() == 'torch.cuda.LongTensor'
    assert isinstance(tensor, torch.cuda.LongTensor)
    assert not isinstance(tensor, torch.cuda.FloatTensor)
    assert not isinstance(torch.ones(2), torch.cuda.FloatTensor)
    assert torch.cuda.FloatTensor(2, 3).shape == (2, 3)


def test_like_and_new_go_to_the_cpu_when_asked(device):
    tensor = torch.rand(2, 3).t().cuda()
    for made in (
        torch.zeros_like(tensor, device='cpu'),
        tensor.new_zeros((3, 2), device='cpu'),
        torch.rand_like(tensor, device='cpu'),
    ):
        assert type(made) is torch.Tensor and made.shape == (3, 2)
    meta = tensor.to('meta')
    assert meta.is_meta and meta.stride() == tensor.stride()


class Tied(nn.Module):
    """Two layers with one weight, a buffer, and a list that refers to the parameter too."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(3, 3)
        self.second = nn.Linear(3, 3)
        self.second.weight = self.first.weight
        self.register_buffer('scale', torch.full((3,), 2.0))

    def forward(self, x):
        return self.second(self.first(x)) * self.scale


def test_module_to_keeps_identity_and_ties(device):
    model = Tied()
    weight = model.first.weight
    optimiser = torch.optim.SGD(model.parameters(), 0.1)
    x = torch.rand(2, 3)
    graph = model(x)  # held: a CPU graph refers to the parameters while they move
    expected = graph.detach()
    try:
        model.cuda()
    except RuntimeError as error:  # an older torch cannot: it has to say what to do
        assert 'delete them, or compute them under torch.no_grad()' in str(error)
        del graph
        model.cuda()
    assert model.first.weight is weight and model.second.weight is weight
    assert optimiser.param_groups[0]['params'][0] is weight
    assert isinstance(weight, nn.Parameter) and isinstance(weight, RemoteTensor)
    assert weight.requires_grad and weight.is_leaf
    assert len(list(model.parameters())) == 3
    assert torch.equal(model(x.cuda()).cpu(), expected)
    model.half()
    assert model.second.weight is weight and weight.dtype is torch.float16
    model.float().cpu()
    assert model.first.weight is weight and type(weight) is nn.Parameter
    assert weight.requires_grad and model.scale.device.type == 'cpu'
    model(x).sum().backward()
    assert weight.grad is not None


def test_data_of_a_parameter_moves_by_assignment(device):
    weight = nn.Linear(2, 2).weight
    values = weight.detach().clone()
    weight.data = weight.data.cuda()
    assert isinstance(weight, RemoteTensor) and torch.equal(weight.cpu(), values)
    weight.data = weight.data.cpu()
    assert type(weight) is nn.Parameter and torch.equal(weight, values)


def test_load_state_dict_both_ways(device):
    source, target = Tied(), Tied().cuda()
    target.load_state_dict(source.state_dict())
    assert torch.equal(target.first.weight.cpu(), source.first.weight)
    other = Tied()
    other.load_state_dict(target.state_dict())
    assert torch.equal(other.first.weight, source.first.weight)
    assigned = Tied()
    assigned.load_state_dict(target.state_dict(), assign=True)
    assert isinstance(assigned.first.bias, RemoteTensor)


def test_deepcopy_keeps_ties_and_parameters(device):
    model = Tied().cuda()
    twin = copy.deepcopy(model)
    assert twin.first.weight is twin.second.weight
    assert twin.first.weight is not model.first.weight
    assert isinstance(twin.first.weight, nn.Parameter) and twin.first.weight.requires_grad
    with torch.no_grad():
        model.first.weight.add_(1)
    x = torch.rand(2, 3, device='cuda')
    assert not torch.equal(twin(x), model(x))
    assert copy.copy(model.scale)._h == model.scale._h


def test_requires_grad_is_a_mark(device):
    tensor = torch.ones(2, device='cuda', requires_grad=True)
    assert tensor.requires_grad and not tensor.detach().requires_grad
    tensor.requires_grad = False
    assert not tensor.requires_grad and tensor.is_leaf and tensor.grad is None
    with pytest.raises(RuntimeError, match='floating point'):
        torch.ones(2, device='cuda', dtype=torch.int64).requires_grad_()


@pytest.mark.parametrize(
    'mixed',
    [
        lambda x: x + torch.ones(3),
        lambda x: torch.ones(3) + x,
        lambda x: torch.cat([x, torch.ones(3)]),
        lambda x: torch.ones(3, 3) @ x,
        nn.Linear(3, 3),
        lambda x: torch.ones(3).add_(x),
        lambda x: x.sum() + torch.ones(3),
        lambda x: torch.tensor(1.0).add_(x.sum()),
        lambda x: torch.add(x, 1, out=torch.empty(3)),
        lambda x: torch.stack([x.sum(), torch.tensor(1.0)]),
    ],
)
def test_mixed_devices_raise_torchs_error(device, mode, mixed):
    x = torch.ones(3, device='cuda')
    with pytest.raises(RuntimeError, match=r'Expected all tensors to be on the same device.*cpu'):
        mixed(x)


def test_cpu_tensor_indexed_by_the_device_raises_torchs_error(device):
    index = torch.tensor([0, 1], device='cuda')
    with pytest.raises(RuntimeError, match='indices should be either on cpu or on the same device'):
        torch.ones(3)[index]


def test_sparse_tensor_is_refused(device):
    with pytest.raises((RuntimeError, NotImplementedError)):
        torch.ones(2, 2).to_sparse().cuda()


def test_random_values_come_from_the_servers_generator(device):
    def program(d):
        drop = nn.Dropout(0.5)
        return [
            torch.rand(3, device=d),
            torch.randn(2, 2, device=d),
            torch.randint(0, 10, (4,), device=d),
            torch.randperm(5, device=d),
            torch.ones(20).to(d).uniform_(),
            drop(torch.ones(10).to(d)),
            torch.bernoulli(torch.full((5,), 0.5).to(d)),
            torch.multinomial(torch.ones(4).to(d), 2),
            torch.normal(0.0, 1.0, (3,), device=d),
            torch.rand_like(torch.ones(2).to(d)),
        ]

    run_both(program)
