"""A model runs what its network computes, says what is wrong with its inputs and outputs, and has
a hash of its content."""

import shutil

import pytest
import torch
from torch import nn

from offload_ros.models.config import InputSpec, Preprocess, Source
from offload_ros.models.errors import InputError, ModelError
from offload_ros.models.model import Model, check_device, load_model, runtime_description
from offload_ros.models.preprocess import ImagePreprocess

POINTS = 'sensor_msgs/msg/PointCloud2'


class Returns(nn.Module):
    """A network that returns what a test says."""

    def __init__(self, result):
        super().__init__()
        self.result = result
        self.seen = []

    def forward(self, *arguments):
        self.seen.append(arguments)
        if isinstance(self.result, Exception):
            raise self.result
        return self.result


@pytest.fixture
def returning(make_config):
    """Return a function that makes a model whose network returns the given result."""

    def make(result, **fields):
        return Model(make_config('nowhere:nothing', **fields), Returns(result), 'hash', True)

    return make


def hash_of(config):
    """Return the content hash of a loaded model."""
    return load_model(config).hash


def test_factory_model_runs(factories, make_config):
    model = load_model(make_config('tiny_networks:linear', inputs=(InputSpec('x', 't', POINTS),)))
    x = torch.rand(4, 3)
    outputs = model.run({'x': x})
    with torch.inference_mode():
        assert torch.equal(outputs['output'], model.network(x))
    assert (model.name, model.variant, str(model.device)) == ('tiny', 'default', 'cpu')
    assert not model.weights_trained
    assert 'does not say whether its weights are trained' in model.remark


def test_transformers_model_equals_the_networks_own_outputs(vit, classifier_config):
    reference, folder = vit
    model = load_model(classifier_config(folder))
    image = torch.randint(0, 256, (45, 61, 3), dtype=torch.uint8)
    outputs = model.run({'x': image})
    with torch.inference_mode():
        pixels = ImagePreprocess(model.config.preprocess)(image)
        wanted = reference(pixels).logits[0]
    assert torch.equal(outputs['logits'], wanted)
    assert torch.equal(outputs['probabilities'], wanted.softmax(-1))
    assert model.weights_trained
    assert model.remark == ''


def test_resnet_without_weights_runs_and_says_that_it_means_nothing(
    resnet_folder, classifier_config
):
    model = load_model(classifier_config(resnet_folder))
    outputs = model.run({'x': torch.zeros(10, 10, 3, dtype=torch.uint8)})
    assert outputs['probabilities'].shape == (5,)
    assert outputs['probabilities'].sum() == pytest.approx(1.0, abs=1e-5)
    assert not model.weights_trained
    assert 'results mean nothing' in model.remark


def test_exported_model_equals_its_module(exported, make_config):
    module, path = exported
    model = load_model(
        make_config(Source(export=str(path)), preprocess=Preprocess(resize=(8, 8), scale=0.5))
    )
    image = torch.randint(0, 256, (8, 8, 3), dtype=torch.uint8)
    with torch.inference_mode():
        wanted = module(image.permute(2, 0, 1)[None].float() * 0.5)
    torch.testing.assert_close(model.run({'x': image})['output'], wanted)


def test_two_loads_of_one_entry_compute_equal_bits(resnet_folder, classifier_config):
    image = torch.randint(0, 256, (40, 30, 3), dtype=torch.uint8)
    first, second = (load_model(classifier_config(resnet_folder)) for _ in range(2))
    assert first.hash == second.hash
    for name, value in first.run({'x': image}).items():
        assert torch.equal(value, second.run({'x': image})[name])


def test_inputs_reach_the_network_in_the_order_of_the_configuration(returning):
    model = returning(torch.zeros(1), inputs=(InputSpec('b', 't'), InputSpec('a', 't')))
    model.run({'a': torch.tensor([1.0]), 'b': torch.tensor([2.0])})
    assert [argument.item() for argument in model.network.seen[0]] == [2.0, 1.0]


def test_outputs_are_contiguous_and_need_no_gradients(returning):
    model = returning(torch.arange(6.0, requires_grad=True).reshape(2, 3).T)
    output = model.run({'x': torch.zeros(1)})['output']
    assert output.is_contiguous()
    assert output.tolist() == [[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]]


@pytest.mark.parametrize(
    'result',
    [
        (torch.zeros(1), torch.ones(2)),
        [torch.zeros(1), torch.ones(2)],
        {'b': torch.ones(2), 'more': None, 'a': torch.zeros(1)},
    ],
    ids=['tuple', 'list', 'mapping'],
)
def test_outputs_get_their_names(returning, result):
    outputs = returning(result, outputs=('a', 'b')).run({'x': torch.zeros(1)})
    assert list(outputs) == ['a', 'b']
    assert outputs['a'].tolist() == [0.0]
    assert outputs['b'].tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    ('result', 'text'),
    [
        (
            {'logits': torch.zeros(1)},
            "model 'tiny' has no output ['output'], it has ['logits']: mend outputs in models.yaml",
        ),
        (
            (torch.zeros(1), torch.zeros(1)),
            "model 'tiny' returns 2 outputs, models.yaml names 1",
        ),
        ([], "model 'tiny' returns 0 outputs, models.yaml names 1"),
        ([5], "model 'tiny' returns ['int'], only tensors can be sent"),
        (None, "model 'tiny' returns NoneType, only tensors can be sent"),
        ('x', "model 'tiny' returns str, only tensors can be sent"),
        (
            torch.zeros(2, dtype=torch.complex64),
            "model 'tiny', output 'output': torch.complex64 of 1 axes cannot be sent",
        ),
        (
            torch.zeros((1,) * 9),
            "model 'tiny', output 'output': torch.float32 of 9 axes cannot be sent",
        ),
        (
            RuntimeError('mat1 and mat2\nshapes'),
            "model 'tiny' failed: RuntimeError: mat1 and mat2",
        ),
        (RuntimeError(''), "model 'tiny' failed: RuntimeError: "),
        (ModelError('of its own'), 'of its own'),
    ],
)
def test_network_that_fails_or_returns_something_else_is_named_in_one_line(returning, result, text):
    with pytest.raises(ModelError) as error:
        returning(result).run({'x': torch.zeros(1)})
    assert str(error.value) == text


@pytest.mark.parametrize(
    ('shape', 'good', 'bad', 'text'),
    [
        ((2, 3), (2, 3), (3, 2), 'shape (3, 2) came, (2, 3) is wanted'),
        ((None, 3), (9, 3), (9, 4), 'shape (9, 4) came, (any, 3) is wanted'),
        ((None, 3), (0, 3), (3,), 'shape (3) came, (any, 3) is wanted'),
        ((4,), (4,), (), 'shape () came, (4) is wanted'),
    ],
)
def test_shape_is_checked_where_it_is_configured(returning, shape, good, bad, text):
    model = returning(torch.zeros(1), inputs=(InputSpec('x', 't', shape=shape),))
    model.check_inputs({'x': torch.zeros(good)})
    for check in (model.check_inputs, model.run):
        with pytest.raises(InputError) as error:
            check({'x': torch.zeros(bad)})
        assert str(error.value) == f"model 'tiny', input 'x': {text}"
    assert model.network.seen == []


def test_any_shape_is_good_where_none_is_configured(returning):
    returning(torch.zeros(1)).check_inputs({'x': torch.zeros(5, 0, 2)})


@pytest.mark.parametrize('names', [[], ['y'], ['x', 'y']])
def test_names_of_inputs_are_checked(returning, names):
    with pytest.raises(InputError) as error:
        returning(torch.zeros(1)).check_inputs(dict.fromkeys(names, torch.zeros(1)))
    assert str(error.value) == f"model 'tiny' takes inputs ['x'], the frame has {names}"


def test_image_that_the_preprocessing_refuses_is_an_input_error(returning):
    model = returning(torch.zeros(1), preprocess=Preprocess(mean=(0.0,) * 3, std=(1.0,) * 3))
    with pytest.raises(InputError, match='the image has 4 channels'):
        model.run({'x': torch.zeros(5, 5, 4)})


def test_only_the_first_input_is_preprocessed(returning):
    model = returning(
        torch.zeros(1),
        inputs=(InputSpec('x', 't'), InputSpec('y', 't')),
        preprocess=Preprocess(resize=(4, 4)),
    )
    model.run({'x': torch.zeros(8, 8, 3), 'y': torch.zeros(8, 8, 3)})
    assert [tuple(argument.shape) for argument in model.network.seen[0]] == [
        (1, 3, 4, 4),
        (8, 8, 3),
    ]


SQUARE = Preprocess(resize=(4, 4))


@pytest.mark.parametrize(
    ('inputs', 'preprocess', 'shapes'),
    [
        ([InputSpec('x', 't')], SQUARE, [(1, 3, 4, 4)]),
        ([InputSpec('x', 't', encoding='mono8')], SQUARE, [(1, 1, 4, 4)]),
        ([InputSpec('x', 't', encoding='16UC1')], SQUARE, [(1, 1, 4, 4)]),
        ([InputSpec('x', 't', shape=(6, 8, 3))], SQUARE, [(1, 3, 4, 4)]),
        ([InputSpec('x', 't', shape=(None, None, 3))], SQUARE, [(1, 3, 4, 4)]),
        ([InputSpec('x', 't', encoding='mono8', shape=(None, 8))], SQUARE, [(1, 1, 4, 4)]),
        ([InputSpec('x', 't', shape=(6, 8, 3))], None, [(6, 8, 3)]),
        ([InputSpec('x', 't'), InputSpec('y', 't', shape=(2, 2, 3))], SQUARE, None),
    ],
)
def test_warm_up_runs_once_where_the_inputs_are_known(returning, inputs, preprocess, shapes):
    model = returning(torch.zeros(1), inputs=tuple(inputs), preprocess=preprocess)
    assert model.warm_up()
    (arguments,) = model.network.seen
    shapes = shapes or [(1, 3, 4, 4), (2, 2, 3)]
    assert [tuple(argument.shape) for argument in arguments] == shapes


@pytest.mark.parametrize(
    ('inputs', 'preprocess'),
    [
        ([InputSpec('x', 't')], None),
        ([InputSpec('x', 't', shape=(None, 4, 3))], None),
        ([InputSpec('x', 't', encoding='passthrough')], SQUARE),
        ([InputSpec('x', 't', encoding='passthrough', shape=(4, 4))], None),
        ([InputSpec('x', 't', 'sensor_msgs/msg/CompressedImage')], SQUARE),
        ([InputSpec('x', 't', POINTS, shape=(5, 3))], None),
        ([InputSpec('x', 't'), InputSpec('y', 't')], SQUARE),
    ],
)
def test_warm_up_does_not_guess_at_unknown_inputs(returning, inputs, preprocess):
    model = returning(RuntimeError('ran'), inputs=tuple(inputs), preprocess=preprocess)
    assert not model.warm_up()
    assert model.network.seen == []


def test_wrong_output_names_are_found_at_loading(resnet_folder, classifier_config):
    with pytest.raises(ModelError) as error:
        load_model(classifier_config(resnet_folder, outputs=('classes',)))
    assert str(error.value) == (
        "model 'tiny' has no output ['classes'], it has ['logits', 'probabilities']: "
        'mend outputs in models.yaml'
    )


def test_camera_that_does_not_fit_the_preprocessing_is_found_at_loading(
    resnet_folder, classifier_config
):
    with pytest.raises(ModelError) as error:
        load_model(
            classifier_config(resnet_folder, inputs=(InputSpec('x', 't', encoding='mono8'),))
        )
    assert str(error.value) == (
        "model 'tiny' does not fit its inputs: the image has 1 channels, preprocess.mean has 3"
    )


def test_source_that_cannot_be_loaded_names_the_model(make_config):
    with pytest.raises(ModelError, match=r"^model 'tiny': no_such_module_here:f: cannot import"):
        load_model(make_config('no_such_module_here:f'))


@pytest.mark.parametrize('device', ['gpu', '', 'cuda:x', 'cpu cpu', 'meta', 'mps'])
def test_unknown_device_is_refused(device):
    with pytest.raises(ModelError) as error:
        check_device(device)
    assert str(error.value) == f"device '{device}' is not one: cpu, cuda, cuda:0, ..."


def test_missing_cuda_is_refused_with_the_remedy(monkeypatch, factories, make_config):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    with pytest.raises(ModelError, match=r"device 'cuda': torch .* sees no CUDA device here; use"):
        load_model(make_config('tiny_networks:linear'), 'cuda')


def test_device_beyond_the_last_one_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 2)
    check_device('cuda')
    check_device('cuda:1')
    with pytest.raises(ModelError, match="device 'cuda:2': there are 2 here, counted from cuda:0"):
        check_device('cuda:2')


def test_runtime_names_what_decides_bits(monkeypatch):
    text = runtime_description()
    assert f'torch {torch.__version__}' in text
    assert f'{torch.get_num_threads()} threads' in text
    monkeypatch.setattr(torch, 'get_num_threads', lambda: 77)
    assert runtime_description() != text


def test_hash_is_equal_for_equal_weights_in_different_folders(vit, classifier_config, tmp_path):
    copied = shutil.copytree(vit[1], tmp_path / 'elsewhere')
    saved_again = tmp_path / 'again'
    vit[0].save_pretrained(saved_again)
    folders = (vit[1], copied, saved_again)
    assert len({hash_of(classifier_config(folder)) for folder in folders}) == 1


def test_hash_differs_when_one_weight_differs(vit, classifier_config, tmp_path):
    network = vit[0].__class__.from_pretrained(vit[1])
    with torch.no_grad():
        network.classifier.bias[0] += 1e-6
    network.save_pretrained(tmp_path)
    assert hash_of(classifier_config(tmp_path)) != hash_of(classifier_config(vit[1]))


@pytest.mark.parametrize(
    'change',
    [
        {'preprocess': Preprocess(resize=(32, 32), mean=(0.5,) * 3, std=(0.25,) * 3)},
        {'preprocess': Preprocess(resize=(32, 33), mean=(0.5,) * 3, std=(0.5,) * 3)},
        {'outputs': ('logits',)},
        {'outputs': ('logits', 'probabilities')},
        {'inputs': (InputSpec('x', 'topic', encoding='bgr8'),)},
        {'inputs': (InputSpec('y', 'topic'),)},
    ],
    ids=['std', 'resize', 'one output', 'order of outputs', 'encoding', 'input name'],
)
def test_hash_differs_with_what_changes_the_results(resnet_folder, classifier_config, change):
    assert hash_of(classifier_config(resnet_folder, **change)) != hash_of(
        classifier_config(resnet_folder)
    )


@pytest.mark.parametrize(
    'change',
    [
        {'inputs': (InputSpec('x', 'another/topic'),)},
        {'deadline_ms': 5.0},
        {'strategy': 'device'},
        {'name': 'other', 'variant': 'small'},
    ],
    ids=['topic', 'deadline', 'strategy', 'name'],
)
def test_hash_is_equal_where_the_results_are(resnet_folder, classifier_config, change):
    assert hash_of(classifier_config(resnet_folder, **change)) == hash_of(
        classifier_config(resnet_folder)
    )


def test_hash_of_a_factory_follows_seed_and_arguments(factories, make_config):
    def hashed(**source):
        return hash_of(make_config(Source(python='tiny_networks:linear', **source)))

    assert hashed() == hashed()
    assert hashed(seed=1) != hashed()
    assert hashed(arguments={'size': 3}) != hashed(arguments={'size': 4})


def test_hash_takes_every_kind_of_state(make_config, monkeypatch, factories):
    import tiny_networks

    class Odd(nn.Module):
        def __init__(self, extra=1):
            super().__init__()
            self.extra = extra
            self.register_buffer('empty', torch.zeros(0))
            self.register_buffer('flag', torch.tensor(True))
            self.register_buffer('part', torch.ones(2, dtype=torch.bfloat16)[::2])

        def get_extra_state(self):
            return {'extra': self.extra}

        def set_extra_state(self, state):
            self.extra = state['extra']

        def forward(self, x):
            return x

    monkeypatch.setattr(tiny_networks, 'odd', Odd, raising=False)
    monkeypatch.setattr(tiny_networks, 'other', lambda: Odd(2), raising=False)
    odd, same, other = (
        hash_of(make_config(f'tiny_networks:{name}')) for name in ('odd', 'odd', 'other')
    )
    assert odd == same
    assert odd != other
