"""The shim on a device in this process, and the comparison with the CPU."""

import gc

import pytest
import torch
from torch.utils._pytree import tree_flatten

from offload_ros.rrto.shim import RemoteTensor, install, uninstall

from .local_device import LocalDevice

MODES = [torch.enable_grad, torch.no_grad, torch.inference_mode]


@pytest.fixture
def device():
    """Install the shim on a fresh ``LocalDevice`` for one test."""
    local = LocalDevice()
    install(local)
    try:
        yield local
    finally:
        uninstall()
        local.close()


@pytest.fixture(params=MODES, ids=lambda mode: mode.__name__)
def mode(request):
    """Run the test in each grad mode."""
    with request.param():
        yield request.param


def bits(tensor):
    """Return the bytes of a CPU tensor: NaNs compare equal, -0.0 and 0.0 do not."""
    flat = torch.empty(tensor.shape, dtype=tensor.dtype).copy_(tensor.detach()).reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b''


def assert_same(found, expected):
    """Compare results of the device with those of the CPU: every bit, and the metadata."""
    found, found_tree = tree_flatten(found)
    expected, expected_tree = tree_flatten(expected)
    assert found_tree == expected_tree
    for one, other in zip(found, expected, strict=True):
        if not isinstance(other, torch.Tensor):
            assert type(one) is type(other)
            assert one == other or (one != one and other != other)
            continue
        assert isinstance(one, RemoteTensor)
        assert one.device == torch.device('cuda', 0)
        assert (one.dtype, one.shape, one.stride()) == (other.dtype, other.shape, other.stride())
        assert one.storage_offset() == other.storage_offset()
        assert tuple(one.shape) == one._meta.shape and one.stride() == one._meta.stride
        assert bits(one.cpu()) == bits(other)


def run_both(program):
    """Run ``program(device)`` on the CPU and on the device; compare and give the latter."""
    torch.manual_seed(0)
    expected = program('cpu')
    torch.manual_seed(0)
    found = program('cuda')
    assert_same(found, expected)
    return found


def collected(device):
    """Return the number of tensors that the device still holds for the program."""
    gc.collect()
    device._forget()
    return len(device.tensors)


def reset_default_device():
    """Take ``torch.set_default_device`` back; torch 2.7 itself leaves what breaks
    ``get_default_device``, and with it transformers."""
    torch.set_default_device(None)
    if hasattr(torch._GLOBAL_DEVICE_CONTEXT, 'device_context'):
        del torch._GLOBAL_DEVICE_CONTEXT.device_context
