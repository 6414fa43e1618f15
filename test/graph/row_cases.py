"""Random calls of operators that work element by element, on rows, or only arrange elements."""

from __future__ import annotations

import math

from hypothesis import strategies as st
import torch

from offload_ros.graph.graph import Input

from .operator_cases import Case, lists, seeded

UNARY = 'relu silu gelu sigmoid hardswish hardsigmoid leaky_relu elu mish softplus tanh exp neg'
BINARY = 'add.Tensor sub.Tensor mul.Tensor div.Tensor maximum minimum atan2'
EXACT = ('add.Tensor', 'sub.Tensor', 'mul.Tensor', 'maximum.default', 'minimum.default')
X, Y = Input('x'), Input('y')


@st.composite
def elementwise_cases(draw):
    """Broadcasting in both directions, missing axes, scalars, batch norm, PReLU, where, casts."""
    seeded(draw)
    shape = lists(draw, draw(st.integers(1, 5)), 1, 6)
    x = torch.randn(shape)
    axes = tuple(range(len(shape)))
    kind = draw(st.sampled_from(('unary', 'binary', 'where', 'cast', 'batch norm', 'scalar')))
    if kind == 'unary':
        name = draw(st.sampled_from(UNARY.split()))
        return Case(f'aten.{name}.default', (X,), {'x': x}, axes, exact=name == 'relu')
    if kind == 'scalar':
        value = draw(st.sampled_from((2, -0.5)))
        return Case('aten.mul.Scalar', (X, value), {'x': x}, axes, exact=True)
    if kind == 'cast':
        return Case('aten.to.dtype', (X, torch.uint8), {'x': x.abs()}, axes, exact=True)
    if kind == 'batch norm':
        x = torch.randn(2, 3, *shape[:3])
        weight, bias, mean, variance = (torch.rand(3) + 0.5 for _ in range(4))
        tensors = {'x': x, 'w': weight, 'b': bias, 'm': mean, 'v': variance}
        form = draw(st.sampled_from(('batch_norm', '_native_batch_norm_legit_no_training')))
        given = tuple(map(Input, tensors))
        args = (*given, 0.1, 1e-5)
        if form == 'batch_norm':
            args = (*given, False, 0.1, 1e-5, False)
        spatial = (0, *range(2, x.ndim))
        return Case(f'aten.{form}.default', args, tensors, spatial)
    other = [draw(st.sampled_from((extent, 1))) for extent in shape]
    y = torch.randn(other[draw(st.integers(0, len(shape) - 1)) :])
    first, second = (x, y) if draw(st.booleans()) else (y, x)
    if kind == 'where':
        condition = torch.rand(shape[-1]) < 0.5
        tensors = {'c': condition, 'x': first, 'y': second}
        args = (Input('c'), X, Y)
        return Case('aten.where.self', args, tensors, axes, exact=True, probe=False)
    name = draw(st.sampled_from(BINARY.split()))
    name = name if '.' in name else f'{name}.default'
    return Case(f'aten.{name}', (X, Y), {'x': first, 'y': second}, axes, exact=name in EXACT)


@st.composite
def products(draw):
    """Linear layers, all matrix products, attention."""
    seeded(draw)
    rows, columns, inner = lists(draw, 3, 1, 9)
    batch = lists(draw, draw(st.integers(0, 2)), 1, 3)
    kind = draw(st.sampled_from('linear mm bmm matmul addmm attention vector einsum'.split()))
    if kind == 'linear':
        tensors = {'x': torch.randn(*batch, rows, inner), 'w': torch.randn(columns, inner)}
        bias = draw(st.booleans())
        args = (X, Input('w'), Input('b')) if bias else (X, Input('w'))
        if bias:
            tensors['b'] = torch.randn(columns)
        return Case('aten.linear.default', args, tensors, tuple(range(len(batch) + 1)))
    if kind == 'einsum':
        tensors = {'x': torch.randn(2, inner, rows, 3), 'y': torch.randn(rows, inner, columns)}
        equation = draw(st.sampled_from(('bihw,hic->bchw', 'bihw, hic -> hb', 'bihw,hic->icw')))
        result = equation.replace(' ', '').split('->')[1]
        return Case('aten.einsum.default', (equation, (X, Y)), tensors, tuple(range(len(result))))
    if kind == 'vector':
        left = draw(st.booleans())
        matrix = torch.randn(*batch, rows, inner)
        x, y = (torch.randn(rows), matrix) if left else (matrix, torch.randn(inner))
        axes = tuple(range(matrix.ndim - 1))
        return Case('aten.matmul.default', (X, Y), {'x': x, 'y': y}, axes)
    if kind in ('mm', 'addmm'):
        tensors = {'x': torch.randn(rows, inner), 'y': torch.randn(inner, columns)}
        if kind == 'mm':
            return Case('aten.mm.default', (X, Y), tensors, (0, 1))
        shape = draw(st.sampled_from(((columns,), (rows, columns), (rows, 1), (1, columns))))
        tensors['a'] = torch.randn(shape)
        return Case('aten.addmm.default', (Input('a'), X, Y), tensors, (0, 1))
    if kind == 'bmm':
        tensors = {'x': torch.randn(3, rows, inner), 'y': torch.randn(3, inner, columns)}
        return Case('aten.bmm.default', (X, Y), tensors, (0, 1, 2))
    if kind == 'matmul':
        other = [draw(st.sampled_from((extent, 1))) for extent in batch]
        other = other[draw(st.integers(0, len(other))) :]
        tensors = {
            'x': torch.randn(*batch, rows, inner),
            'y': torch.randn(*other, inner, columns),
        }
        return Case('aten.matmul.default', (X, Y), tensors, tuple(range(len(batch) + 2)))
    keys = draw(st.integers(1, 7))
    tensors = {
        'q': torch.randn(2, 3, rows, inner),
        'k': torch.randn(2, 3, keys, inner),
        'v': torch.randn(2, 3, keys, inner),
    }
    args = tuple(map(Input, tensors))
    if draw(st.booleans()):
        tensors['mask'] = torch.randn(draw(st.sampled_from(((rows, keys), (2, 1, 1, keys)))))
        args = (*args, Input('mask'))
    name = 'aten.scaled_dot_product_attention.default'
    return Case(name, args, tensors, (0, 1, 2), probe=False)


@st.composite
def row_operators(draw):
    """Softmax, sorting, reductions, layer norm, embedding: along other axes than the split one."""
    seeded(draw)
    shape = lists(draw, draw(st.integers(2, 5)), 1, 6)
    x = torch.randn(shape)
    count = len(shape)
    dim = draw(st.integers(-count, count - 1))
    rest = tuple(axis for axis in range(count) if axis != dim % count)
    kind = draw(st.sampled_from('along topk reduce extremum arg norm embedding'.split()))
    if kind == 'along':
        name = draw(st.sampled_from(('softmax.int', 'cumsum.default', 'log_softmax.int')))
        return Case(f'aten.{name}', (X, dim), {'x': x}, rest)
    if kind == 'topk':
        k = draw(st.integers(1, shape[dim]))
        return Case('aten.topk.default', (X, k, dim), {'x': x}, rest, exact=True, probe=False)
    keep = draw(st.booleans())
    dims = draw(st.lists(st.integers(0, count - 1), min_size=1, max_size=count, unique=True))
    left = [axis for axis in range(count) if axis not in dims]
    if kind == 'reduce' and left:
        axes = tuple(left) if keep else tuple(range(len(left)))
        name = draw(st.sampled_from('mean.dim sum.dim_IntList amax.default'.split()))
        return Case(f'aten.{name}', (X, tuple(dims), keep), {'x': x}, axes)
    kept = rest if keep else tuple(range(count - 1))
    if kind == 'extremum':
        return Case('aten.max.dim', (X, dim, keep), {'x': x}, kept, exact=True)
    if kind == 'arg':
        return Case('aten.argmax.default', (X, dim, keep), {'x': x}, kept, exact=True)
    if kind == 'norm':
        last = draw(st.integers(1, count - 1))
        normalized = shape[count - last :]
        tensors = {'x': x, 'w': torch.randn(normalized), 'b': torch.randn(normalized)}
        args = (X, normalized, Input('w'), Input('b'))
        if draw(st.booleans()):
            return Case('aten.layer_norm.default', args, tensors, tuple(range(count - last)))
        args = (*args, 1e-5)
        return Case('aten.native_layer_norm.default', args, tensors, tuple(range(count - last)))
    tensors = {'w': torch.randn(11, 3), 'x': torch.randint(0, 11, shape)}
    args = (Input('w'), X)
    return Case('aten.embedding.default', args, tensors, tuple(range(count)), exact=True)


@st.composite
def arrangements(draw):
    """Views, permutations, joins, splits, slices, scatters, patches."""
    seeded(draw)
    shape = lists(draw, draw(st.integers(2, 5)), 1, 6)
    x, count = torch.randn(shape), len(shape)
    dim = draw(st.integers(-count, count - 1))
    rest = tuple(axis for axis in range(count) if axis != dim % count)
    every = tuple(range(count))
    kind = draw(
        st.sampled_from(
            'permute transpose cat stack split select slice view unfold scatter roll shuffle '
            'expand repeat index'.split()
        )
    )

    def case(name, args, tensors, axes, probe=True):
        return Case(f'aten.{name}', args, tensors, axes, exact=True, probe=probe)

    if kind == 'permute':
        order = tuple(draw(st.permutations(every)))
        return case('permute.default', (X, order), {'x': x}, every)
    if kind == 'transpose':
        return case('transpose.int', (X, dim, draw(st.integers(0, count - 1))), {'x': x}, every)
    if kind in ('cat', 'stack'):
        y = torch.randn([*shape[: dim % count], draw(st.integers(1, 4)), *shape[dim % count + 1 :]])
        if kind == 'cat':
            return case('cat.default', ((X, Y, X), dim), {'x': x, 'y': y}, rest)
        place = draw(st.integers(0, count))
        axes = tuple(axis for axis in range(count + 1) if axis != place)
        return case('stack.default', ((X, X), place), {'x': x}, axes)
    if kind == 'split':
        size = draw(st.integers(1, shape[dim]))
        return case('split.Tensor', (X, size, dim), {'x': x}, rest)
    if kind == 'select':
        place = draw(st.integers(0, shape[dim] - 1))
        return case('select.int', (X, dim, place), {'x': x}, tuple(range(count - 1)))
    if kind == 'slice':
        start = draw(st.integers(0, shape[dim] - 1))
        stop = draw(st.integers(start + 1, shape[dim] + 3))
        start = start - shape[dim] if draw(st.booleans()) else start
        step = draw(st.integers(1, 3))
        return case('slice.Tensor', (X, dim, start, stop, step), {'x': x}, every)
    if kind == 'view':
        return views(draw)
    if kind == 'unfold':
        size = draw(st.integers(1, shape[dim]))
        return case('unfold.default', (X, dim, size, draw(st.integers(1, 3))), {'x': x}, every)
    if kind == 'scatter':
        start = draw(st.integers(0, shape[dim] - 1))
        if draw(st.booleans()):
            y = torch.randn([each for axis, each in enumerate(shape) if axis != dim % count])
            args = (X, Y, dim, start)
            return case('select_scatter.default', args, {'x': x, 'y': y}, rest, probe=False)
        y = torch.randn([e if a != dim % count else e - start for a, e in enumerate(shape)])
        args = (X, Y, dim, start)
        return case('slice_scatter.default', args, {'x': x, 'y': y}, rest, probe=False)
    if kind == 'roll':
        return case('roll.default', (X, (2,), (dim,)), {'x': x}, rest)
    if kind == 'shuffle':
        return shuffles(draw)
    if kind == 'expand':
        source = torch.randn([draw(st.sampled_from((extent, 1))) for extent in shape])
        return case('expand.default', (X, (2, *shape)), {'x': source}, tuple(range(1, count + 1)))
    if kind == 'repeat':
        times = [2 if axis == dim % count else 1 for axis in every]
        return case('repeat.default', (X, times), {'x': x}, rest)
    y = torch.randint(0, shape[dim], (3,))
    return case('index_select.default', (X, dim, Y), {'x': x, 'y': y}, rest)


def views(draw):
    """An outermost axis that is split or merged with others, and ones put in and taken out."""
    groups = [lists(draw, draw(st.integers(1, 3)), 1, 4) for _ in range(draw(st.integers(1, 3)))]
    source = [extent for group in groups for extent in group]
    target, axes = [], []
    for group in groups:
        total = math.prod(group)
        divisors = [each for each in range(1, total + 1) if total % each == 0]
        outer = draw(st.sampled_from(divisors))
        if draw(st.booleans()):
            target.append(1)
        if outer > 1:
            axes.append(len(target))
        target.append(outer)
        target.append(total // outer)
    if not axes:
        source.insert(0, 5)
        target.insert(0, 5)
        axes = [0]
    name = draw(st.sampled_from(('view', 'reshape', '_unsafe_view')))
    x = torch.randn(source)
    return Case(f'aten.{name}.default', (X, tuple(target)), {'x': x}, tuple(axes), exact=True)


def shuffles(draw):
    """Space to depth and back."""
    r, height, width = lists(draw, 3, 1, 4)
    if draw(st.booleans()):
        x = torch.randn(2, 2 * r * r, height, width)
        return Case('aten.pixel_shuffle.default', (X, r), {'x': x}, (0, 2, 3), exact=True)
    x = torch.randn(2, 3, height * r, width * r)
    return Case('aten.pixel_unshuffle.default', (X, r), {'x': x}, (0, 2, 3), exact=True)
