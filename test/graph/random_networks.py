"""Random small networks as graphs: chains, residuals, concatenations, U-Nets, attention."""

from __future__ import annotations

import random
from typing import Any

import torch
from torch import Tensor

from offload_ros.graph.graph import (
    Graph,
    Input,
    Node,
    Parameter,
    Reference,
    TensorSpec,
    Value,
    map_references,
)


class Drawing:
    """Puts operators together and computes them, so that shapes are known. All by one seed."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        torch.manual_seed(seed)
        self.nodes: list[Node] = []
        self.values: dict[Reference, Tensor] = {}
        self.count = self.random.choice((2, 2, 2, 3))  # spatial axes

    def call(self, operator: str, *args: Any) -> Value:
        namespace, name, overload = operator.split('.')
        func = getattr(getattr(getattr(torch.ops, namespace), name), overload)
        result = func(*[map_references(each, self.values.__getitem__) for each in args])
        results = [result] if isinstance(result, Tensor) else list(result)
        node = len(self.nodes)
        outputs = tuple(TensorSpec(tuple(each.shape), each.dtype) for each in results)
        self.nodes.append(Node(node, operator, args, {}, outputs))
        for index, each in enumerate(results):
            self.values[Value(node, index)] = each
        return Value(node)

    def parameter(self, tensor: Tensor) -> Parameter:
        reference = Parameter(f'p{len(self.values)}')
        self.values[reference] = tensor
        return reference

    def shape(self, x: Reference) -> tuple[int, ...]:
        return tuple(self.values[x].shape)

    def conv(self, x, channels=None, kernel=None, stride=None, same=False) -> Value:
        draw, count = self.random, self.count
        inputs = self.shape(x)[1]
        channels = channels or draw.choice((2, 3, 4, 6))
        kernel = kernel or [draw.choice((1, 3, 3, 5)) for _ in range(count)]
        dilation = [draw.choice((1, 1, 1, 2)) for _ in range(count)]
        stride = [1] * count if same else stride or [draw.choice((1, 1, 2)) for _ in range(count)]
        padding = [
            d * (k // 2) if same or draw.random() < 0.8 else draw.randrange(4)
            for k, d in zip(kernel, dilation, strict=True)
        ]
        for place, extent in enumerate(self.shape(x)[2:]):
            if extent + 2 * padding[place] < dilation[place] * (kernel[place] - 1) + 1:
                padding[place] = dilation[place] * (kernel[place] - 1)
        groups = inputs if inputs == channels and draw.random() < 0.4 else 1
        weight = torch.randn(channels, inputs // groups, *kernel) / (inputs * 9) ** 0.5
        bias = self.parameter(torch.randn(channels)) if draw.random() < 0.5 else None
        args = (x, self.parameter(weight), bias, stride, padding, dilation, groups)
        return self.call(f'aten.conv{count}d.default', *args)

    def up_conv(self, x) -> Value:
        inputs, stride = self.shape(x)[1], self.random.choice((1, 2, 2, 3))
        kernel = self.random.choice((1, 2, 3, 4))
        extra = self.random.randrange(stride)
        weight = self.parameter(torch.randn(inputs, 3, *[kernel] * self.count) / inputs)
        padding = min((kernel - 1) // 2, 1)
        args = [[each] * self.count for each in (stride, padding, extra)]
        return self.call(f'aten.conv_transpose{self.count}d.input', x, weight, None, *args)

    def norm(self, x) -> Value:
        channels = self.shape(x)[1]
        values = [self.parameter(torch.rand(channels) + 0.5) for _ in range(4)]
        return self.call('aten.batch_norm.default', x, *values, False, 0.1, 1e-5, False)

    def activation(self, x) -> Value:
        name = self.random.choice('relu silu gelu sigmoid tanh hardswish'.split())
        return self.call(f'aten.{name}.default', x)

    def pool(self, x) -> Value:
        kind, count = self.random.choice(('max', 'avg')), self.count
        if min(self.shape(x)[2:]) < 3:
            return self.activation(x)
        kernel, stride = self.random.choice(((2, 2), (3, 2), (3, 1)))
        padding, ceil = self.random.choice((0, 1)), self.random.random() < 0.3
        args = [[each] * count for each in (kernel, stride, padding)]
        rest = ([1] * count, ceil) if kind == 'max' else (ceil, self.random.random() < 0.5)
        return self.call(f'aten.{kind}_pool{count}d.default', x, *args, *rest)

    def resize(self, x, size=None) -> Value:
        size = size or [
            max(1, min(40, e * self.random.choice((1, 2, 2)))) for e in self.shape(x)[2:]
        ]
        if self.random.random() < 0.5:
            return self.call(
                f'aten.upsample_nearest{self.count}d.default', x, size, *[None] * self.count
            )
        name = 'bilinear2d' if self.count == 2 else 'trilinear3d'
        corners = self.random.random() < 0.5
        args = (x, size, corners, *[None] * self.count)
        return self.call(f'aten.upsample_{name}.default', *args)

    def pad(self, x) -> Value:
        pads = [self.random.randrange(3) for _ in range(2 * self.count)]
        if min(self.shape(x)[2:]) > 2 and self.random.random() < 0.5:
            mode = self.random.choice(('reflection', 'replication'))
            return self.call(f'aten.{mode}_pad{self.count}d.default', x, pads)
        return self.call('aten.constant_pad_nd.default', x, pads, 0.5)

    def gate(self, x) -> Value:
        """Squeeze and excitation: a barrier whose result is broadcast."""
        dims = list(range(2, 2 + self.count))
        y = self.call('aten.mean.dim', x, dims, True)
        y = self.conv(y, self.shape(x)[1], [1] * self.count, same=True)
        return self.call('aten.mul.Tensor', x, self.call('aten.sigmoid.default', y))

    def channel_norm(self, x) -> Value:
        """Layer norm and a linear layer over the channels, as in ConvNeXt."""
        count, channels = self.count, self.shape(x)[1]
        y = self.call('aten.permute.default', x, [0, *range(2, 2 + count), 1])
        weights = [self.parameter(torch.randn(channels)) for _ in range(2)]
        y = self.call('aten.layer_norm.default', y, [channels], *weights)
        y = self.call('aten.linear.default', y, self.parameter(torch.randn(channels, channels)))
        return self.call('aten.permute.default', y, [0, count + 1, *range(1, 1 + count)])

    def along_axis(self, x) -> Value:
        """Softmax over the channels (local) or a spatial axis (a barrier along it)."""
        axis = self.random.choice((1, 1, 2, -1))
        return self.call(f'aten.{self.random.choice(("softmax.int", "cumsum.default"))}', x, axis)

    def residual(self, x) -> Value:
        y = self.conv(x, self.shape(x)[1], same=True)
        if self.random.random() < 0.5:
            y = self.activation(y)
        return self.call('aten.add.Tensor', x, y)

    def dense(self, x) -> Value:
        branches = [x] + [self.conv(x, 2, same=True) for _ in range(self.random.choice((1, 2)))]
        return self.call('aten.cat.default', tuple(branches), 1)

    def halves(self, x) -> Value:
        """Channels are split, one half goes on, both are joined."""
        if self.shape(x)[1] < 2:
            return self.activation(x)
        first = self.call('aten.split.Tensor', x, self.shape(x)[1] - 1, 1)
        second = self.conv(Value(first.node, 1), 2, same=True)
        return self.call('aten.cat.default', (second, first), 1)

    def strided(self, x) -> Value:
        """Space to depth by strided slices of both parities, as in YOLOv5's first layer."""
        axis = 1 + self.count
        if self.shape(x)[axis] < 2:
            return self.activation(x)
        stop = self.shape(x)[axis] // 2 * 2
        parts = [self.call('aten.slice.Tensor', x, axis, first, stop, 2) for first in (0, 1)]
        return self.call('aten.cat.default', tuple(parts), 1)

    def u_net(self, x, depth: int) -> Value:
        x = self.activation(self.conv(x, 3, same=True))
        if depth == 0 or min(self.shape(x)[2:]) < 4:
            return x
        down = self.call(f'aten.max_pool{self.count}d.default', x, [2] * self.count)
        up = self.resize(self.u_net(down, depth - 1), list(self.shape(x)[2:]))
        return self.conv(self.call('aten.cat.default', (x, up), 1), 3, same=True)

    def attention(self, x) -> Value:
        """Tokens of all positions attend to each other, and go back to their places."""
        shape = self.shape(x)
        tokens = self.call('aten.view.default', x, [shape[0], shape[1], -1])
        tokens = self.call('aten.transpose.int', tokens, 1, 2)
        y = self.call('aten.scaled_dot_product_attention.default', *[tokens] * 3)
        y = self.call('aten.add.Tensor', tokens, y)
        return self.call('aten.reshape.default', self.call('aten.transpose.int', y, 1, 2), shape)

    def tail(self, x) -> Value:
        kind = self.random.choice(('none', 'none', 'maximum', 'classes', 'pool'))
        if kind == 'maximum':
            return self.call('aten.amax.default', x, [1])
        if kind == 'none':
            return x
        if kind == 'pool':
            size = [self.random.choice((2, 3)) for _ in range(self.count)]
            x = self.call(f'aten.adaptive_avg_pool{self.count}d.default', x, size)
        flat = self.call('aten.flatten.using_ints', x, 1)
        weight = self.parameter(torch.randn(5, self.shape(flat)[1]) / self.shape(flat)[1] ** 0.5)
        return self.call('aten.linear.default', flat, weight)


STEPS = 'conv conv conv up_conv norm activation pool resize pad gate channel_norm along_axis '
STEPS += 'residual residual dense halves strided'


def random_network(seed: int) -> tuple[Graph, dict[str, Tensor], dict[str, Tensor]]:
    """A graph of 4 to 40 operators on an image or volume of odd and even sizes; its parameters;
    an input."""
    drawing = Drawing(seed)
    draw = drawing.random
    most = 29 if drawing.count == 2 else 11
    shape = [1, draw.choice((1, 3)), *[draw.randrange(5, most) for _ in range(drawing.count)]]
    image = Input('image')
    drawing.values[image] = torch.randn(shape)
    x: Reference = image
    if draw.random() < 0.3:
        x = drawing.u_net(x, draw.choice((1, 2, 3)))
    for _ in range(draw.randrange(2, 9)):
        x = getattr(drawing, draw.choice(STEPS.split()))(x)
        if max(drawing.shape(x)[2:]) > 60:
            x = drawing.pool(x)
    if draw.random() < 0.2 and drawing.values[x][0, 0].numel() < 400:
        x = drawing.attention(x)
    outputs = {'result': drawing.tail(x)}
    if draw.random() < 0.3:
        outputs['inner'] = Value(draw.randrange(len(drawing.nodes)))
    parameters = {
        reference.name: tensor
        for reference, tensor in drawing.values.items()
        if isinstance(reference, Parameter)
    }
    specs = {n: TensorSpec(tuple(each.shape), each.dtype) for n, each in parameters.items()}
    inputs = {'image': TensorSpec(tuple(shape), torch.float32)}
    graph = Graph(f'random{seed}', inputs, specs, tuple(drawing.nodes), outputs)
    return graph, parameters, {'image': drawing.values[image]}
