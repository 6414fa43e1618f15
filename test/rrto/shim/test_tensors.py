"""Operators, views, mutation and metadata: every bit as on the CPU, in every grad mode."""

import gc
import sys

import pytest
import torch
import torch.nn.functional as F

from offload_ros.rrto.shim import RemoteTensor
from offload_ros.rrto.shim.tensor import HandleOwner, bind, remote

from .conftest import collected, run_both


def ramp(device, *shape):
    """Return distinct values in ``shape``, made on the CPU and moved."""
    count = torch.Size(shape).numel()
    return torch.linspace(-2, 3, count).reshape(shape).to(device)


def changed(tensor, method, *args):
    """Apply an in-place method to ``tensor`` and give it with what the method gave."""
    result = getattr(tensor, method)(*args)
    assert result is tensor
    return tensor, tensor + 1


def assigned(tensor, key, value):
    """Return ``tensor`` after ``tensor[key] = value``."""
    tensor[key] = value
    return tensor


def with_out(function, out, *args):
    """Return ``out`` after ``function(*args, out=out)``, which has to be what that gives."""
    assert function(*args, out=out) is out
    return out, out * 2


PROGRAMS = {
    'arithmetic': lambda d: (ramp(d, 3, 4) * 2 + 1) / 3 - ramp(d, 4),
    'scalar tensor of the CPU': lambda d: ramp(d, 3) * torch.tensor(2.5),
    'matmul': lambda d: ramp(d, 3, 4) @ ramp(d, 4, 2),
    'einsum': lambda d: torch.einsum('bij,bjk->bik', ramp(d, 2, 3, 4), ramp(d, 2, 4, 2)),
    'index': lambda d: ramp(d, 4, 5)[1:, ::2],
    'integer index': lambda d: (ramp(d, 4, 5)[2], ramp(d, 4, 5)[-1, None, 3]),
    'index tensor': lambda d: ramp(d, 4, 5)[torch.tensor([2, 0]).to(d)],
    'index tensor of the CPU': lambda d: ramp(d, 4, 5)[torch.tensor([2, 0])],
    'index list': lambda d: ramp(d, 4, 5)[[0, 3], 1:],
    'mask': lambda d: ramp(d, 4, 5)[ramp(d, 4, 5) > 0],
    'nonzero': lambda d: (ramp(d, 6) > 0).nonzero(),
    'unique': lambda d: torch.unique(ramp(d, 6).round(), return_counts=True),
    'where': lambda d: torch.where(ramp(d, 6) > 0, ramp(d, 6), 0.0),
    'where of one': lambda d: torch.where(ramp(d, 6) > 0),
    'sort and topk': lambda d: (ramp(d, 6).sort(descending=True), ramp(d, 6).topk(2)),
    'split, chunk and unbind': lambda d: (
        ramp(d, 6, 2).split(4),
        ramp(d, 6, 2).chunk(4),
        ramp(d, 2, 3).unbind(),
    ),
    'iteration': lambda d: list(ramp(d, 3, 2)),
    'reshapes': lambda d: (
        ramp(d, 2, 3, 4).permute(2, 0, 1).reshape(6, 4),
        ramp(d, 2, 3, 4).transpose(0, 1).contiguous(),
        ramp(d, 2, 3, 4).flatten(1),
        ramp(d, 2, 3, 4).unflatten(2, (2, 2)),
        ramp(d, 2, 3).T,
        ramp(d, 2, 3).expand(4, 2, 3),
        ramp(d, 2, 1, 3).squeeze().movedim(0, 1),
    ),
    'view of another dtype': lambda d: ramp(d, 4).view(torch.int32),
    'complex': lambda d: torch.view_as_complex(ramp(d, 3, 2)).conj() * 2,
    'conjugates': lambda d: (
        torch.view_as_real((x := torch.view_as_complex(ramp(d, 3, 2))).conj().resolve_conj()),
        (x.conj() * 1j).imag + 1,
        torch.stack([x, x]).mH,
        x.abs(),
    ),
    'type_as': lambda d: ramp('cpu', 3).type_as(ramp(d, 2).half()),
    'odd reshapes': lambda d: (
        ramp(d, 2, 3).t().reshape(-1),
        ramp(d, 2, 3).reshape(-1, 2),
        ramp(d, 2, 3, 4).flatten(-2),
        ramp(d, 2, 3, 4).transpose(1, 2).flatten(1),
        ramp(d, 2, 3, 4).flatten(1, 1),
        ramp(d, 0, 3).reshape(3, 0),
        ramp(d, 1).squeeze().flatten(),
        ramp(d, 2, 3).ravel(),
        ramp(d, 2, 2, 2, 2).contiguous(memory_format=torch.channels_last),
    ),
    'fft': lambda d: torch.fft.irfft(torch.fft.rfft(ramp(d, 8))),
    'assign a number': lambda d: assigned(ramp(d, 3, 4), (slice(1), 2), 7.0),
    'assign a row': lambda d: assigned(ramp(d, 3, 4), 1, ramp(d, 4)),
    'assign from the CPU': lambda d: assigned(ramp(d, 3, 4), 1, ramp('cpu', 4)),
    'assign by a mask': lambda d: assigned(ramp(d, 6), ramp(d, 6) > 0, 0.5),
    'assign by indices': lambda d: assigned(ramp(d, 6), torch.tensor([1, 4]), ramp(d, 2)),
    'add in place': lambda d: changed(ramp(d, 3), 'add_', 2),
    'fill in place': lambda d: changed(ramp(d, 3), 'fill_', 2),
    't in place': lambda d: changed(ramp(d, 2, 3), 't_'),
    'transpose in place': lambda d: changed(ramp(d, 2, 3, 4), 'transpose_', 0, 2),
    'unsqueeze in place': lambda d: changed(ramp(d, 2, 3), 'unsqueeze_', 1),
    'squeeze in place': lambda d: changed(ramp(d, 2, 1, 3), 'squeeze_'),
    'resize to fewer': lambda d: changed(ramp(d, 2, 3), 'resize_', 2, 2),
    'as_strided in place': lambda d: changed(ramp(d, 2, 3), 'as_strided_', (2, 2), (1, 2)),
    'set in place': lambda d: changed(ramp(d, 2, 3), 'set_', ramp(d, 4)),
    'out': lambda d: with_out(torch.add, torch.empty(3, device=d), ramp(d, 3), ramp(d, 3)),
    'out of another shape': lambda d: with_out(
        torch.matmul, torch.empty(0, device=d), ramp(d, 3, 2), ramp(d, 2, 4)
    ),
    'out that is a view': lambda d: with_out(
        torch.add, torch.zeros(2, 3, device=d)[1], ramp(d, 3), 1
    ),
    'factories': lambda d: (
        torch.zeros(2, 3, device=d),
        torch.ones(2, dtype=torch.int32, device=d),
        torch.full((2,), 1.5, device=d),
        torch.arange(1, 7, 2, device=d),
        torch.linspace(0, 1, 5, device=d),
        torch.eye(3, device=d),
        torch.tril_indices(3, 3, device=d),
        torch.triu_indices(3, 4, 1, device=d),
        torch.hann_window(6, device=d),
        torch.scalar_tensor(3.0, device=d),
        torch.empty(2, 3, device=d).fill_(1),
    ),
    'factories like a tensor': lambda d: (
        torch.zeros_like(ramp(d, 2, 3)),
        ramp(d, 2, 3).new_full((2,), 3),
        ramp(d, 2, 3).new_tensor([1, 2]),
        torch.full_like(ramp('cpu', 3), 2, device=d),
    ),
    'half and double': lambda d: (ramp(d, 3).half() + 1, ramp(d, 3).double().to(torch.bfloat16)),
    'channels last': lambda d: F.conv2d(
        ramp(d, 1, 3, 5, 5).to(memory_format=torch.channels_last), ramp(d, 2, 3, 3, 3)
    ),
    'values': lambda d: (
        ramp(d, 3).sum().item(),
        bool((ramp(d, 3) > 0).any()),
        int(ramp(d, 3).argmax()),
        float(ramp(d, 3)[1]),
        torch.equal(ramp(d, 3), ramp(d, 3)),
        torch.allclose(ramp(d, 3), ramp(d, 3) + 1),
        ramp(d, 2, 2).tolist(),
        2.5 in ramp(d, 3),
        [10, 20, 30][torch.tensor(1).to(d)],
        len(ramp(d, 3, 2)),
        f'{ramp(d, 3)[0]:.3f}',
    ),
    'embedding': lambda d: (
        F.embedding(torch.tensor([[1, 2]]).to(d), ramp(d, 4, 3)),
        F.embedding_bag(torch.tensor([[1, 2]]).to(d), ramp(d, 4, 3)),
    ),
    'foreach': lambda d: torch._foreach_add([ramp(d, 2), ramp(d, 3)], 1),
    'foreach in place': lambda d: [
        (tensors := [ramp(d, 2), ramp(d, 3)]),
        torch._foreach_mul_(tensors, 2),
    ][0],
    'a view and its base': lambda d: [
        (base := ramp(d, 3, 4)),
        (view := base[1]),
        view.mul_(3),
        base.add_(1),
        view,
    ],
    'tensors of the device in a list': lambda d: torch.tensor(
        [ramp(d, 3).sum(), ramp(d, 3).max()], device=d
    ),
}


@pytest.mark.parametrize('program', PROGRAMS.values(), ids=PROGRAMS)
def test_program_gives_the_same_bits_as_on_the_cpu(device, mode, program):
    run_both(program)
    assert any('aten.' in name for name in device.log)


WHOLE = {
    'aten.linear.default': lambda d: F.linear(ramp(d, 2, 3), ramp(d, 4, 3)),
    'aten.matmul.default': lambda d: torch.matmul(ramp(d, 2, 3), ramp(d, 3, 4)),
    'aten.layer_norm.default': lambda d: F.layer_norm(ramp(d, 2, 3), (3,)),
    'aten.group_norm.default': lambda d: F.group_norm(ramp(d, 2, 4, 3), 2),
    'aten.instance_norm.default': lambda d: F.instance_norm(ramp(d, 2, 4, 3)),
    'aten.batch_norm.default': lambda d: F.batch_norm(ramp(d, 2, 3), ramp(d, 3), ramp(d, 3).abs()),
    'aten.scaled_dot_product_attention.default': lambda d: F.scaled_dot_product_attention(
        *ramp(d, 3, 1, 2, 4, 8)
    ),
    'aten.embedding_bag.padding_idx': lambda d: F.embedding_bag(
        torch.tensor([[1, 2]]).to(d), ramp(d, 4, 3)
    ),
    'aten.conv2d.default': lambda d: F.conv2d(ramp(d, 1, 2, 4, 4), ramp(d, 3, 2, 3, 3)),
    'aten.softmax.int': lambda d: F.softmax(ramp(d, 2, 3), -1),
    'aten.max_pool2d.default': lambda d: F.max_pool2d(ramp(d, 1, 2, 4, 4), 2),
    'aten.lstm_cell.default': lambda d: torch.lstm_cell(
        ramp(d, 2, 3), (ramp(d, 2, 4), ramp(d, 2, 4)), ramp(d, 16, 3), ramp(d, 16, 4)
    ),
    'aten.upsample_bilinear2d.vec': lambda d: F.interpolate(
        ramp(d, 1, 2, 4, 4), scale_factor=2, mode='bilinear'
    ),
}


@pytest.mark.parametrize('name', WHOLE)
def test_operator_that_depends_on_the_device_arrives_whole(device, mode, name):
    device.log.clear()
    run_both(WHOLE[name])
    assert name in device.log


def test_to_the_same_device_is_the_very_tensor(device, mode):
    tensor = ramp('cuda', 3)
    assert tensor.to('cuda') is tensor
    assert tensor.cuda() is tensor
    assert tensor.to('cuda:0', torch.float32) is tensor
    assert tensor.contiguous() is tensor
    assert F.dropout(tensor, training=False) is tensor
    assert tensor.float() is tensor and tensor.double() is not tensor
    assert tensor.reshape(3).data_ptr() != 0 and tensor.flatten() is tensor
    with pytest.raises(RuntimeError, match=r"shape '\[-1, 2\]' is invalid for input of size 3"):
        tensor.reshape(-1, 2)
    with pytest.raises(RuntimeError, match='only one dimension can be inferred'):
        tensor.reshape(-1, -1)
    with pytest.raises(IndexError, match='Dimension out of range'):
        tensor.flatten(2)


def test_questions_about_metadata_do_not_reach_the_device(device, mode):
    tensor, other = ramp('cuda', 2, 3), ramp('cuda', 2, 3)
    device.log.clear()
    assert torch._has_compatible_shallow_copy_type(tensor, other)
    assert tensor.is_same_size(other) and not tensor.is_pinned() and tensor.is_contiguous()
    assert (tensor.numel(), tensor.dim(), tensor.nbytes, tensor.element_size()) == (6, 2, 24, 4)
    assert tensor.detach().data.shape == other.size()
    tensor.data = other
    assert tensor.detach_() is tensor and torch.nn.Parameter(tensor).requires_grad
    tensor.record_stream(torch.cuda.current_stream())
    assert device.log == []


def test_wrapper_is_a_normal_tensor_also_inside_inference_mode(device):
    base = ramp('cuda', 3, 2)
    with torch.inference_mode():
        view = base[1]
        fresh = ramp('cuda', 3)
    assert not view.is_inference() and not fresh.is_inference()
    fresh.add_(view.sum())
    assert torch.equal(fresh.cpu(), ramp('cpu', 3) + ramp('cpu', 3, 2)[1].sum())


def test_data_shares_the_handle_and_assignment_moves_it(device):
    tensor = ramp('cuda', 3)
    assert tensor.data._h == tensor._h and tensor.detach()._h == tensor._h
    tensor.data.add_(1)
    assert torch.equal(tensor.cpu(), ramp('cpu', 3) + 1)
    other = ramp('cuda', 2, 2)
    tensor.data = other
    assert tensor.shape == (2, 2) and tensor._h == other._h
    assert torch.equal(tensor.cpu(), ramp('cpu', 2, 2))


def test_changing_the_shape_of_a_shared_handle_leaves_the_others_alone(device):
    tensor = ramp('cuda', 2, 3)
    detached = tensor.detach()
    detached.t_()
    assert (tensor.shape, detached.shape) == ((2, 3), (3, 2))
    detached.mul_(2)
    assert torch.equal(tensor.cpu(), ramp('cpu', 2, 3) * 2)
    assert torch.equal(detached.cpu(), ramp('cpu', 2, 3).t() * 2)


def test_handle_is_freed_once_and_with_the_last_holder(device):
    before = collected(device)
    tensor = ramp('cuda', 3)
    data, parameter = tensor.data, torch.nn.Parameter(tensor)
    handle = tensor._h
    del tensor, data
    gc.collect()
    assert handle not in device.freed
    del parameter
    gc.collect()
    assert list(device.freed).count(handle) == 1
    assert collected(device) == before


@pytest.fixture(scope='module')
def only_new_garbage():
    """Make collections fast: they look only at what comes into being from here on."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.parametrize('program', PROGRAMS.values(), ids=PROGRAMS)
def test_garbage_collection_at_every_operator_changes_nothing(device, program, only_new_garbage):
    call = device.call

    def collect_and_call(*args):
        gc.collect()
        return call(*args)

    device.call = collect_and_call
    bind(device)
    run_both(program)
    assert collected(device) == 0


def test_error_of_an_operator_keeps_its_class(device):
    with pytest.raises(RuntimeError, match=r'shapes cannot be multiplied|mat1 and mat2'):
        ramp('cuda', 2, 3) @ ramp('cuda', 2, 3)
    with pytest.raises(IndexError, match=r'out of range|out of bounds'):
        ramp('cuda', 2, 3)[5]


def test_finaliser_only_appends(device):
    """A finaliser that runs inside a dispatch must not call the device."""
    owner = HandleOwner(12345 << 16, device.freed)
    tensor = remote(owner, ramp('cuda', 2)._meta)
    calls = len(device.log)
    del tensor, owner
    assert 12345 << 16 in device.freed
    assert len(device.log) == calls
    device.freed.remove(12345 << 16)


def test_tensor_is_a_tensor_of_its_class(device):
    tensor = ramp('cuda', 2)
    assert type(tensor) is RemoteTensor and isinstance(tensor, torch.Tensor)
    assert tensor.is_cuda and not tensor.is_cpu and tensor.get_device() == 0
    assert sys.getsizeof(tensor) > 0
