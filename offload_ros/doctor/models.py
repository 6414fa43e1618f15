"""Checks of models.yaml and of the weights that it names, without loading a network."""

from __future__ import annotations

from collections.abc import Sequence
import importlib.util
import json
import os
from pathlib import Path
import zipfile

from offload_ros.doctor.finding import Finding, fail, ok, skip, warn
from offload_ros.doctor.seen import ManagerSeen, ModelSeen, ServerModel, ServerSeen
from offload_ros.models.config import ModelConfig, Source
from offload_ros.models.config_file import load_models_file
from offload_ros.models.errors import ConfigError

MAX_HEADER_BYTES = 100_000_000


def read_models(path: str, asked: str = '') -> tuple[list[ModelConfig], Finding]:
    """The models of ``path``, none when it is not valid.

    ``asked``: the file of the command line, where the manager reads another one.
    """
    name = 'models.yaml'
    try:
        configs = load_models_file(path)
    except ConfigError as error:
        return [], fail(name, str(error), f'mend {path}, then start manager and server again')
    names = ', '.join(config.name for config in configs)
    if asked and os.path.realpath(asked) != os.path.realpath(path):
        return configs, warn(
            name,
            f'the manager reads {path} ({names}), not {asked}',
            f'ros2 launch offload_ros robot.launch.py models_file:={asked}',
        )
    return configs, ok(name, f'{path}: {names}')


def far_models_file(path: str) -> Finding:
    """The manager names a file that is not here: it runs on another machine."""
    return warn(
        'models.yaml',
        f'{path}, which the manager reads, is not on this machine: inputs are not looked at',
        'run the doctor on the robot, or give --models-file FILE',
    )


def check_weights(config: ModelConfig, manager: ManagerSeen) -> Finding:
    """Whether the weights are there and trained; the manager's word counts where it runs."""
    name = f'weights {config.name}'
    seen = manager.model(config.name)
    if seen is not None:
        return _loaded_weights(name, seen)
    variant = manager.parameters.get(f'{config.name}.variant', config.variant)
    source = config.variant_named(variant if variant in config.variants() else config.variant)
    return _source_weights(name, source.source)


def _loaded_weights(name: str, seen: ModelSeen) -> Finding:
    where = f'{seen.variant} ({seen.hash[:8]}) is loaded'
    if seen.weights_trained:
        return ok(name, f'{where}, trained')
    return warn(
        name,
        f'{where} with weights that are random, or not said to be trained: nothing may move on '
        'its results',
        'put model.safetensors beside config.json, or set weights_trained = True on the module',
    )


def _source_weights(name: str, source: Source) -> Finding:
    if source.export:
        if zipfile.is_zipfile(source.export):
            return ok(name, f'{source.export} is a torch.export archive')
        return fail(
            name,
            f'{source.export} is no torch.export archive',
            "write it with torch.export.save, or mend 'export:' in models.yaml",
        )
    if source.python:
        return _factory(name, source.python)
    return _transformers(name, source.transformers)


def _factory(name: str, text: str) -> Finding:
    module = text.partition(':')[0]
    try:
        found = importlib.util.find_spec(module) is not None
    except Exception:  # finding a module imports its packages, which may do anything
        found = False
    if found:
        return ok(name, f'{text} can be imported; whether it is trained shows when it is loaded')
    return fail(
        name,
        f"{text}: there is no Python module '{module}' in this shell",
        'build and source its workspace, or export PYTHONPATH=<its folder>, where the node starts',
    )


def _transformers(name: str, source: str) -> Finding:
    folder = Path(source)
    if not folder.is_dir():
        return _hub(name, source)
    files = sorted(folder.glob('*.safetensors'))
    if not files:
        return warn(
            name,
            f'{source} has no *.safetensors: random weights are used, results mean nothing',
            f'put trained weights into {source}/model.safetensors',
        )
    for file in files:
        problem = _safetensors_problem(file)
        if problem:
            return fail(name, f'{file}: {problem}', 'copy it again (git lfs pull, if it came so)')
    size = sum(file.stat().st_size for file in files)
    return ok(name, f'{source}: {len(files)} file(s), {size / 1e6:.1f} MB')


def _hub(name: str, source: str) -> Finding:
    home = os.environ.get('HF_HOME', '~/.cache/huggingface')
    cache = Path(os.environ.get('HF_HUB_CACHE', f'{home}/hub')).expanduser()
    folder = cache / ('models--' + source.replace('/', '--'))
    if any(folder.glob('snapshots/*/*.safetensors')):
        return ok(name, f'{source} is in {cache}')
    return warn(
        name,
        f'{source} is not in {cache}: it is downloaded at the next start',
        f'huggingface-cli download {source} while there is a network',
    )


def _safetensors_problem(file: Path) -> str:
    """Empty when header and length fit each other; the data itself is not read."""
    try:
        with file.open('rb') as stream:
            length = int.from_bytes(stream.read(8), 'little')
            if length > min(MAX_HEADER_BYTES, file.stat().st_size):
                return 'not a safetensors file, or cut off'
            header = json.loads(stream.read(length))
        ends = [entry['data_offsets'][1] for key, entry in header.items() if key != '__metadata__']
        if 8 + length + max(ends, default=0) != file.stat().st_size:
            return 'cut off: shorter or longer than its header says'
    except OSError as error:
        return f'cannot be read: {error.strerror}'
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        return 'not a safetensors file'
    return ''


def check_model(
    config: ModelConfig, manager: ManagerSeen, servers: Sequence[ServerSeen]
) -> Finding:
    """Whether robot and server hold the same, by the content hash of each."""
    name = f'model {config.name}'
    seen = manager.model(config.name)
    alive = [server for server in servers if not server.closing]
    if manager.active and not manager.loaded(config.name):
        return warn(
            name,
            'is not loaded by the manager: its frames are not taken up',
            f'ros2 param set {manager.name} {config.name}.loaded true',
        )
    if not alive:
        return skip(name, 'needs a server to compare with')
    if not needs_server(config, manager):
        return ok(name, 'runs on the robot (strategy device)')
    holders = [(server, _held(server, config.name)) for server in alive]
    if not any(held for _, held in holders):
        names = {server.name: sorted({each.name for each in server.models}) for server in alive}
        listed = '; '.join(f'{who} has {", ".join(held) or "none"}' for who, held in names.items())
        return fail(
            name,
            f'no server has it ({listed})',
            f"add '{config.name}:' to the server's models.yaml, as it is in the robot's",
        )
    if seen is None:
        there = ', '.join(server.name for server, held in holders if held)
        return skip(name, f'{there} has it; needs an active manager to compare')
    own = f'{seen.variant} ({seen.hash[:8]})'
    equal = [server.name for server, held in holders if seen.hash in {each.hash for each in held}]
    if equal:
        return ok(name, f'{own} is the same on {", ".join(equal)}')
    same_variant = [
        (server, each) for server, held in holders for each in held if each.variant == seen.variant
    ]
    if same_variant:
        theirs = ', '.join(f'{each.hash[:8]} on {server.name}' for server, each in same_variant)
        return fail(
            name,
            f"{own} on the robot is not the server's '{seen.variant}' ({theirs})",
            "copy the robot's models.yaml and weights to the server, and start it again (weights, "
            f"source, inputs, preprocess and outputs of '{config.name}:' must be the same)",
        )
    theirs = ', '.join(sorted({each.variant for _, held in holders for each in held}))
    return fail(
        name,
        f'the robot runs variant {own}, the server has only {theirs}',
        f"add '{seen.variant}' to variants of '{config.name}:' in the server's models.yaml, or "
        f'ros2 param set {manager.name} {config.name}.variant {theirs.split(", ")[0]}',
    )


def _held(server: ServerSeen, name: str) -> list[ServerModel]:
    return [model for model in server.models if model.name == name]


def needs_server(config: ModelConfig, manager: ManagerSeen) -> bool:
    """Whether the model is asked to run elsewhere than on the robot."""
    seen = manager.model(config.name)
    asked = seen.requested if seen else manager.parameters.get(f'{config.name}.strategy')
    return (asked or config.strategy) != 'device'
