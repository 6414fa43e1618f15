"""A model ready to run: network with its preprocessing, checked inputs, named outputs, content
hash."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
import hashlib
import json
from typing import Any

import torch
from torch import nn

from offload_ros.models.config import ModelConfig
from offload_ros.models.errors import InputError, ModelError
from offload_ros.models.preprocess import ImagePreprocess, computed
from offload_ros.models.sources import load_network
from offload_ros.wire.tensors import CODE_OF_DTYPE, MAX_AXES, data_of

# Encoding of an image to the channels and dtype of its pixels.
_PIXELS = {
    'rgb8': (3, torch.uint8),
    'bgr8': (3, torch.uint8),
    'mono8': (1, torch.uint8),
    'mono16': (1, torch.uint16),
    '16UC1': (1, torch.uint16),
    '32FC1': (1, torch.float32),
}


class Model:
    """One model on one device; ``run`` is what every strategy's result is compared with."""

    def __init__(
        self,
        config: ModelConfig,
        network: nn.Module,
        content_hash: str,
        weights_trained: bool,
        device: str = 'cpu',
        remark: str = '',
    ) -> None:
        self.config = config
        self.name = config.name
        self.variant = config.variant
        self.hash = content_hash
        self.weights_trained = weights_trained
        self.device = torch.device(device)
        self.remark = remark
        self.network = network
        self.preprocess = ImagePreprocess(config.preprocess) if config.preprocess else None
        if self.device.type != 'cpu':
            self.network = self.network.to(self.device)
            self.preprocess = self.preprocess.to(self.device) if self.preprocess else None

    def check_inputs(self, inputs: Mapping[str, torch.Tensor]) -> None:
        """Raise ``InputError`` unless ``inputs`` has the names, and where configured the shapes,
        of the model."""
        wanted = [spec.name for spec in self.config.inputs]
        if set(inputs) != set(wanted):
            raise InputError(
                f"model '{self.name}' takes inputs {wanted}, the frame has {sorted(inputs)}"
            )
        for spec in self.config.inputs:
            shape = tuple(inputs[spec.name].shape)
            if spec.shape and (
                len(shape) != len(spec.shape)
                or any(
                    want not in (None, have) for want, have in zip(spec.shape, shape, strict=True)
                )
            ):
                raise InputError(
                    f"model '{self.name}', input '{spec.name}': shape {_text(shape)} came, "
                    f'{_text(spec.shape)} is wanted'
                )

    def run(self, inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Compute the outputs, by name, contiguous and on the CPU.

        ``inputs``: one tensor per configured input, as the sensor gives it (image: (H, W, C)
        uint8).
        ``InputError`` when they do not fit, ``ModelError`` when the network fails on them.
        """
        self.check_inputs(inputs)
        try:
            with torch.inference_mode():
                arguments = [inputs[spec.name].to(self.device) for spec in self.config.inputs]
                result = computed(self.network, self.preprocess, arguments)
                outputs = self.named_outputs(result)
                return {name: tensor.to('cpu').contiguous() for name, tensor in outputs.items()}
        except (InputError, ModelError):
            raise
        except Exception as error:  # a network may raise anything on an input it was not made for
            first = (str(error).strip().splitlines() or [''])[0]
            raise ModelError(
                f"model '{self.name}' failed: {type(error).__name__}: {first}"
            ) from error

    def warm_up(self) -> bool:
        """Run once on zeros where the configuration says enough about the inputs; whether it did.

        The first run compiles kernels, and finds wrong output names before a frame does.
        """
        shapes = self.input_shapes()
        if shapes is None:
            return False
        examples = {
            name: torch.zeros(shape, dtype=dtype) for name, (shape, dtype) in shapes.items()
        }
        self.run(examples)
        return True

    def input_shapes(self) -> dict[str, tuple[tuple[int, ...], torch.dtype]] | None:
        """Shape and dtype of each input where the configuration tells them; None otherwise.

        Whatever the camera's size, the network sees the resized one: it serves where none is told.
        """
        found = {}
        resize = self.preprocess.spec.resize if self.preprocess is not None else None
        for index, spec in enumerate(self.config.inputs):
            channels, dtype = _PIXELS.get(spec.encoding, (None, None))
            shape = tuple(spec.shape)
            if index == 0 and resize is not None and len(shape) <= 3:
                size = (*resize, channels)
                shape = tuple(shape[axis] or size[axis] for axis in range(len(shape))) or size
            if not shape or None in shape or dtype is None or spec.type != 'sensor_msgs/msg/Image':
                return None
            found[spec.name] = tuple(int(extent or 0) for extent in shape), dtype
        return found

    def named_outputs(self, result: Any) -> dict[str, torch.Tensor]:
        """What the network returned, by the configured names; ``ModelError`` where it does not
        fit."""
        names = self.config.outputs
        if isinstance(result, torch.Tensor):
            result = (result,)
        if isinstance(result, Mapping):
            missing = [name for name in names if name not in result]
            if missing:
                raise ModelError(
                    f"model '{self.name}' has no output {missing}, it has "
                    f'{sorted(map(str, result))}: '
                    'mend outputs in models.yaml'
                )
            result = [result[name] for name in names]
        if not isinstance(result, (tuple, list)):
            kind = type(result).__name__
            raise ModelError(f"model '{self.name}' returns {kind}, only tensors can be sent")
        if len(result) != len(names):
            raise ModelError(
                f"model '{self.name}' returns {len(result)} outputs, models.yaml names {len(names)}"
            )
        if not all(isinstance(tensor, torch.Tensor) for tensor in result):
            kinds = [type(tensor).__name__ for tensor in result]
            raise ModelError(f"model '{self.name}' returns {kinds}, only tensors can be sent")
        for name, tensor in zip(names, result, strict=True):
            if tensor.dtype not in CODE_OF_DTYPE or tensor.ndim > MAX_AXES:
                raise ModelError(
                    f"model '{self.name}', output '{name}': {tensor.dtype} of {tensor.ndim} axes "
                    'cannot be sent'
                )
        return dict(zip(names, result, strict=True))


def load_model(config: ModelConfig, device: str = 'cpu') -> Model:
    """Load the model of one ``models.yaml`` entry onto ``device`` ('cpu', 'cuda', 'cuda:1').

    ``ModelError`` names the model, the cause and the remedy.
    """
    check_device(device)
    try:
        network = load_network(config.source)
    except ModelError as error:
        raise ModelError(f"model '{config.name}': {error}") from error
    content_hash = _content_hash(config, network.module, network.identity)
    try:
        model = Model(
            config, network.module, content_hash, network.weights_trained, device, network.remark
        )
    except RuntimeError as error:  # e.g. out of GPU memory
        first = (str(error).splitlines() or [''])[0]
        raise ModelError(f"model '{config.name}' cannot be moved to {device}: {first}") from error
    try:
        model.warm_up()
    except InputError as error:
        raise ModelError(f"model '{config.name}' does not fit its inputs: {error}") from error
    return model


def check_device(device: str) -> None:
    """``ModelError`` unless torch can compute on ``device`` here."""
    try:
        wanted = torch.device(device)
    except RuntimeError:
        wanted = torch.device('meta')
    if wanted.type not in ('cpu', 'cuda'):
        raise ModelError(f"device '{device}' is not one: cpu, cuda, cuda:0, ...")
    if wanted.type == 'cuda' and not torch.cuda.is_available():
        raise ModelError(
            f"device '{device}': torch {torch.__version__} sees no CUDA device here; use cpu"
        )
    if wanted.type == 'cuda' and (wanted.index or 0) >= torch.cuda.device_count():
        raise ModelError(
            f"device '{device}': there are {torch.cuda.device_count()} here, counted from cuda:0"
        )


def runtime_description(device: str = 'cpu') -> str:
    """What decides bit-equality of results beside the weights: versions, instruction set, threads,
    device.

    Two machines with equal descriptions compute equal bits (asserted in the tests for the CPU).
    """
    import cv2

    parts = [f'torch {torch.__version__}', f'opencv {cv2.__version__}']
    if torch.device(device).type == 'cuda':
        parts.append(torch.cuda.get_device_name(device))
    else:
        parts += [
            f'cpu {torch.backends.cpu.get_cpu_capability()}',
            f'{torch.get_num_threads()} threads',
        ]
    return ', '.join(parts)


def _content_hash(config: ModelConfig, module: nn.Module, identity: Mapping[str, Any]) -> str:
    """SHA-256 over everything that decides the outputs: equal on robot and server, whatever their
    paths."""
    described = {
        'identity': dict(identity),
        'preprocess': asdict(config.preprocess) if config.preprocess else None,
        'inputs': [[spec.name, spec.type, spec.encoding] for spec in config.inputs],
        'outputs': list(config.outputs),
    }
    digest = hashlib.sha256(json.dumps(described, sort_keys=True, default=str).encode())
    for name, tensor in sorted(module.state_dict().items()):
        if isinstance(tensor, torch.Tensor):
            digest.update(f'{name} {tensor.dtype} {tuple(tensor.shape)}'.encode())
            digest.update(data_of(tensor))
        else:  # a module's extra state
            digest.update(f'{name} {tensor!r}'.encode())
    return digest.hexdigest()


def _text(shape: tuple[int | None, ...]) -> str:
    return '(' + ', '.join('any' if extent is None else str(extent) for extent in shape) + ')'
