"""Operators that only arrange elements: local while the split axis stays an axis of its own."""

from __future__ import annotations

from collections.abc import Sequence
import math
from typing import Any

from torch import Tensor

from offload_ros.graph.intervals import Broadcast, Interval, Regrouped, Relation, Same, Window
from offload_ros.graph.local.operator import Call, Kind, LocalOperator, Results, only, rerun, rule


def wrapped(axis: int, count: int) -> int:
    """An axis counted from 0."""
    return axis + count if axis < 0 else axis


def arranged(
    call: Call,
    axis: int,
    relations: Sequence[Relation | None],
    changes: dict[str, Any] | None = None,
) -> LocalOperator:
    """The operator on the slices; arranging counts as element-wise."""
    return rerun(call, Kind.ELEMENT_WISE, axis, relations, changes)


@rule(
    *'view _unsafe_view reshape _reshape_alias flatten.using_ints unflatten.int squeeze'.split(),
    *'squeeze.dim squeeze.dims unsqueeze view_as reshape_as _reshape_copy view_copy'.split(),
)
def reshape(call: Call, axis: int) -> LocalOperator | None:
    """An axis that stays, or becomes the outermost of several, or several of which it is that.

    Any other merge interleaves its indices. With ``inner`` and ``outer`` elements to a row of the
    argument and of the output, rows follow by proportion.
    """
    source, target = call.shapes[0], call.shape
    if math.prod(target) == 0 or target[axis] == 1:
        return None
    before = math.prod(target[:axis])
    for place, extent in enumerate(source):
        if extent > 1 and math.prod(source[:place]) == before:
            break
    else:
        return None
    inner, outer = math.prod(source[place + 1 :]), math.prod(target[axis + 1 :])
    if inner == outer:
        kind, relation = Kind.ELEMENT_WISE, Same(place)
    else:
        kind, relation = Kind.BLOCK_WISE, Regrouped(place, inner, outer)  # type: ignore[assignment]

    def compute(interval: Interval, tensors: Sequence[Tensor]) -> Results:
        x = tensors[0]
        start = relation.needs(interval).start
        shape = [*target[:axis], interval.length, *target[axis + 1 :]]
        if inner != outer:
            flat = x.reshape(before, -1)
            skip = interval.start * outer - start * inner
            x = flat.narrow(1, skip, interval.length * outer)
        return x.reshape(shape)

    return LocalOperator(kind, call, (axis,), only(call, relation, ''), compute)


@rule('permute', 'transpose.int', 't', 'movedim.int', 'movedim.intlist', 'swapaxes', 'numpy_T')
def permutation(call: Call, axis: int) -> LocalOperator | None:
    """The order of the axes."""
    count = len(call.shape)
    order = list(range(count))
    name = call.node.operator.split('.')[1]
    if name == 'permute':
        order = [wrapped(each, count) for each in call['dims']]
    elif name in ('transpose', 'swapaxes'):
        names = ('dim0', 'dim1') if name == 'transpose' else ('axis0', 'axis1')
        first, second = (wrapped(call[each], count) for each in names)
        order[first], order[second] = order[second], order[first]
    elif name == 'movedim':
        order = moved_order(call['source'], call['destination'], count)
    else:
        order.reverse()
    return arranged(call, axis, only(call, Same(order[axis])))


def moved_order(source: Any, destination: Any, count: int) -> list[int]:
    """What ``movedim`` does, as the order of ``permute``."""
    sources, destinations = (
        [wrapped(each, count) for each in ([value] if isinstance(value, int) else value)]
        for value in (source, destination)
    )
    order = [-1] * count
    for origin, place in zip(sources, destinations, strict=True):
        order[place] = origin
    rest = iter(each for each in range(count) if each not in sources)
    return [next(rest) if each < 0 else each for each in order]


@rule('expand', 'expand_as', 'broadcast_to')
def expand(call: Call, axis: int) -> LocalOperator | None:
    """Repeats along axes of extent 1."""
    source = axis - (len(call.shape) - len(call.shapes[0]))
    if source < 0:
        return None
    same = call.shapes[0][source] == call.shape[axis]
    relation = Same(source) if same else Broadcast(source)

    def compute(interval: Interval, tensors: Sequence[Tensor]) -> Results:
        size = [*call.shape]
        size[axis] = interval.length
        return tensors[0].expand(size)

    return LocalOperator(Kind.ELEMENT_WISE, call, (axis,), only(call, relation), compute)


@rule('repeat', 'tile')
def repeat(call: Call, axis: int) -> LocalOperator | None:
    """Along other axes than the split one."""
    source = axis - (len(call.shape) - len(call.shapes[0]))
    if source < 0 or call.shapes[0][source] != call.shape[axis]:
        return None
    return arranged(call, axis, only(call, Same(source)))


@rule('cat', 'concat', 'concatenate')
def concatenation(call: Call, axis: int) -> LocalOperator | None:
    """Along another axis: then all tensors have the split axis."""
    if wrapped(call['dim'], len(call.shape)) == axis:
        return None
    # An empty vector may stand among the tensors.
    relations = [None if shape == (0,) else Same(axis) for shape in call.shapes]
    return arranged(call, axis, relations)


@rule('stack')
def stack(call: Call, axis: int) -> LocalOperator | None:
    """The new axis is not the split one."""
    dim = wrapped(call['dim'], len(call.shape))
    if dim == axis:
        return None
    return arranged(call, axis, [Same(axis - (dim < axis))] * len(call.tensors))


@rule(
    *'split.Tensor split_with_sizes split.sizes chunk tensor_split.sections'.split(),
    *'tensor_split.indices unsafe_split.Tensor unsafe_chunk unsafe_split_with_sizes'.split(),
)
def split(call: Call, axis: int) -> LocalOperator | None:
    """Into several tensors, along another axis."""
    if wrapped(call['dim'], len(call.shape)) == axis:
        return None
    return arranged(call, axis, only(call, Same(axis)))


@rule('select.int', 'unbind.int')
def select(call: Call, axis: int) -> LocalOperator | None:
    """One index, or all as tensors of their own, of another axis."""
    dim = wrapped(call['dim'], len(call.shapes[0]))
    return arranged(call, axis, only(call, Same(axis + (dim <= axis))))


@rule('slice.Tensor', 'narrow')
def strided_slice(call: Call, axis: int) -> LocalOperator | None:
    """Of another axis; or of the split one, where output i is ``start + i·step``."""
    extent = call.shapes[0][axis]
    if wrapped(call['dim'], len(call.shape)) != axis:
        return arranged(call, axis, only(call, Same(axis)))
    start = call['start'] or 0
    start = min(max(start + extent if start < 0 else start, 0), extent)
    step = call.get('step', 1)
    window = Window(axis, extent, stride=step, before=-start)
    kind = Kind.ELEMENT_WISE if extent == call.shape[axis] else Kind.BLOCK_WISE

    def compute(interval: Interval, tensors: Sequence[Tensor]) -> Results:
        index = (slice(None),) * axis + (slice(None, None, step),)
        return tensors[0][index]

    return LocalOperator(kind, call, (axis,), only(call, window), compute)


@rule('unfold')
def patches(call: Call, axis: int) -> LocalOperator | None:
    """``Tensor.unfold``: windows of ``size`` every ``step`` along an axis, as a new last axis."""
    count = len(call.shapes[0])
    if axis == count:
        return None
    if wrapped(call['dimension'], count) != axis:
        return arranged(call, axis, only(call, Same(axis)))
    window = Window(axis, call.shapes[0][axis], kernel=call['size'], stride=call['step'])
    return rerun(call, Kind.BLOCK_WISE, axis, only(call, window))


@rule('pixel_shuffle')
def depth_to_space(call: Call, axis: int) -> LocalOperator | None:
    """``r`` output indices to one of the argument."""
    r = call['upscale_factor']
    if axis < len(call.shape) - 3:
        return arranged(call, axis, only(call, Same(axis)))
    if axis == len(call.shape) - 3:
        return None
    relation = Regrouped(axis, r, 1)

    def compute(interval: Interval, tensors: Sequence[Tensor]) -> Results:
        start = relation.needs(interval).start
        result = call.run(tensors)
        assert isinstance(result, Tensor)
        return result.narrow(axis, interval.start - start * r, interval.length)

    return LocalOperator(Kind.BLOCK_WISE, call, (axis,), only(call, relation), compute)


@rule('pixel_unshuffle')
def space_to_depth(call: Call, axis: int) -> LocalOperator | None:
    """One output index to ``r`` of the argument."""
    if axis == len(call.shape) - 3:
        return None
    if axis < len(call.shape) - 3:
        return arranged(call, axis, only(call, Same(axis)))
    relation = Regrouped(axis, 1, call['downscale_factor'])
    return rerun(call, Kind.BLOCK_WISE, axis, only(call, relation))


@rule('channel_shuffle', 'native_channel_shuffle')
def channel_shuffle(call: Call, axis: int) -> LocalOperator | None:
    """Axis 1 is permuted."""
    return None if axis == 1 else arranged(call, axis, only(call, Same(axis)))


@rule('flip', 'roll')
def turned(call: Call, axis: int) -> LocalOperator | None:
    """Of other axes; without axes ``roll`` turns the flattened tensor."""
    dims = [wrapped(each, len(call.shape)) for each in call['dims']]
    if axis in dims or not dims:
        return None
    return arranged(call, axis, only(call, Same(axis)))


@rule('slice_scatter', 'select_scatter')
def scatter(call: Call, axis: int) -> LocalOperator | None:
    """A slice or index of another axis is written anew."""
    dim = wrapped(call['dim'], len(call.shape))
    if dim == axis:
        return None
    dropped = call.node.operator.startswith('aten.select') and dim < axis
    return arranged(call, axis, (Same(axis), Same(axis - dropped)))


@rule('index_select')
def index_select(call: Call, axis: int) -> LocalOperator | None:
    """Of another axis; along the split one the indices decide, so that all of it is needed."""
    if wrapped(call['dim'], len(call.shape)) == axis:
        return None
    return arranged(call, axis, only(call, Same(axis)))


@rule('index.Tensor')
def index(call: Call, axis: int) -> LocalOperator | None:
    """One vector of indices, of another axis."""
    indices = call['indices']
    used = [place for place, each in enumerate(indices) if each is not None]
    if len(used) != 1 or used[0] == axis or len(call.shapes[1]) != 1:
        return None
    if call.specs[1].dtype.is_floating_point or call.specs[1].dtype.itemsize == 1:
        return None  # masks
    return arranged(call, axis, only(call, Same(axis)))
