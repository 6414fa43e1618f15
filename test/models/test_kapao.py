# ruff: noqa: F811  # fixtures of another module are used by their names
"""KAPAO as a model: from its entry in models.yaml to poses in the camera's image, by every
strategy."""

from dataclasses import replace
import threading
import time

import pytest
from safetensors.torch import load_file, save_file
import torch

from offload_ros.graph.classify import classify
from offload_ros.graph.cuts import layer_cut, run_layer_cut
from offload_ros.graph.execute import Executor
from offload_ros.graph.of_model import capture_model
from offload_ros.graph.wire_form import graph_from_json, graph_to_json
from offload_ros.intra_dp.lower import lower
from offload_ros.intra_dp.pieces import RowGraph
from offload_ros.intra_dp.run import run_in_process
from offload_ros.models.config_file import load_models_file, parse_models
from offload_ros.models.errors import ConfigError, InputError, ModelError
from offload_ros.models.kapao import kapao
from offload_ros.models.model import load_model
from offload_ros.rrto.strategy import RrtoStrategy
from offload_ros.strategy import Frame, Link

from ..cuts.test_strategy import folders, measured, robot, until_run  # noqa: F401
from ..graph.equality import assert_same
from ..intra_dp.step_plans import random_plan
from ..rrto.test_strategy import run, site  # noqa: F401
from .kapao_networks import lively

ODD = (97, 211, 3)  # a camera's image, letterboxed into 128 x 192
MODELS = """
models:
  kapao:
    variant: t
    source:
      python: offload_ros.models.kapao:kapao
      arguments: {{size: t, weights: {weights}, {thresholds}}}
    inputs: [{{name: image, topic: camera/image_raw}}]
    preprocess: {{resize: [128, 192], letterbox: true}}
    outputs: [poses, boxes]
    variants:
      random: {{source: {{python: offload_ros.models.kapao:kapao, arguments: {{size: t}}}}}}
"""
LOW = 'person_score: 0.5, keypoint_score: 0.5'


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope='module')
def weights(tmp_path_factory):
    """Return a file of size t with weights that see persons in coloured tiles."""
    path = tmp_path_factory.mktemp('kapao') / 'kapao_t.safetensors'
    save_file(lively().state_dict(), path)
    return path


@pytest.fixture
def entry(weights):
    """Return a function that reads models.yaml beside the weights."""

    def read(thresholds=LOW, weights_text=weights.name):
        path = weights.parent / 'models.yaml'
        path.write_text(MODELS.format(weights=weights_text, thresholds=thresholds))
        return load_models_file(path)[0]

    return read


@pytest.fixture
def model(entry):
    """Return the model, which finds some persons in every image."""
    return load_model(entry())


def image(seed, size=ODD):
    """Coloured tiles of 16 pixels."""
    generator = torch.Generator().manual_seed(seed)
    height, width, channels = size
    tiles = (height + 15) // 16, (width + 15) // 16, channels
    found = torch.randint(0, 256, tiles, dtype=torch.uint8, generator=generator)
    whole = found.repeat_interleave(16, 0).repeat_interleave(16, 1)
    return whole[:height, :width].contiguous()


def frames(count, size=ODD):
    for seq in range(1, count + 1):
        yield Frame(seq, {'image': image(seq, size)}, time.monotonic())


def alike(found, wanted):
    """Each person has one like it: scores that are equal within rounding may change places."""
    assert found.keys() == wanted.keys()
    for name, expected in wanted.items():
        assert found[name].shape == expected.shape
        one, other = found[name].flatten(1), expected.flatten(1)
        atol = 1e-5 * float(expected.abs().max())
        near = torch.isclose(one[:, None], other[None], rtol=1e-4, atol=atol).all(-1)
        assert near.any(0).all() and near.any(1).all()


def test_an_entry_of_models_yaml_finds_persons(model):
    outputs = model.run({'image': image(0)})
    poses, boxes = outputs['poses'], outputs['boxes']
    assert model.weights_trained and model.remark == ''
    assert 2 < len(poses) == len(boxes) <= 300
    assert poses.dtype is boxes.dtype is torch.float32
    assert poses.shape[1:] == (17, 3) and boxes.shape[1:] == (5,)
    several = [model.run({'image': image(seed)})['poses'] for seed in range(6)]
    assert any((each[..., 2] > 0.5).any() for each in several)
    assert (boxes[:, :2] < boxes[:, 2:4]).all()
    assert (boxes[:, 4].diff() <= 0).all() and (boxes[:, 4] > 0.5).all()


def test_results_are_in_pixels_of_the_image_as_the_camera_gave_it(entry):
    """Against the network itself, on the image as it sees it."""
    model, thin = load_model(entry(LOW + ', tolerance_px: 24.0')), entry(LOW + ', tolerance_px: 12')
    inside = load_model(thin).network
    camera = image(3, (256, 224, 3))  # to half of it, and 40 columns of grey on either side
    with torch.inference_mode():
        planes = model.preprocess(camera)
        assert (planes[..., :40] == planes[0, 0, 0, 0]).all() and planes.shape[3] == 192
        wanted = inside(planes)
    found = model.run({'image': camera})
    assert len(found['boxes']) > 2 and (found['poses'][..., 2] > 0).any()
    assert torch.equal(found['boxes'][:, 4], wanted['boxes'][:, 4])
    assert torch.equal(found['poses'][..., 2], wanted['poses'][..., 2])
    corners = wanted['boxes'][:, :4].reshape(-1, 2, 2)
    places = wanted['poses'][..., :2]
    moved = [(each - torch.tensor([40.0, 0.0])) * 2 for each in (corners, places)]
    torch.testing.assert_close(found['boxes'][:, :4].reshape(-1, 2, 2), moved[0])
    torch.testing.assert_close(found['poses'][..., :2], moved[1])


def test_a_stretched_image_has_a_scale_for_each_axis(entry):
    config = entry()
    spec = replace(config.preprocess, letterbox=False)
    model = load_model(replace(config, preprocess=spec))
    camera = image(3, (64, 48, 3))  # twice as high, four times as wide
    with torch.inference_mode():
        planes = model.preprocess(camera)
        boxes = load_model(entry()).network(planes)['boxes']
    found = model.run({'image': camera})['boxes']
    assert len(found) > 2
    torch.testing.assert_close(found[:, :4] * torch.tensor([4.0, 2.0, 4.0, 2.0]), boxes[:, :4])


def test_thresholds_decide_what_is_there(entry, weights):
    outputs = load_model(entry()).run({'image': image(0)})
    floor = float(outputs['boxes'][2, 4])
    fewer = load_model(entry(f'person_score: {floor}, keypoint_score: 0.5'))
    assert len(fewer.run({'image': image(0)})['boxes']) < len(outputs['boxes'])
    none = load_model(entry('person_score: 1.0, keypoint_score: 1.0')).run({'image': image(0)})
    assert none['poses'].shape == (0, 17, 3) and none['boxes'].shape == (0, 5)


def test_what_computes_the_same_has_the_same_hash_wherever_its_weights_lie(
    entry, weights, tmp_path
):
    config = entry()
    spelled = entry(LOW + ', gate: 0.2')
    copied = tmp_path / 'other.safetensors'
    copied.write_bytes(weights.read_bytes())
    elsewhere = entry(weights_text=copied)
    hashes = {load_model(each).hash for each in (config, spelled, elsewhere)}
    assert len(hashes) == 1
    assert load_model(entry(LOW + ', gate: 0.3')).hash not in hashes


def test_without_weights_it_runs_and_says_that_it_means_nothing(entry, folders):
    model = load_model(entry().variant_named('random'))
    assert not model.weights_trained and 'random ones, results mean nothing' in model.remark
    assert model.run({'image': image(0)})['poses'].shape == (0, 17, 3)
    with torch.device('meta'):
        published = kapao('m', 'none')
    assert not published.weights_trained and 'import-kapao kapao_m_coco.pt' in published.remark


@pytest.mark.parametrize(
    ('arguments', 'said'),
    [
        ({'size': 'xl'}, "no size 'xl', there are t, s, m, l"),
        ({'size': 't', 'person_scor': 0.5}, "no argument 'person_scor'"),
        ({'size': 't', 'gate': 1.5}, 'gate must be from 0 to 1, not 1.5'),
        ({'size': 't', 'tolerance_px': -1}, 'tolerance_px must be a number from 0'),
        ({'size': 't', 'person_iou': 'much'}, 'person_iou must be a number'),
        ({'size': 't', 'weights': '/nowhere.safetensors'}, '/nowhere.safetensors: '),
    ],
)
def test_wrong_arguments_are_one_clear_error(arguments, said):
    with pytest.raises(ModelError) as error:
        kapao(**arguments)
    assert said in str(error.value) and '\n' not in str(error.value)


def test_weights_of_another_network_are_one_clear_error(weights, tmp_path):
    def refused(change, size='t'):
        tensors = load_file(weights)
        change(tensors)
        path = tmp_path / 'changed.safetensors'
        save_file(tensors, path)
        with pytest.raises(ModelError) as error:
            kapao(size, str(path))
        text = str(error.value)
        assert text.startswith(f'{path}: ') and '\n' not in text
        return text.removeprefix(f'{path}: ')

    def put(name, value):
        return lambda tensors: tensors.update({name: value(tensors.get(name))})

    head = 'model.33.m.0.weight'
    assert refused(lambda tensors: None, 's').startswith('weights of KAPAO-T, models.yaml says')
    text = refused(put(head, lambda each: each[:144].clone()))
    assert text.startswith(f'{head} gives 144 values to a cell: KAPAO with 18 classes')
    assert 'no KAPAO network' in refused(lambda tensors: tensors.pop(head))
    assert 'parameters are none of a KAPAO network: T ' in refused(
        lambda tensors: tensors.pop('model.1.conv.weight')
    )
    assert 'has shape' in refused(put('model.1.conv.weight', lambda each: each.mT.flatten(1)))
    assert 'not finite' in refused(put(head, lambda each: each * torch.nan))
    assert 'differ' in refused(put('model.33.anchor_grid', lambda each: each * 2))
    assert 'KAPAO-T has no more' in refused(put('more', lambda _: torch.zeros(0)))
    short = tmp_path / 'short.safetensors'
    short.write_bytes(weights.read_bytes()[:5000])
    with pytest.raises(ModelError, match='not a safetensors file'):
        kapao('t', str(short))


def test_weights_that_are_not_there_are_found_when_models_yaml_is_read(tmp_path):
    text = MODELS.format(weights='no.safetensors', thresholds=LOW)
    with pytest.raises(ConfigError, match=r"'kapao', source: weights: .*no.safetensors does not"):
        parse_models(text, tmp_path)


@pytest.mark.parametrize(
    ('preprocess', 'said'),
    [('resize: [100, 192]', 'multiples of 64'), ('mean: [0], std: [1]', 'multiples of 64')],
)
def test_a_size_that_the_network_cannot_take_is_named(entry, preprocess, said):
    config = entry()
    text = MODELS.format(weights='none', thresholds=LOW)
    text = text.replace('resize: [128, 192], letterbox: true', preprocess)
    with pytest.raises((ModelError, InputError), match=said):
        load_model(parse_models(text)[0]).run({'image': image(0)})
    with pytest.raises(InputError, match='give the model preprocess'):
        load_model(replace(config, preprocess=None)).run({'image': image(0)})


def test_the_captured_graph_gives_the_same_bits(model):
    graph, parameters = capture_model(model, {'image': image(0)})
    assert graph.spec_of(graph.outputs['poses']).shape == (None, 17, 3)
    assert graph.spec_of(graph.outputs['boxes']).shape == (None, 5)
    assert sum(node.operator.startswith('offload_ros.') for node in graph.nodes) == 1
    assert not any('not bit-equal' in note for note in graph.notes)
    sent = graph_from_json(graph_to_json(graph))
    executor, counts = Executor(sent, parameters), set()
    for seed in range(4):
        wanted = model.run({'image': image(seed)})
        assert_same(executor({'image': image(seed)}), wanted)
        counts.add(len(wanted['boxes']))
    assert len(counts) > 1


def test_layer_cuts_give_the_same_bits(model):
    graph, parameters = capture_model(model, {'image': image(0)})
    executor, wanted = Executor(graph, parameters), model.run({'image': image(0)})
    count = len(graph.nodes)
    for on_robot in (range(0), range(40), range(count // 2), range(count - 1), range(count)):
        stages = layer_cut(graph, on_robot)
        found = run_layer_cut(
            stages, executor, executor, {'image': image(0)}, lambda side, reference, x: x.clone()
        )
        assert_same(found, wanted)


def test_split_plans_find_the_same_persons(model):
    graph, parameters = capture_model(model, {'image': image(0)})
    executor, wanted = Executor(graph, parameters), model.run({'image': image(0)})
    rows = RowGraph(classify(graph))
    operators = [node for node in rows.live if rows.is_local(node)]
    assert len(operators) > 0.95 * len(graph.nodes)
    for seed in range(3):
        work = lower(rows, random_plan(rows, seed))
        alike(run_in_process(work, executor, executor, {'image': image(0)}), wanted)


def test_what_is_below_the_thresholds_is_zero_where_it_crosses(model):
    """So that a cut before the post-processing ships little."""
    graph, parameters = capture_model(model, {'image': image(0)})
    filled = [node.id for node in graph.nodes if 'masked_fill' in node.operator]
    assert len(filled) == 4
    shares = []

    def look(node, compute):
        result = compute()
        if node.id in filled:
            shares.append(float((result == 0).float().mean()))
        return result

    Executor(graph, parameters)({'image': image(0)}, look)
    assert len(shares) == 4 and sum(shares) > 1.0


def test_a_layer_cut_over_a_channel_by_the_strategy(robot, model):
    # A robot so slow that the server computes what it can.
    measured(model, ODD, slowdown=500.0)
    robot.start()
    strategy = robot.strategy('dsccs', model)
    frame, result = until_run(strategy, frames(100_000))
    assert_same(result.outputs, model.run(frame.inputs))
    assert result.exact and result.bytes_up > 0


def test_rrto_records_and_replays_it(site, model):
    site.start()
    strategy = RrtoStrategy()
    site.strategies.append(strategy)
    strategy.prepare(model, Link(None, site.client))
    for frame in frames(7):
        result = run(strategy, frame)
        assert_same(result.outputs, model.run(frame.inputs))
        assert result.exact
    assert 'mode replay: replayed' in result.plan
    # Operator by operator it is hundreds of round trips.
    assert int(result.plan.split(' RPCs')[0].split()[-1]) <= 4


def test_it_answers_while_it_is_captured(model):
    wanted, wrong, over = model.run({'image': image(0)}), [], threading.Event()

    def answer():
        while not over.is_set():
            found = model.run({'image': image(0)})
            wrong.extend(name for name in wanted if not torch.equal(found[name], wanted[name]))

    thread = threading.Thread(target=answer)
    thread.start()
    try:
        graph, _ = capture_model(model, {'image': image(0)})
    finally:
        over.set()
        thread.join()
    assert graph.nodes and not wrong
