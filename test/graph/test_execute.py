import random

import pytest
import torch

from offload_ros.graph.capture import capture
from offload_ros.graph.cuts import crossing_bytes, layer_cut, run_layer_cut
from offload_ros.graph.execute import Executor
from offload_ros.graph.graph import GraphError, Input, Value

from .conftest import captured
from .equality import assert_same, flat_outputs, same_bits
from .networks import NETWORKS


def over_a_link(side, reference, tensor):
    """What a link keeps of a tensor: its elements, row-major."""
    return tensor.contiguous().clone()


class Machines:
    """Robot and server with their own copies of the parameters."""

    def __init__(self, name, method='trace'):
        self.model, self.example, self.graph, parameters = captured(name, method)
        self.robot = Executor(self.graph, parameters)
        self.server = Executor(self.graph, {key: each.clone() for key, each in parameters.items()})

    def run(self, on_robot, **options):
        stages = layer_cut(self.graph, on_robot)
        carry = options.pop('carry', over_a_link)
        return run_layer_cut(stages, self.robot, self.server, self.example, carry, **options)


@pytest.mark.parametrize('name', NETWORKS)
def test_a_cut_at_each_node_gives_the_bits_of_the_whole(name):
    machines = Machines(name)
    expected = flat_outputs(machines.model, machines.example)
    for count in range(len(machines.graph.nodes) + 1):
        assert_same(machines.run(range(count)), expected)


@pytest.mark.parametrize('name', NETWORKS)
def test_cuts_that_cross_in_both_directions_give_the_bits_of_the_whole(name):
    machines = Machines(
        name, 'export' if name in ('vit', 'convnext', 'alias', 'yolo_tail') else 'trace'
    )
    expected = flat_outputs(machines.model, machines.example)
    choice = random.Random(name)
    nodes = range(len(machines.graph.nodes))
    for share in (0.1, 0.5, 0.5, 0.9):
        assert_same(machines.run([each for each in nodes if choice.random() < share]), expected)


def test_each_node_of_a_cut_runs_once_and_on_its_side():
    machines = Machines('unet')
    nodes = range(len(machines.graph.nodes))
    on_robot = {each for each in nodes if each % 3}
    ran = {'robot': [], 'server': []}

    def hook_of(side):
        def hook(node, compute):
            ran[side].append(node.id)
            return compute()

        return hook

    machines.run(on_robot, hooks={side: hook_of(side) for side in ran})
    assert sorted(ran['robot']) == sorted(on_robot)
    assert sorted(ran['server']) == sorted(set(nodes) - on_robot)


def test_a_value_that_several_nodes_read_crosses_once():
    machines = Machines('densenet')
    crossed = []

    def carry(side, reference, tensor):
        crossed.append((reference, tensor.nbytes, side))
        return over_a_link(side, reference, tensor)

    on_robot = range(0, 20)
    machines.run(on_robot, carry=carry)
    assert len({reference for reference, _, _ in crossed}) == len(crossed)
    up, down = crossing_bytes(machines.graph, layer_cut(machines.graph, on_robot))
    assert up == sum(size for _, size, side in crossed if side == 'robot') > 0
    assert down == sum(size for _, size, side in crossed if side == 'server') == 44


def test_device_only_sends_nothing_and_server_only_the_input_and_the_result():
    graph = captured('yolo')[2]
    nodes = range(len(graph.nodes))
    (stage,) = layer_cut(graph, nodes)
    assert stage.nodes == tuple(nodes) and stage.sends == ()
    stages = layer_cut(graph, ())
    assert [each.side for each in stages] == ['robot', 'server']
    assert stages[0].sends == (Input('image'),)
    assert stages[1].sends == (graph.outputs['output'],)
    assert crossing_bytes(graph, stages)[0] == 47 * 59 * 3


def test_a_value_in_another_memory_order_is_brought_into_the_models():
    _, example, graph, parameters = captured('convnext', 'export')
    ordered = [
        Value(node.id)
        for node in graph.nodes
        if node.outputs[0].order is not None and node.operator == 'aten.permute.default'
    ]
    assert ordered, 'the network has channels-last values'
    executor = Executor(graph, parameters)
    reference = ordered[0]
    inputs = {Input('image'): example['image']}
    value = executor.run(inputs, range(reference.node + 1), [reference])[reference]
    rest = range(reference.node + 1, len(graph.nodes))
    wanted = list(graph.outputs.values())
    sent = value.contiguous().clone()
    assert sent.stride() != value.stride()
    results = executor.run({reference: sent}, rest, wanted)
    assert same_bits(results[wanted[0]], executor(example)['output'])


def test_only_what_is_wanted_is_computed():
    _, example, graph, parameters = captured('unet')
    ran = []

    def hook(node, compute):
        ran.append(node.id)
        return compute()

    executor = Executor(graph, parameters)
    inputs = {Input('image'): example['image']}
    executor.run(inputs, range(len(graph.nodes)), [Value(5)], hook)
    assert ran and max(ran) == 5
    ran.clear()
    given = {**inputs, Value(4): executor.run(inputs, range(5), [Value(4)])[Value(4)]}
    executor.run(given, range(len(graph.nodes)), [Value(5)], hook)
    assert ran == [5]


def test_values_are_freed_after_their_last_reader():
    class Chain(torch.nn.Module):
        def forward(self, x):
            for _ in range(20):
                x = x + 1.0
            return x

    graph, parameters = capture(Chain().eval(), torch.zeros(1000), method='trace')
    alive, most = [], 0

    def hook(node, compute):
        import weakref

        nonlocal most
        result = compute()
        alive.append(weakref.ref(result))
        most = max(most, sum(each() is not None for each in alive))
        return result

    Executor(graph, parameters)({'x': torch.zeros(1000)}, hook)
    assert most == 2


def test_a_missing_value_is_named():
    _, _, graph, parameters = captured('vgg')
    executor = Executor(graph, parameters)
    wanted = list(graph.outputs.values())
    with pytest.raises(GraphError, match=r'Value\(node=4, output=0\) .* is needed'):
        executor.run({}, range(5, len(graph.nodes)), wanted)
    with pytest.raises(GraphError, match='takes the inputs image'):
        executor({})
    with pytest.raises(GraphError, match='the graph says'):
        executor({'image': torch.zeros(1, 3, 37, 44)})
    with pytest.raises(GraphError, match='has the nodes 0 to'):
        executor.run({}, [len(graph.nodes)], wanted)


def test_parameters_that_are_not_the_graphs_are_refused():
    _, _, graph, parameters = captured('vgg')
    name = next(iter(parameters))
    with pytest.raises(GraphError, match=f'parameter {name} is missing'):
        Executor(graph, {key: each for key, each in parameters.items() if key != name})
    with pytest.raises(GraphError, match='the graph says'):
        Executor(graph, {**parameters, name: parameters[name].double()})


def test_an_output_never_shares_memory_with_a_parameter():
    _, example, graph, parameters = captured('alias')
    before = {name: each.clone() for name, each in parameters.items()}
    executor = Executor(graph, parameters)
    for each in executor(example).values():
        if each.is_floating_point() and not any(s == 0 for s in each.stride()):
            each.zero_()
    for name, each in parameters.items():
        assert torch.equal(each, before[name])
