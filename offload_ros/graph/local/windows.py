"""Convolution and pools: an output index reads a window; padding only at the true borders."""

from __future__ import annotations

from collections.abc import Sequence
import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from offload_ros.graph.intervals import Indexed, Interval, Same, TransposedWindow, Window
from offload_ros.graph.local.operator import Call, Kind, LocalOperator, Results, only, rerun, rule


def per_axis(value: Any, count: int) -> list[int]:
    """A list argument of ATen, where one number stands for all axes."""
    values = [value] if isinstance(value, int) else list(value)
    return values * count if len(values) == 1 else values


def pad_axis(x: Tensor, axis: int, before: int, after: int, value: float = 0.0) -> Tensor:
    """``x`` with more indices at both ends of one axis."""
    if before == after == 0:
        return x
    pads = [0, 0] * (x.ndim - axis - 1) + [before, after]
    return functional.pad(x, pads, value=value)


def spread(x: Tensor, axis: int, have: Interval, span: Interval, value: float) -> Tensor:
    """``x``, which holds the indices ``have``, laid into ``span`` with ``value`` around it."""
    if have.empty:
        return pad_axis(x, axis, span.length, 0, value)
    return pad_axis(x, axis, have.start - span.start, span.stop - have.stop, value)


@rule(*('conv1d conv2d conv3d conv1d.padding conv2d.padding conv3d.padding convolution').split())
def convolution(call: Call, axis: int) -> LocalOperator | None:
    """``(N, C, *spatial)`` or without N; the weight is ``(C', C / groups, *kernel)``."""
    if call.get('transposed'):
        return transposed_convolution(call, axis)
    kernel = call.shapes[call.slots('weight')[0]][2:]
    count = len(kernel)
    place = axis - (len(call.shape) - count)
    if place < 0:
        return batch_axis(call, axis, count)
    stride, dilation = (per_axis(call[name], count) for name in ('stride', 'dilation'))
    pads = both_sides(call['padding'], kernel, dilation)
    window = Window(
        axis, call.shapes[0][axis], kernel[place], stride[place], pads[place][0], dilation[place]
    )

    def compute(interval: Interval, tensors: Sequence[Tensor]) -> Results:
        x = spread(tensors[0], axis, window.needs(interval), window.span(interval), 0.0)
        padding = [0] * count
        for other, (before, after) in enumerate(pads):
            if other == place:
                continue
            if before == after:
                padding[other] = before
            else:
                x = pad_axis(x, x.ndim - count + other, before, after)
        batched = x if x.ndim == count + 2 else x.unsqueeze(0)
        result: Tensor = torch.ops.aten.convolution.default(
            batched,
            call.given(tensors, 'weight'),
            call.given(tensors, 'bias'),
            stride,
            padding,
            dilation,
            False,
            [0] * count,
            call['groups'],
        )
        return result if x.ndim == count + 2 else result.squeeze(0)

    return LocalOperator(Kind.BLOCK_WISE, call, (axis,), only(call, window), compute, True)


def both_sides(
    padding: Any, kernel: Sequence[int], dilation: Sequence[int]
) -> list[tuple[int, int]]:
    """Padding before and after each axis; ``same`` puts the odd one after, as PyTorch does."""
    if padding == 'valid':
        return [(0, 0)] * len(kernel)
    if padding == 'same':
        totals = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
        return [(total // 2, total - total // 2) for total in totals]
    return [(each, each) for each in per_axis(padding, len(kernel))]


def batch_axis(call: Call, axis: int, spatial: int) -> LocalOperator | None:
    """Images of a batch do not meet."""
    if axis == 0 and len(call.shape) == spatial + 2:
        return rerun(call, Kind.ROW_WISE, axis, only(call, Same(0)))
    return None


@rule('conv_transpose1d', 'conv_transpose2d.input', 'conv_transpose3d.input')
def transposed_convolution(call: Call, axis: int) -> LocalOperator | None:
    """Like ``convolution``; the weight is ``(C, C' / groups, *kernel)``."""
    kernel = call.shapes[call.slots('weight')[0]][2:]
    count = len(kernel)
    place = axis - (len(call.shape) - count)
    if place < 0:
        return batch_axis(call, axis, count)
    stride, padding, dilation, extra = (
        per_axis(call[name], count) for name in ('stride', 'padding', 'dilation', 'output_padding')
    )
    s, p, d = stride[place], padding[place], dilation[place]
    reach = d * (kernel[place] - 1)
    window = TransposedWindow(axis, call.shapes[0][axis], kernel[place], s, p, d)
    others = [0 if each == place else padding[each] for each in range(count)]
    extras = [0 if each == place else extra[each] for each in range(count)]

    def compute(interval: Interval, tensors: Sequence[Tensor]) -> Results:
        have = window.needs(interval)
        # Input i gives the outputs from i·s − p to i·s − p + reach. Zeros around it reach the
        # outputs to which no input adds: those of output_padding and those between taps.
        first = (interval.start + p) // s
        last = -(-(interval.stop - 1 + p - reach) // s)
        span = Interval(
            first if have.empty else min(first, have.start),
            max(first, last) + 1 if have.empty else max(first, last, have.stop - 1) + 1,
        )
        x = spread(tensors[0], axis, have, span, 0.0)
        batched = x if x.ndim == count + 2 else x.unsqueeze(0)
        result: Tensor = torch.ops.aten.convolution.default(
            batched,
            call.given(tensors, 'weight'),
            call.given(tensors, 'bias'),
            stride,
            others,
            dilation,
            True,
            extras,
            call['groups'],
        )
        result = result if x.ndim == count + 2 else result.squeeze(0)
        return result.narrow(axis, interval.start + p - span.start * s, interval.length)

    return LocalOperator(Kind.BLOCK_WISE, call, (axis,), only(call, window), compute, True)


def lowest(dtype: torch.dtype) -> float:
    """What never is the maximum."""
    return -math.inf if dtype.is_floating_point else torch.iinfo(dtype).min


@rule(*'max_pool1d max_pool2d max_pool3d max_pool2d_with_indices max_pool3d_with_indices'.split())
def max_pool(call: Call, axis: int) -> LocalOperator | None:
    """With the indices of the maxima, where asked for: places in the whole plane or volume."""
    count = len(per_axis(call['kernel_size'], spatial_axes(call)))
    place = axis - (len(call.shape) - count)
    if place < 0:
        return rerun(call, Kind.ROW_WISE, axis, only(call, Same(axis)))
    names = ('kernel_size', 'stride', 'padding', 'dilation')
    kernel, stride, padding, dilation = (
        per_axis(call[name] or call['kernel_size'], count)
        if name == 'stride'
        else per_axis(call[name], count)
        for name in names
    )
    shape = call.shapes[0]
    window = Window(
        axis, shape[axis], kernel[place], stride[place], padding[place], dilation[place]
    )
    changes = {'padding': [0 if each == place else padding[each] for each in range(count)]}

    def compute(interval: Interval, tensors: Sequence[Tensor]) -> Results:
        span = window.span(interval)
        value = lowest(tensors[0].dtype)
        x = spread(tensors[0], axis, window.needs(interval), span, value)
        result = call.run([x], changes)
        if isinstance(result, Tensor):
            # ceil_mode may add a window that the interval does not ask for.
            return result.narrow(axis, 0, interval.length)
        values, indices = (each.narrow(axis, 0, interval.length) for each in result)
        local = list(x.shape[-count:])
        places = moved(indices, local, list(shape[-count:]), place, span.start, dilation[place])
        return values, places

    axes = (axis,) * len(call.node.outputs)
    return LocalOperator(Kind.BLOCK_WISE, call, axes, only(call, window), compute, True)


def spatial_axes(call: Call) -> int:
    """1, 2 or 3, of an operator such as ``max_pool2d``."""
    return next(int(each) for each in call.node.operator if each in '123')


def moved(
    indices: Tensor, local: list[int], whole: list[int], place: int, start: int, step: int
) -> Tensor:
    """Row-major places in ``local`` as places in ``whole``, where axis ``place`` begins at
    ``start``. A window of lowest values only names its first index, in padding: the first one
    within the tensor is meant."""
    result = torch.zeros_like(indices)
    rest, factor = indices, 1
    for axis in reversed(range(len(local))):
        index = rest % local[axis]
        rest = rest // local[axis]
        if axis == place:
            index = index + start
            index = torch.where(index < 0, index % step, index)
        result += index * factor
        factor *= whole[axis]
    return result


@rule('avg_pool1d', 'avg_pool2d', 'avg_pool3d')
def average_pool(call: Call, axis: int) -> LocalOperator | None:
    """Sums of the slices, divided as in the whole tensor: at borders by what lies within."""
    count = spatial_axes(call)
    place = axis - (len(call.shape) - count)
    if place < 0:
        return rerun(call, Kind.ROW_WISE, axis, only(call, Same(axis)))
    kernel = per_axis(call['kernel_size'], count)
    stride = per_axis(call['stride'] or kernel, count)
    padding = per_axis(call['padding'], count)
    shape = call.shapes[0][-count:]
    window = Window(axis, shape[place], kernel[place], stride[place], padding[place])
    counted = [
        pooled(call.shape[-count + each], shape[each], kernel[each], stride[each], padding[each])
        for each in range(count)
    ]
    lengths = [each[0 if call['count_include_pad'] else 1] for each in counted]

    def compute(interval: Interval, tensors: Sequence[Tensor]) -> Results:
        x = spread(tensors[0], axis, window.needs(interval), window.span(interval), 0.0)
        others = [0 if each == place else padding[each] for each in range(count)]
        arguments = (kernel, stride, others, call['ceil_mode'], True)
        if count == 1:
            sums: Tensor = torch.ops.aten.avg_pool2d.default(
                x.unsqueeze(-2), *([1, *each] for each in (kernel, stride)), [0, *others],
                call['ceil_mode'], True, 1,
            ).squeeze(-2)  # fmt: skip
        else:
            operator = getattr(torch.ops.aten, f'avg_pool{count}d').default
            sums = operator(x, *arguments, call['divisor_override'] or 1)
        sums = sums.narrow(axis, 0, interval.length)
        if call.get('divisor_override'):
            return sums
        divisor = torch.ones((), dtype=sums.dtype, device=sums.device)
        for each, values in enumerate(lengths):
            values = values[interval.start : interval.stop] if each == place else values
            line = torch.tensor(values, dtype=sums.dtype, device=sums.device)
            divisor = divisor * line.view(-1, *[1] * (count - each - 1))
        return sums / divisor

    return LocalOperator(Kind.BLOCK_WISE, call, (axis,), only(call, window), compute, True)


def pooled(
    outputs: int, extent: int, kernel: int, stride: int, padding: int
) -> tuple[list[int], list[int]]:
    """By output index the length of its window: with the padding, and within the tensor."""
    starts = [index * stride - padding for index in range(outputs)]
    stops = [min(start + kernel, extent + padding) for start in starts]
    within = [min(stop, extent) - max(start, 0) for start, stop in zip(starts, stops, strict=True)]
    return [stop - start for start, stop in zip(starts, stops, strict=True)], within


@rule(
    *'adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d _adaptive_avg_pool2d'.split(),
    *'_adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d'.split(),
)
def adaptive_pool(call: Call, axis: int) -> LocalOperator | None:
    """Output i reads from ⌊i·n/m⌋ to ⌈(i+1)·n/m⌉ of n inputs for m outputs; m = 1 reads all."""
    count = spatial_axes(call)
    place = axis - (len(call.shape) - count)
    if place < 0:
        return rerun(call, Kind.ROW_WISE, axis, only(call, Same(axis)))
    shape = call.shapes[0]
    n, m = shape[axis], call.shape[axis]
    if m == 1:
        return None
    lows = tuple(index * n // m for index in range(m))
    highs = tuple(-(-(index + 1) * n // m) - 1 for index in range(m))
    relation = Indexed(axis, lows, highs)
    size = list(call.shape[-count:])

    def run(x: Tensor, outputs: int, start: int) -> tuple[Tensor, ...]:
        sizes = [outputs if each == place else size[each] for each in range(count)]
        result = call.run([x], {'output_size': sizes})
        if isinstance(result, Tensor):
            return (result,)
        values, indices = result
        local, whole = list(x.shape[-count:]), list(shape[-count:])
        return values, moved(indices, local, whole, place, start, 1)

    def compute(interval: Interval, tensors: Sequence[Tensor]) -> Results:
        x, begin = tensors[0], lows[interval.start]
        if n % m == 0:
            return run(x, interval.length, begin)
        # Windows of unequal length: one output index after the other.
        columns = [
            run(x.narrow(axis, lows[index] - begin, highs[index] - lows[index] + 1), 1, lows[index])
            for index in range(*interval)
        ]
        return [torch.cat(each, axis) for each in zip(*columns, strict=True)]

    axes = (axis,) * len(call.node.outputs)
    return LocalOperator(Kind.BLOCK_WISE, call, axes, only(call, relation), compute, True)
