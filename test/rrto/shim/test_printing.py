"""What a program sees of a tensor of the device in Python: texts, lists, addresses, refusals."""

import numpy as np
import pytest
import torch
from torch import nn


def as_cuda(text):
    """Return the text of a CPU tensor with the device where CUDA's print has it."""
    head, separator, tail = text.partition('])') if '])' in text else text.partition(')')
    assert separator
    return f"{head}{separator[:-1]}, device='cuda:0'{separator[-1]}{tail}"


@pytest.mark.parametrize(
    'tensor',
    [
        torch.tensor([1.0, 2.5]),
        torch.tensor(3),
        torch.arange(6).reshape(2, 3),
        torch.tensor([True, False]),
        torch.tensor([1e-8, 1e8]),
        torch.rand(3, 4),
        torch.zeros(100, 100),
        torch.tensor([float('nan'), float('inf')]),
    ],
)
def test_text_is_that_of_cuda(device, tensor):
    assert repr(tensor.cuda()) == str(tensor.cuda()) == as_cuda(repr(tensor))


def test_suffixes_have_cudas_order(device):
    assert repr(torch.zeros(2).half().cuda()) == (
        "tensor([0., 0.], device='cuda:0', dtype=torch.float16)"
    )
    assert repr(torch.zeros(0, 3).cuda()) == "tensor([], device='cuda:0', size=(0, 3))"
    assert repr(nn.Parameter(torch.zeros(1)).cuda()) == (
        "tensor([0.], device='cuda:0', requires_grad=True)"
    )
    assert repr(nn.Linear(1, 1).cuda().weight).startswith('Parameter containing:\ntensor([[')
    long = repr(torch.zeros(12).double().cuda())
    assert long == (
        'tensor([0., 0., 0., 0., 0., 0., 0., 0., 0., 0., 0., 0.], '
        "device='cuda:0',\n       dtype=torch.float64)"
    )
    assert repr(torch.zeros(1)) == 'tensor([0.])'


def test_text_fetches_the_values_once(device):
    tensor = torch.rand(50, 50).cuda()
    device.log.clear()
    reads = []
    read = device.read
    device.read = lambda each: reads.append(each) or read(each)
    repr(tensor)
    assert len(reads) == 1 and not device.log


def test_numpy_refuses_as_cuda_does(device):
    tensor = torch.ones(2).cuda()
    message = "can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu()"
    for convert in (tensor.numpy, lambda: np.asarray(tensor), lambda: np.abs(tensor)):
        with pytest.raises(TypeError, match=message):
            convert()
    assert tensor.numpy(force=True).tolist() == tensor.cpu().numpy().tolist() == [1, 1]


def test_memory_is_not_exported(device):
    tensor = torch.ones(2).cuda()
    for export in (
        tensor.__dlpack__,
        tensor.__dlpack_device__,
        lambda: np.from_dlpack(tensor),
        lambda: torch.from_dlpack(tensor),
        lambda: torch.utils.dlpack.to_dlpack(tensor),
        lambda: torch._C._to_dlpack(tensor),
    ):
        with pytest.raises(BufferError, match='another machine'):
            export()
    assert not hasattr(tensor, '__cuda_array_interface__')
    assert getattr(type(tensor), '__dlpack_c_exchange_api__', None) is None
    assert torch.from_dlpack(np.ones(2)).tolist() == [1, 1]


def test_addresses_are_unique_and_not_null(device):
    tensors = [torch.ones(3).cuda() for _ in range(50)] + list(torch.ones(60, 2).cuda().unbind())
    addresses = {each.data_ptr() for each in tensors}
    assert len(addresses) == len(tensors) and 0 not in addresses
    assert tensors[0].data_ptr() == tensors[0].detach().data_ptr()
    storages = {each.untyped_storage().data_ptr() for each in tensors}
    assert len(storages) == len(tensors)
    assert torch.zeros(0).cuda().data_ptr() == 0


def test_numbers_of_no_dimension_format_as_numbers(device):
    value = torch.tensor(2.5).cuda()
    assert f'{value:6.2f}' == '  2.50' and float(value) == value.item() == 2.5
    assert f'{torch.ones(1).cuda()}' == "tensor([1.], device='cuda:0')"
    with pytest.raises(TypeError):
        f'{torch.ones(2).cuda():.2f}'
