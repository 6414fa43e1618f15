"""What slices ask for, refuse and leave alone; which operators are local along which axis."""

from __future__ import annotations

import pytest
import torch

from offload_ros.graph.graph import Input
from offload_ros.graph.intervals import NOTHING, WHOLE, Interval
from offload_ros.graph.local import Kind, local_operator
from offload_ros.graph.slices import Slice, input_intervals, required, slice_execute

from .operator_cases import Case, check

X, W = Input('x'), Input('w')


def conv(width=10, padding=1, stride=1):
    tensors = {'x': torch.randn(1, 2, 7, width), 'w': torch.randn(3, 2, 3, 3)}
    args = (X, W, None, (stride, stride), (padding, padding), (1, 1), 1)
    return Case('aten.conv2d.default', args, tensors, (2, 3))


def operator_of(case, axis):
    graph = case.graph()
    return local_operator(graph, graph.nodes[0], axis)


def test_a_convolution_needs_its_halo_only_inside_and_its_weight_whole():
    graph = conv().graph()
    node = graph.nodes[0]
    assert input_intervals(graph, node, 3, Interval(0, 4)) == (Interval(0, 5), WHOLE)
    assert input_intervals(graph, node, 3, Interval(4, 7)) == (Interval(3, 8), WHOLE)
    assert input_intervals(graph, node, 3, Interval(7, 10)) == (Interval(6, 10), WHOLE)


def test_an_empty_interval_needs_nothing_not_even_the_weight():
    assert operator_of(conv(), 3).input_intervals(Interval(5, 5)) == (NOTHING, NOTHING)


def test_a_window_in_the_padding_needs_nothing_and_still_has_a_result():
    case = conv(width=3, padding=6)
    assert operator_of(case, 3).input_intervals(Interval(0, 3)) == (NOTHING, WHOLE)
    check(case, 3, 0, 3)


def test_slices_may_hold_more_than_is_needed():
    case = conv()
    operator = operator_of(case, 3)
    given = Slice(case.tensors['x'][..., 1:9], 1)
    (part,) = slice_execute(operator, Interval(3, 6), [given, case.tensors['w']])
    torch.testing.assert_close(part, case.whole()[0][..., 3:6])


def test_a_slice_that_lacks_a_row_is_refused():
    case = conv()
    operator = operator_of(case, 3)
    given = Slice(case.tensors['x'][..., 3:7], 3)
    with pytest.raises(ValueError, match=r'holds \[3, 7\) along axis 3, and \[2, 7\) is needed'):
        slice_execute(operator, Interval(3, 6), [given, case.tensors['w']])


def test_intervals_outside_of_the_output_are_refused():
    operator = operator_of(conv(), 3)
    for interval in (Interval(-1, 3), Interval(3, 11)):
        with pytest.raises(ValueError, match='has 10 indices along its split axis'):
            operator.input_intervals(interval)
    with pytest.raises(ValueError, match='an empty interval has nothing to compute'):
        slice_execute(operator, NOTHING, [])
    with pytest.raises(ValueError, match='has 2 tensor arguments, not 1'):
        slice_execute(operator, Interval(0, 1), [torch.zeros(1)])


def test_a_barrier_is_refused_with_its_name():
    graph = Case('aten.softmax.int', (X, -1), {'x': torch.randn(2, 5)}, ()).graph()
    with pytest.raises(ValueError, match=r'softmax.int\) is a barrier along axis 1'):
        required(graph, graph.nodes[0], 1)


def test_broadcast_operands_of_extent_one_need_no_slice():
    tensors = {'x': torch.randn(1, 3, 4, 9), 'w': torch.randn(3, 1, 1)}
    operator = operator_of(Case('aten.mul.Tensor', (X, W), tensors, ()), 3)
    assert operator.input_intervals(Interval(2, 5)) == (Interval(2, 5), WHOLE)


def test_a_tensor_that_stands_twice_may_be_needed_in_two_ways():
    case = Case('aten.mm.default', (X, X), {'x': torch.randn(6, 6)}, (0, 1))
    assert operator_of(case, 0).input_intervals(Interval(2, 4)) == (Interval(2, 4), WHOLE)
    assert operator_of(case, 1).input_intervals(Interval(2, 4)) == (WHOLE, Interval(2, 4))
    check(case, 0, 2, 4)


def test_places_of_maxima_are_those_in_the_whole_plane():
    x = -torch.arange(63.0).view(1, 1, 7, 9)
    args = (X, (3, 3), (2, 2), (1, 1), (1, 1), True)
    case = Case('aten.max_pool2d_with_indices.default', args, {'x': x}, (2, 3), exact=True)
    for start in range(5):
        check(case, 3, start, 5)


@pytest.mark.parametrize('axis', [2, 3])
def test_a_cut_of_a_vector_view_of_rows_keeps_the_outermost_axis(axis):
    """(1, 3, 4, 5) as (1, 3, 20): H is the outermost of the two, W interleaves."""
    x = torch.randn(1, 3, 4, 5)
    case = Case('aten.view.default', (X, (1, 3, 20)), {'x': x}, (2,), exact=True)
    operator = operator_of(case, 2)
    assert operator.relations[0].axis == 2
    assert operator.input_intervals(Interval(7, 11)) == (Interval(1, 3),)
    check(case, 2, 7, 11)


BARRIERS = {
    'softmax over the axis': ('aten.softmax.int', (X, -1), 3),
    'cumulative sum along it': ('aten.cumsum.default', (X, 3), 3),
    'joining along it': ('aten.cat.default', ((X, X), 3), 3),
    'splitting along it': ('aten.split.Tensor', (X, 2, 3), 3),
    'flattening that merges it': ('aten.flatten.using_ints', (X, 1), 1),
    'a global pool': ('aten.adaptive_avg_pool2d.default', (X, (1, 1)), 3),
    'a mean over it': ('aten.mean.dim', (X, (2, 3), True), 3),
    'a mean over everything': ('aten.mean.default', (X,), 0),
    'turning it round': ('aten.flip.default', (X, (3,)), 3),
    'normalising over it': ('aten.group_norm.default', (X, 1), 3),
    'an operator without a rule': ('aten.fft_fft.default', (X,), 3),
}


@pytest.mark.parametrize('what', BARRIERS)
def test_these_are_barriers(what):
    operator, args, axis = BARRIERS[what]
    case = Case(operator, args, {'x': torch.randn(1, 4, 6, 8)}, ())
    found = operator_of(case, axis)
    # A merge is local along the outermost of the axes it merges, never along the one split here.
    assert found is None or found.relations[0].axis != 3


KINDS = {
    'relu': ('aten.relu.default', (X,), Kind.ELEMENT_WISE),
    'a convolution': ('aten.conv2d.default', (X, W), Kind.BLOCK_WISE),
    'up-sampling': ('aten.upsample_nearest2d.default', (X, (12, 16)), Kind.BLOCK_WISE),
    'padding': ('aten.constant_pad_nd.default', (X, (1, 1)), Kind.BLOCK_WISE),
    'a norm of channels': ('aten.softmax.int', (X, 1), Kind.ROW_WISE),
    'joined channels': ('aten.cat.default', ((X, X), 1), Kind.ELEMENT_WISE),
}


@pytest.mark.parametrize('what', KINDS)
def test_kinds_are_those_of_the_paper(what):
    operator, args, kind = KINDS[what]
    tensors = {'x': torch.randn(1, 4, 6, 8)}
    if W in args:
        tensors['w'] = torch.randn(4, 4, 3, 3)
    assert operator_of(Case(operator, args, tensors, ()), 3).kind is kind


def test_attention_rows_follow_the_query_and_causal_ones_do_not():
    tensors = {name: torch.randn(1, 2, 5, 4) for name in 'qkv'}
    args = tuple(map(Input, 'qkv'))
    name = 'aten.scaled_dot_product_attention.default'
    operator = operator_of(Case(name, args, tensors, ()), 2)
    assert operator.input_intervals(Interval(1, 3)) == (Interval(1, 3), WHOLE, WHOLE)
    assert operator_of(Case(name, (*args, None, 0.0, True), tensors, ()), 2) is None


def test_training_batch_norm_and_active_dropout_are_barriers():
    x = torch.randn(2, 3, 4, 5)
    args = (X, None, None, None, None, True, 0.1, 1e-5, False)
    assert operator_of(Case('aten.batch_norm.default', args, {'x': x}, ()), 3) is None
    assert operator_of(Case('aten.dropout.default', (X, 0.5, True), {'x': x}, ()), 3) is None
    assert operator_of(Case('aten.dropout.default', (X, 0.5, False), {'x': x}, ()), 3) is not None
    assert operator_of(Case('aten.rand_like.default', (X,), {'x': x}, ()), 3) is None


@pytest.mark.parametrize('extent', [4, 9])
def test_an_argument_given_whole_is_cut_to_the_interval(extent):
    case = conv(width=extent)
    (part,) = slice_execute(operator_of(case, 3), Interval(1, 3), list(case.tensors.values()))
    torch.testing.assert_close(part, case.whole()[0][..., 1:3])


def test_a_window_of_lowest_values_names_its_first_place_within_the_plane():
    x = torch.full((1, 1, 3, 8), -torch.inf)
    args = (X, (1, 3), (1, 1), (0, 1), (1, 2))
    case = Case('aten.max_pool2d_with_indices.default', args, {'x': x}, (3,), exact=True)
    check(case, 3, 0, 3)
    check(case, 3, 3, 6)


@pytest.mark.parametrize('axis', [2, 3])
def test_same_padding_of_even_kernels_puts_the_odd_one_after(axis):
    tensors = {'x': torch.randn(1, 2, 7, 9), 'w': torch.randn(3, 2, 4, 2)}
    args = (X, W, None, (1, 1), 'same', (1, 1))
    case = Case('aten.conv2d.padding', args, tensors, (2, 3))
    for start in range(6):
        check(case, axis, start, 6)


@pytest.mark.parametrize('name', ['bilinear2d', 'nearest2d', '_nearest_exact2d'])
def test_a_factor_that_leaves_the_extent_as_it_is_copies(name):
    name = f'_upsample{name}' if name.startswith('_') else f'upsample_{name}'
    corners = (False,) if 'bilinear' in name else ()
    args = (X, None, *corners, (1.25, 1.3))
    case = Case(f'aten.{name}.vec', args, {'x': torch.randn(1, 2, 2, 3)}, (2, 3))
    for axis in (2, 3):
        check(case, axis, 0, 2)
        check(case, axis, 1, 2)


def test_columns_of_a_product_are_those_of_a_right_matrix_without_batch():
    tensors = {'x': torch.randn(2, 3, 4, 5), 'w': torch.randn(5, 7)}
    case = Case('aten.matmul.default', (X, W), tensors, ())
    assert operator_of(case, 3).input_intervals(Interval(2, 6)) == (WHOLE, Interval(2, 6))
    check(case, 3, 2, 6)
