import pytest
import torch

from offload_ros.graph.graph import Graph, GraphError, Input, Node, Parameter, TensorSpec, Value
from offload_ros.graph.layout import gapped_strides, laid_out, order_of
from offload_ros.graph.operators import find

ROW = TensorSpec((3,), torch.float32)


def node(index, *args, outputs=(ROW,), **kwargs):
    return Node(index, 'aten.add.Tensor', args, kwargs, outputs)


def graph(*nodes, outputs=None):
    return Graph('g', {'x': ROW}, {'w': ROW}, nodes, outputs or {'y': Value(len(nodes) - 1)})


def test_a_node_names_what_it_reads_once_and_in_order():
    one = Node(
        2,
        'aten.cat.default',
        ((Value(1), Input('x'), (Value(0), Value(1))),),
        {'w': Parameter('w')},
        (),
    )
    assert one.references == (Value(1), Input('x'), Value(0), Parameter('w'))
    assert one.predecessors == (0, 1)


def test_consumers_are_known_for_values_inputs_and_parameters():
    found = graph(node(0, Input('x'), Parameter('w')), node(1, Value(0), Input('x'))).consumers
    assert found == {Input('x'): (0, 1), Parameter('w'): (0,), Value(0): (1,)}


@pytest.mark.parametrize(
    'nodes, outputs, said',
    [
        ((node(0, Value(0)),), None, 'later node 0'),
        ((node(0, Value(1)), node(1, Value(0))), None, 'later node 1'),
        ((node(1, Input('x')),), {'y': Input('x')}, 'stands at place 0'),
        ((node(0, Input('z')),), None, 'does not exist'),
        ((node(0, Parameter('v')),), None, 'does not exist'),
        ((node(0, Input('x')),), {'y': Value(0, 1)}, 'does not exist'),
        ((node(0, Input('x')),), {'y': Value(-1)}, 'does not exist'),
        ((node(0, (None, (Value(7),))),), None, 'does not exist'),
    ],
)
def test_a_graph_that_contradicts_itself_is_refused(nodes, outputs, said):
    with pytest.raises(GraphError, match=said):
        graph(*nodes, outputs=outputs)


def test_a_graph_without_outputs_is_refused():
    with pytest.raises(GraphError, match='no outputs'):
        Graph('g', {}, {}, (), {})


def test_bytes_are_known_only_where_the_shape_is():
    assert TensorSpec((2, 3), torch.float64).nbytes == 48
    assert TensorSpec((), torch.bool).nbytes == 1
    with pytest.raises(GraphError, match='not known'):
        _ = TensorSpec((2, None), torch.float64).nbytes


@pytest.mark.parametrize(
    'tensor, order',
    [
        (torch.zeros(2, 3, 4, 5), None),
        (torch.zeros(2, 3, 4, 5).to(memory_format=torch.channels_last), (0, 2, 3, 1)),
        (torch.zeros(3, 4).t(), (1, 0)),
        (torch.zeros(2, 3, 8).transpose(1, 2)[:, ::2], (0, 2, 1)),
        (torch.zeros(3, 1).expand(3, 4), None),
        (torch.zeros(()), None),
        (torch.zeros(0, 3), None),
        (torch.zeros(4, 5, 6).permute(2, 0, 1), (1, 2, 0)),
    ],
)
def test_the_memory_order_of_a_tensor_is_restored_after_a_link_lost_it(tensor, order):
    if 0 not in tensor.stride():
        tensor.copy_(torch.arange(tensor.numel()).view(tensor.shape))
    assert order_of(tensor.shape, tensor.stride()) == order
    restored = laid_out(tensor.contiguous().clone(), order)
    assert torch.equal(restored, tensor)
    assert order_of(restored.shape, restored.stride()) == order


@pytest.mark.parametrize(
    'view',
    [
        lambda x: x[:, 1:3],
        lambda x: x[::2, :, 1],
        lambda x: x[:, :1].expand(4, 5, 6),
        lambda x: x.unfold(2, 3, 1),
        lambda x: x.transpose(0, 2)[1:, ::3],
        lambda x: x[0, 0, 0],
        lambda x: x[:, 2:2],
    ],
)
def test_a_view_with_gaps_or_repeats_lies_as_it_did_after_a_link(view):
    tensor = view(torch.randn(4, 5, 6))
    strides = gapped_strides(tensor.shape, tensor.stride())
    order = order_of(tensor.shape, tensor.stride())
    restored = laid_out(tensor.contiguous().clone(), order, strides)
    assert torch.equal(restored, tensor)
    if tensor.numel() > 1:
        assert strides is not None and restored.stride() == tensor.stride()


@pytest.mark.parametrize(
    'name, said',
    [
        ('aten.from_file.default', 'not among those'),
        ('aten::relu', 'names no operator'),
        ('os.system.default', 'not among those'),
        ('aten.set_.source_Tensor', 'not among those'),
        ('aten.add_.Tensor', 'not a function'),
        ('aten.add.out', 'not a function'),
        ('aten.add.str', 'not a function'),
        ('aten.empty.memory_format', 'not among those'),
        ('aten.relu.nothing', 'has no operator'),
        ('aten.__class__.default', 'not among those'),
        ('number.pow.default', 'no arithmetic'),
        ('offload_ros.eval.default', 'not among those'),
        ('aten.relu.default\n', 'names no operator'),
        ('aten._reshape_alias.default', 'not among those'),
    ],
)
def test_operators_that_a_graph_may_not_hold_are_refused(name, said):
    with pytest.raises(GraphError, match=said):
        find(name)


def test_an_operator_that_could_draw_is_told_from_one_that_does():
    dropout, attention = (
        find('aten.dropout.default'),
        find('aten.scaled_dot_product_attention.default'),
    )
    x = Input('x')
    assert dropout.draws((x, 0.5, True), {}) and not dropout.draws((x, 0.5, False), {})
    assert attention.draws((x, x, x, None, 0.1), {}) and not attention.draws((x, x, x), {})
    assert find('aten.bernoulli.default').draws((x,), {})
    assert not find('aten.relu.default').draws((x,), {})
