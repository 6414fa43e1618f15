"""Files are real CUDA checkpoints, whoever wrote them."""

import io
import pickle
import subprocess
import sys

import pytest
import torch
from torch import nn

from offload_ros.rrto.shim import RemoteTensor


def saved(thing):
    """Return ``thing`` through ``torch.save`` as a file to be read."""
    file = io.BytesIO()
    torch.save(thing, file)
    file.seek(0)
    return file


@pytest.mark.parametrize('weights_only', [True, False])
def test_state_dict_survives(device, weights_only):
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)).cuda()
    loaded = torch.load(saved(model.state_dict()), weights_only=weights_only)
    for name, tensor in model.state_dict().items():
        assert isinstance(loaded[name], RemoteTensor)
        assert torch.equal(loaded[name].cpu(), tensor.cpu())
        assert loaded[name].stride() == tensor.stride()


@pytest.mark.parametrize('location', ['cpu', torch.device('cpu'), {'cuda:0': 'cpu'}])
def test_device_file_loads_to_the_cpu(device, location):
    tensor = torch.rand(3, 4).t().cuda()
    loaded = torch.load(saved(tensor), map_location=location)
    assert type(loaded) is torch.Tensor and torch.equal(loaded, tensor.cpu())
    assert loaded.stride() == tensor.stride()


@pytest.mark.parametrize(
    'location',
    ['cuda', 'cuda:0', torch.device('cuda'), {'cpu': 'cuda:0'}, lambda storage, _: storage.cuda()],
)
def test_cpu_file_loads_to_the_device(device, location):
    tensor = torch.rand(3, 4)[:, 1:]
    loaded = torch.load(saved(tensor), map_location=location)
    assert isinstance(loaded, RemoteTensor) and torch.equal(loaded.cpu(), tensor)
    assert loaded.stride() == tensor.stride()


def test_location_beyond_the_one_device_is_refused(device):
    with pytest.raises(RuntimeError, match='invalid device ordinal'):
        torch.load(saved(torch.ones(2)), map_location='cuda:1')


def test_parameters_stay_parameters(device):
    parameter = nn.Parameter(torch.rand(2), requires_grad=False).cuda()
    linear = nn.Linear(2, 2).cuda()
    for loaded in (
        torch.load(saved(linear.weight)),
        pickle.loads(pickle.dumps(linear.weight)),
        torch.load(saved(linear), weights_only=False).weight,
    ):
        assert isinstance(loaded, nn.Parameter) and isinstance(loaded, RemoteTensor)
        assert loaded.requires_grad and torch.equal(loaded, linear.weight)
    assert not torch.load(saved(parameter)).requires_grad


def test_mapped_file_loads_to_the_device(device, tmp_path):
    values = torch.rand(5)
    torch.save(values, tmp_path / 'values.pt')
    loaded = torch.load(tmp_path / 'values.pt', map_location='cuda', mmap=True)
    assert isinstance(loaded, RemoteTensor) and torch.equal(loaded.cpu(), values)


@pytest.mark.skipif(
    not hasattr(torch.storage, '_new_dtypes') or torch.uint16 not in torch.storage._new_dtypes(),
    reason='this torch cannot save uint16 on any device',
)
@pytest.mark.parametrize('weights_only', [True, False])
def test_dtype_without_a_storage_class(device, weights_only):
    values = torch.tensor([1, 40000], dtype=torch.uint16)
    for tensor, location in ((values, 'cuda'), (values.cuda(), None), (values.cuda(), 'cpu')):
        loaded = torch.load(saved(tensor), map_location=location, weights_only=weights_only)
        assert isinstance(loaded, RemoteTensor) == (location != 'cpu')
        assert loaded.tolist() == [1, 40000] and loaded.dtype is torch.uint16


def test_tensors_that_share_a_storage_share_it_after_loading(device):
    base = torch.arange(6.0)
    first, second = torch.load(saved([base, base[2:4]]), map_location='cuda')
    second.fill_(9)
    assert first.tolist() == [0, 1, 9, 9, 4, 5]


def test_tied_weights_are_written_once_and_stay_tied(device):
    linear = nn.Linear(50, 50).cuda()
    file = saved({'one': linear.weight.detach(), 'other': linear.weight.detach()})
    assert len(file.getvalue()) < 1.5 * 50 * 50 * 4
    loaded = torch.load(file)
    loaded['one'].fill_(3)
    assert bool((loaded['other'] == 3).all())
    linear.weight.data.fill_(4)
    assert bool((torch.load(saved(linear.weight)) == 4).all())


def test_pickled_tensor_comes_back(device):
    tensor = torch.rand(2, 3).cuda()
    back = pickle.loads(pickle.dumps({'x': tensor}))['x']
    assert isinstance(back, RemoteTensor) and torch.equal(back, tensor)


def test_plain_torch_reads_the_file_as_one_of_cuda(device, tmp_path):
    path = tmp_path / 'model.pt'
    torch.save({'weight': torch.arange(4.0).cuda(), 'half': torch.ones(2).half().cuda()}, path)
    code = (
        'import sys, torch\n'
        'locations = []\n'
        'load = lambda storage, location: locations.append(location) or storage\n'
        f'state = torch.load({str(path)!r}, map_location=load, weights_only=True)\n'
        "assert 'offload_ros' not in sys.modules\n"
        'print(set(locations), state["weight"].tolist(), state["half"].dtype)\n'
    )
    out = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert out.stdout.split('\n')[0] == "{'cuda:0'} [0.0, 1.0, 2.0, 3.0] torch.float16"


def test_storage_of_a_device_tensor(device):
    tensor = torch.arange(4.0).cuda()
    storage = tensor.untyped_storage()
    assert storage.nbytes() == len(storage) == 16 and storage.device.type == 'cuda'
    assert bytes(storage.cpu()) == bytes(torch.arange(4.0).untyped_storage())
