"""What the device cannot do says so; what may be left out is left out. And the way back."""

from pathlib import Path
import subprocess
import sys
import threading

import pytest
import torch
from torch import nn

from offload_ros.rrto.shim import GuardError, RemoteTensor, guard, install, uninstall


@pytest.mark.parametrize(
    'run',
    [
        lambda x: x.sum().backward(),
        lambda x: torch.autograd.backward(x.sum()),
        lambda x: torch.autograd.grad(x.sum(), [x]),
        lambda x: (x * 2).cpu().sum().backward(),
    ],
)
def test_backward_is_refused(device, run):
    with pytest.raises(RuntimeError, match='backward is not supported on the offloaded device'):
        run(torch.ones(2, device='cuda', requires_grad=True))


def test_hooks_of_gradients_are_refused(device):
    with pytest.raises(RuntimeError, match='hooks of gradients'):
        nn.Linear(2, 2).cuda().weight.register_hook(print)


def test_gradients_on_the_cpu_still_work(device):
    x = torch.ones(2, requires_grad=True)
    (x * 3).sum().backward()
    assert x.grad.tolist() == [3, 3]


def test_script_and_compile_are_identities(device):
    model = nn.Linear(2, 2)

    def double(x):
        return x * 2

    assert torch.compile(model) is model and torch.compile(mode='max-autotune')(double) is double
    assert torch.jit.script(double) is double and torch.jit.script(model) is model
    model.compile()
    assert double(torch.ones(2).cuda()).tolist() == [2, 2]


def test_traced_module_runs_on_the_device(device):
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU()).eval().cuda()
    x = torch.rand(1, 2, device='cuda')
    with torch.no_grad():
        traced = torch.jit.trace(model, x)
        assert torch.equal(traced(x), model(x))


def test_archive_is_refused(device, tmp_path):
    with pytest.raises(RuntimeError, match='TorchScript archives cannot run'):
        torch.jit.load(tmp_path / 'model.pt')


def test_graphs_are_refused(device):
    with pytest.raises(RuntimeError, match='CUDA graphs are not supported'):
        torch.cuda.CUDAGraph()


def test_weights_of_rnns_stay_where_they_are(device):
    lstm = nn.LSTM(2, 3).cuda()
    device.log.clear()
    lstm.flatten_parameters()
    assert not device.log


FORK = """
import os, sys
import torch
from offload_ros.rrto.shim import install
from shim.local_device import LocalDevice

install(LocalDevice())
x = torch.ones(2, device='cuda')
child = os.fork()
if child == 0:
    torch.manual_seed(0)  # as every worker of a DataLoader does
    assert (torch.ones(2) + 1).tolist() == [2, 2] and torch.cuda._is_in_bad_fork()
    for use in (lambda: x + 1, lambda: torch.ones(1, device='cuda'), torch.cuda.synchronize):
        try:
            use()
        except RuntimeError as error:
            print(error, flush=True)
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
print((x + 1).tolist())
"""


def test_forked_child_is_refused_and_may_use_the_cpu():
    folder = Path(__file__).parent.parent
    code = f'import sys; sys.path.append({str(folder)!r})\n{FORK}'
    out = subprocess.run(
        [sys.executable, '-c', code], capture_output=True, text=True, check=True, timeout=60
    )
    *refusals, last = out.stdout.splitlines()
    assert len(refusals) == 3 and last == '[2.0, 2.0]'
    for refusal in refusals:
        assert refusal.startswith('Cannot re-initialize CUDA in forked subprocess')


def test_uninstall_gives_torch_back(device):
    x = torch.ones(2, device='cuda')
    patched = torch.Tensor.to, torch.cuda.is_available, torch.tensor, torch.Generator
    uninstall()
    assert not torch.cuda.is_available() and not torch.cuda.is_initialized()
    now = torch.Tensor.to, torch.cuda.is_available, torch.tensor, torch.Generator
    assert all(one is not other for one, other in zip(patched, now, strict=True))
    assert now[2].__module__ != conversions_name() and now[3] is torch._C.Generator
    with pytest.raises((RuntimeError, AssertionError)):
        torch.ones(2, device='cuda')
    with pytest.raises(RuntimeError, match='no offloaded device is installed'):
        x + 1
    assert torch.jit.script(lambda_free) is not lambda_free
    assert nn.Linear(1, 1)(torch.ones(1, 1)).requires_grad


def conversions_name():
    """Return the name of the module that replaces constructors."""
    return 'offload_ros.rrto.shim.conversions'


def lambda_free(x: torch.Tensor):
    """Something that can be scripted."""
    return x + 1


def test_second_install_is_refused(device):
    with pytest.raises(RuntimeError, match='installed already'):
        install(device)


def test_install_in_a_torch_without_the_table_changes_nothing(monkeypatch):
    monkeypatch.setattr(guard, '_TABLE', '_no_such_symbol')
    with pytest.raises(GuardError, match=r'table of device guards.*Install an official'):
        install(object())
    assert not torch.cuda.is_available() and torch.Tensor.to is torch._C.TensorBase.to


class Unused:
    """A device that may not be there yet: putting the shim in place must not touch it."""

    freed = None

    def call(self, func, args, kwargs):
        raise AssertionError('the device was used')


def test_install_whose_check_fails_is_taken_back(monkeypatch):
    def refuse(self, func, args, kwargs):
        raise RuntimeError('no guard for it')

    monkeypatch.setattr(guard._NoServer, 'call', refuse)
    with pytest.raises(GuardError, match='no guard for it'):
        install(Unused())
    assert not torch.cuda.is_available() and torch.Tensor.to is torch._C.TensorBase.to


def test_install_does_not_use_the_device():
    install(Unused())
    try:
        assert torch.cuda.is_available()
        with pytest.raises(AssertionError, match='the device was used'):
            torch.ones(1, device='cuda')
    finally:
        uninstall()


def test_module_imported_in_a_thread_sees_the_device(device):
    found = []
    worker = threading.Thread(target=lambda: found.append(torch.ones(2, device='cuda') + 1))
    worker.start()
    worker.join()
    assert isinstance(found[0], RemoteTensor) and found[0].tolist() == [2, 2]


def test_importing_the_shim_imports_nothing_heavy():
    code = (
        'import sys, torch; before = set(sys.modules)\n'
        'import offload_ros.rrto.shim\n'
        "new = {name.partition('.')[0] for name in set(sys.modules) - before}\n"
        "print(sorted(new & {'transformers', 'cv2', 'rclpy', 'torchvision', 'scipy'}))\n"
    )
    out = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == '[]'
