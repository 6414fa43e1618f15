"""The networks of A-MOT as one folder.

    classifier/     config.json, model.safetensors: a ViT or DeiT classifier of transformers
    mae/            the same, a ViTMAE
    second_pass/    config.json (layers, linear, only_new), model.safetensors
    amot.json       {"mean": [...], "std": [...], "confidence": 0.8}; all optional
    distributions.json   what calibration measured (``allocation``); optional

``classifier`` and ``mae`` may also be ids of a model hub or other folders, named in ``amot.json``
(``{"classifier": "facebook/deit-small-patch16-224", "mae": "facebook/vit-mae-large"}``).
"""

from __future__ import annotations

from dataclasses import dataclass
import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
import torch
from transformers import ViTForImageClassification, ViTMAEForPreTraining

from offload_ros.amot.networks import IMAGENET, Normalise, SecondPass
from offload_ros.models.alignment import align

KEYS = {'mean', 'std', 'confidence', 'classifier', 'mae', 'second_pass'}


class BundleError(ValueError):
    """A folder of networks cannot be used; the text says why and what to do."""


@dataclass
class Bundle:
    """Networks that fit each other. ``second`` is None where none was trained: one round only."""

    mae: ViTMAEForPreTraining
    classifier: ViTForImageClassification
    second: SecondPass | None
    normalise: Normalise
    confidence: float = 0.8

    @property
    def patch_px(self) -> int:
        return int(self.classifier.config.patch_size)

    @property
    def image_px(self) -> int:
        return int(self.classifier.config.image_size)

    @property
    def patches(self) -> int:
        return (self.image_px // self.patch_px) ** 2

    @property
    def labels(self) -> tuple[str, ...]:
        names = self.classifier.config.id2label
        return tuple(names[index] for index in sorted(names))

    def to(self, device: torch.device | str) -> Bundle:
        """Move all networks; returns itself."""
        for module in (self.mae, self.classifier, self.second, self.normalise):
            if module is not None:
                module.to(device).eval().requires_grad_(False)
        return self


def settings_of(folder: Path) -> dict[str, Any]:
    """``amot.json`` of a folder, checked; {} without one."""
    path = folder / 'amot.json'
    if not path.exists():
        return {}
    try:
        settings = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise BundleError(f'{path}: {error}') from error
    if not isinstance(settings, dict) or not set(settings) <= KEYS:
        raise BundleError(f'{path}: an object with some of {", ".join(sorted(KEYS))}')
    for key in ('mean', 'std'):
        values = settings.get(key, [1.0] * 3)
        if not (isinstance(values, list) and len(values) == 3 and all(_number(v) for v in values)):
            raise BundleError(f'{path}: {key} has three numbers')
    if min(settings.get('std', [1.0])) <= 0:
        raise BundleError(f'{path}: std is above 0')
    confidence = settings.get('confidence', 0.8)
    if not (_number(confidence) and 0.0 <= confidence <= 1.0):
        raise BundleError(f'{path}: confidence is from 0 to 1')
    return settings


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def load_classifier(
    folder: Path, name: str = 'classifier'
) -> tuple[ViTForImageClassification, Normalise]:
    """One classifier of a folder, and how its patches are normalised."""
    settings = settings_of(folder)
    own = settings if name == 'classifier' else {}
    classifier = pretrained(ViTForImageClassification, folder, own, name)
    return classifier.eval(), normalise_of(settings, int(classifier.config.patch_size))


def normalise_of(settings: dict[str, Any], patch_px: int) -> Normalise:
    """As ``amot.json`` says; as on ImageNet where it says nothing."""
    mean, std = settings.get('mean', IMAGENET[0]), settings.get('std', IMAGENET[1])
    return Normalise(mean, std, patch_px)


def load(folder: Path, second_pass: str = 'second_pass') -> Bundle:
    """All networks of a folder; ``BundleError`` says which is missing or does not fit.

    ``second_pass``: folder of that network, '' for none.
    """
    if not folder.is_dir():
        raise BundleError(f'{folder} is not a folder of networks (classifier/, mae/, second_pass/)')
    settings = settings_of(folder)
    classifier = pretrained(ViTForImageClassification, folder, settings, 'classifier')
    mae = pretrained(ViTMAEForPreTraining, folder, settings, 'mae')
    check_fit(classifier, mae)
    second = None
    path = folder / settings.get('second_pass', second_pass) if second_pass else None
    if path is not None and path.exists():
        second = load_second_pass(path, classifier)
    normalise = normalise_of(settings, int(classifier.config.patch_size))
    bundle = Bundle(mae, classifier, second, normalise, settings.get('confidence', 0.8))
    return bundle.to('cpu')


def pretrained(kind: Any, folder: Path, settings: dict[str, Any], name: str) -> Any:
    wanted = settings.get(name)
    place = folder / name
    source = (
        str(wanted) if wanted and not (folder / wanted).is_dir() else str(folder / (wanted or name))
    )
    if not wanted and not (place / 'config.json').exists():
        raise BundleError(f'{place} has no config.json: train the network, or name it in amot.json')
    try:
        model, told = kind.from_pretrained(
            source, use_safetensors=True, output_loading_info=True, dtype=torch.float32
        )
    except Exception as error:  # transformers raises whatever it met
        raise BundleError(f'{name}: {source} cannot be loaded: {error}') from error
    if told.get('missing_keys') or told.get('mismatched_keys'):
        raise BundleError(f'{name}: {source} lacks weights of this architecture')
    align(model)
    return model


def check_fit(classifier: ViTForImageClassification, mae: ViTMAEForPreTraining) -> None:
    """``BundleError`` where the two see an image as different patches, or the MAE is broken."""
    ours = (classifier.config.image_size, classifier.config.patch_size)
    its = (mae.config.image_size, mae.config.patch_size)
    if ours != its:
        raise BundleError(
            f'classifier sees {ours[0]} pixels in patches of {ours[1]}, mae {its[0]} in {its[1]}'
        )
    if ours[0] % ours[1]:
        raise BundleError(f'{ours[0]} pixels are no whole number of patches of {ours[1]}')
    codes = mae.vit.embeddings.position_embeddings
    if not codes[:, 1:].any() or not mae.decoder.decoder_pos_embed[:, 1:].any():
        raise BundleError('mae: its positional codes are all zero: it was trained without them')


def load_second_pass(folder: Path, classifier: ViTForImageClassification) -> SecondPass:
    """A second pass for the classifier; ``BundleError`` where it does not fit."""
    try:
        options = json.loads((folder / 'config.json').read_text())
        network = SecondPass(classifier.config, **options)
        weights = {k: v.float() for k, v in load_file(folder / 'model.safetensors').items()}
        network.load_state_dict(weights)
    except (OSError, ValueError, TypeError, RuntimeError, SafetensorError) as error:
        raise BundleError(f'{folder}: not a second pass of this classifier: {error}') from error
    return network


def save_second_pass(network: SecondPass, folder: Path, half: bool = False) -> None:
    """Write a second pass; ``half``: 16-bit weights."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / 'config.json').write_text(json.dumps(network.options) + '\n')
    weights = {k: v.half() if half else v for k, v in network.state_dict().items()}
    save_file({k: v.contiguous() for k, v in weights.items()}, folder / 'model.safetensors')


def random_bundle(classifier: ViTForImageClassification, mae: ViTMAEForPreTraining) -> Bundle:
    """Two networks as they are, with a new second pass: for measuring what all of it costs."""
    check_fit(classifier, mae)
    normalise = Normalise(*IMAGENET, int(classifier.config.patch_size))
    return Bundle(mae, classifier, SecondPass(classifier.config), normalise).to('cpu')
