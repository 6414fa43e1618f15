"""SCONet as a model: bits in, labels out."""

import numpy as np
import pytest
from safetensors.torch import save_file
import torch

from offload_ros.graph.capture import capture
from offload_ros.graph.cuts import layer_cut, run_layer_cut
from offload_ros.graph.execute import Executor
from offload_ros.models.errors import InputError, ModelError
from offload_ros.models.sconet import sconet
from offload_ros.models.sconet_network import Grid, ScoNetwork
from offload_ros.navigation.voxels import packed

GRID = (24, 8, 16)


def weights_of(path, grid=GRID, attention=False, classes=4):
    torch.manual_seed(3)
    network = ScoNetwork(Grid(*grid), attention, classes)
    with torch.no_grad():  # random ones have the same class everywhere
        network.seg_head_1_1.conv_classes.weight.mul_(30)
        network.seg_head_1_1.conv_classes.bias.zero_()
    save_file({name: each.contiguous() for name, each in network.state_dict().items()}, path)
    return network.eval()


def bits(seed=0):
    seen = np.random.default_rng(seed).random(GRID) < 0.2
    return seen, torch.from_numpy(packed(seen).reshape(GRID[0], -1))


@pytest.mark.parametrize('attention', [True, False])
def test_labels_are_the_most_probable_classes_of_the_voxels(tmp_path, attention):
    network = weights_of(tmp_path / 'w.safetensors', attention=attention)
    model = sconet(GRID, attention, 4, str(tmp_path / 'w.safetensors'))
    seen, voxels = bits()
    with torch.inference_mode():
        labels = model(voxels)['labels']
        wanted = network(torch.from_numpy(seen).float()[None]).argmax(1)[0]
    assert labels.dtype == torch.uint8
    assert labels.shape == GRID
    assert torch.equal(labels.long(), wanted)
    assert len(labels.unique()) > 1
    assert model.weights_trained


def test_a_threshold_decides_what_an_obstacle_is_and_classes_what_kind(tmp_path):
    network = weights_of(tmp_path / 'w.safetensors')
    seen, voxels = bits()
    with torch.inference_mode():
        shares = network(torch.from_numpy(seen).float()[None]).softmax(1)[0].numpy()
        solid = shares[2:].sum(0)
        threshold = float(np.quantile(solid, 0.7))
        model = sconet(GRID, False, 4, str(tmp_path / 'w.safetensors'), threshold)
        labels = model(voxels)['labels'].numpy()
    assert np.array_equal(labels >= 2, solid > threshold)
    assert np.array_equal(labels[labels >= 2] - 2, shares[2:].argmax(0)[labels >= 2])
    assert np.array_equal(labels[labels < 2], shares[:2].argmax(0)[labels < 2])


def test_without_attention_weights_serve_grids_of_any_size(tmp_path):
    weights_of(tmp_path / 'w.safetensors')
    other = sconet((16, 8, 32), False, 4, str(tmp_path / 'w.safetensors'))
    with torch.inference_mode():
        assert other(torch.zeros(16, 32, dtype=torch.uint8))['labels'].shape == (16, 8, 32)
    weights_of(tmp_path / 'a.safetensors', attention=True)
    with pytest.raises(ModelError, match=r'Attention_block_1_8.*mend grid, classes or attention'):
        sconet((16, 8, 32), True, 4, str(tmp_path / 'a.safetensors'))


def test_random_weights_are_said():
    model = sconet(GRID, False, 4)
    assert not model.weights_trained
    assert 'no weights' in model.remark
    assert model.model_identity['grid'] == list(GRID)


@pytest.mark.parametrize(
    ('arguments', 'rule'),
    [
        ({'grid': [24, 8]}, 'grid is'),
        ({'grid': [24, 8, 16.5]}, 'whole numbers'),
        ({'grid': [24, 8, 12]}, 'multiple of 8'),
        ({'classes': 1}, 'classes is'),
        ({'threshold': 1.0}, 'threshold is'),
        ({'threshold': 0.5, 'classes': 2}, 'at least 3'),
        ({'weights': 'nothing.safetensors'}, r'nothing\.safetensors: cannot be read'),
    ],
)
def test_refuses(arguments, rule):
    with pytest.raises(ModelError, match=rule):
        sconet(**{'grid': list(GRID), 'attention': False, 'classes': 4, **arguments})


def test_weights_of_another_network_are_refused_by_name(tmp_path):
    path = tmp_path / 'w.safetensors'
    weights_of(path, classes=5)
    with pytest.raises(ModelError, match=r'conv_classes.* mend grid, classes'):
        sconet(GRID, False, 4, str(path))
    save_file({'some': torch.zeros(3)}, path)
    with pytest.raises(ModelError, match='is missing'):
        sconet(GRID, False, 4, str(path))
    network = weights_of(path)
    state = {name: each.clone() for name, each in network.state_dict().items()}
    state['conv1_1.bias'][0] = float('nan')
    save_file(state, path)
    with pytest.raises(ModelError, match=r'conv1_1\.bias has values that are not finite'):
        sconet(GRID, False, 4, str(path))
    save_file({**network.state_dict(), 'more': torch.zeros(1)}, path)
    with pytest.raises(ModelError, match='more is not in it'):
        sconet(GRID, False, 4, str(path))


@pytest.mark.parametrize('voxels', [torch.zeros(24, 8, dtype=torch.uint8), torch.zeros(24, 16)])
def test_other_inputs_are_refused(voxels):
    with pytest.raises(InputError, match='a bit for each of 24 x 8 x 16 voxels'):
        sconet(GRID, False, 4)(voxels)


@pytest.mark.parametrize(('attention', 'threshold'), [(False, None), (False, 0.3), (True, None)])
def test_a_cut_anywhere_gives_the_labels_of_one_machine(tmp_path, attention, threshold):
    weights_of(tmp_path / 'w.safetensors', attention=attention)
    model = sconet(GRID, attention, 4, str(tmp_path / 'w.safetensors'), threshold)
    _, voxels = bits()
    graph, parameters = capture(model, {'voxels': voxels}, method='export')
    _, other = bits(1)
    for example in (voxels, other):
        with torch.inference_mode():
            wanted = model(example)['labels']
        assert torch.equal(Executor(graph, parameters)({'voxels': example})['labels'], wanted)
    for count in range(0, len(graph.nodes) + 1, 7):
        found = run_layer_cut(
            layer_cut(graph, range(count)),
            Executor(graph, parameters),
            Executor(graph, parameters),
            {'voxels': other},
            lambda side, reference, tensor: tensor.contiguous().clone(),
        )
        assert torch.equal(found['labels'], wanted)
