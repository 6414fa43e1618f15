"""Multi-task networks as models: an image in; boxes, classes and depths out, by every cut."""

from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
import torch

from offload_ros.graph.capture import capture
from offload_ros.graph.cuts import layer_cut, run_layer_cut
from offload_ros.graph.execute import Executor
from offload_ros.graph.of_model import capture_model
from offload_ros.models.config_file import load_models_file
from offload_ros.models.errors import InputError, ModelError
from offload_ros.models.model import load_model
from offload_ros.models.multitask import multitask
from offload_ros.models.multitask_network import (
    BOXES,
    CLASSES,
    OBJECTS,
    ROOM,
    SAME_IOU,
    SIZES,
    TASKS,
    MultitaskNetwork,
    overlaps,
)
from offload_ros.models.preprocess import Placement

CONFIG = Path(__file__).parents[2] / 'config'
SIZE = (64, 96)


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope='module')
def weights(tmp_path_factory):
    """Return a file with weights whose answers differ from place to place."""
    torch.manual_seed(5)
    network = MultitaskNetwork(SIZES['small']).fuse()
    with torch.no_grad():
        for task, gain in (('detection', 30.0), ('segmentation', 50.0), ('depth', 20.0)):
            last = network.heads[task][1]
            last.weight.mul_(gain)
        network.heads['detection'][1].bias[: len(OBJECTS)].zero_()
    path = tmp_path_factory.mktemp('multitask') / 'multi_small.safetensors'
    save_file({name: each.contiguous() for name, each in network.state_dict().items()}, path)
    return path


@pytest.fixture
def model(weights):
    return multitask('small', TASKS, str(weights))


def image(seed, size=SIZE):
    """Coloured tiles of 8 pixels, (1, 3, h, w) float32."""
    generator = torch.Generator().manual_seed(seed)
    tiles = torch.rand(1, 3, size[0] // 8, size[1] // 8, generator=generator)
    return tiles.repeat_interleave(8, 2).repeat_interleave(8, 3)


def camera(seed):
    return (image(seed, (240, 320))[0].permute(1, 2, 0) * 255).to(torch.uint8).contiguous()


def suppressed(boxes, scores, kinds):
    """The boxes that no stronger one of their class covers by more than half, in plain Python."""
    order = scores.argsort(descending=True, stable=True).tolist()
    iou = overlaps(boxes, boxes)
    return [
        index
        for place, index in enumerate(order)
        if not any(
            kinds[other] == kinds[index] and iou[other, index] > SAME_IOU for other in order[:place]
        )
    ]


def test_outputs_have_fixed_shapes_and_mean_something(model):
    with torch.inference_mode():
        found = model(image(0))
    assert found['boxes'].shape == (BOXES, 6) and found['boxes'].dtype == torch.float32
    assert found['classes'].shape == (16, 24) and found['classes'].dtype == torch.uint8
    assert found['depth'].shape == (16, 24) and found['depth'].dtype == torch.float32
    assert len(found['classes'].unique()) > 2 and int(found['classes'].max()) < len(CLASSES)
    assert 0.1 <= found['depth'].min() < found['depth'].max() <= 20.0
    boxes, score, kind = found['boxes'][:, :4], found['boxes'][:, 4], found['boxes'][:, 5]
    there = score > 0
    assert int(there.sum()) > 3 and (score.diff() <= 0).all()
    assert (boxes[there, :2] < boxes[there, 2:]).all() and not found['boxes'][~there].any()
    assert (boxes.min() >= 0) and (boxes[:, 2] <= 96).all() and (boxes[:, 3] <= 64).all()
    assert ((kind[there] >= len(ROOM)) & (kind[there] < len(CLASSES))).all()
    assert (kind[there] == kind[there].round()).all()
    assert model.weights_trained and model.remark == ''


def test_boxes_are_the_peaks_that_no_stronger_one_covers(model):
    """Against the raw maps, gone through cell by cell."""
    with torch.inference_mode():
        raw = model.network(image(1))['detection']
        found = model(image(1))['boxes']
        corners = model.network.corners(raw)[0]
    scores = raw[0, : len(OBJECTS)].sigmoid()
    peaks = []
    for kind, row, column in scores.gt(0.0).nonzero().tolist():
        around = scores[kind, max(0, row - 1) : row + 2, max(0, column - 1) : column + 2]
        if scores[kind, row, column] == around.max():
            peaks.append((kind, row, column))
    assert len(peaks) > 64
    peaks.sort(key=lambda at: -float(scores[at]))
    peaks = peaks[:64]
    strength = torch.stack([scores[at] for at in peaks])
    boxes = torch.stack([corners[:, row, column] for _, row, column in peaks])
    kinds = [kind for kind, _, _ in peaks]
    kept = suppressed(boxes, strength, kinds)[:BOXES]
    assert len(kept) < 64
    assert torch.equal(found[: len(kept), :4], boxes[kept])
    assert torch.equal(found[: len(kept), 4], strength[kept])
    assert found[: len(kept), 5].tolist() == [kinds[index] + len(ROOM) for index in kept]


def test_classes_and_depth_are_those_of_the_raw_maps(model):
    with torch.inference_mode():
        raw, found = model.network(image(2)), model(image(2))
    assert torch.equal(found['classes'].long(), raw['segmentation'][0].argmax(0))
    assert torch.allclose(found['depth'], raw['depth'][0, 0].exp().clamp(0.1, 20.0))


def test_boxes_are_in_pixels_of_the_camera(model):
    with torch.inference_mode():
        plain = model(image(3))['boxes']
        moved = model(image(3), Placement(0.5, 0.25, 8.0, 4.0))['boxes']
    there = plain[:, 4] > 0
    wanted = (plain[there, :4] - torch.tensor([8.0, 4.0, 8.0, 4.0])) / torch.tensor(
        [0.5, 0.25, 0.5, 0.25]
    )
    assert torch.equal(moved[there, :4], wanted) and torch.equal(moved[:, 4:], plain[:, 4:])
    assert not moved[~there].any()


@pytest.mark.parametrize('tasks', [('depth',), ('segmentation', 'detection')])
def test_one_file_serves_entries_that_ask_for_some_of_its_tasks(model, weights, tasks):
    part = multitask('small', list(tasks), str(weights))
    assert sum(each.numel() for each in part.parameters()) < sum(
        each.numel() for each in model.parameters()
    )
    with torch.inference_mode():
        whole, found = model(image(4)), part(image(4))
    assert len(found) == len(tasks) and part.model_identity['tasks'] == sorted(
        tasks, key=TASKS.index
    )
    assert all(torch.equal(found[name], whole[name]) for name in found)


def test_random_weights_are_said():
    model = multitask('large', ['depth'])
    assert not model.weights_trained and 'no weights' in model.remark
    assert model.model_identity == {'size': 'large', 'tasks': ['depth']}


@pytest.mark.parametrize(
    ('arguments', 'rule'),
    [
        ({'size': 'huge'}, "no size 'huge', there are small, large"),
        ({'tasks': 'depth'}, "tasks is a list of names, not 'depth'"),
        ({'tasks': [3]}, 'tasks is a list of names'),
        ({'tasks': ['flow']}, 'tasks are some of detection, segmentation, depth'),
        ({'tasks': []}, 'tasks are some of'),
        ({'tasks': ['depth', 'depth']}, 'each once'),
        ({'weights': 'nothing.safetensors'}, r'nothing\.safetensors: cannot be read'),
    ],
)
def test_refuses(arguments, rule):
    with pytest.raises(ModelError, match=rule) as error:
        multitask(**arguments)
    assert '\n' not in str(error.value)


def test_weights_of_another_network_are_refused_by_name(weights, tmp_path):
    path = tmp_path / 'changed.safetensors'

    def refused(change, size='small', tasks=TASKS):
        tensors = load_file(weights)
        change(tensors)
        save_file(tensors, path)
        with pytest.raises(ModelError) as error:
            multitask(size, tasks, str(path))
        text = str(error.value)
        assert text.startswith(f'{path}: ') and '\n' not in text
        return text.removeprefix(f'{path}: ')

    def without(tensors):
        for name in [name for name in tensors if name.startswith('heads.depth.')]:
            del tensors[name]

    stem = 'encoder.stem.conv.weight'
    assert refused(without) == (
        'weights for detection, segmentation, not for depth: mend tasks in models.yaml'
    )
    assert f'{stem} is (16, 3, 3, 3), of size large (32, 3, 3, 3): mend size' in refused(
        lambda tensors: None, 'large'
    )
    assert f'{stem} is missing' in refused(lambda tensors: tensors.pop(stem))
    assert 'more is not in it' in refused(lambda tensors: tensors.update(more=torch.zeros(1)))
    assert f'{stem} has values that are not finite' in refused(
        lambda tensors: tensors.update({stem: tensors[stem] * torch.nan})
    )
    path.write_bytes(weights.read_bytes()[:3000])
    with pytest.raises(ModelError, match='cannot be read as safetensors'):
        multitask('small', TASKS, str(path))


def test_other_inputs_are_refused(model):
    with pytest.raises(InputError, match=r'one image \(1, 3, H, W\), not \(2, 3, 64, 96\)'):
        model(torch.zeros(2, 3, 64, 96))
    with pytest.raises(InputError, match=r'multiples of 16, not \(64, 90\): mend preprocess'):
        model(torch.zeros(1, 3, 64, 90))


@pytest.mark.parametrize('tasks', [TASKS, ('detection',)])
def test_a_cut_anywhere_gives_the_outputs_of_one_machine(weights, tasks):
    model = multitask('small', tasks, str(weights))
    graph, parameters = capture(model, {'image': image(0)}, method='export')
    for seed in (0, 7):
        with torch.inference_mode():
            wanted = model(image(seed))
        found = Executor(graph, parameters)({'image': image(seed)})
        assert found.keys() == wanted.keys()
        assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    for count in range(0, len(graph.nodes) + 1, 7):
        found = run_layer_cut(
            layer_cut(graph, range(count)),
            Executor(graph, parameters),
            Executor(graph, parameters),
            {'image': image(7)},
            lambda side, reference, tensor: tensor.contiguous().clone(),
        )
        assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def entries():
    return {each.name: each for each in load_models_file(CONFIG / 'models_fleet.yaml')}


def test_the_fleets_models_answer_their_tasks_with_every_network():
    configs = entries()
    assert list(configs) == list(TASKS)
    for task, config in configs.items():
        assert config.variants() == ['multi_small', 'multi_large', 'single']
        found = {}
        for variant in config.variants():
            model = load_model(config.variant_named(variant))
            assert model.weights_trained, model.remark
            assert model.network.network.tasks == (task,)
            found[variant] = model.run({'image': camera(0)})
            assert set(found[variant]) == set(config.outputs)
        shapes = {tuple(each[config.outputs[0]].shape) for each in found.values()}
        assert len(shapes) == 1
    sizes = [path.stat().st_size for path in (CONFIG / 'networks' / 'multitask').iterdir()]
    assert len(sizes) == 5 and max(sizes) < 4_000_000


def test_an_entry_may_take_several_outputs_and_the_graph_from_the_camera_is_exact():
    config = entries()['detection']
    arguments = {**config.source.arguments, 'tasks': list(TASKS)}
    both = replace(
        config,
        source=replace(config.source, arguments=arguments),
        outputs=('depth', 'boxes'),
        alternatives=(),
    )
    model, alone = load_model(both), load_model(config)
    assert model.hash != alone.hash
    graph, parameters = capture_model(model, {'image': camera(0)})
    assert not any('not bit-equal' in note for note in graph.notes)
    executor = Executor(graph, parameters)
    for seed in (0, 1):
        wanted = model.run({'image': camera(seed)})
        assert list(wanted) == ['depth', 'boxes']
        found = executor({'image': camera(seed)})
        assert all(torch.equal(found[name], wanted[name]) for name in wanted)
        assert torch.equal(alone.run({'image': camera(seed)})['boxes'], wanted['boxes'])
    with pytest.raises(ModelError, match=r"no output \['classes'\], it has \['boxes'\]"):
        load_model(replace(config, outputs=('classes',), alternatives=()))
