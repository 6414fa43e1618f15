"""Networks come from factories, transformers and archives, and say whether they are trained."""

import json
import os
import shutil
import subprocess
import sys
from types import ModuleType

import pytest
import torch
from torch import nn

from offload_ros.models.config import Source
from offload_ros.models.errors import ModelError
from offload_ros.models.sources import load_network


def weights(network):
    """Return all weights of a network in one row."""
    return torch.cat([value.reshape(-1).float() for value in network.module.state_dict().values()])


def refusal(source):
    """Return the text with which a source is refused: one line."""
    with pytest.raises(ModelError) as error:
        load_network(source)
    text = str(error.value)
    assert '\n' not in text
    return text


def test_factory_gets_its_arguments_and_gives_an_untrained_network(factories):
    network = load_network(Source(python='tiny_networks:linear', arguments={'size': 7}))
    assert network.module.in_features == 7
    assert not network.module.training
    assert not network.weights_trained
    assert 'tiny_networks:linear does not say whether its weights are trained' in network.remark
    assert 'set weights_trained = True' in network.remark


def test_factory_that_says_that_its_weights_are_trained_is_believed(factories):
    network = load_network(Source(python='tiny_networks:trained'))
    assert (network.weights_trained, network.remark) == (True, '')


def test_equal_seeds_give_equal_weights_and_others_other_ones(factories):
    sources = [Source(python='tiny_networks:linear', seed=seed) for seed in (3, 3, 4)]
    first, same, other = (weights(load_network(source)) for source in sources)
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_loading_leaves_the_random_numbers_of_the_program_alone(factories, resnet_folder):
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    load_network(Source(python='tiny_networks:linear'))
    load_network(Source(transformers=str(resnet_folder)))
    assert torch.equal(torch.rand(3), expected)


def test_network_is_in_evaluation_mode(factories):
    module = load_network(Source(python='tiny_networks:dropout')).module
    x = torch.ones(1, 3)
    assert torch.equal(module(x), module(x))


@pytest.mark.parametrize(
    ('python', 'text'),
    [
        ('no_such_module_here:f', "no_such_module_here:f: cannot import: No module named 'no_su"),
        ('tiny_networks:missing', "tiny_networks:missing: tiny_networks has no 'missing'"),
        ('tiny_networks:fails', 'tiny_networks:fails: OSError: weights.bin is missing'),
        ('tiny_networks:nothing', 'tiny_networks:nothing returned dict, not a torch.nn.Module'),
        ('tiny_networks:value', "tiny_networks:value: TypeError: 'int' object is not callable"),
        ('.relative:f', '.relative:f: cannot import: TypeError'),
    ],
)
def test_factory_that_gives_no_network_is_refused_with_the_cause(factories, python, text):
    assert text in refusal(Source(python=python))


def test_factory_with_wrong_arguments_is_refused(factories):
    text = refusal(Source(python='tiny_networks:linear', arguments={'colour': 1}))
    assert "TypeError: linear() got an unexpected keyword argument 'colour'" in text


@pytest.mark.parametrize(
    ('code', 'text'),
    [
        ('def f(:', 'broken_networks:f: cannot import: SyntaxError'),
        ('1 / 0', 'broken_networks:f: cannot import: ZeroDivisionError: division by zero'),
        ('import os; os.missing', 'broken_networks:f: cannot import: AttributeError: module'),
    ],
)
def test_module_that_fails_to_import_is_refused_with_the_cause(tmp_path, monkeypatch, code, text):
    (tmp_path / 'broken_networks.py').write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    assert text in refusal(Source(python='broken_networks:f'))


def test_transformers_configuration_without_weights_gives_seeded_random_ones(resnet_folder):
    folder = str(resnet_folder)
    sources = [Source(transformers=folder, seed=seed) for seed in (3, 3, 4)]
    first, same, other = (load_network(source) for source in sources)
    assert torch.equal(weights(first), weights(same))
    assert not torch.equal(weights(first), weights(other))
    assert not first.weights_trained
    assert first.remark == (
        f'{folder} has a configuration but no weights (*.safetensors): '
        'random weights of seed 3 are used, results mean nothing'
    )


def test_transformers_weights_are_loaded_and_count_as_trained(vit):
    reference, folder = vit
    network = load_network(Source(transformers=str(folder)))
    assert (network.weights_trained, network.remark) == (True, '')
    pixels = torch.rand(1, 3, 32, 32)
    with torch.inference_mode():
        outputs, wanted = network.module(pixels), reference(pixels).logits[0]
    assert torch.equal(outputs['logits'], wanted)
    assert torch.equal(outputs['probabilities'], wanted.softmax(-1))


@pytest.fixture
def saved_vit(vit, tmp_path):
    """Return a copy of the small ViT's folder that a test may change."""
    return shutil.copytree(vit[1], tmp_path / 'vit')


def test_missing_weights_make_the_network_untrained_and_seeded(saved_vit):
    import safetensors.torch

    path = saved_vit / 'model.safetensors'
    stored = safetensors.torch.load_file(path)
    kept = {name: value for name, value in stored.items() if not name.startswith('classifier')}
    assert len(kept) < len(stored)
    safetensors.torch.save_file(kept, path, metadata={'format': 'pt'})
    first, same = (load_network(Source(transformers=str(saved_vit))) for _ in range(2))
    assert not first.weights_trained
    assert 'classifier' in first.remark
    assert torch.equal(weights(first), weights(same)), 'robot and server must have the same ones'


def test_weights_of_half_precision_are_computed_in_float32(vit, saved_vit):
    vit[0].__class__.from_pretrained(saved_vit, dtype=torch.float16).save_pretrained(saved_vit)
    network = load_network(Source(transformers=str(saved_vit)))
    with torch.inference_mode():
        logits = network.module(torch.rand(1, 3, 32, 32))['logits']
    assert logits.dtype == torch.float32


def test_pickled_weights_are_not_opened(saved_vit):
    (saved_vit / 'model.safetensors').unlink()
    (saved_vit / 'pytorch_model.bin').write_bytes(b'a pickle that nobody loads')
    network = load_network(Source(transformers=str(saved_vit)))
    assert not network.weights_trained


def test_code_beside_a_configuration_is_not_run(saved_vit):
    path = saved_vit / 'config.json'
    config = json.loads(path.read_text())
    config |= {'model_type': 'evil', 'auto_map': {'AutoConfig': 'evil.Config'}}
    path.write_text(json.dumps(config))
    marker = saved_vit / 'was_run'
    (saved_vit / 'evil.py').write_text(f'open({str(marker)!r}, "w")\nclass Config: pass\n')
    assert 'transformers model' in refusal(Source(transformers=str(saved_vit)))
    assert not marker.exists()


@pytest.mark.parametrize(
    'spoil',
    [
        lambda folder: (folder / 'config.json').unlink(),
        lambda folder: (folder / 'config.json').write_text('{'),
        lambda folder: (folder / 'config.json').write_text('{"model_type": "no_such_net"}'),
        lambda folder: (folder / 'model.safetensors').write_bytes(b'garbage'),
        shutil.rmtree,
    ],
    ids=['no config', 'broken config', 'unknown type', 'broken weights', 'no folder'],
)
def test_spoilt_transformers_folder_is_refused_with_the_remedy(saved_vit, spoil, monkeypatch):
    monkeypatch.setenv('HF_HUB_OFFLINE', '1')
    spoil(saved_vit)
    text = refusal(Source(transformers=str(saved_vit)))
    assert text.startswith(f'transformers model {saved_vit}: ')
    assert 'or a local folder with config.json and model.safetensors' in text


def test_unknown_task_is_refused(resnet_folder):
    source = Source(transformers=str(resnet_folder), task='AutoModelForTeleport')
    assert refusal(source) == "source.task: transformers has no 'AutoModelForTeleport'"


def test_task_that_the_network_is_not_made_for_is_refused(resnet_folder):
    source = Source(transformers=str(resnet_folder), task='AutoModelForCausalLM')
    assert 'transformers model' in refusal(source)


def test_hub_id_without_network_is_one_clear_error():
    # The hub client reads this setting when it is imported: a process of its own has it for sure.
    code = (
        'import time\n'
        'from offload_ros.models.config import Source\n'
        'from offload_ros.models.errors import ModelError\n'
        'from offload_ros.models.sources import load_network\n'
        'import transformers\n'
        'began_s = time.monotonic()\n'
        'try:\n'
        '    load_network(Source(transformers="nobody-here/no-such-network"))\n'
        'except ModelError as error:\n'
        '    print(error)\n'
        '    assert time.monotonic() - began_s < 60\n'
    )
    ran = subprocess.run(
        [sys.executable, '-c', code],
        env={**os.environ, 'HF_HUB_OFFLINE': '1'},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    (line,) = ran.stdout.splitlines()
    assert line.startswith('transformers model nobody-here/no-such-network: ')
    assert 'give a hub id with network access, or a local folder' in line


def test_exported_archive_computes_what_its_module_computes(exported):
    module, path = exported
    network = load_network(Source(export=str(path)))
    pixels = torch.rand(1, 3, 8, 8)
    with torch.inference_mode():
        assert torch.equal(network.module(pixels), module(pixels))
    assert network.weights_trained


@pytest.mark.parametrize(
    'data', [b'', b'garbage', b'PK\x03\x04' + bytes(100)], ids=['empty', 'garbage', 'broken zip']
)
def test_corrupt_archive_is_refused(tmp_path, data):
    path = tmp_path / 'net.pt2'
    path.write_bytes(data)
    text = refusal(Source(export=str(path)))
    assert text.startswith(f'{path}: not a torch.export archive that loads here: ')


def test_truncated_archive_is_refused(tmp_path, exported):
    path = tmp_path / 'net.pt2'
    whole = exported[1].read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert 'not a torch.export archive that loads here' in refusal(Source(export=str(path)))


def test_archive_of_torch_save_is_refused(tmp_path):
    path = tmp_path / 'net.pt2'
    torch.save(nn.Linear(2, 2), path)
    assert 'not a torch.export archive that loads here' in refusal(Source(export=str(path)))


def test_missing_archive_is_refused(tmp_path):
    assert 'not a torch.export archive' in refusal(Source(export=str(tmp_path / 'none.pt2')))


def test_identity_holds_no_path(vit, exported, factories):
    for source in (
        Source(transformers=str(vit[1])),
        Source(export=str(exported[1])),
        Source(python='tiny_networks:linear'),
    ):
        text = json.dumps(dict(load_network(source).identity))
        assert str(vit[1]) not in text
        assert str(exported[1]) not in text


def test_factory_module_is_imported_only_when_asked_for(monkeypatch):
    module = ModuleType('late_networks')
    source = Source(python='late_networks:Identity')
    module.Identity = nn.Identity
    monkeypatch.setitem(sys.modules, 'late_networks', module)
    assert isinstance(load_network(source).module, nn.Identity)
