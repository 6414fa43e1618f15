"""Published weights become safetensors: files as a training leaves them, whose classes are gone."""

import copy
from pathlib import Path
import sys
from types import ModuleType

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.torch import load_file
import torch
from torch import nn

from offload_ros.models import kapao_import
from offload_ros.models.checkpoint import CheckpointError
from offload_ros.models.errors import ModelError
from offload_ros.models.kapao import kapao
from offload_ros.models.kapao_import import import_checkpoint, main, read_weights
from offload_ros.models.kapao_network import SIZES, Convolution, KapaoNetwork
from offload_ros.models.kapao_weights import imported_path, recognised

from .kapao_networks import state_of


@pytest.fixture(autouse=True)
def data_home(tmp_path, monkeypatch):
    """Imported weights of a test are its own."""
    monkeypatch.setenv('XDG_DATA_HOME', str(tmp_path / 'data'))
    return tmp_path / 'data'


@pytest.fixture
def published(tmp_path, monkeypatch):
    """Return a function that saves a network as the published programs do, and removes its
    classes."""

    def save(network, name='kapao.pt', extra=(), ema=None, detect=(), half=True):
        names = ('models', 'models.yolo', 'models.common')
        code = {each: ModuleType(each) for each in names}
        for each in names:
            monkeypatch.setitem(sys.modules, each, code[each])
        made = {}

        def kind(module, title):
            if title not in made:
                made[title] = type(title, (nn.Module,), {'__module__': module})
                setattr(code[module], title, made[title])
            return made[title]

        def foreign(module, title=None):
            """The same tree of tensors, of classes with the published names."""
            if type(module).__module__.startswith('torch.'):
                return copy.deepcopy(module)
            title = title or type(module).__name__
            at = 'models.yolo' if title in ('Model', 'Detect') else 'models.common'
            other = kind(at, title)()
            for key, each in module._parameters.items():
                other.register_parameter(key, each)
            for key, each in module._buffers.items():
                if key not in module._non_persistent_buffers_set:
                    other.register_buffer(key, each.clone())
            for key, each in module._modules.items():
                if each is not None:
                    other.add_module(key, foreign(each))
            if isinstance(module, Convolution):
                other.act = nn.SiLU()
            return other

        def model(network):
            layers = nn.Sequential()
            for place in range(34):
                found = network.model[str(place)] if str(place) in network.model else nn.Upsample()
                layers.add_module(str(place), foreign(found))
            last = layers[33]
            last.nc, last.num_coords, last.na, last.nl = 18, 34, 3, 4
            last.stride = torch.tensor([8.0, 16.0, 32.0, 64.0])
            for key, value in dict(detect).items():
                setattr(last, key, value)
            whole = kind('models.yolo', 'Model')()
            whole.model, whole.names = layers, ['person'] + ['x'] * 17
            whole.yaml = {'nc': 18, 'depth_multiple': 0.33, 'anchors': [[19, 27]]}
            whole.save_dir = Path('runs/exp')
            return whole.half() if half else whole

        path = tmp_path / name
        checkpoint = {
            'epoch': -1,
            'best_fitness': np.float64(0.63),
            'training_results': None,
            'model': model(network),
            'ema': None if ema is None else model(ema),
            'optimizer': None,
            'wandb_id': None,
            **dict(extra),
        }
        torch.save(checkpoint, path)
        for each in names:
            monkeypatch.delitem(sys.modules, each)
        return path

    return save


def network_of(size='t', seed=0):
    torch.manual_seed(seed)
    return KapaoNetwork(SIZES[size]).eval()


def same(found, wanted, dtype):
    assert found.keys() == wanted.keys()
    for name, each in wanted.items():
        expected = each.to(dtype) if each.is_floating_point() else each
        assert found[name].dtype == expected.dtype and torch.equal(found[name], expected), name


def test_published_weights_load_one_to_one(published):
    network = network_of('s')
    network.load_state_dict(state_of(network))
    path = published(network, 'kapao_s_coco.pt')
    assert 'models' not in sys.modules
    imported, target = import_checkpoint(path)
    assert target == imported_path('s')
    assert (imported.size.name, imported.fused, imported.parameters) == ('s', False, 12_559_980)
    assert imported.dtype is torch.float16 and not imported.own_anchors
    same(load_file(target), network.state_dict(), torch.float16)
    with safe_open(target, framework='pt') as file:
        assert file.metadata() == {'model': 'kapao', 'size': 's', 'trained': 'true'}
    # And the model takes them from there by itself.
    model = kapao('s')
    assert model.weights_trained and model.remark == ''
    halved = KapaoNetwork(SIZES['s']).eval()
    halved.load_state_dict({name: each.half() for name, each in network.state_dict().items()})
    image = torch.rand(1, 3, 64, 64)
    assert torch.equal(model.network(image)[0], halved.fuse()(image)[0])


def test_the_averaged_model_is_taken_where_there_is_one(published):
    network, average = network_of(seed=1), network_of(seed=2)
    path = published(network, ema=average, half=False)
    tensors, imported = read_weights(path)
    same(tensors, average.state_dict(), torch.float32)
    assert imported.dtype is torch.float32


def test_folded_batch_norms_stay_folded(published, tmp_path):
    network = network_of().fuse()
    imported, target = import_checkpoint(published(network), tmp_path / 'new' / 'fused.safetensors')
    assert imported.fused and not list(target.parent.glob('.*'))
    same(load_file(target), network.state_dict(), torch.float16)
    assert kapao('t', str(target)).weights_trained


def test_state_dicts_are_weights_too(tmp_path):
    network = network_of()
    for value in (
        network.state_dict(),
        {'model': network.state_dict()},
        {'state_dict': network.state_dict(), 'epoch': 3},
    ):
        torch.save(value, tmp_path / 'state.pt')
        same(read_weights(tmp_path / 'state.pt')[0], network.state_dict(), torch.float32)


def test_own_anchors_are_kept_and_said(published, capsys):
    network = network_of()
    state = network.state_dict()
    for name in ('anchors', 'anchor_grid'):
        state[f'model.33.{name}'] = state[f'model.33.{name}'] * 1.5
    network.load_state_dict(state)
    path = published(network)
    assert main([str(path)]) == 0
    printed = capsys.readouterr().out
    assert 'KAPAO-T, ' in printed and 'float16, with batch norms' in printed
    assert 'its anchors are not the published ones' in printed
    grid = kapao('t').network.detect.anchor_grid
    torch.testing.assert_close(grid, state['model.33.anchor_grid'], rtol=1e-3, atol=0.0)


def test_anchors_in_pixels_may_be_missing(tmp_path):
    network = network_of()
    state = network.state_dict()
    del state['model.33.anchor_grid']
    torch.save(state, tmp_path / 'state.pt')
    import_checkpoint(tmp_path / 'state.pt')
    found = kapao('t').network.detect.anchor_grid
    torch.testing.assert_close(found, network.detect.anchor_grid)


def refused(path, kind=ModelError):
    with pytest.raises(kind) as error:
        read_weights(path)
    text = str(error.value)
    assert text.startswith(f'{path}: ') and '\n' not in text
    return text.removeprefix(f'{path}: ')


@pytest.mark.parametrize(
    ('detect', 'text'),
    [
        ({'nc': 15}, 'it has 15 classes, KAPAO for the keypoints of COCO has 18'),
        ({'num_coords': 28}, 'it has 28 coordinates, KAPAO for the keypoints of COCO has 34'),
        ({'nl': 3}, 'it has 3 levels, KAPAO for the keypoints of COCO has 4'),
    ],
)
def test_other_classes_are_one_clear_error(published, detect, text):
    assert refused(published(network_of(), detect=detect)) == text


def test_other_networks_are_one_clear_error(tmp_path):
    network, path = network_of(), tmp_path / 'state.pt'

    def saved(**changes):
        state = {**network.state_dict(), **changes}
        torch.save({key: each for key, each in state.items() if each is not None}, path)
        return refused(path)

    crowd = {f'model.33.m.{level}.weight': None for level in range(4)}
    assert saved(**crowd).startswith('no KAPAO network: model.33.m.0.weight')
    narrow = torch.zeros(144, 40, 1, 1)
    assert 'gives 144 values to a cell' in saved(**{'model.33.m.0.weight': narrow})
    text = saved(**{'model.2.cv1.conv.weight': torch.zeros(9, 9)})
    assert 'parameters are none of a KAPAO network: T 1,285,644 (fused 1,281,172), S ' in text
    assert 'S 12,559,980 (fused 12,545,740)' in text
    weight = network.state_dict()['model.2.cv1.conv.weight']
    assert 'has shape' in saved(**{'model.2.cv1.conv.weight': weight.flatten()})
    assert 'not finite' in saved(**{'model.2.cv1.conv.weight': weight / 0})
    assert 'of type torch.int64' in saved(**{'model.2.cv1.conv.weight': weight.long()})
    assert 'negative variances' in saved(**{'model.1.bn.running_var': torch.full((24,), -1.0)})
    assert 'but no model.1.bn.running_var' in saved(**{'model.1.bn.running_var': None})
    for value in ({'epoch': 1}, [1, 2], nn.Linear(2, 2), None, {'model': 5}):
        torch.save(value, path)
        assert 'no model in it' in refused(path) or 'no KAPAO network' in refused(path)


def test_values_are_read_only_when_all_shapes_fit(tmp_path, monkeypatch):
    """Of a network of another size not one tensor is read."""
    read = []
    monkeypatch.setattr(
        kapao_import.Checkpoint, 'tensor', lambda self, stored: read.append(stored.shape)
    )
    state = {**network_of().state_dict(), 'more': torch.zeros(1).expand(1 << 30)}
    torch.save(state, tmp_path / 'state.pt')
    assert 'none of a KAPAO network' in refused(tmp_path / 'state.pt')
    assert not read


class Runs:
    """Asks for a command when it is read."""

    def __reduce__(self):
        import os

        return os.system, ('touch hostile',)


def test_hostile_files_are_refused_and_nothing_is_written(
    published, tmp_path, monkeypatch, capsys, data_home
):
    monkeypatch.chdir(tmp_path)
    path = published(network_of(), extra={'training_results': Runs()})
    refused(path, CheckpointError)
    assert main([str(path)]) == 1
    printed = capsys.readouterr()
    assert printed.out == '' and printed.err.count('\n') == 1
    assert 'posix.system to be called: refused, nothing was run' in printed.err
    assert not (tmp_path / 'hostile').exists() and not data_home.exists()


def test_what_cannot_be_written_is_said(published, tmp_path, capsys):
    path = published(network_of())
    (tmp_path / 'file').write_text('x')
    assert main([str(path), '--output', str(tmp_path / 'file' / 'x.safetensors')]) == 1
    assert 'cannot be written' in capsys.readouterr().err


def test_every_size_recognises_itself():
    for size in SIZES.values():
        for fused in (False, True):
            with torch.device('meta'):
                state = KapaoNetwork(size, fused).state_dict()
            shapes = {name: tuple(each.shape) for name, each in state.items()}
            assert recognised(shapes) == (size, fused)
