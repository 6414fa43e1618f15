import time

import cv2
import numpy as np
import pytest
import torch
from torch import nn
import torch.nn.functional as F

from offload_ros.graph import custom
from offload_ros.graph.capture import capture
from offload_ros.graph.execute import Executor
from offload_ros.graph.graph import GraphError, Input, Value
from offload_ros.graph.trace import NOTE

from .conftest import captured
from .equality import assert_same, flat_outputs
from .networks import NETWORKS, ResNet, build, with_statistics

QUICK = ('yolo_tail', 'unet3d', 'vit', 'alias')
MUTATING = ('_.', 'dropout', 'detach', 'alias', 'lift', 'empty', 'new_')


class Function(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def some_long(name):
    """Export takes a second: most networks wait for make test-long."""
    return pytest.param(name, marks=pytest.mark.long) if name not in QUICK else name


def operators(graph):
    return [node.operator for node in graph.nodes]


@pytest.mark.parametrize('name', [some_long(each) for each in NETWORKS])
def test_export_captures_every_network_bit_for_bit(name):
    model, example, graph, parameters = captured(name, 'export')
    assert graph.notes == ()
    assert_same(Executor(graph, parameters)(example), flat_outputs(model, example))


@pytest.mark.parametrize('name', NETWORKS)
def test_a_recorded_run_captures_every_network_bit_for_bit(name):
    model, example, graph, parameters = captured(name, 'trace')
    assert graph.notes == (NOTE,)
    assert_same(Executor(graph, parameters)(example), flat_outputs(model, example))


@pytest.mark.parametrize('method', ['export', 'trace'])
@pytest.mark.parametrize('name', ['alias', 'yolo_tail', 'unet3d', 'vit'])
def test_the_graph_equals_the_model_on_other_inputs_too(name, method):
    model, _, graph, parameters = captured(name, method)
    executor = Executor(graph, parameters)
    for seed in range(1, 4):
        _, other = build(name, seed)
        assert_same(executor(other), flat_outputs(model, other))


@pytest.mark.parametrize('method', [pytest.param('export', marks=pytest.mark.long), 'trace'])
def test_no_node_changes_a_value_and_nothing_idle_remains(method):
    for name in NETWORKS:
        graph = captured(name, method)[2]
        for operator in operators(graph):
            assert not any(each in operator for each in MUTATING), (name, operator)
        read = set().union(*(node.references for node in graph.nodes), graph.outputs.values())
        assert all(
            any(Value(node.id, place) in read for place in range(len(node.outputs)))
            for node in graph.nodes
        )
        assert 'unused' not in graph.parameters


def test_inputs_of_a_run_are_not_changed():
    _, example, graph, parameters = captured('alias')
    before = example['image'].clone()
    Executor(graph, parameters)(example)
    assert torch.equal(example['image'], before)


def test_both_ways_agree_on_convolutions_norms_and_max_pools():
    for name in ('vgg', 'yolo_tail', 'unet3d'):
        counts = []
        for method in ('export', 'trace'):
            found = operators(captured(name, method)[2])
            kinds = ('convolution', 'batch_norm', 'max_pool', 'cat', 'relu', 'silu')
            counts.append({kind: sum(kind in each for each in found) for kind in kinds})
        assert counts[0] == counts[1], name


@pytest.mark.parametrize('method', ['export', 'trace'])
def test_extents_that_depend_on_data_are_unknown_and_all_others_known(method):
    graph = captured('yolo_tail', method)[2]
    place = next(i for i, node in enumerate(graph.nodes) if node.operator == 'aten.index.Tensor')
    for node in graph.nodes[:place]:
        assert all(spec.is_static for spec in node.outputs)
    assert graph.nodes[place].outputs[0].shape == (None, 8)
    overlaps = [node for node in graph.nodes if node.operator == 'aten.triu.default']
    assert overlaps[0].outputs[0].shape == (None, None)
    assert graph.spec_of(graph.outputs['output']).shape == (None, 8)


def test_uint8_images_enter_as_bytes():
    graph = captured('yolo')[2]
    assert graph.inputs['image'].dtype == torch.uint8
    assert graph.nodes[0].references == (Input('image'),)


class Loop(nn.Module):
    """Control flow that depends on data: how often it adds is decided by a value."""

    def forward(self, x):
        while float(x.sum()) < 10:
            x = x + 1
        return x


def test_control_flow_that_depends_on_data_is_frozen_and_noted():
    graph, parameters = capture(Loop().eval(), torch.zeros(4))
    assert graph.notes == (NOTE,)
    assert operators(graph) == ['aten.add.Tensor'] * 3
    assert torch.equal(
        Executor(graph, parameters)({'x': torch.zeros(4)})['output'], torch.ones(4) * 3
    )


def test_more_examples_show_that_control_flow_was_frozen():
    with pytest.raises(GraphError, match="output output of the graph is not the model's"):
        capture(Loop().eval(), torch.zeros(4), checks=[torch.ones(4) * 2.5])


@pytest.mark.parametrize(
    'model, example, said',
    [
        (
            nn.Sequential(nn.Conv2d(1, 1, 1)).train(),
            torch.zeros(1, 1, 2, 2),
            r'call model.eval\(\)',
        ),
        (Function(lambda x: x + torch.rand(3)), torch.zeros(3), 'not the model|random'),
        (Function(lambda x: F.dropout(x, 0.5, True)), torch.ones(3), 'random'),
        (Function(lambda x: 'text'), torch.ones(3), 'returns a str'),
        (Function(lambda x: None), torch.ones(3), 'no tensor'),
        (Function(lambda x: x.to_sparse()), torch.ones(3), 'cannot be captured'),
    ],
)
def test_models_that_make_no_graph_are_refused_with_the_reason(model, example, said):
    if not isinstance(model, nn.Sequential):
        model.eval()
    with pytest.raises(GraphError, match=said):
        capture(model, example)


def test_numbers_made_of_data_stay_numbers():
    def clipped(x):
        kept = x[x > 0]
        count = kept.shape[0]
        return {
            'kept': kept,
            'twice': kept.reshape(count, 1) * 2,
            'count': kept.sum() / (count + 1),
        }

    class Clipped(nn.Module):
        def forward(self, x):
            return clipped(x)

    graph, parameters = capture(
        Clipped().eval(), {'x': torch.tensor([1.0, -1.0, 2.0])}, method='export'
    )
    executor = Executor(graph, parameters)
    for x in (torch.tensor([1.0, -1.0, 2.0]), torch.tensor([-1.0, 3.0, -2.0]), -torch.ones(3)):
        assert_same(executor({'x': x}), clipped(x))


def test_names_of_inputs_and_outputs_come_from_the_model():
    class Two(nn.Module):
        def forward(self, left, right):
            return {'sum': left + right, 'pair': (left * 2, [right]), 'none': None}

    graph, _ = capture(Two().eval(), (torch.ones(2), torch.zeros(2)))
    assert list(graph.inputs) == ['left', 'right']
    assert list(graph.outputs) == ['sum', 'pair_0', 'pair_1_0']
    assert graph.outputs['pair_1_0'] == Input('right')


def test_shared_weights_are_one_parameter_and_small_constants_are_computed_at_once():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 4)
            self.two.weight = self.one.weight

        def forward(self, x):
            return self.two(self.one(x)) * (torch.arange(4) / 3).sqrt()

    for method in ('export', 'trace'):
        graph, parameters = capture(Tied().eval(), torch.ones(2, 4), method=method)
        assert sum(each.shape == (4, 4) for each in parameters.values()) == 1
        assert all(
            any(not hasattr(r, 'name') or r == Input('x') for r in n.references)
            for n in graph.nodes
        )


def test_large_constants_are_not_shipped():
    class Canvas(nn.Module):
        def forward(self, x):
            canvas = x.new_zeros(1024, 1024)
            canvas[:2, :3] = x
            return canvas

    graph, parameters = capture(Canvas().eval(), torch.ones(2, 3))
    assert parameters == {}
    assert 'aten.zeros.default' in operators(graph)


class Camera(nn.Module):
    """From the bytes of a compressed image, of any number, to detections that remain."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 3, 8)

    def forward(self, data):
        image = torch.ops.offload_ros.decode_image(data, 37, 53)
        x = self.conv(image.permute(2, 0, 1)[None].float() / 255).flatten(2)[0].t()
        boxes = torch.cat((x[:, :2], x[:, :2] + x[:, 2:4].abs() + 0.1), 1)
        return {'image': image, 'boxes': boxes[torch.ops.offload_ros.nms(boxes, x[:, 4], 0.4)]}


def compressed(kind, seed=0, size=(37, 53)):
    noise = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    smooth = cv2.GaussianBlur(noise, (7, 7), 2)
    return torch.from_numpy(cv2.imencode(kind, smooth)[1].reshape(-1))


@pytest.mark.parametrize('method', ['export', 'trace'])
def test_compressed_images_are_decoded_inside_the_graph(method):
    torch.manual_seed(0)
    model = Camera().eval()
    graph, parameters = capture(
        model, {'data': compressed('.jpg')}, dynamic_axes={'data': [0]}, method=method
    )
    assert graph.inputs['data'].shape == (None,)
    assert graph.nodes[0].operator == 'offload_ros.decode_image.default'
    assert graph.nodes[0].outputs[0].shape == (37, 53, 3)
    assert graph.spec_of(graph.outputs['boxes']).shape == (None, 4)
    executor = Executor(graph, parameters)
    sizes = set()
    for seed in range(6):
        example = {'data': compressed('.png' if seed % 2 else '.jpg', seed)}
        expected = flat_outputs(model, example)
        sizes.add(len(expected['boxes']))
        assert_same(executor(example), expected)
    assert len(sizes) > 1


@pytest.mark.parametrize(
    'data, said',
    [
        (compressed('.jpg', size=(38, 53)), 'has size'),
        (compressed('.bmp'), 'neither a JPEG nor a PNG'),
        (compressed('.jpg')[:15], 'ends in its head'),
        (compressed('.png')[:60], 'do not decode'),
        (torch.zeros(0, dtype=torch.uint8), 'neither'),
    ],
)
def test_bytes_that_are_not_the_images_of_the_model_are_refused(data, said):
    with pytest.raises(ValueError, match=said):
        custom.decode_image(data, 37, 53)


def test_decoded_images_are_those_of_opencv():
    data = compressed('.png')
    expected = torch.from_numpy(cv2.imdecode(data.numpy(), cv2.IMREAD_COLOR))
    assert torch.equal(torch.ops.offload_ros.decode_image(data, 37, 53, False), expected)
    assert torch.equal(torch.ops.offload_ros.decode_image(data, 37, 53), expected.flip(-1))


def test_nms_keeps_what_a_plain_loop_keeps():
    generator = torch.Generator().manual_seed(0)
    for count in (0, 1, 2, 50):
        low = torch.rand(count, 2, generator=generator) * 4
        boxes = torch.cat((low, low + torch.rand(count, 2, generator=generator) * 3), 1)
        scores = torch.randint(0, 10, (count,), generator=generator).float()
        kept = []
        for index in sorted(range(count), key=lambda i: (-scores[i], i)):
            if all(_iou(boxes[index], boxes[other]) <= 0.3 for other in kept):
                kept.append(index)
        assert torch.ops.offload_ros.nms(boxes, scores, 0.3).tolist() == kept


def _iou(one, two):
    width = min(one[2], two[2]) - max(one[0], two[0])
    height = min(one[3], two[3]) - max(one[1], two[1])
    shared = max(width, 0) * max(height, 0)
    areas = [(each[2] - each[0]) * (each[3] - each[1]) for each in (one, two)]
    return shared / (sum(areas) - shared)


@pytest.mark.long
def test_a_graph_of_600_operators_is_captured_in_seconds():
    torch.manual_seed(0)
    model = with_statistics(ResNet(2, 4, (3, 8, 44, 3)))
    start = time.process_time()
    graph, _ = capture(model, torch.randn(1, 3, 33, 35))
    assert len(graph.nodes) >= 580
    assert graph.notes == ()
    assert time.process_time() - start < 20  # 5 s on a core of its own
