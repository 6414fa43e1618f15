"""A model becomes a graph, its preprocessing and post-processing included."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
import inspect
import logging
from typing import Any

import torch
from torch import Tensor, nn

from offload_ros.graph.execute import Executor
from offload_ros.graph.export import exported
from offload_ros.graph.graph import Graph, GraphError
from offload_ros.graph.trace import traced

log = logging.getLogger(__name__)
Example = Mapping[str, Tensor] | Sequence[Tensor] | Tensor
TOLERANCE_RTOL = 1e-4
TOLERANCE_ATOL = 1e-5  # of the output's maximum


class Flattened(nn.Module):
    """A model with tensors by place in and a tuple of tensors out; ``names``: of the outputs, after
    it ran once. Prepared so, it is the same for every way of capture."""

    def __init__(self, model: Callable[..., Any], inputs: Sequence[str], by_name: bool) -> None:
        super().__init__()
        self.model = model
        self.inputs, self.by_name = tuple(inputs), by_name
        self.names: tuple[str, ...] = ()

    def forward(self, *tensors: Tensor) -> tuple[Any, ...]:
        if self.by_name:
            result = self.model(**dict(zip(self.inputs, tensors, strict=True)))
        else:
            result = self.model(*tensors)
        found = dict(_leaves(result, ''))
        self.names = tuple(found)
        return tuple(found.values())


def capture(
    model: Callable[..., Any],
    example: Example,
    name: str = 'model',
    *,
    dynamic_axes: Mapping[str, Sequence[int]] | None = None,
    checks: Sequence[Example] = (),
    method: str = 'auto',
) -> tuple[Graph, dict[str, Tensor]]:
    """The graph of ``model`` and its parameters, which share the model's memory.

    ``example``: inputs by name (of the arguments of the model), in order, or the only one; their
    shapes and dtypes are the graph's. ``dynamic_axes``: axes of an input whose extent varies (the
    bytes of a compressed image), by input name.

    ``torch.export`` does it (``method`` 'export'). What it refuses is run once with every operator
    recorded ('trace'): there, Python control flow and Python numbers that depend on data stay as
    they were for ``example``, and the graph has a note that says so; give ``checks``, more examples
    on which the graph must equal the model. 'auto' tries both in this order.

    The graph is run and compared with the model: equal bits, or it is noted by how much they
    differ; ``GraphError`` where that is more than rtol 1e-4 and atol 1e-5 of the output's maximum,
    when the model is in training mode, draws random numbers or has operators that a graph may not
    hold.
    """
    if isinstance(model, nn.Module) and model.training:
        raise GraphError('the model is in training mode: call model.eval()')
    examples = [_named(model, each) for each in (example, *checks)]
    inputs, by_name = examples[0]
    flattened = Flattened(model, list(inputs), by_name).eval()
    axes = {key: tuple(value) for key, value in (dynamic_axes or {}).items()}
    if not axes.keys() <= inputs.keys():
        raise GraphError(f'dynamic_axes names {", ".join(axes)}; inputs: {", ".join(inputs)}')
    with torch.no_grad():
        expected = [_reference(flattened, each) for each, _ in examples]
    ways = {'export': (exported,), 'trace': (traced,), 'auto': (exported, traced)}
    if method not in ways:
        raise GraphError(f"method {method!r}: one of 'auto', 'export', 'trace'")
    refused = []
    for way in ways[method]:
        try:
            graph, parameters = way(flattened, inputs, name, axes)
            graph = _verified(graph, parameters, [each for each, _ in examples], expected)
        except GraphError as error:
            refused.append(f'{way.__name__}: {error}')
            log.info('%s: %s', name, refused[-1])
            continue
        for note in graph.notes:
            log.warning('model %s: %s', name, note)
        return graph, parameters
    raise GraphError(f'model {name} cannot be captured. ' + '; '.join(refused))


def _named(model: Callable[..., Any], example: Example) -> tuple[dict[str, Tensor], bool]:
    """Inputs by name, and whether the model takes them by name."""
    if isinstance(example, Mapping):
        return dict(example), True
    tensors = [example] if isinstance(example, Tensor) else list(example)
    forward = model.forward if isinstance(model, nn.Module) else model
    names = [
        parameter.name
        for parameter in inspect.signature(forward).parameters.values()
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    ]
    names += [f'input_{place}' for place in range(len(names), len(tensors))]
    return dict(zip(names, tensors, strict=False)), False


def _leaves(result: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    """Tensors and numbers within a result, by a name made of keys and places."""
    if isinstance(result, (Tensor, int, float)):
        yield prefix or 'output', result
    elif isinstance(result, Mapping) or hasattr(result, '_fields'):
        fields = result if isinstance(result, Mapping) else result._asdict()
        for key, each in fields.items():
            yield from _leaves(each, f'{prefix}.{key}' if prefix else str(key))
    elif isinstance(result, (tuple, list)):
        for place, each in enumerate(result):
            yield from _leaves(each, f'{prefix}_{place}' if prefix else f'output_{place}')
    elif result is not None:
        raise GraphError(f'the model returns a {type(result).__name__}, not tensors')


def _reference(model: Flattened, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    # A model that writes to its input must not change the example.
    results = model(*(each.clone() for each in inputs.values()))
    if not results:
        raise GraphError('the model returns no tensor')
    return {
        name: torch.as_tensor(each).clone() for name, each in zip(model.names, results, strict=True)
    }


def _verified(
    graph: Graph,
    parameters: dict[str, Tensor],
    examples: Sequence[Mapping[str, Tensor]],
    expected: Sequence[Mapping[str, Tensor]],
) -> Graph:
    devices = {each.device for example in examples for each in example.values()}
    executor = Executor(graph, parameters, next(iter(devices), torch.device('cpu')))
    worst = 0.0
    for example, wanted in zip(examples, expected, strict=True):
        try:
            results = executor(example)
        except (RuntimeError, IndexError, ValueError) as error:
            raise GraphError(f'the graph does not run on an example: {error}') from error
        for name, tensor in wanted.items():
            worst = max(worst, _difference(name, results[name], tensor))
    if worst:
        notes = (*graph.notes, f'not bit-equal to the model: {worst:.1e} of the maximum')
        graph = Graph(graph.name, graph.inputs, graph.parameters, graph.nodes, graph.outputs, notes)
    return graph


def _difference(name: str, result: Tensor, expected: Tensor) -> float:
    """Largest difference over the largest magnitude; ``GraphError`` beyond the tolerance."""
    if result.shape != expected.shape or result.dtype != expected.dtype:
        raise GraphError(
            f'output {name} of the graph is {result.dtype} {tuple(result.shape)}, of the model '
            f'{expected.dtype} {tuple(expected.shape)}: control flow that depends on data?'
        )
    # Bits, but for the payload of a NaN.
    if torch.equal(torch.nan_to_num(result), torch.nan_to_num(expected)):
        return 0.0
    finite = expected[expected.isfinite()].double()
    top = float(finite.abs().max()) if finite.numel() else 0.0
    close = torch.isclose(
        result.double(), expected.double(), rtol=TOLERANCE_RTOL, atol=TOLERANCE_ATOL * top,
        equal_nan=True,
    )  # fmt: skip
    if not bool(close.all()):
        raise GraphError(f"output {name} of the graph is not the model's")
    difference = (result.double() - expected.double()).nan_to_num(0.0, 0.0, 0.0)
    return float(difference.abs().max()) / (top or 1.0)
