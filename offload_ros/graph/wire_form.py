"""A graph as bytes that a server can trust to be only a graph: JSON, and safetensors beside it.

Nothing received is evaluated, unpickled or given to ``torch.export.load``. The JSON holds names of
allowed operators and static arguments; what memory the graph would take is known, and refused where
it is too much, before any is taken: every operator is run without memory on the shapes that the
graph declares, and must agree with them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
import hashlib
import json
from typing import Any

from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import Tensor

from offload_ros.graph.arguments import decoded, encoded, spec_from, spec_to
from offload_ros.graph.graph import Graph, GraphError, Node, Reference
from offload_ros.graph.infer import check_shapes
from offload_ros.graph.layout import storage_elements
from offload_ros.graph.operators import find
from offload_ros.graph.parameter_file import DTYPES_OF_FILES, check_head
from offload_ros.wire.tensors import data_of

FORMAT = 'offload_ros.graph'
SCHEMA = 1
MAX_NAME = 400


@dataclass(frozen=True)
class Limits:
    """What a receiver accepts. Bytes of the JSON, nodes, inputs and outputs, parameters and their
    bytes, bytes of any one value between operators."""

    graph_bytes: int = 64 << 20
    nodes: int = 100_000
    ports: int = 256
    parameters: int = 100_000
    parameter_bytes: int = 16 << 30
    value_bytes: int = 4 << 30

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < 1:
                raise ValueError(f'limits: {name} must be at least 1')


def graph_to_json(graph: Graph) -> bytes:
    """Canonical: equal graphs give equal bytes. ``GraphError`` for arguments that have no form."""
    document = {
        'format': FORMAT,
        'schema': SCHEMA,
        'name': graph.name,
        'inputs': _ports(graph.inputs),
        'parameters': {name: spec_to(spec) for name, spec in graph.parameters.items()},
        'nodes': [_node_to(node) for node in graph.nodes],
        'outputs': [[name, encoded(reference)] for name, reference in graph.outputs.items()],
    }
    text = json.dumps(document, allow_nan=False, sort_keys=True, separators=(',', ':'))
    return text.encode()


def graph_from_json(data: bytes, limits: Limits = Limits()) -> Graph:
    """The graph in ``data``; ``GraphError`` for anything that is not one or exceeds ``limits``."""
    document = _document(data, limits)
    if document.get('format') != FORMAT or type(document.get('schema')) is not int:
        raise GraphError(f'this JSON is not an {FORMAT}')
    if document['schema'] != SCHEMA:
        raise GraphError(f'the graph has schema {document["schema"]}, this version reads {SCHEMA}')
    graph = Graph(
        name=_text(document.get('name'), 'the name of the graph'),
        inputs=_specs(dict(_pairs(document, 'inputs', limits.ports)), 'input'),
        parameters=_specs(_mapping(document, 'parameters', limits.parameters), 'parameter'),
        nodes=tuple(
            _node_from(place, each)
            for place, each in enumerate(_list(document, 'nodes', limits.nodes))
        ),
        outputs={
            name: _reference(each)
            for name, each in dict(_pairs(document, 'outputs', limits.ports)).items()
        },
    )
    _check_memory(graph, limits)
    check_shapes(graph)
    return graph


def parameters_to_bytes(graph: Graph, parameters: Mapping[str, Tensor]) -> bytes:
    """Safetensors of exactly the graph's parameters, each in its memory order. ``GraphError`` for a
    missing or other parameter, and for a dtype that safetensors lacks."""
    found: dict[str, Tensor] = {}
    storages: set[int] = set()
    for name, spec in graph.parameters.items():
        if spec.dtype not in DTYPES_OF_FILES.values():
            raise GraphError(
                f'parameter {name} has dtype {spec.dtype}, which has no form in a file'
            )
        tensor = _stored(graph, parameters, name)
        place = tensor.untyped_storage().data_ptr()
        # Safetensors refuses tensors that share memory.
        found[name] = tensor.clone() if place in storages else tensor
        storages.add(place)
    return save_safetensors(found)


def parameters_from_bytes(
    graph: Graph,
    data: bytes,
    limits: Limits = Limits(),
) -> dict[str, Tensor]:
    """The parameters of ``graph`` in ``data``; ``GraphError`` when they are not those."""
    if len(data) > limits.parameter_bytes + (100 << 20):
        raise GraphError(f'the parameters have {len(data)} bytes, more than allowed')
    check_head(graph, data)
    try:
        stored = load_safetensors(data)
    except Exception as error:  # safetensors' own error class is no ValueError
        raise GraphError(f'the parameters are not safetensors: {error}') from error
    found = {}
    for name, spec in graph.parameters.items():
        tensor = stored[name]
        if spec.order is not None:
            inverse = sorted(range(len(spec.order)), key=spec.order.__getitem__)
            tensor = tensor.permute(*inverse)
        found[name] = tensor
    return found


def content_hash(graph: Graph, parameters: Mapping[str, Tensor]) -> str:
    """SHA-256 (hex) of the graph's JSON, then of each parameter's bytes by name: what a server
    knows the model by."""
    digest = hashlib.sha256(graph_to_json(graph))
    for name in sorted(graph.parameters):
        tensor = _stored(graph, parameters, name)
        digest.update(data_of(tensor))
    return digest.hexdigest()


def _stored(graph: Graph, parameters: Mapping[str, Tensor], name: str) -> Tensor:
    """Row-major, axes in memory order: what is stored has no strides."""
    tensor, spec = parameters.get(name), graph.parameters[name]
    if tensor is None:
        raise GraphError(f'parameter {name} is missing')
    if tuple(tensor.shape) != spec.shape or tensor.dtype != spec.dtype:
        raise GraphError(
            f'parameter {name} is {tensor.dtype} {tuple(tensor.shape)}, the graph says '
            f'{spec.dtype} {spec.shape}'
        )
    tensor = tensor.detach().permute(*spec.order) if spec.order else tensor.detach()
    return tensor.contiguous()


def _document(data: bytes, limits: Limits) -> dict[str, Any]:
    if len(data) > limits.graph_bytes:
        raise GraphError(f'the graph has {len(data)} bytes of JSON, {limits.graph_bytes} allowed')
    if data[:2] == b'PK' or data[:1] == b'\x80':
        raise GraphError(
            'this is a PyTorch file (.pt, .pt2): opening such files can run what is in them, so a '
            'server never does. Capture the model where it is trusted and send its graph'
        )
    try:
        document = json.loads(data, parse_constant=_no_constant, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise GraphError(f'the graph is not JSON: {error}') from None
    if not isinstance(document, dict):
        raise GraphError('the JSON of a graph is an object')
    return document


def _no_constant(text: str) -> Any:
    raise ValueError(f'{text} is not JSON')


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError('a key stands twice in an object')
    return found


def _ports(specs: Mapping[str, Any]) -> list[Any]:
    """Inputs and outputs have an order, which sorted keys would lose."""
    return [[name, spec_to(spec)] for name, spec in specs.items()]


def _node_to(node: Node) -> list[Any]:
    kwargs = {name: encoded(each) for name, each in node.kwargs.items()}
    outputs = [spec_to(spec) for spec in node.outputs]
    return [node.operator, [encoded(each) for each in node.args], kwargs, outputs]


def _node_from(place: int, found: Any) -> Node:
    if not isinstance(found, list) or len(found) != 4:
        raise GraphError(f'node {place} is not [operator, arguments, named arguments, outputs]')
    name, args, kwargs, outputs = found
    if not (isinstance(args, list) and isinstance(kwargs, dict) and isinstance(outputs, list)):
        raise GraphError(f'node {place}: arguments or outputs are not what they should be')
    operator = find(_text(name, f'the operator of node {place}'))
    node = Node(
        place,
        operator.name,
        tuple(decoded(each) for each in args),
        {key: decoded(each) for key, each in kwargs.items()},
        tuple(spec_from(each, f'node {place}') for each in outputs),
    )
    bound = operator.bound(node.args, node.kwargs)
    if any(operator.kinds[key] == 'own' and each is not None for key, each in bound.items()):
        raise GraphError(f'node {place} ({operator.name}) names a device or a generator')
    if operator.draws(node.args, node.kwargs):
        raise GraphError(f'node {place} ({operator.name}) draws random numbers')
    return node


def _specs(found: Mapping[str, Any], what: str) -> dict[str, Any]:
    return {
        _text(name, f'the name of an {what}'): spec_from(each, f'{what} {name[:MAX_NAME]}')
        for name, each in found.items()
    }


def _check_memory(graph: Graph, limits: Limits) -> None:
    total = 0
    for name, spec in graph.parameters.items():
        if not spec.is_static or spec.strides is not None:
            raise GraphError(f'parameter {name} has an unknown extent or strides')
        total += spec.nbytes
    if total > limits.parameter_bytes:
        raise GraphError(f'the parameters take {total} bytes, {limits.parameter_bytes} are allowed')
    values = [(f'input {name}', spec) for name, spec in graph.inputs.items()]
    values += [(f'node {node.id}', spec) for node in graph.nodes for spec in node.outputs]
    for what, spec in values:
        known = spec.dtype.itemsize
        for extent in spec.shape:
            known *= extent if extent is not None else 1
        if spec.strides is not None:
            shape = [extent or 0 for extent in spec.shape]
            known = max(known, storage_elements(shape, spec.strides) * spec.dtype.itemsize)
        if known > limits.value_bytes:
            raise GraphError(
                f'{what} of the graph takes {known} bytes, {limits.value_bytes} are allowed'
            )


def _text(value: Any, what: str) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= MAX_NAME:
        raise GraphError(f'{what} is not a text of 1 to {MAX_NAME} characters')
    return value


def _list(document: Mapping[str, Any], key: str, limit: int) -> list[Any]:
    found = document.get(key)
    if not isinstance(found, list) or len(found) > limit:
        raise GraphError(f'{key} of the graph is not a list of at most {limit}')
    return found


def _mapping(document: Mapping[str, Any], key: str, limit: int) -> dict[str, Any]:
    found = document.get(key)
    if not isinstance(found, dict) or len(found) > limit:
        raise GraphError(f'{key} of the graph is not an object of at most {limit}')
    return found


def _pairs(document: Mapping[str, Any], key: str, limit: int) -> list[tuple[str, Any]]:
    pairs = []
    for each in _list(document, key, limit):
        if not isinstance(each, list) or len(each) != 2:
            raise GraphError(f'{key} of the graph are not pairs')
        pairs.append((_text(each[0], f'a name in {key}'), each[1]))
    if len(dict(pairs)) != len(pairs):
        raise GraphError(f'{key} of the graph have a name twice')
    return pairs


def _reference(found: Any) -> Reference:
    reference = decoded(found)
    if isinstance(reference, Reference):
        return reference
    raise GraphError('an output of the graph names no value')
