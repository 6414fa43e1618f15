"""Row-wise operators: matrix products, norms, softmax and reductions over other axes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from offload_ros.graph.intervals import Relation, Same
from offload_ros.graph.local.operator import Call, Kind, LocalOperator, only, rerun, rule
from offload_ros.graph.local.shapes import wrapped


def aligned(shape: Sequence[int], target: Sequence[int], axis: int) -> Relation | None:
    """By broadcasting: the argument's own axis, or None where it has none or extent 1 there."""
    place = axis - (len(target) - len(shape))
    if place < 0 or (shape[place] == 1 and target[axis] != 1):
        return None
    return Same(place)


def row_wise(call: Call, axis: int, relations: Sequence[Relation | None]) -> LocalOperator:
    """The operator on the slices."""
    return rerun(call, Kind.ROW_WISE, axis, relations)


@rule('linear')
def linear(call: Call, axis: int) -> LocalOperator | None:
    """``x W^T + b`` over the last axis."""
    if axis == len(call.shape) - 1:
        return None
    return row_wise(call, axis, only(call, Same(axis)))


@rule('mm', 'bmm', 'matmul', 'mv')
def product(call: Call, axis: int) -> LocalOperator | None:
    """Rows follow the left matrix, columns the right one, axes of the batch both."""
    left, right = call.shapes
    target = call.shape
    rows, columns = len(target) - 2, len(target) - 1
    if len(left) == len(right) == 1:
        return None  # a number
    if len(right) == 1:  # rows of the left matrix, without an axis of columns
        return row_wise(call, axis, (Same(axis), None))
    if len(left) == 1:  # columns of the right one, without an axis of rows
        return row_wise(call, axis, (None, Same(axis if axis < columns else columns + 1)))
    if axis == rows:
        return row_wise(call, axis, (Same(len(left) - 2), None))
    if axis == columns:
        return row_wise(call, axis, (None, Same(len(right) - 1)))
    return row_wise(call, axis, [batched(shape, target, axis) for shape in (left, right)])


def batched(shape: Sequence[int], target: Sequence[int], axis: int) -> Relation | None:
    """An axis of the batch; None where the argument is repeated along it."""
    return aligned((*shape[:-2], 0, 0), target, axis)


@rule('addmm', 'baddbmm', 'addbmm')
def added_product(call: Call, axis: int) -> LocalOperator | None:
    """``self + left right`` with self broadcast."""
    if call.node.operator.startswith('aten.addbmm'):
        return None
    added, left, right = call.shapes
    rows = len(call.shape) - 2
    relations: list[Relation | None] = [aligned(added, call.shape, axis), None, None]
    if axis <= rows:
        relations[1] = Same(len(left) - 2 if axis == rows else axis)
    if axis != rows:
        relations[2] = Same(len(right) - 1 if axis > rows else axis)
    return row_wise(call, axis, relations)


@rule('einsum')
def einsum(call: Call, axis: int) -> LocalOperator | None:
    """An index of the result is not summed over: it is an axis of the operands that name it."""
    terms, _, result = str(call['equation']).replace(' ', '').partition('->')
    letters = terms.split(',')
    if not result or '.' in terms or any(len(set(each)) < len(each) for each in letters):
        return None  # an ellipsis, diagonals, an order that follows from the alphabet
    letter = result[axis]
    relations = [
        Same(each.index(letter))
        if letter in each and shape[each.index(letter)] == call.shape[axis]
        else None
        for each, shape in zip(letters, call.shapes, strict=True)
    ]
    return row_wise(call, axis, relations)


@rule('scaled_dot_product_attention')
def attention(call: Call, axis: int) -> LocalOperator | None:
    """Each query reads all keys and values: rows follow the query. Causal order counts rows."""
    rows = len(call.shape) - 2
    if axis > rows or (axis == rows and call['is_causal']) or call.get('enable_gqa'):
        return None
    if call['dropout_p']:
        return None
    query, key, value, *mask = call.shapes
    if axis == rows:
        relations: list[Relation | None] = [Same(len(query) - 2), None, None]
    else:
        relations = [batched(each, call.shape, axis) for each in (query, key, value)]
    relations += [aligned(each, call.shape, axis) for each in mask]
    return row_wise(call, axis, relations)


@rule('layer_norm', 'native_layer_norm', 'rms_norm')
def layer_norm(call: Call, axis: int) -> LocalOperator | None:
    """Over the last axes; the others are rows."""
    if axis >= len(call.shape) - len(call['normalized_shape']):
        return None
    return row_wise(call, axis, only(call, Same(axis)))


_BATCH_NORMS = 'batch_norm _native_batch_norm_legit_no_training native_batch_norm'.split()
_BATCH_NORMS += ['_native_batch_norm_legit', '_batch_norm_with_update', '_batch_norm_no_update']


@rule(*_BATCH_NORMS, 'cudnn_batch_norm', 'prelu')
def per_channel(call: Call, axis: int) -> LocalOperator | None:
    """Batch norm with stored statistics, PReLU: one function for each channel (axis 1)."""
    if axis == 1 or call.get('training'):
        return None
    axes = (axis,) + (None,) * (len(call.node.outputs) - 1)  # statistics have no such axis
    return rerun(call, Kind.ELEMENT_WISE, axis, only(call, Same(axis)), axes=axes)


@rule('group_norm', 'native_group_norm', 'instance_norm')
def group_norm(call: Call, axis: int) -> LocalOperator | None:
    """Over channels of a group and all positions: only images of a batch are apart."""
    name = call.node.operator.split('.')[1]
    if axis != 0 or name != 'group_norm':
        return None
    return row_wise(call, axis, only(call, Same(0)))


@rule(
    *'softmax.int _softmax log_softmax.int _log_softmax cumsum cumprod logcumsumexp glu'.split(),
    *'sort sort.stable argsort argsort.stable topk cummax cummin softmin.int'.split(),
)
def along(call: Call, axis: int) -> LocalOperator | None:
    """Along one axis, which stays: the others are rows."""
    if wrapped(call['dim'], len(call.shape)) == axis:
        return None
    return row_wise(call, axis, only(call, Same(axis)))


@rule(
    *'mean.dim sum.dim_IntList amax amin argmax argmin max.dim min.dim prod.dim_int'.split(),
    *'all.dim any.dim all.dims any.dims logsumexp var.correction std.correction'.split(),
    *'var.dim std.dim linalg_vector_norm norm.ScalarOpt_dim median.dim mode nanmean'.split(),
    *'nansum var_mean.correction std_mean.correction kthvalue aminmax count_nonzero.dim_IntList'
    .split(),
)  # fmt: skip
def reduction(call: Call, axis: int) -> LocalOperator | None:
    """Over other axes than the split one; the axes that are reduced may fall away."""
    count = len(call.shapes[0])
    dims: Any = call.get('dim')
    if isinstance(dims, int):
        dims = [dims]
    if not dims:
        return None
    reduced = {wrapped(each, count) for each in dims}
    kept = [each for each in range(count) if call.get('keepdim') or each not in reduced]
    source = kept[axis]
    return None if source in reduced else row_wise(call, axis, only(call, Same(source)))


@rule('embedding')
def embedding(call: Call, axis: int) -> LocalOperator | None:
    """Rows of the table by index."""
    if axis == len(call.shape) - 1:
        return None
    return row_wise(call, axis, only(call, Same(axis), 'indices'))
