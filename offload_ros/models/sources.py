"""A network from its source: Python factory, transformers model, or torch.export archive.

All three are local files or code that this machine's operator named; nothing from the network gets
here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
import hashlib
import importlib
import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from offload_ros.models.alignment import align
from offload_ros.models.config import Source
from offload_ros.models.errors import ModelError

WEIGHT_FILES = ('*.safetensors', '*.safetensors.index.json')


@dataclass(frozen=True)
class Network:
    """A loaded network. ``identity``: what beside its weights decides what it computes, without
    paths."""

    module: nn.Module
    identity: Mapping[str, Any]
    weights_trained: bool
    remark: str = ''


def load_network(source: Source) -> Network:
    """Load what ``source`` names, on the CPU, in evaluation mode. ``ModelError`` with the
    remedy."""
    if source.python:
        network = _from_factory(source)
    elif source.export:
        network = _from_export(source)
    else:
        network = _from_transformers(source)
    align(network.module)
    return network


def _from_factory(source: Source) -> Network:
    module_name, function_name = source.python.split(':')
    try:
        imported = importlib.import_module(module_name)
    except ImportError as error:
        raise ModelError(f'{source.python}: cannot import: {_first_line(error)}') from error
    except Exception as error:  # importing runs foreign code
        kind = type(error).__name__
        raise ModelError(f'{source.python}: cannot import: {kind}: {_first_line(error)}') from error
    factory = getattr(imported, function_name, None)
    if factory is None:
        raise ModelError(f"{source.python}: {module_name} has no '{function_name}'")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(source.seed)
        try:
            module = factory(**source.arguments)
        except Exception as error:  # foreign code: whatever it raises is the operator's to read
            kind = type(error).__name__
            raise ModelError(f'{source.python}: {kind}: {_first_line(error)}') from error
    if not isinstance(module, nn.Module):
        raise ModelError(f'{source.python} returned {type(module).__name__}, not a torch.nn.Module')
    trained = getattr(module, 'weights_trained', None)
    said = getattr(module, 'remark', '')
    remark = said if isinstance(said, str) else ''
    if trained is None:
        remark = (
            f'{source.python} does not say whether its weights are trained: results are marked '
            'untrained '
            '(set weights_trained = True on the module it returns)'
        )
    # A path in the arguments is one machine's; a module can say what counts beside its weights.
    said = getattr(module, 'model_identity', None)
    arguments = said if isinstance(said, Mapping) else source.arguments
    identity = {'python': source.python, 'arguments': dict(arguments)}
    return Network(module.eval(), identity, bool(trained), remark)


def _from_export(source: Source) -> Network:
    path = Path(source.export)
    try:
        module = torch.export.load(str(path)).module()
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    except Exception as error:  # torch raises whatever its archive reader meets
        first = str(error).strip().splitlines() or ['']
        raise ModelError(
            f'{path}: not a torch.export archive that loads here: {first[0]}'
        ) from error
    return Network(module, {'export': digest}, True)


def _from_transformers(source: Source) -> Network:
    import transformers

    transformers.utils.logging.disable_progress_bar()  # a node's log is no terminal
    name = source.transformers
    try:
        auto_class = getattr(transformers, source.task)
    except AttributeError:
        raise ModelError(f"source.task: transformers has no '{source.task}'") from None
    remark = ''
    try:
        # Said, not left out: the code of a hub model would otherwise be asked for on the terminal.
        config = transformers.AutoConfig.from_pretrained(
            name, trust_remote_code=False, **source.arguments
        )
        with torch.random.fork_rng(devices=[]):
            # Also with weights: what they lack for this task is drawn, on robot and server alike.
            torch.manual_seed(source.seed)
            if _has_weights(name):
                # safetensors only: a pickled checkpoint could run code.
                module, loaded = auto_class.from_pretrained(
                    name,
                    config=config,
                    use_safetensors=True,
                    trust_remote_code=False,
                    output_loading_info=True,
                )
                missing = sorted(loaded['missing_keys'])
                trained = not missing
                if missing:
                    remark = (
                        f'{name} has no weights for {len(missing)} parameters of {source.task} '
                        f'({missing[0]}, ...): random ones of seed {source.seed} are used, '
                        'results mean nothing'
                    )
            else:
                module = auto_class.from_config(config, trust_remote_code=False)
                trained = False
                remark = (
                    f'{name} has a configuration but no weights (*.safetensors): '
                    f'random weights of seed {source.seed} are used, results mean nothing'
                )
        module = module.float()  # weights may be stored as float16; preprocessing gives float32
    except Exception as error:  # transformers and its hub client raise many kinds
        raise ModelError(
            f'transformers model {name}: {_first_line(error)} '
            '(give a hub id with network access, or a local folder with config.json and '
            'model.safetensors)'
        ) from error
    identity = {
        'transformers': json.loads(config.to_json_string(use_diff=False)),
        'task': source.task,
    }
    for volatile in ('_name_or_path', 'transformers_version', 'dtype', 'torch_dtype'):
        identity['transformers'].pop(volatile, None)
    if 'ImageClassification' in source.task:
        module = Classifier(module)
    return Network(module.eval(), identity, trained, remark)


def _has_weights(name: str) -> bool:
    folder = Path(name)
    if not folder.is_dir():
        return True  # a hub id: its weights are downloaded
    return any(any(folder.glob(pattern)) for pattern in WEIGHT_FILES)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


class Classifier(nn.Module):
    """A transformers image classifier whose outputs have no batch axis: the form that results
    carry."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        """(1, C, h, w) float32 to ``probabilities`` (K,) and ``logits`` (K,), float32."""
        logits = self.network(pixels).logits[0]
        return {'probabilities': torch.softmax(logits, dim=-1), 'logits': logits}

    def batched(self, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        """The same for (B, C, h, w), outputs (B, K): see ``models.batch``."""
        logits = self.network(pixels).logits
        return {'probabilities': torch.softmax(logits, dim=-1), 'logits': logits}
