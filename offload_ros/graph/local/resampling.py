"""Up-sampling and padding: where each output index comes from is asked of PyTorch itself.

Nearest neighbours and the source of a padded index are read off the operator applied to a ramp, so
that they agree with the kernels of any version. Positions and weights of the linear and cubic ones
follow ``ATen/native/UpSample.h``: in float32, or float64 for float64 tensors.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from offload_ros.graph.intervals import Indexed, Interval, Relation, Same, Window
from offload_ros.graph.local.operator import Call, Kind, LocalOperator, Results, only, rerun, rule
from offload_ros.graph.local.windows import spatial_axes, spread

_CUBIC_A = -0.75  # of ATen's bicubic kernel


def scale_of(call: Call, place: int, count: int) -> float | None:
    """The scale factor given for a spatial axis; None where the sizes decide."""
    factors = call.get('scale_factors')
    if factors is not None:
        return float(factors[place])
    name = 'scales' if count == 1 else ('scales_d', 'scales_h', 'scales_w')[3 - count + place]
    given = call.get(name)
    return None if given is None else float(given)


def resized(call: Call, x: Tensor, axis: int, place: int, count: int) -> Tensor:
    """``x``, which has its final extent along ``axis``, resized along the other axes."""
    if count == 1:
        return x
    size = [
        x.shape[axis] if each == place else call.shape[len(call.shape) - count + each]
        for each in range(count)
    ]
    scales = [None if each == place else scale_of(call, each, count) for each in range(count)]
    name = call.node.operator.split('.')[1]
    operator = getattr(torch.ops.aten, name).default
    corners = () if 'nearest' in name else (call['align_corners'],)
    result: Tensor = operator(x, size, *corners, *scales)
    return result


_NEAREST = [
    f'{name}{count}d{overload}'
    for name in ('upsample_nearest', '_upsample_nearest_exact')
    for count in (1, 2, 3)
    for overload in ('', '.vec')
]


@rule(*_NEAREST)
def nearest(call: Call, axis: int) -> LocalOperator | None:
    """Both nearest-neighbour modes."""
    count = spatial_axes(call)
    place = axis - (len(call.shape) - count)
    if place < 0:
        return rerun(call, Kind.ROW_WISE, axis, only(call, Same(axis)))
    source = nearest_sources(call, axis, place, count)
    relation = Indexed(axis, tuple(source.tolist()), tuple(source.tolist()))

    def compute(interval: Interval, tensors: Sequence[Tensor]) -> Results:
        picked = source[interval.start : interval.stop] - relation.needs(interval).start
        x = tensors[0].index_select(axis, picked.to(tensors[0].device))
        return resized(call, x, axis, place, count)

    return LocalOperator(Kind.BLOCK_WISE, call, (axis,), only(call, relation), compute, True)


def nearest_sources(call: Call, axis: int, place: int, count: int) -> Tensor:
    """For each output index along the axis the one it copies.

    The kernels for 1 and for 2 axes disagree where a factor leaves the extent as it is, so that the
    ramp has the argument's own axes.
    """
    shape = [1, 1, *call.shapes[0][-count:]]
    line = torch.arange(shape[2 + place], dtype=torch.float32)
    ramp = line.view(-1, *[1] * (count - place - 1)).expand(shape).contiguous()
    operator = getattr(torch.ops.aten, call.node.operator.split('.')[1]).default
    scales = [scale_of(call, each, count) for each in range(count)]
    result: Tensor = operator(ramp, list(call.shape[-count:]), *scales)
    for other in range(count):
        if other != place:
            result = result.narrow(2 + other, 0, 1)
    return result.flatten().long()


@rule(
    *'upsample_linear1d upsample_bilinear2d upsample_trilinear3d upsample_bicubic2d'.split(),
    *'upsample_linear1d.vec upsample_bilinear2d.vec upsample_trilinear3d.vec'.split(),
    'upsample_bicubic2d.vec',
)
def interpolation(call: Call, axis: int) -> LocalOperator | None:
    """Linear and cubic, with corners aligned or not, by size or by scale factor."""
    if not call.specs[0].dtype.is_floating_point:
        return None  # uint8 has kernels of its own, with weights in fixed point
    count = spatial_axes(call)
    place = axis - (len(call.shape) - count)
    if place < 0:
        return rerun(call, Kind.ROW_WISE, axis, only(call, Same(axis)))
    n, m = call.shapes[0][axis], call.shape[axis]
    scale = scale_of(call, place, count)
    precision = torch.float64 if call.specs[0].dtype == torch.float64 else torch.float32
    cubic = 'cubic' in call.node.operator
    taps, weights = interpolated(n, m, scale, call['align_corners'], cubic, precision)
    used = weights != 0
    low = torch.where(used, taps, n).amin(0)
    high = torch.where(used, taps, -1).amax(0)
    relation = Indexed(axis, tuple(low.tolist()), tuple(high.tolist()))
    factor = m // n
    regular = m == n * factor and not call['align_corners'] and scale in (None, float(factor))
    regular = regular and call.specs[0].dtype != torch.float16

    def by_kernel(interval: Interval, x: Tensor, start: int) -> Tensor:
        """By an integer factor the slice is resized like the whole, and cut to the interval."""
        size = list(call.shape[-count:])
        size[place] = x.shape[axis] * factor
        name = call.node.operator.split('.')[1]
        scales = [scale_of(call, each, count) for each in range(count)]
        result = getattr(torch.ops.aten, name).default(x, size, call['align_corners'], *scales)
        cut: Tensor = result.narrow(axis, interval.start - start * factor, interval.length)
        return cut

    def compute(interval: Interval, tensors: Sequence[Tensor]) -> Results:
        x, start = tensors[0], relation.needs(interval).start
        if regular:
            return by_kernel(interval, x, start)
        shape = [-1 if each == axis else 1 for each in range(x.ndim)]
        total: Tensor | None = None
        for tap, weight in zip(taps, weights, strict=True):
            # A tap of weight 0 may lie outside of what the interval needs.
            places = (tap[interval.start : interval.stop] - start).clamp(0, x.shape[axis] - 1)
            rows = x.index_select(axis, places.to(x.device)).to(precision)
            part = rows * weight[interval.start : interval.stop].to(x.device).view(shape)
            total = part if total is None else total + part
        assert total is not None
        return resized(call, total.to(x.dtype), axis, place, count)

    return LocalOperator(Kind.BLOCK_WISE, call, (axis,), only(call, relation), compute, True)


def interpolated(
    n: int, m: int, scale: float | None, corners: bool, cubic: bool, precision: torch.dtype
) -> tuple[Tensor, Tensor]:
    """For n inputs and m outputs the taps and their weights, both (2 or 4, m)."""
    outputs = torch.arange(m, dtype=precision)
    if n == m and not cubic:
        return outputs.long()[None], torch.ones(1, m, dtype=precision)
    if corners:
        step = torch.tensor(n - 1, dtype=precision) / (m - 1) if m > 1 else torch.zeros(())
        position = outputs * step.to(precision)
    else:
        # ATen divides in double where a factor is given, else in the precision of the tensor.
        given = torch.tensor(1.0 / scale if scale else 0.0, dtype=precision)
        step = given if scale else torch.tensor(n, dtype=precision) / m
        position = (outputs + 0.5) * step - 0.5
        if not cubic:
            position = position.clamp(min=0)
    first = position.floor().long().clamp(max=n - 1)
    t = (position - first).clamp(0, 1)
    if not cubic:
        return torch.stack([first, (first + 1).clamp(max=n - 1)]), torch.stack([1 - t, t])
    taps = torch.stack([(first + offset).clamp(0, n - 1) for offset in (-1, 0, 1, 2)])
    return taps, torch.stack([far(t + 1), near(t), near(1 - t), far(2 - t)])


def near(x: Tensor) -> Tensor:
    """Cubic convolution kernel for distances up to 1 (Keys 1981)."""
    return ((_CUBIC_A + 2) * x - (_CUBIC_A + 3)) * x * x + 1


def far(x: Tensor) -> Tensor:
    """Cubic convolution kernel for distances from 1 to 2."""
    return ((_CUBIC_A * x - 5 * _CUBIC_A) * x + 8 * _CUBIC_A) * x - 4 * _CUBIC_A


_REFLECTING = {
    f'{mode}_pad{count}d': torch_mode
    for mode, torch_mode in (('reflection', 'reflect'), ('replication', 'replicate'))
    for count in (1, 2, 3)
}


@rule('constant_pad_nd', 'pad', *_REFLECTING)
def padding(call: Call, axis: int) -> LocalOperator | None:
    """Constant, reflected, replicated or circular; a negative pad crops."""
    name = call.node.operator.split('.')[1]
    mode = _REFLECTING.get(name) or call.get('mode') or 'constant'
    pads = [int(each) for each in call.get('pad') or call['padding']]
    place = 2 * (len(call.shape) - 1 - axis)
    before, after = pads[place : place + 2] if place < len(pads) else (0, 0)
    others = list(pads)
    others[place : place + 2] = [0, 0] if place < len(pads) else []
    n, m = call.shapes[0][axis], call.shape[axis]
    if mode == 'constant':
        return constant_padding(call, axis, n, before, others)
    relation: Relation = Same(axis)
    if before or after:
        ramp = torch.arange(n, dtype=torch.float64).view(1, 1, -1)
        source = functional.pad(ramp, (before, after), mode=mode).flatten().long()
        relation = Indexed(axis, tuple(source.tolist()), tuple(source.tolist()))
    else:
        source = torch.arange(m)

    def compute(interval: Interval, tensors: Sequence[Tensor]) -> Results:
        picked = source[interval.start : interval.stop] - relation.needs(interval).start
        x = tensors[0].index_select(axis, picked.to(tensors[0].device))
        return functional.pad(x, others, mode=mode) if any(others) else x

    return LocalOperator(Kind.BLOCK_WISE, call, (axis,), only(call, relation), compute, True)


def constant_padding(
    call: Call, axis: int, n: int, before: int, others: list[int]
) -> LocalOperator:
    """The value stands outside of the tensor's own indices."""
    window = Window(axis, n, before=before)
    given: Any = call.get('value')
    value = 0 if given is None else given

    def compute(interval: Interval, tensors: Sequence[Tensor]) -> Results:
        have = window.needs(interval)
        x = spread(tensors[0], axis, have, window.span(interval), value)
        return functional.pad(x, others, value=value)

    return LocalOperator(Kind.BLOCK_WISE, call, (axis,), only(call, window), compute, True)
