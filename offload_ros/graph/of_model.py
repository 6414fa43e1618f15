"""The graph of a loaded model, from the sensor's own data to its named outputs."""

from __future__ import annotations

from collections.abc import Mapping
import copy
import hashlib
import itertools
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from offload_ros.graph import custom  # its import defines the operator decode_image
from offload_ros.graph.capture import capture
from offload_ros.graph.graph import Graph, GraphError
from offload_ros.graph.wire_form import graph_to_json
from offload_ros.models.errors import InputError, ModelError
from offload_ros.models.model import Model
from offload_ros.models.preprocess import computed

Kind = TypeVar('Kind', bound=nn.Module)
COMPRESSED = 'sensor_msgs/msg/CompressedImage'


class WholeModel(nn.Module):
    """What ``Model.run`` computes, as a function of the named inputs that gives the named outputs.

    A compressed image is decoded by an operator that a graph may hold; its size is that of
    ``inputs``, and another size is refused when it comes.
    """

    def __init__(self, model: Model, inputs: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.network = twin_of(model.network)
        self.preprocess = None if model.preprocess is None else twin_of(model.preprocess)
        self.names = [spec.name for spec in model.config.inputs]
        self.named = model.named_outputs
        self.training = False
        self.size: tuple[int, int] | None = None
        first = inputs[self.names[0]]
        if self.preprocess is not None and first.ndim == 1:
            try:
                self.size = custom.image_size(first.cpu().numpy().tobytes()[: 1 << 20])
            except ValueError as error:
                raise GraphError(f"model '{model.name}': {error}") from None

    def train(self, mode: bool = True) -> WholeModel:
        """The network stays as it was loaded; an exported program cannot even be asked."""
        if mode:
            raise GraphError('a captured model is not trained')
        return self

    def forward(self, **inputs: Tensor) -> dict[str, Tensor]:
        arguments = [inputs[name] for name in self.names]
        if self.size is not None:
            arguments[0] = torch.ops.offload_ros.decode_image(arguments[0], *self.size)
        return self.named(computed(self.network, self.preprocess, arguments))


def twin_of(module: Kind) -> Kind:
    """A module of the same tensors: capture puts others in their place for a while, which the
    threads that use ``module`` must not see."""
    tensors = itertools.chain(module.parameters(), module.buffers())
    try:
        twin: Kind = copy.deepcopy(module, {id(tensor): tensor for tensor in tensors})
    except Exception as error:  # anybody's class
        reason = f'{type(error).__name__}: {error}'
        raise GraphError(f'a {type(module).__name__} cannot be copied ({reason})') from error
    return twin


def capture_model(model: Model, inputs: Mapping[str, Tensor]) -> tuple[Graph, dict[str, Tensor]]:
    """The graph of ``model`` for inputs of the shapes of ``inputs``, and its parameters, in the
    model's memory. The model may answer frames in other threads meanwhile.

    ``inputs``: one tensor per configured input, as the sensor gives it. A compressed image may be
    of any number of bytes, but its pixels are of the example's height and width. ``GraphError``
    with the reason when the model refuses the inputs or cannot be captured.
    """
    try:
        model.check_inputs(inputs)
    except InputError as error:
        raise GraphError(str(error)) from None
    given = {name: tensor.detach().to(model.device) for name, tensor in inputs.items()}
    axes = {
        spec.name: (0,)
        for spec in model.config.inputs
        if spec.type == COMPRESSED and given[spec.name].ndim == 1
    }
    # Upside down, to see whether what was recorded holds for another image.
    other = {name: tensor.flip(0) if tensor.ndim > 1 else tensor for name, tensor in given.items()}
    try:
        # Not torch.export: while it traces, modules that other threads run are traced as well, and
        # both fail.
        return capture(
            WholeModel(model, given),
            given,
            model.name,
            dynamic_axes=axes,
            checks=[other],
            method='trace',
        )
    except (InputError, ModelError) as error:
        raise GraphError(str(error)) from None


def example_inputs(model: Model, seed: int = 0) -> dict[str, Tensor] | None:
    """Random inputs where models.yaml tells their shapes; None where only a frame can.

    Of images the resized size serves where no other is told.
    """
    generator = torch.Generator().manual_seed(seed)
    shapes = model.input_shapes()
    if shapes is None:
        return None
    examples = {}
    for name, (shape, dtype) in shapes.items():
        if dtype.is_floating_point:
            examples[name] = torch.rand(shape, generator=generator, dtype=dtype)
        else:
            values = torch.randint(0, 256, shape, generator=generator)
            examples[name] = values.to(dtype)
    return examples


def graph_hash(graph: Graph) -> str:
    """SHA-256 (hex) of what the graph computes, without its weights: what a profile belongs to."""
    return hashlib.sha256(graph_to_json(graph)).hexdigest()


def describe_inputs(inputs: Mapping[str, Any]) -> str:
    """Names, dtypes and shapes, for messages."""
    return ', '.join(
        f'{name} {str(tensor.dtype).removeprefix("torch.")} {tuple(tensor.shape)}'
        for name, tensor in inputs.items()
    )
