"""Graphs run in parts: any partition gives what the whole gives, and only what must crosses."""

from __future__ import annotations

from functools import cache
import time

import pytest
import torch

from offload_ros.graph.capture import capture
from offload_ros.graph.classify import classify
from offload_ros.graph.execute import Executor
from offload_ros.graph.graph import Graph, GraphError, Input, Node, Parameter, TensorSpec, Value
from offload_ros.graph.intervals import NOTHING, WHOLE, Interval
from offload_ros.graph.local import Kind
from offload_ros.graph.partition import Partition, Transfer, needed_intervals, shares_at
from offload_ros.graph.partition_run import PartValues, run_partition

from ..draws import examples
from .networks import NETWORKS, build
from .partition_cases import EVERYTHING, check_partition, random_partition
from .random_networks import random_network


@cache
def captured(name):
    module, inputs = build(name)
    graph, parameters = capture(module, inputs, name)
    return graph, parameters, inputs


def image(*shape):
    return TensorSpec(shape, torch.float32)


def convolutions(count=2, width=20):
    """A chain of 3x3 convolutions on (1, 1, 4, width)."""
    nodes, x = [], Input('x')
    for id in range(count):
        args = (x, Parameter('w'), None, (1, 1), (1, 1))
        nodes.append(Node(id, 'aten.conv2d.default', args, {}, (image(1, 1, 4, width),)))
        x = Value(id)
    specs = {'x': image(1, 1, 4, width)}
    return Graph('chain', specs, {'w': image(1, 1, 3, 3)}, tuple(nodes), {'y': x})


def halves(split, halo=0, at=0.5):
    shares = {
        id: shares_at([round(each.extent * at)], each.extent)
        for id, each in split.operators.items()
    }
    owners = {id: 0 for id, kind in enumerate(split.kinds) if kind is Kind.BARRIER}
    # The robot wants all of the results: it is not to compute them all by itself.
    results = {each.node for each in split.graph.outputs.values()}
    return Partition(2, shares, owners, {id: halo for id in shares if id not in results})


def test_an_exchanged_halo_is_one_row_each_way():
    split = classify(convolutions())
    flow = needed_intervals(split, halves(split))
    row = 4 * 4  # 4 float32 in a column
    assert flow.computed == {0: shares_at([10], 20), 1: shares_at([10], 20)}
    assert flow.transfers == (
        Transfer(Input('x'), 0, 1, Interval(9, 20), 11 * row),
        Transfer(Value(0), 0, 1, Interval(9, 10), row),
        Transfer(Value(0), 1, 0, Interval(10, 11), row),
        Transfer(Value(1), 1, 0, Interval(10, 20), 10 * row),
    )
    assert flow.bytes_between(0, 1) == 12 * row
    assert flow.bytes_between(1, 0) == 11 * row


def test_a_recomputed_halo_crosses_only_at_the_input():
    split = classify(convolutions())
    flow = needed_intervals(split, halves(split, halo=1))
    assert flow.computed[0] == (Interval(0, 11), Interval(9, 20))
    assert [each.value for each in flow.transfers] == [Input('x'), Value(1)]
    assert flow.transfers[0].interval == Interval(8, 20)


def test_a_halo_may_be_recomputed_in_part():
    """The second operator needs 8 rows beyond its part of the first: 3 computed, 5 sent."""
    split = classify(convolutions())
    partition = Partition(2, {0: shares_at([10], 20), 1: shares_at([17], 20)}, {}, halo_rows={0: 3})
    flow = needed_intervals(split, partition)
    assert flow.computed[0] == (Interval(0, 13), Interval(13, 20))
    sent = [each for each in flow.transfers if each.value == Value(0)]
    assert sent == [Transfer(Value(0), 1, 0, Interval(13, 18), 5 * 16)]


def test_a_part_without_rows_of_an_operator_computes_and_gets_nothing():
    split = classify(convolutions())
    flow = needed_intervals(split, halves(split, at=1.0))
    assert flow.computed == {0: (Interval(0, 20), NOTHING), 1: (Interval(0, 20), NOTHING)}
    assert flow.transfers == ()


def test_rows_that_nobody_needs_are_not_computed():
    """A stride of 2 and a kernel of 1 leave the last row unread."""
    nodes = (
        Node(0, 'aten.relu.default', (Input('x'),), {}, (image(1, 1, 4, 20),)),
        Node(
            1,
            'aten.max_pool2d.default',
            (Value(0), (1, 1), (2, 2)),
            {},
            (image(1, 1, 2, 10),),
        ),
    )
    graph = Graph('strided', {'x': image(1, 1, 4, 20)}, {}, nodes, {'y': Value(1)})
    split = classify(graph)
    assert needed_intervals(split, halves(split)).computed[0] == (
        Interval(0, 9),
        Interval(10, 19),
    )


def test_what_nobody_reads_is_computed_by_nobody():
    graph = convolutions()
    dead = Node(2, 'aten.relu.default', (Value(0),), {}, (image(1, 1, 4, 20),))
    graph = Graph('dead', graph.inputs, graph.parameters, (*graph.nodes, dead), graph.outputs)
    split = classify(graph)
    assert needed_intervals(split, halves(split)).computed[2] == (NOTHING, NOTHING)


def test_the_split_axis_is_the_width_of_an_image_unless_told():
    graph, _, _ = captured('unet')
    assert classify(graph).axes[Input('image')] == 3
    assert classify(graph, {'image': 2}).axes[Input('image')] == 2
    assert classify(graph, {'image': -2}).axes[Input('image')] == 2


def test_the_split_axis_is_followed_through_a_permutation_and_preprocessing():
    graph, _, _ = captured('yolo')  # uint8 (1, 47, 59, 3)
    split = classify(graph)
    assert split.axes[Input('image')] == 2
    widths = {node.id: split.extent(Value(node.id)) for node in graph.nodes}
    assert widths[graph.nodes[0].id] == 59


def test_barriers_of_known_networks_are_their_tails():
    barriers = {
        'vgg': ['view', 'linear', 'linear', 'linear'],
        'resnet': ['adaptive_avg_pool2d', 'view', 'linear'],
        'densenet': ['mean', 'linear'],
        'unet': [],
        'unet3d': [],
    }
    for name, expected in barriers.items():
        split = classify(captured(name)[0])
        found = [
            node.operator.split('.')[1]
            for node in split.graph.nodes
            if split.kinds[node.id] is Kind.BARRIER
        ]
        assert found == expected, name


def rows_match(found, expected):
    """Each detection has one like it: equal scores within rounding may change places."""
    assert found.shape == expected.shape
    atol = 1e-5 * float(expected.abs().max())
    near = torch.isclose(found[:, None], expected[None], rtol=1e-4, atol=atol).all(-1)
    assert near.any(0).all()
    assert near.any(1).all()


@pytest.mark.parametrize('name', NETWORKS)
def test_any_partition_of_a_network_equals_the_whole(name):
    graph, parameters, inputs = captured(name)
    split = classify(graph)
    for seed in range(examples(4, 12)):
        partition = random_partition(split, seed)
        if name == 'yolo_tail':
            whole = Executor(graph, parameters)(inputs)
            parted = run_partition(split, parameters, inputs, partition)
            rows_match(parted['output'], whole['output'])
        else:
            check_partition(split, parameters, inputs, partition)


@pytest.mark.parametrize('axis', [2, 3])
def test_networks_are_split_along_either_axis_of_the_image(axis):
    graph, parameters, inputs = captured('resnet')
    split = classify(graph, {'image': axis})
    for seed in range(4):
        check_partition(split, parameters, inputs, random_partition(split, seed))


def random_networks(seeds, partitions):
    for seed in seeds:
        graph, parameters, inputs = random_network(seed)
        axis = (None, -1, -2)[seed % 3]
        split = classify(graph, None if axis is None else {'image': axis})
        for each in range(partitions):
            partition = random_partition(split, seed * partitions + each)
            check_partition(split, parameters, inputs, partition)


def test_any_partition_of_a_random_network_equals_the_whole():
    random_networks(range(40), 2)


@pytest.mark.long
def test_any_partition_of_a_thousand_random_networks_equals_the_whole():
    random_networks(range(1000, 2000), 4)


def test_element_wise_networks_are_bit_equal():
    """What does not sum has no order of summation to change."""
    nodes = (
        Node(0, 'aten.relu.default', (Input('x'),), {}, (image(1, 2, 9, 31),)),
        Node(1, 'aten.max_pool2d.default', (Value(0), (3, 3), (1, 1), (1, 1)), {},
             (image(1, 2, 9, 31),)),
        Node(2, 'aten.reflection_pad2d.default', (Value(1), (2, 3, 0, 0)), {},
             (image(1, 2, 9, 36),)),
        Node(3, 'aten.cat.default', ((Value(2), Value(2)), 1), {}, (image(1, 4, 9, 36),)),
    )  # fmt: skip
    graph = Graph('exact', {'x': image(1, 2, 9, 31)}, {}, nodes, {'y': Value(3)})
    split = classify(graph)
    x = {'x': torch.randn(1, 2, 9, 31)}
    whole = Executor(graph, {})(x)['y']
    for seed in range(30):
        parted = run_partition(split, {}, x, random_partition(split, seed))['y']
        assert torch.equal(parted, whole)


@pytest.mark.parametrize('name', NETWORKS)
def test_operators_that_are_not_divided_give_the_bits_of_the_whole(name):
    """A layer cut with the parts taking turns: no operator has two parts."""
    graph, parameters, inputs = captured(name)
    split = classify(graph)
    shares = {}
    for id, each in split.operators.items():
        all_of_it = Interval(0, each.extent)
        shares[id] = (all_of_it, NOTHING) if id // 5 % 2 else (NOTHING, all_of_it)
    owners = {node.id: node.id // 3 % 2 for node in graph.nodes if node.id not in shares}
    parted = run_partition(split, parameters, inputs, Partition(2, shares, owners))
    for each, whole in Executor(graph, parameters)(inputs).items():
        assert torch.equal(parted[each], whole)


def test_recomputing_everything_needs_no_exchange_between_operators():
    graph, parameters, inputs = captured('unet3d')
    split = classify(graph)
    partition = halves(split, halo=EVERYTHING)
    flow = needed_intervals(split, partition)
    assert {each.value for each in flow.transfers} == {
        Input('image'),
        *graph.outputs.values(),
    }
    check_partition(split, parameters, inputs, partition)


def test_a_barrier_in_the_middle_gets_all_and_gives_each_part_its_rows():
    width = 20
    nodes = (
        Node(0, 'aten.relu.default', (Input('x'),), {}, (image(1, 1, 4, width),)),
        Node(1, 'aten.cumsum.default', (Value(0), 3), {}, (image(1, 1, 4, width),)),
        Node(2, 'aten.relu.default', (Value(1),), {}, (image(1, 1, 4, width),)),
    )
    graph = Graph('barrier', {'x': image(1, 1, 4, width)}, {}, nodes, {'y': Value(2)})
    split = classify(graph, {'x': 3})
    assert split.kinds[1] is Kind.BARRIER
    flow = needed_intervals(split, halves(split))
    assert flow.computed[1] == (WHOLE, NOTHING)
    crossing = {(each.value, each.source): each.interval for each in flow.transfers}
    assert crossing[Value(0), 1] == Interval(10, width)
    assert crossing[Value(1), 0] == Interval(10, width)


def test_sizes_known_only_at_run_time_cross_without_a_number_of_bytes():
    graph, _, _ = captured('yolo_tail')
    split = classify(graph)
    partition = halves(split)
    owners = dict(partition.owners)
    last = max(owners)
    owners[last] = 1
    flow = needed_intervals(split, Partition(2, partition.shares, owners))
    assert any(each.bytes is None for each in flow.transfers)
    with pytest.raises(GraphError, match='known only when it is there'):
        flow.bytes_between(0, 1)


def test_partitions_that_do_not_fit_are_refused():
    split = classify(convolutions())
    good = halves(split)
    with pytest.raises(ValueError, match='node 1 needs one share for each of the 2 parts'):
        needed_intervals(split, Partition(2, {0: good.shares[0]}, {}))
    for wrong in ((Interval(0, 9), Interval(10, 20)), (Interval(0, 11), Interval(10, 20))):
        with pytest.raises(ValueError, match='have to cover its 20 indices once'):
            needed_intervals(split, Partition(2, {**good.shares, 1: wrong}, {}))
    with pytest.raises(ValueError, match='parts are numbered from 0 to 1'):
        needed_intervals(split, Partition(2, good.shares, {}, outputs=2))
    with pytest.raises(ValueError, match='cut points have to ascend within 0 and 20'):
        shares_at([12, 11], 20)
    with pytest.raises(ValueError, match="has no input 'y', only x"):
        classify(convolutions(), {'y': 3})
    with pytest.raises(ValueError, match="input 'x' has 4 axes, none is 4"):
        classify(convolutions(), {'x': 4})


def test_a_barrier_without_an_owner_is_refused_by_name():
    graph, _, _ = captured('resnet')
    split = classify(graph)
    with pytest.raises(ValueError, match=r'adaptive_avg_pool2d.default\) is a barrier: name the'):
        needed_intervals(split, Partition(2, halves(split).shares, {}))


def test_a_value_that_is_split_along_another_axis_is_needed_whole():
    """x + x^T: the split axis of the second operand is the other one."""
    spec = image(1, 1, 6, 6)
    nodes = (
        Node(0, 'aten.transpose.int', (Input('x'), 2, 3), {}, (spec,)),
        Node(1, 'aten.add.Tensor', (Input('x'), Value(0)), {}, (spec,)),
    )
    split = classify(Graph('turned', {'x': spec}, {}, nodes, {'y': Value(1)}), {'x': 3})
    assert split.axes[Value(0)] == 2
    assert split.axes[Value(1)] in (2, 3)
    flow = needed_intervals(split, halves(split))
    turned = split.axes[Value(1)] == 3
    crossing = [each.interval for each in flow.transfers if each.value == Value(0)]
    assert crossing == ([Interval(0, 3), Interval(3, 6)] if turned else [])
    x = {'x': torch.randn(1, 1, 6, 6)}
    for seed in range(10):
        check_partition(split, {}, x, random_partition(split, seed))


def test_an_operator_of_which_an_output_without_the_axis_is_read_is_a_barrier():
    """Batch norm's statistics are of all columns."""
    spec, channel = image(1, 3, 4, 9), image(3)
    names = ('w', 'b', 'm', 'v')
    args = (Input('x'), *map(Parameter, names), 0.1, 1e-5)
    operator = 'aten._native_batch_norm_legit_no_training.default'
    outputs = (spec, image(0), image(0))
    node = Node(0, operator, args, {}, outputs)
    relu = Node(1, 'aten.relu.default', (Value(0),), {}, (spec,))
    specs = dict.fromkeys(names, channel)
    parameters = {name: torch.rand(3) + 0.5 for name in names}
    for read, kind in (({}, Kind.ELEMENT_WISE), ({'mean': Value(0, 1)}, Kind.BARRIER)):
        graph = Graph('norm', {'x': spec}, specs, (node, relu), {'y': Value(1), **read})
        split = classify(graph)
        assert split.kinds[0] is kind
        for seed in range(6):
            x = {'x': torch.randn(1, 3, 4, 9)}
            check_partition(split, parameters, x, random_partition(split, seed))


def test_a_part_that_lacks_rows_says_so():
    split = classify(convolutions())
    held = PartValues(split, torch.device('cpu'))
    with pytest.raises(LookupError):
        held.get(Value(0), Interval(0, 1))
    x = torch.randn(1, 1, 4, 20)
    held.add(Value(0), x[..., :5], 0)
    held.add(Value(0), x[..., 7:12], 7)
    with pytest.raises(LookupError, match='only up to index 5'):
        held.get(Value(0), Interval(3, 9))
    held.add(Value(0), x[..., 4:8], 4)
    joined = held.get(Value(0), Interval(3, 9))
    assert torch.equal(joined.tensor, x[..., 3:9])
    assert joined.start == 3


def test_parameters_and_what_follows_from_them_never_cross():
    spec = image(1, 2, 4, 20)
    nodes = (
        Node(0, 'aten.mul.Tensor', (Parameter('p'), Parameter('p')), {}, (spec,)),
        Node(1, 'aten.add.Tensor', (Input('x'), Value(0)), {}, (spec,)),
    )
    graph = Graph('constant', {'x': spec}, {'p': spec}, nodes, {'y': Value(1), 'p': Value(0)})
    split = classify(graph)
    assert split.kinds[0] is Kind.CONSTANT
    flow = needed_intervals(split, halves(split))
    assert {each.value for each in flow.transfers} == {Input('x'), Value(1)}
    x = {'x': torch.randn(1, 2, 4, 20)}
    check_partition(split, {'p': torch.randn(1, 2, 4, 20)}, x, halves(split))


def test_a_graph_of_six_hundred_operators_is_classified_and_followed_in_a_second():
    graph = convolutions(600, 64)
    start = time.process_time()
    split = classify(graph)
    for cut in range(1, 11):
        needed_intervals(split, halves(split, halo=cut % 3, at=cut / 11))
    assert time.process_time() - start < 5.0  # 0.7 s on an idle machine


def test_windows_for_a_profile_are_those_of_the_architecture():
    split = classify(convolutions())
    assert split.window(0) == (3, 1, 1)
    graph, _, _ = captured('unet')
    split = classify(graph)
    found = {
        node.operator.split('.')[1]: split.window(node.id)
        for node in graph.nodes
        if split.window(node.id) is not None
    }
    assert found['max_pool2d'] == (2, 2, 0)
    assert found['cat'] == (1, 1, 0)
    graph, _, _ = captured('resnet')
    split = classify(graph)
    barriers = [node.id for node in graph.nodes if split.kinds[node.id] is Kind.BARRIER]
    assert all(split.window(id) is None for id in barriers)
