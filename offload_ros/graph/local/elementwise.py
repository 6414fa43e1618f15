"""Element-wise operators, with broadcasting: PyTorch's tag ``pointwise`` and what it misses."""

from __future__ import annotations

import torch

from offload_ros.graph.intervals import Same
from offload_ros.graph.local.operator import Call, Kind, LocalOperator, rerun
from offload_ros.graph.local.rows import aligned

# Not tagged pointwise in every version from 2.3 on.
_NAMES = frozenset(
    'hardswish _prelu_kernel to _to_copy type_as contiguous clone lift_fresh_copy alias detach '
    'alias_copy copy zeros_like ones_like full_like floor_divide log_sigmoid multiply divide '
    'subtract where dropout feature_dropout alpha_dropout rrelu float_power special_expit '
    'special_erf special_gelu softsign tanhshrink complex polar fill __and__ __or__ __xor__ '
    '__lshift__ __rshift__ _conj conj conj_physical resolve_conj resolve_neg real imag '
    'greater greater_equal less less_equal not_equal absolute negative clip fix '
    'log_sigmoid_forward silu gelu relu relu6 leaky_relu elu selu celu mish sigmoid tanh '
    'hardtanh hardsigmoid softplus clamp add sub mul div _cast_Float _cast_Half'.split()
)
# Of these the second tensor only says a dtype, device or shape.
_PATTERNS = frozenset(('type_as', 'to'))


def elementwise(call: Call, axis: int) -> LocalOperator | None:
    """Every argument is sliced where it has the output's extent, and repeated where it has 1."""
    name = call.node.operator.split('.')[1]
    tags = call.func.tags
    if torch.Tag.nondeterministic_seeded in tags and not deterministic(call):
        return None
    if torch.Tag.pointwise not in tags and name not in _NAMES:
        return None
    if name == 'fill':
        relations = [Same(axis)] + [None] * (len(call.tensors) - 1)
        return rerun(call, Kind.ELEMENT_WISE, axis, relations)
    found = []
    for place, shape in enumerate(call.shapes):
        relation = aligned(shape, call.shape, axis)
        if relation is not None and shape[relation.axis] != call.shape[axis]:
            if name not in _PATTERNS:
                return None  # not broadcasting: an operator that is tagged wrongly
            relation = None
        if name in _PATTERNS and place:
            relation = None
        found.append(relation)
    return rerun(call, Kind.ELEMENT_WISE, axis, found)


def deterministic(call: Call) -> bool:
    """Dropout and its kind outside of training."""
    return call.get('train', call.get('training')) is False
