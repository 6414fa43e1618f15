"""A good models.yaml is read as it says; each mistake in one gives one line with place and rule."""

from pathlib import Path

import pytest

from offload_ros.models.config import InputSpec, ModelConfig, Preprocess, Source
from offload_ros.models.config_file import (
    load_models_file,
    load_strategy_modules,
    parse_models,
)
from offload_ros.models.errors import ConfigError

GOOD = """
models:
  vit:
    variant: tiny
    source: {python: nets.vit:build, arguments: {depth: 2}, seed: 7}
    inputs:
      - {name: image, topic: camera/image_raw, type: sensor_msgs/msg/Image, encoding: bgr8,
         shape: [null, null, 3]}
      - {name: scan, topic: /scan, type: sensor_msgs/msg/LaserScan, shape: [360]}
    preprocess:
      resize: [224, 320]
      letterbox: true
      fill: 0
      scale: 0.5
      mean: [1, 2, 3]
      std: [4, 5, 6.5]
    outputs: [probabilities, logits]
    deadline_ms: 250
    strategy: device
    sync_slop_ms: 20.5
  plain:
    source: {transformers: owner/name}
    inputs: [{name: x, topic: t}]
"""


def test_good_file_is_read_as_it_says(tmp_path):
    path = tmp_path / 'models.yaml'
    path.write_text(GOOD)
    vit, plain = load_models_file(path)
    assert vit == ModelConfig(
        name='vit',
        source=Source(python='nets.vit:build', arguments={'depth': 2}, seed=7),
        variant='tiny',
        inputs=(
            InputSpec(
                'image',
                'camera/image_raw',
                'sensor_msgs/msg/Image',
                'bgr8',
                (None, None, 3),
            ),
            InputSpec('scan', '/scan', 'sensor_msgs/msg/LaserScan', shape=(360,)),
        ),
        preprocess=Preprocess((224, 320), True, 0.0, 0.5, (1.0, 2.0, 3.0), (4.0, 5.0, 6.5)),
        outputs=('probabilities', 'logits'),
        deadline_ms=250.0,
        strategy='device',
        sync_slop_ms=20.5,
    )
    assert plain == ModelConfig(
        'plain', Source(transformers='owner/name'), inputs=(InputSpec('x', 't'),)
    )
    assert (plain.variant, plain.outputs, plain.strategy) == ('default', ('output',), 'server')
    assert (plain.preprocess, plain.deadline_ms, plain.inputs[0].encoding) == (
        None,
        1000.0,
        'rgb8',
    )


def test_file_that_the_package_brings_is_good():
    path = Path(__file__).parents[2] / 'config' / 'models.yaml'
    assert [config.name for config in load_models_file(path)]


def test_relative_files_count_from_the_models_file(tmp_path):
    folder = tmp_path / 'nets' / 'tiny'
    folder.mkdir(parents=True)
    (tmp_path / 'net.pt2').write_bytes(b'')
    path = tmp_path / 'models.yaml'
    path.write_text(
        model('a', source='{transformers: nets/tiny}')
        + model('b', source='{transformers: ./nets/tiny}', head='')
        + model('c', source='{export: net.pt2}', head='')
        + model('d', source='{transformers: owner/name}', head='')
    )
    a, b, c, d = load_models_file(path)
    assert a.source.transformers == b.source.transformers == str(folder.resolve())
    assert c.source.export == str((tmp_path / 'net.pt2').resolve())
    assert d.source.transformers == 'owner/name', 'a hub id stays as it is'


def test_variant_changes_only_what_it_names():
    (config,) = parse_models(
        'models: {a: {variant: big, source: {python: "m:f"}, deadline_ms: 7, '
        'inputs: [{name: x, topic: t}], variants: {small: {source: {python: "m:g"}}}}}'
    )
    assert config.variants() == ['big', 'small']
    small = config.variant_named('small')
    assert (small.name, small.source.python, small.deadline_ms) == ('a', 'm:g', 7.0)
    assert small.inputs == config.inputs
    assert config.variant_named('big') is config
    with pytest.raises(ConfigError, match="'a' has no variant 'none'; there are big, small"):
        config.variant_named('none')


def model(name='a', head='models:\n', source='{python: "m:f"}', inputs=None, rest=''):
    """Return the text of a models.yaml with one model of which one thing is changed."""
    inputs = inputs or '[{name: x, topic: t}]'
    rest = f', {rest}' if rest else ''
    return f'{head}  {name}: {{source: {source}, inputs: {inputs}{rest}}}\n'


def entry(text):
    """Return the text of a models.yaml with the given entry of model 'a'."""
    return f'models: {{a: {text}}}'


HOLDING = "must be a mapping with the key 'models' holding one mapping per model"
BAD_TEXTS = {
    # The file as a whole
    'empty': ('', HOLDING),
    'no mapping': ('[1, 2]', HOLDING),
    'no models': ('model: {a: {}}', HOLDING),
    'models is a list': ('models: [a]', HOLDING),
    'models is nothing': ('models:', HOLDING),
    'no model': ('models: {}', "'models' is empty: add at least one model"),
    'unknown key of the file': (
        model() + 'colour: red',
        "the file: unknown key 'colour' (known: models, strategies)",
    ),
    'not YAML': ('models: {a: [', 'not valid YAML: while parsing'),
    'tabs': ('models:\n\ta: 1', 'not valid YAML: while scanning'),
    'two documents': ('models: {}\n---\nmodels: {}', 'not valid YAML: expected a single document'),
    'python object': (
        'models: !!python/object/apply:os.getcwd []',
        'not valid YAML: could not determine a constructor',
    ),
    'impossible date': (model(rest='variant: 2024-99-99'), 'not valid YAML: month must be in'),
    'control character': ('models: "\x07"', 'not valid YAML: unacceptable character'),
    'nested without end': ('models: ' + '[' * 5000, 'not valid YAML: it is nested too deeply'),
    'unhashable key': ('models: {[a]: 1}', 'not valid YAML: while constructing a mapping'),
    # Keys
    'model twice': (model() + model(head=''), "line 3: 'a' is there twice"),
    'key twice': (
        model(rest='strategy: device, strategy: server'),
        "line 2: 'strategy' is there twice",
    ),
    'input key twice': (
        model(inputs='[{name: x, topic: t, name: y}]'),
        "line 2: 'name' is there twice",
    ),
    'unknown key of a model': (
        model(rest='deadline: 5'),
        "model 'a': unknown key 'deadline' (known: amot, deadline_ms, inputs, objective, "
        'objective_deadline_ms, objective_weight, outputs, preprocess, source, strategy, '
        'sync_slop_ms, variant, variants)',
    ),
    'unknown key of an input': (
        model(inputs='[{name: x, topic: t}, {name: y, topic: t, rate: 5}]'),
        "model 'a', input 2: unknown key 'rate' (known: encoding, name, shape, topic, type)",
    ),
    'unknown key of preprocess': (
        model(rest='preprocess: {size: 5}'),
        "model 'a', preprocess: unknown key 'size' (known: fill, letterbox, mean, resize, scale, "
        'std)',
    ),
    'unknown key of source': (
        model(source='{python: "m:f", weights: x}'),
        "model 'a', source: unknown key 'weights' (known: arguments, export, python, seed, task, "
        'transformers)',
    ),
    'unknown key of a variant': (
        model(rest='variants: {b: {inputs: []}}'),
        "model 'a', variant 'b': unknown key 'inputs' (known: amot, outputs, preprocess, source)",
    ),
    'number as key': (model(rest='5: 5'), "model 'a': unknown key '5' (known: "),
    'line break in a key': (model(rest='"x\\ny": 5'), "model 'a': unknown key 'x"),
    # Names
    'capital letters': (
        model('Vit'),
        "model name 'Vit' must be lower-case letters, digits and _, beginning with a letter",
    ),
    'digit first': (model('3d'), "model name '3d' must be lower-case letters"),
    'line break in a name': (model('"a\\nb"'), "model name 'a"),
    'line break at the end of a name': (model('"a\\n"'), "model name 'a"),
    'empty name': (model('""'), "model name '' must be lower-case letters"),
    'number as name': (model('5'), 'model name 5 must be text'),
    'word that YAML takes for a truth value': (model('on'), 'model name True must be text'),
    'reserved name': (model('link'), "model name 'link' is reserved"),
    'bad input name': (
        model(inputs='[{name: X, topic: t}]'),
        "model 'a', input 1: input name 'X' must be lower-case letters",
    ),
    'input name twice': (
        model(inputs='[{name: x, topic: t}, {name: x, topic: u}]'),
        "model 'a': two inputs have one name: ['x', 'x']",
    ),
    'output name twice': (
        model(rest='outputs: [o, o]'),
        "model 'a': two outputs have one name: ['o', 'o']",
    ),
    'output without a name': (model(rest='outputs: [""]'), "model 'a': an output name is empty"),
    'variant name twice': (
        model(rest='variant: b, variants: {b: {}}'),
        "model 'a': two variants have one name: ['b', 'b']",
    ),
    # What is missing
    'no source': (
        entry('{inputs: [{name: x, topic: t}]}'),
        "model 'a': source is missing: python, transformers or export",
    ),
    'empty source': (
        model(source='{}'),
        "model 'a', source: source: give exactly one of python, transformers, export (given: none)",
    ),
    'two sources': (
        model(source='{python: "m:f", transformers: o/n}'),
        "give exactly one of python, transformers, export (given: ['python', 'transformers'])",
    ),
    'no inputs': (entry('{source: {python: "m:f"}}'), "model 'a': inputs is missing or empty"),
    'empty inputs': (model(inputs='[]'), "model 'a': inputs is missing or empty"),
    'input without name': (model(inputs='[{topic: t}]'), "model 'a', input 1: name is missing"),
    'input without topic': (model(inputs='[{name: x}]'), "model 'a', input 1: topic is missing"),
    'empty topic': (
        model(inputs='[{name: x, topic: ""}]'),
        "model 'a', input 1: input 'x': topic is empty",
    ),
    'empty outputs': (model(rest='outputs: []'), "model 'a': outputs is empty"),
    # Wrong types
    'model is text': (entry('resnet'), "model 'a': must be a mapping of keys to values, not 'res"),
    'source is text': (
        model(source='resnet'),
        "model 'a', source: must be a mapping of keys to values, not 'resnet'",
    ),
    'inputs is a mapping': (model(inputs='{name: x}'), "model 'a': inputs must be a list"),
    'input is text': (model(inputs='[image]'), "model 'a', input 1: must be a mapping"),
    'preprocess is nothing': (
        model(rest='preprocess:'),
        "model 'a', preprocess: must be a mapping of keys to values, not None",
    ),
    'variants is a list': (
        model(rest='variants: [b]'),
        "model 'a', variants: must be a mapping of keys to values, not ['b']",
    ),
    'objective is none': (
        model(rest='objective: speed'),
        "model 'a': objective 'speed' is not one of latency, energy, weighted",
    ),
    'objective is a number': (model(rest='objective: 5'), "model 'a': objective must be text"),
    'weight is too large': (
        model(rest='objective: weighted, objective_weight: 2'),
        "model 'a': objective_weight 2.0 is outside 0 to 1",
    ),
    'deadline of the objective is negative': (
        model(rest='objective: energy, objective_deadline_ms: -5'),
        "model 'a': objective_deadline_ms -5.0 is outside 0 to 60000",
    ),
    'deadline is text': (
        model(rest='deadline_ms: soon'),
        "model 'a': deadline_ms must be a number, not 'soon'",
    ),
    'deadline is a truth value': (
        model(rest='deadline_ms: true'),
        "model 'a': deadline_ms must be a number, not True",
    ),
    'deadline too long for a float': (
        model(rest=f'deadline_ms: 1{"0" * 400}'),
        "model 'a': deadline_ms must be a number that fits a float",
    ),
    'variant is a number': (model(rest='variant: 5'), "model 'a': variant must be text, not 5"),
    'outputs is text': (
        model(rest='outputs: o'),
        "model 'a': outputs must be a list of names, not 'o'",
    ),
    'outputs holds a number': (model(rest='outputs: [5]'), "model 'a': outputs must be text"),
    'letterbox is a number': (
        model(rest='preprocess: {resize: [4, 4], letterbox: 1}'),
        "model 'a', preprocess: letterbox must be true or false, not 1",
    ),
    'resize is fractional': (
        model(rest='preprocess: {resize: [4.5, 4]}'),
        "model 'a', preprocess: resize must be a whole number, not [4.5, 4]",
    ),
    'mean is one number': (
        model(rest='preprocess: {mean: 0.5}'),
        "model 'a', preprocess: mean must be a list of numbers, not 0.5",
    ),
    'shape is text': (
        model(inputs='[{name: x, topic: t, shape: [any]}]'),
        "model 'a', input 1: shape must be a whole number, not ['any']",
    ),
    'seed is text': (
        model(source='{python: "m:f", seed: x}'),
        "model 'a', source: seed must be a whole number, not 'x'",
    ),
    'arguments is a list': (
        model(source='{python: "m:f", arguments: [1]}'),
        "model 'a', source: arguments must be a mapping of names to values, not [1]",
    ),
    'arguments have numbers as names': (
        model(source='{python: "m:f", arguments: {1: 1}}'),
        "model 'a', source: arguments must be a mapping of names to values",
    ),
    # Ranges and closed choices
    'deadline too short': (
        model(rest='deadline_ms: 0.5'),
        "model 'a': deadline_ms 0.5 is outside 1 to 60000",
    ),
    'deadline too long': (
        model(rest='deadline_ms: 60001'),
        "model 'a': deadline_ms 60001.0 is outside 1 to 60000",
    ),
    'deadline is no number': (
        model(rest='deadline_ms: .nan'),
        "model 'a': deadline_ms nan is outside 1 to 60000",
    ),
    'slop below zero': (
        model(rest='sync_slop_ms: -1'),
        "model 'a': sync_slop_ms -1.0 is outside 0 to 10000",
    ),
    'unknown encoding': (
        model(inputs='[{name: x, topic: t, encoding: yuv422}]'),
        "model 'a', input 1: input 'x': encoding 'yuv422' is not one of rgb8, bgr8, mono8, "
        'mono16, 16UC1, 32FC1, passthrough',
    ),
    'unknown message type': (
        model(inputs='[{name: x, topic: t, type: std_msgs/msg/String}]'),
        "model 'a', input 1: input 'x': type 'std_msgs/msg/String' is not one of "
        'sensor_msgs/msg/Image, ',
    ),
    'extent of zero': (
        model(inputs='[{name: x, topic: t, shape: [0, 3]}]'),
        "model 'a', input 1: input 'x': shape has extents above 0, or null for any",
    ),
    'shape beyond any memory': (
        model(inputs='[{name: x, topic: t, shape: [1000000, 1000000]}]'),
        "model 'a', input 1: input 'x': shape has more than 4294967296 values",
    ),
    'shape of too many axes': (
        model(inputs=f'[{{name: x, topic: t, shape: {[1] * 9}}}]'),
        "model 'a', input 1: input 'x': shape has more than 8 axes",
    ),
    'resize of one number': (
        model(rest='preprocess: {resize: [5]}'),
        "model 'a', preprocess: preprocess.resize: two pixel counts, [height, width]",
    ),
    'resize to nothing': (
        model(rest='preprocess: {resize: [0, 5]}'),
        'preprocess.resize: two pixel counts, [height, width], from 1 to 16384',
    ),
    'resize beyond any memory': (
        model(rest='preprocess: {resize: [1000000, 1000000]}'),
        'preprocess.resize: two pixel counts, [height, width], from 1 to 16384',
    ),
    'letterbox without size': (
        model(rest='preprocess: {letterbox: true}'),
        "model 'a', preprocess: preprocess.letterbox needs preprocess.resize",
    ),
    'mean and std differ in length': (
        model(rest='preprocess: {mean: [1, 2, 3], std: [1]}'),
        'preprocess.mean and preprocess.std: one number each per channel',
    ),
    'no channels': (
        model(rest='preprocess: {mean: [], std: []}'),
        'preprocess.mean and preprocess.std: one number each per channel',
    ),
    'std of zero': (
        model(rest='preprocess: {mean: [0], std: [0]}'),
        "model 'a', preprocess: preprocess.std: must not be 0",
    ),
    'mean that is no number': (
        model(rest='preprocess: {mean: [.nan], std: [1]}'),
        "model 'a', preprocess: preprocess: every number must be finite",
    ),
    'scale without end': (
        model(rest='preprocess: {scale: .inf}'),
        "model 'a', preprocess: preprocess: every number must be finite",
    ),
    'preprocess of points': (
        model(
            inputs='[{name: x, topic: t, type: sensor_msgs/msg/PointCloud2}]',
            rest='preprocess: {}',
        ),
        "model 'a': preprocess works on images, its first input is sensor_msgs/msg/PointCloud2",
    ),
    'python without function': (
        model(source='{python: my.module}'),
        "model 'a', source: source.python: 'my.module' must be package.module:function",
    ),
    'python with a path': (
        model(source='{python: "../m.py:f"}'),
        "source.python: '../m.py:f' must be package.module:function",
    ),
    'task is no class of transformers': (
        model(source='{transformers: o/n, task: resnet}'),
        "model 'a', source: source.task: a class of transformers, 'AutoModel...'",
    ),
    'seed below zero': (
        model(source='{python: "m:f", seed: -1}'),
        "model 'a', source: source.seed: a whole number from 0 to 9223372036854775807",
    ),
    'seed too large': (
        model(source=f'{{python: "m:f", seed: {2**64}}}'),
        "model 'a', source: source.seed: a whole number from 0 to 9223372036854775807",
    ),
    'code from the hub': (
        model(source='{transformers: o/n, arguments: {trust_remote_code: true}}'),
        "model 'a', source: source.arguments: trust_remote_code would run code from the network",
    ),
    # Files
    'missing export file': (
        model(source='{export: ./missing.pt2}'),
        'missing.pt2 does not exist',
    ),
    'missing transformers folder': (
        model(source='{transformers: ./missing}'),
        'missing does not exist',
    ),
    'home of nobody': (
        model(source='{transformers: "~no_such_user_here/net"}'),
        "model 'a', source: transformers: '~no_such_user_here/net' is not a path",
    ),
    'zero byte in a path': (
        model(source='{export: "a\\0b"}'),
        "model 'a', source: export: 'a\\x00b' is not a path",
    ),
    'path without end': (
        model(source=f'{{export: {"x" * 5000}}}'),
        "model 'a', source: export: 'xxx",
    ),
}


@pytest.mark.parametrize(('text', 'expected'), BAD_TEXTS.values(), ids=BAD_TEXTS.keys())
def test_mistake_gives_one_line_that_names_place_and_rule(text, expected, tmp_path):
    path = tmp_path / 'models.yaml'
    path.write_text(text, encoding='utf-8')
    with pytest.raises(ConfigError) as refusal:
        load_models_file(path)
    line = str(refusal.value)
    assert '\n' not in line
    assert line.startswith(f'{path}: ')
    assert expected in line


def test_modules_of_strategies_are_read_and_not_imported(tmp_path):
    path = tmp_path / 'models.yaml'
    path.write_text(model() + 'strategies: [my_package.race, not_there]\n')
    assert load_strategy_modules(path) == ('my_package.race', 'not_there')
    assert len(load_models_file(path)) == 1
    path.write_text(model())
    assert load_strategy_modules(path) == ()
    with pytest.raises(ConfigError, match='give models_file an existing file'):
        load_strategy_modules(tmp_path / 'none.yaml')


@pytest.mark.parametrize(
    'given', ['race', '[1]', '[./race.py]', '["a:Race"]', '[.race]', '{a: b}', '[a.]', 'null']
)
def test_strategies_that_are_no_modules_are_refused(given, tmp_path):
    path = tmp_path / 'models.yaml'
    path.write_text(model() + f'strategies: {given}\n')
    for load in (load_models_file, load_strategy_modules):
        with pytest.raises(ConfigError, match=r'strategies must be a list of modules, as \[my_pac'):
            load(path)


def test_some_models_of_a_file_are_chosen_by_name(tmp_path):
    file = tmp_path / 'models.yaml'
    one = "{source: {python: 'a:b'}, inputs: [{name: x, topic: y}], outputs: [z]}"
    file.write_text(f'models: {{first: {one}, second: {one}, third: {one}}}')
    assert [each.name for each in load_models_file(file, 'third, first')] == ['first', 'third']
    assert len(load_models_file(file, '')) == 3
    with pytest.raises(ConfigError, match=r"no model 'fourth' \(there are: first, second, third\)"):
        load_models_file(file, 'first,fourth')


def test_missing_file_is_named_with_the_remedy(tmp_path):
    with pytest.raises(ConfigError) as refusal:
        load_models_file(tmp_path / 'none.yaml')
    assert str(refusal.value) == (
        f'{tmp_path / "none.yaml"}: No such file or directory: give models_file an existing file'
    )


def test_directory_is_no_file(tmp_path):
    with pytest.raises(ConfigError, match='Is a directory: give models_file an existing file'):
        load_models_file(str(tmp_path))


@pytest.mark.parametrize('data', [b'\xff\xfe\x00m', b'models: \x80\x81', bytes(range(256))])
def test_file_that_is_no_text_is_named(tmp_path, data):
    path = tmp_path / 'models.yaml'
    path.write_bytes(data)
    with pytest.raises(ConfigError) as refusal:
        load_models_file(path)
    assert str(refusal.value) == f'{path}: not a text file'


def test_mistake_in_a_text_without_file_names_no_file():
    with pytest.raises(ConfigError, match=r"^model 'a': deadline_ms must be a number, not 'x'$"):
        parse_models(model(rest='deadline_ms: x'))
