"""Single operators with random arguments, and the check that slices of them equal the whole."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from hypothesis import strategies as st
import torch
from torch import Tensor

from offload_ros.graph.graph import Graph, Input, Node, TensorSpec, Value, map_references
from offload_ros.graph.intervals import WHOLE, Interval
from offload_ros.graph.local import LocalOperator, local_operator
from offload_ros.graph.slices import Slice, slice_execute

RTOL, ATOL = 1e-4, 1e-5  # atol: of the output's maximum


@dataclass
class Case:
    """``args`` name tensors by ``Input``; ``axes``: the axes of the output that must be local."""

    operator: str
    args: tuple[Any, ...]
    tensors: dict[str, Tensor]
    axes: tuple[int, ...]
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    exact: bool = False  # bit-equal
    probe: bool = True  # NaN at both ends of what is needed must show

    def whole(self) -> tuple[Tensor, ...]:
        namespace, name, overload = self.operator.split('.')
        func = getattr(getattr(getattr(torch.ops, namespace), name), overload)
        args = [map_references(each, lambda ref: self.tensors[ref.name]) for each in self.args]
        result = func(*args, **self.kwargs)
        return (result,) if isinstance(result, Tensor) else tuple(result)

    def graph(self) -> Graph:
        outputs = tuple(TensorSpec(tuple(each.shape), each.dtype) for each in self.whole())
        inputs = {
            name: TensorSpec(tuple(each.shape), each.dtype) for name, each in self.tensors.items()
        }
        node = Node(0, self.operator, self.args, self.kwargs, outputs)
        return Graph('case', inputs, {}, (node,), {'y': Value(0)})


def close(part: Tensor, whole: Tensor, exact: bool) -> None:
    """Equal, or within the stated tolerance; NaN equals NaN."""
    assert part.shape == whole.shape
    assert part.dtype == whole.dtype
    if exact or not whole.dtype.is_floating_point:
        assert torch.equal(torch.nan_to_num(part), torch.nan_to_num(whole))
        assert torch.equal(part.isnan(), whole.isnan())
        return
    finite = whole[whole.isfinite()]
    scale = float(finite.abs().max()) if finite.numel() else 1.0
    torch.testing.assert_close(part, whole, rtol=RTOL, atol=ATOL * scale, equal_nan=True)


def operands(case: Case, operator: LocalOperator, interval: Interval, margin: int) -> list[Any]:
    """For each tensor argument the slice that ``interval`` needs, in memory of its own, with
    ``margin`` more indices on both sides."""
    given: list[Any] = []
    needs = operator.input_intervals(interval)
    for reference, relation, need in zip(
        operator.call.tensors, operator.relations, needs, strict=True
    ):
        assert isinstance(reference, Input)
        tensor = case.tensors[reference.name]
        if need is WHOLE:
            given.append(tensor)
            continue
        assert relation is not None
        assert Interval(0, tensor.shape[relation.axis]).covers(need)
        start, stop = need.widened(margin).intersect(Interval(0, tensor.shape[relation.axis]))
        held = tensor.narrow(relation.axis, start, stop - start).clone()
        given.append(Slice(held, start))
    return given


def check(case: Case, axis: int, start: int, stop: int, margin: int = 0) -> None:
    """``[start, stop)`` along ``axis`` from slices equals the whole, and needs all it asks for."""
    graph = case.graph()
    operator = local_operator(graph, graph.nodes[0], axis)
    assert operator is not None, f'{case.operator} is a barrier along axis {axis}'
    interval = Interval(start, stop)
    given = operands(case, operator, interval, margin)
    whole = case.whole()
    parts = slice_execute(operator, interval, given)
    assert len(parts) == len(whole)
    for part, all_of_it, split in zip(parts, whole, operator.axes, strict=True):
        if split is not None:
            close(part, all_of_it.narrow(split, start, stop - start), case.exact)
    if case.probe and whole[0].dtype.is_floating_point:
        probe(case, operator, interval)


def probe(case: Case, operator: LocalOperator, interval: Interval) -> None:
    """A NaN at the first and at the last index that is needed reaches the interval."""
    needs = operator.input_intervals(interval)
    for reference, relation, need in zip(
        operator.call.tensors, operator.relations, needs, strict=True
    ):
        tensor = case.tensors[reference.name]
        if need is WHOLE or need.empty or not tensor.dtype.is_floating_point:
            continue
        # Where the output reads nothing but padding along the other axes, nothing can show.
        if not poisoned(case, operator, interval, reference.name, relation.axis, None):
            continue
        for index in {need.start, need.stop - 1}:
            assert poisoned(case, operator, interval, reference.name, relation.axis, index), (
                f'index {index} of {need} is not needed'
            )


def poisoned(case, operator, interval, name, axis, index) -> bool:
    """Whether the interval shows NaN at one index of an argument (None: everywhere)."""
    tensor = case.tensors[name].clone()
    (tensor if index is None else tensor.select(axis, index)).fill_(float('nan'))
    other = replace(case, tensors={**case.tensors, name: tensor})
    result = other.whole()[0].narrow(operator.axes[0], interval.start, interval.length)
    return bool(result.isnan().any())


@st.composite
def cut_cases(draw, cases):
    """(case, axis, start, stop, margin)."""
    case = draw(cases)
    axis = draw(st.sampled_from(case.axes))
    extent = case.whole()[0].shape[axis]
    start = draw(st.integers(0, extent - 1))
    margin = draw(st.sampled_from((0, 0, 1, 2)))
    return case, axis, start, draw(st.integers(start + 1, extent)), margin


def seeded(draw) -> None:
    torch.manual_seed(draw(st.integers(0, 2**16)))


def lists(draw, count, low, high):
    return tuple(draw(st.integers(low, high)) for _ in range(count))


@st.composite
def convolutions(draw):
    """1-D to 3-D, of any stride, padding (also larger than the kernel), dilation and groups."""
    seeded(draw)
    count = draw(st.sampled_from((1, 2, 2, 3)))
    kernel, stride, dilation = (
        lists(draw, count, 1, 5 if count < 3 else 3),
        lists(draw, count, 1, 4 if count < 3 else 2),
        lists(draw, count, 1, 3),
    )
    padding = lists(draw, count, 0, 6 if count < 3 else 2)
    reach = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    least = [max(1, r - 2 * p) for r, p in zip(reach, padding, strict=True)]
    extents = [low + draw(st.integers(0, 14 if count < 3 else 5)) for low in least]
    groups = draw(st.sampled_from((1, 1, 2, 3)))
    channels = groups * draw(st.integers(1, 2))
    batch = draw(st.sampled_from(((), (1,), (2,))))
    x = torch.randn(*batch, channels, *extents)
    weight = torch.randn(groups * draw(st.integers(1, 2)), channels // groups, *kernel)
    tensors = {'x': x, 'w': weight}
    bias = None
    if draw(st.booleans()):
        tensors['b'] = torch.randn(weight.shape[0])
        bias = Input('b')
    axes = tuple(range(x.ndim - count, x.ndim)) + ((0,) if len(batch) else ())
    form = draw(st.sampled_from(('conv', 'general', 'same', 'valid')))
    general = (Input('x'), Input('w'), bias, stride, padding, dilation)
    if form == 'general' and batch:
        args = (*general, False, (0,) * count, groups)
        return Case('aten.convolution.default', args, tensors, axes)
    if form == 'same' and batch:
        args = (Input('x'), Input('w'), bias, (1,) * count, 'same', dilation, groups)
        return Case(f'aten.conv{count}d.padding', args, tensors, axes)
    if form == 'valid' and batch and all(e >= r for e, r in zip(extents, reach, strict=True)):
        args = (Input('x'), Input('w'), bias, stride, 'valid', dilation, groups)
        return Case(f'aten.conv{count}d.padding', args, tensors, axes)
    return Case(f'aten.conv{count}d.default', (*general, groups), tensors, axes)


@st.composite
def transposed_convolutions(draw):
    """With output_padding, kernels smaller and larger than the stride, and much padding."""
    seeded(draw)
    count = draw(st.sampled_from((1, 2, 2, 3)))
    kernel, stride = lists(draw, count, 1, 5 if count < 3 else 3), lists(draw, count, 1, 4)
    dilation = lists(draw, count, 1, 3)
    extra = tuple(
        draw(st.integers(0, max(s, d) - 1)) for s, d in zip(stride, dilation, strict=True)
    )
    extents = lists(draw, count, 1, 11 if count < 3 else 4)
    padding = []
    for n, k, s, d, e in zip(extents, kernel, stride, dilation, extra, strict=True):
        most = ((n - 1) * s + d * (k - 1) + e) // 2  # leaves at least one output
        padding.append(draw(st.integers(0, min(most, 6))))
    groups = draw(st.sampled_from((1, 1, 2)))
    batch = draw(st.sampled_from(((), (1,), (2,))))
    x = torch.randn(*batch, 2, *extents)
    weight = torch.randn(2, draw(st.integers(1, 2)), *kernel)
    tensors = {'x': x, 'w': weight}
    bias = None
    if draw(st.booleans()):
        tensors['b'] = torch.randn(weight.shape[1] * groups)
        bias = Input('b')
    axes = tuple(range(x.ndim - count, x.ndim))
    if batch and draw(st.booleans()):
        args = (Input('x'), Input('w'), bias, stride, padding, dilation, True, extra, groups)
        return Case('aten.convolution.default', args, tensors, axes)
    name = f'aten.conv_transpose{count}d.' + ('default' if count == 1 else 'input')
    args = (Input('x'), Input('w'), bias, stride, tuple(padding), extra, groups, dilation)
    return Case(name, args, tensors, axes)


@st.composite
def pools(draw):
    """Max with and without indices, average by all its divisors, both with ceil_mode."""
    seeded(draw)
    count = draw(st.sampled_from((1, 2, 2, 3)))
    kernel = lists(draw, count, 1, 5 if count < 3 else 3)
    stride = draw(st.sampled_from((None, lists(draw, count, 1, 4)))) or ()
    padding = tuple(draw(st.integers(0, k // 2)) for k in kernel)
    ceil = draw(st.booleans())
    average = draw(st.booleans())
    dilation = (1,) * count if average else lists(draw, count, 1, 3)
    extents = []
    for k, p, d in zip(kernel, padding, dilation, strict=True):
        least = k if average and count == 3 else max(1, d * (k - 1) + 1 - 2 * p)
        extents.append(least + draw(st.integers(0, 12 if count < 3 else 5)))
    batch = draw(st.sampled_from(((), (1,), (2,))))
    x = torch.randn(*batch, 2, *extents)
    axes = tuple(range(x.ndim - count, x.ndim))
    tensors = {'x': x}
    if average:
        args = (Input('x'), kernel, stride, padding, ceil, draw(st.booleans()))
        if count > 1:
            args += (draw(st.sampled_from((None, None, 3))),)
        return Case(f'aten.avg_pool{count}d.default', args, tensors, axes)
    args = (Input('x'), kernel, stride, padding, dilation, ceil)
    indices = draw(st.booleans()) and count > 1
    if draw(st.integers(0, 9)) == 0:
        x[x < 0.5] = -torch.inf  # whole windows of the lowest value
    name = f'max_pool{count}d' + ('_with_indices' if indices else '')
    return Case(f'aten.{name}.default', args, tensors, axes, exact=True)


@st.composite
def adaptive_pools(draw):
    """More outputs than inputs, fewer, and not in proportion."""
    seeded(draw)
    count = draw(st.sampled_from((1, 2, 2, 3)))
    extents = lists(draw, count, 1, 13 if count < 3 else 6)
    size = lists(draw, count, 2, 9 if count < 3 else 5)
    x = torch.randn(*draw(st.sampled_from(((), (1,), (2,)))), 2, *extents)
    axes = tuple(range(x.ndim - count, x.ndim))
    kind = draw(st.sampled_from(('avg', 'max')))
    name = f'aten.adaptive_{kind}_pool{count}d.default'
    return Case(name, (Input('x'), size), {'x': x}, axes, exact=kind == 'max')


@st.composite
def upsamplings(draw):
    """By size and by factor, whole and broken, up and down, with corners aligned and not."""
    seeded(draw)
    kind = draw(
        st.sampled_from(
            ('upsample_nearest', '_upsample_nearest_exact', 'upsample_linear', 'upsample_cubic')
        )
    )
    count = 2 if kind == 'upsample_cubic' else draw(st.sampled_from((1, 2, 2, 3)))
    x = torch.randn(draw(st.integers(1, 2)), 2, *lists(draw, count, 1, 11 if count < 3 else 5))
    if draw(st.integers(0, 4)) == 0:
        x = x.double()
    extents = x.shape[2:]
    linear = {1: 'upsample_linear1d', 2: 'upsample_bilinear2d', 3: 'upsample_trilinear3d'}
    name = {'upsample_linear': linear[count], 'upsample_cubic': 'upsample_bicubic2d'}.get(
        kind, f'{kind}{count}d'
    )
    corners = () if 'nearest' in kind else (draw(st.booleans()),)
    form = draw(st.sampled_from(('size', 'factor', 'whole factor', 'size and factor')))
    factors = tuple(
        float(draw(st.integers(1, 4))) if form == 'whole factor' else draw(st.floats(0.3, 4.3))
        for _ in range(count)
    )
    if any(int(n * f) < 1 for n, f in zip(extents, factors, strict=True)):
        form = 'size'
    size = tuple(int(n * f) for n, f in zip(extents, factors, strict=True))
    if form == 'size':
        size = lists(draw, count, 1, 19 if count < 3 else 8)
    axes = tuple(range(2, x.ndim))
    if form in ('factor', 'whole factor'):
        args = (Input('x'), None, *corners, factors)
        return Case(f'aten.{name}.vec', args, {'x': x}, axes, exact='nearest' in kind)
    scales = factors if form == 'size and factor' else (None,) * count
    args = (Input('x'), size, *corners, *scales)
    return Case(f'aten.{name}.default', args, {'x': x}, axes, exact='nearest' in kind)


@st.composite
def paddings(draw):
    """Constant of both signs, reflected, replicated, circular; all operators that pad."""
    seeded(draw)
    count = draw(st.sampled_from((1, 2, 2, 3)))
    extents = lists(draw, count, 2, 9 if count < 3 else 5)
    x = torch.randn(*draw(st.sampled_from(((1,), (2,)))), 2, *extents)
    axes = tuple(range(2, x.ndim))
    mode = draw(st.sampled_from(('constant', 'reflect', 'replicate', 'circular')))
    pads: list[int] = []
    for extent in reversed(extents):
        if mode == 'constant':
            before = draw(st.integers(-extent + 1, 6))
            after = draw(st.integers(max(-extent - before + 1, -extent + 1), 6))
            pads += [before, after]
        else:
            most = {'reflect': extent - 1, 'replicate': 6, 'circular': extent}[mode]
            pads += [draw(st.integers(0, most)), draw(st.integers(0, most))]
    whole = draw(st.booleans())
    if mode == 'constant' and whole:
        args = (Input('x'), tuple(pads), draw(st.sampled_from((0, 1.5, float('inf')))))
        return Case('aten.constant_pad_nd.default', args, {'x': x}, axes, exact=True)
    if mode in ('reflect', 'replicate') and whole:
        name = 'reflection' if mode == 'reflect' else 'replication'
        args = (Input('x'), tuple(pads))
        return Case(f'aten.{name}_pad{count}d.default', args, {'x': x}, axes, exact=True)
    return Case('aten.pad.default', (Input('x'), tuple(pads), mode), {'x': x}, axes, exact=True)


SUMMING = st.one_of(convolutions(), transposed_convolutions(), pools(), adaptive_pools())
MOVING = st.one_of(upsamplings(), paddings())
