"""Small networks of the families that robots run, with random weights, in 2-D and 3-D, odd sizes.

``build(name)`` gives a module in evaluation mode and its example inputs by name. The batch norms
have statistics of their own, so that leaving one out shows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
import math

import torch
from torch import Tensor, nn
import torch.nn.functional as F

Example = tuple[nn.Module, dict[str, Tensor]]

CONV = {2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
NORM = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
MAX_POOL = {2: nn.MaxPool2d, 3: nn.MaxPool3d}
AVG_POOL = {2: nn.AvgPool2d, 3: nn.AvgPool3d}
GLOBAL_POOL = {2: nn.AdaptiveAvgPool2d, 3: nn.AdaptiveAvgPool3d}


def conv_norm(dims, inputs, outputs, kernel=3, stride=1, groups=1, dilation=1, activation=None):
    """Convolution, batch norm and an in-place activation (``nn.ReLU`` unless told)."""
    padding = dilation * (kernel // 2)
    return nn.Sequential(
        CONV[dims](
            inputs, outputs, kernel, stride, padding, dilation=dilation, groups=groups, bias=False
        ),
        NORM[dims](outputs),
        (activation or nn.ReLU)(inplace=True),
    )


class Vgg(nn.Module):
    """Convolutions and pools, then a flatten, dropouts and three linear layers."""

    def __init__(self, dims=2, width=8, pooled=3, classes=11):
        super().__init__()
        stages, inputs = [], 3
        for outputs, depth in ((width, 2), (2 * width, 2), (4 * width, 3)):
            for _ in range(depth):
                stages.append(conv_norm(dims, inputs, outputs))
                inputs = outputs
            stages.append(MAX_POOL[dims](2))
        self.features = nn.Sequential(*stages)
        self.pool = GLOBAL_POOL[dims](pooled)
        self.classifier = nn.Sequential(
            nn.Linear(inputs * pooled**dims, 32),
            nn.ReLU(True),
            nn.Dropout(),
            nn.Linear(32, 32),
            nn.ReLU(True),
            nn.Dropout(),
            nn.Linear(32, classes),
        )

    def forward(self, image):
        x = self.pool(self.features(image))
        return self.classifier(torch.flatten(x, 1))


class Bottleneck(nn.Module):
    """ResNet's block of three convolutions; ``groups`` as in ResNeXt."""

    def __init__(self, dims, inputs, inner, stride=1, groups=1):
        super().__init__()
        outputs = 4 * inner
        self.one = conv_norm(dims, inputs, inner, 1)
        self.two = conv_norm(dims, inner, inner, 3, stride, groups)
        self.three = nn.Sequential(CONV[dims](inner, outputs, 1, bias=False), NORM[dims](outputs))
        self.shortcut = None
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                CONV[dims](inputs, outputs, 1, stride, bias=False), NORM[dims](outputs)
            )

    def forward(self, x):
        shortcut = x if self.shortcut is None else self.shortcut(x)
        y = self.three(self.two(self.one(x)))
        y += shortcut
        return F.relu(y, inplace=True)


class ResNet(nn.Module):
    """Stem with a 7-wide convolution and a pool, stages of bottlenecks, global pool, linear."""

    def __init__(self, dims=2, width=8, depths: Sequence[int] = (2, 2, 2), groups=1, classes=11):
        super().__init__()
        self.stem = conv_norm(dims, 3, width, 7, 2)
        self.pool = MAX_POOL[dims](3, 2, 1)
        blocks, inputs = [], width
        for stage, depth in enumerate(depths):
            inner = width * 2**stage
            for block in range(depth):
                stride = 2 if stage and not block else 1
                blocks.append(Bottleneck(dims, inputs, inner, stride, groups))
                inputs = 4 * inner
        self.blocks = nn.Sequential(*blocks)
        self.global_pool = GLOBAL_POOL[dims](1)
        self.head = nn.Linear(inputs, classes)

    def forward(self, image):
        x = self.blocks(self.pool(self.stem(image)))
        return self.head(self.global_pool(x).flatten(1))


class DenseLayer(nn.Module):
    def __init__(self, dims, inputs, growth):
        super().__init__()
        self.norm1, self.norm2 = NORM[dims](inputs), NORM[dims](4 * growth)
        self.conv1 = CONV[dims](inputs, 4 * growth, 1, bias=False)
        self.conv2 = CONV[dims](4 * growth, growth, 3, padding=1, bias=False)

    def forward(self, features):
        x = torch.cat(features, 1)
        x = self.conv1(F.relu(self.norm1(x), inplace=True))
        return self.conv2(F.relu(self.norm2(x), inplace=True))


class DenseNet(nn.Module):
    """Each layer reads all before it; transitions halve channels and extents."""

    def __init__(self, dims=2, growth=4, depths: Sequence[int] = (3, 4, 3), classes=11):
        super().__init__()
        channels = 2 * growth
        self.stem = conv_norm(dims, 3, channels, 7, 2)
        self.pool = MAX_POOL[dims](3, 2, 1)
        self.blocks, self.transitions = nn.ModuleList(), nn.ModuleList()
        for depth in depths:
            layers = [DenseLayer(dims, channels + i * growth, growth) for i in range(depth)]
            self.blocks.append(nn.ModuleList(layers))
            channels += depth * growth
            if len(self.blocks) < len(depths):
                self.transitions.append(
                    nn.Sequential(
                        NORM[dims](channels),
                        nn.ReLU(inplace=True),
                        CONV[dims](channels, channels // 2, 1, bias=False),
                        AVG_POOL[dims](2),
                    )
                )
                channels //= 2
        self.norm = NORM[dims](channels)
        self.head = nn.Linear(channels, classes)
        self.dims = dims

    def forward(self, image):
        x = self.pool(self.stem(image))
        for index, block in enumerate(self.blocks):
            features = [x]
            for layer in block:
                features.append(layer(features))
            x = torch.cat(features, 1)
            if index < len(self.transitions):
                x = self.transitions[index](x)
        x = F.relu(self.norm(x), inplace=True)
        x = x.mean(tuple(range(2, 2 + self.dims)))
        return self.head(x)


class ChannelsLastNorm(nn.Module):
    """Layer norm over the channels of an image whose channels stand first."""

    def __init__(self, channels):
        super().__init__()
        self.norm = nn.LayerNorm(channels, eps=1e-6)

    def forward(self, x):
        return self.norm(x.movedim(1, -1)).movedim(-1, 1)


class ConvNextBlock(nn.Module):
    def __init__(self, dims, channels):
        super().__init__()
        self.depthwise = CONV[dims](channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.up, self.down = nn.Linear(channels, 4 * channels), nn.Linear(4 * channels, channels)
        self.scale = nn.Parameter(torch.rand(channels))

    def forward(self, x):
        y = self.norm(self.depthwise(x).movedim(1, -1))
        y = self.scale * self.down(F.gelu(self.up(y)))
        return x + y.movedim(-1, 1)


class ConvNext(nn.Module):
    """Depthwise 7-wide convolutions, layer norms and linears over channels that stand last."""

    def __init__(self, dims=2, width=8, depths: Sequence[int] = (1, 2), classes=11):
        super().__init__()
        layers = [CONV[dims](3, width, 4, 4), ChannelsLastNorm(width)]
        for stage, depth in enumerate(depths):
            channels = width * 2**stage
            if stage:
                layers += [ChannelsLastNorm(channels // 2)]
                layers += [CONV[dims](channels // 2, channels, 2, 2)]
            layers += [ConvNextBlock(dims, channels) for _ in range(depth)]
        self.features = nn.Sequential(*layers)
        self.norm, self.head = nn.LayerNorm(channels), nn.Linear(channels, classes)

    def forward(self, image):
        x = self.features(image)
        return self.head(self.norm(x.flatten(2).mean(-1)))


class YoloLayer(nn.Module):
    """Residual pair of convolutions beside a shortcut: the C3 block of YOLOv5."""

    def __init__(self, dims, inputs, outputs, depth=1):
        super().__init__()
        half = outputs // 2
        self.left = conv_norm(dims, inputs, half, 1, activation=nn.SiLU)
        self.right = conv_norm(dims, inputs, half, 1, activation=nn.SiLU)
        self.pairs = nn.ModuleList(
            nn.Sequential(
                conv_norm(dims, half, half, 1, activation=nn.SiLU),
                conv_norm(dims, half, half, 3, activation=nn.SiLU),
            )
            for _ in range(depth)
        )
        self.join = conv_norm(dims, outputs, outputs, 1, activation=nn.SiLU)

    def forward(self, x):
        left = self.left(x)
        for pair in self.pairs:
            left = left + pair(left)
        return self.join(torch.cat((left, self.right(x)), 1))


class Yolo(nn.Module):
    """uint8 image (B, H, W, 3) to boxes: backbone, spatial pyramid pooling, up-sampling neck, two
    scales decoded on a grid of anchors. With ``tail`` the detections above a threshold are kept:
    their number depends on the image."""

    def __init__(self, dims=2, width=8, classes=3, tail=False):
        super().__init__()
        self.dims, self.classes, self.tail = dims, classes, tail
        silu = nn.SiLU
        self.stem = conv_norm(dims, 3, width, 6, 2, activation=silu)
        self.down1 = conv_norm(dims, width, 2 * width, 3, 2, activation=silu)
        self.stage1 = YoloLayer(dims, 2 * width, 2 * width)
        self.down2 = conv_norm(dims, 2 * width, 4 * width, 3, 2, activation=silu)
        self.stage2 = YoloLayer(dims, 4 * width, 4 * width, 2)
        self.squeeze = conv_norm(dims, 4 * width, 2 * width, 1, activation=silu)
        self.spp = MAX_POOL[dims](5, 1, 2)
        self.merge = conv_norm(dims, 8 * width, 2 * width, 1, activation=silu)
        self.neck = YoloLayer(dims, 4 * width, 2 * width)
        outputs = 2 * dims + 1 + classes
        self.heads = nn.ModuleList(CONV[dims](2 * width, outputs, 1) for _ in range(2))

    def forward(self, image):
        x = image.movedim(-1, 1).float() / 255
        x = self.stage1(self.down1(self.stem(x)))
        y = self.squeeze(self.stage2(self.down2(x)))
        pooled = [y]
        for _ in range(3):
            pooled.append(self.spp(pooled[-1]))
        y = self.merge(torch.cat(pooled, 1))
        up = F.interpolate(y, size=x.shape[2:], mode='nearest')
        up = self.neck(torch.cat((up, x), 1))
        boxes = torch.cat(
            [self.decoded(h(z)) for h, z in ((self.heads[0], up), (self.heads[1], y))], 1
        )
        return self.kept(boxes) if self.tail else boxes

    def decoded(self, x):
        """(B, outputs, H, W) to (B, H * W, outputs): centres on the grid, sizes, confidences."""
        dims, extents = self.dims, x.shape[2:]
        grid = torch.stack(
            torch.meshgrid(*(torch.arange(n, device=x.device) for n in extents), indexing='ij'), -1
        )
        y = x.movedim(1, -1).contiguous().sigmoid()
        y[..., :dims] = y[..., :dims] * 2 - 0.5 + grid
        y[..., dims : 2 * dims] = (y[..., dims : 2 * dims] * 2) ** 2
        return y.reshape(x.shape[0], -1, y.shape[-1])

    def kept(self, boxes):
        """Detections of the first image that no better one of the same kind covers (the matrix form
        of NMS), strongest first."""
        found = boxes[0]
        found = found[found[:, 2 * self.dims] > 0.5]
        strongest = found[:, 2 * self.dims].argsort(descending=True, stable=True)
        found = found[strongest]
        low = found[:, : self.dims] - found[:, self.dims : 2 * self.dims] / 2
        high = found[:, : self.dims] + found[:, self.dims : 2 * self.dims] / 2
        shared = torch.minimum(high[:, None], high) - torch.maximum(low[:, None], low)
        shared = shared.clamp(min=0).prod(-1)
        area = (high - low).prod(-1)
        overlap = (shared / (area[:, None] + area - shared)).triu(1)
        return found[~(overlap > 0.45).any(0)]


class UNet(nn.Module):
    """Encoder, decoder with transposed convolutions, shortcuts cropped to fit, labels at the end:
    in 3-D the family of scene completion networks, with dilated convolutions in the middle."""

    def __init__(self, dims=2, inputs=3, width=8, classes=5):
        super().__init__()
        self.dims = dims
        self.encoders = nn.ModuleList()
        channels = inputs
        for level in range(3):
            outputs = width * 2**level
            pair = (conv_norm(dims, channels, outputs), conv_norm(dims, outputs, outputs))
            self.encoders.append(nn.Sequential(*pair))
            channels = outputs
        self.down = MAX_POOL[dims](2, ceil_mode=True)
        self.middle = nn.ModuleList(
            conv_norm(dims, channels, channels, 3, dilation=rate) for rate in (1, 2, 3)
        )
        self.ups, self.decoders = nn.ModuleList(), nn.ModuleList()
        for level in (1, 0):
            outputs = width * 2**level
            self.ups.append(TRANSPOSED[dims](channels, outputs, 2, 2))
            self.decoders.append(conv_norm(dims, 2 * outputs, outputs))
            channels = outputs
        self.head = CONV[dims](channels, classes, 1)

    def forward(self, image):
        x, shortcuts = image.float(), []
        for level, encoder in enumerate(self.encoders):
            x = encoder(x)
            if level < 2:
                shortcuts.append(x)
                x = self.down(x)
        x = sum(branch(x) for branch in self.middle)
        for up, decoder in zip(self.ups, self.decoders, strict=True):
            shortcut = shortcuts.pop()
            x = up(x)
            for axis in range(2, 2 + self.dims):
                x = x.narrow(axis, 0, shortcut.shape[axis])
            x = decoder(torch.cat((shortcut, x), 1))
        scores = self.head(x)
        return {'scores': scores, 'labels': scores.argmax(1).to(torch.uint8)}


class VisionTransformer(nn.Module):
    """Patches, a class token, attention written out and attention of PyTorch, a softmax."""

    def __init__(self, image=(35, 28), patch=7, width=24, heads=3, depth=2, classes=11):
        super().__init__()
        self.patches = nn.Conv2d(3, width, patch, patch)
        count = math.prod(extent // patch for extent in image)
        self.token = nn.Parameter(torch.randn(1, 1, width))
        self.positions = nn.Parameter(torch.randn(1, count + 1, width))
        layer = nn.ModuleDict
        self.layers = nn.ModuleList(
            layer(
                {
                    'norm1': nn.LayerNorm(width),
                    'qkv': nn.Linear(width, 3 * width),
                    'out': nn.Linear(width, width),
                    'norm2': nn.LayerNorm(width),
                    'up': nn.Linear(width, 4 * width),
                    'down': nn.Linear(4 * width, width),
                }
            )
            for _ in range(depth)
        )
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, classes)
        self.heads = heads

    def forward(self, image):
        x = self.patches(image).flatten(2).transpose(1, 2)
        x = torch.cat((self.token.expand(x.shape[0], -1, -1), x), 1) + self.positions
        for index, layer in enumerate(self.layers):
            x = x + layer['out'](self.attention(layer['qkv'](layer['norm1'](x)), index))
            x = x + layer['down'](F.gelu(layer['up'](layer['norm2'](x))))
        return self.head(self.norm(x)[:, 0]).softmax(-1)

    def attention(self, x, index):
        batch, count, _ = x.shape
        split = x.reshape(batch, count, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        query, key, value = split.unbind(0)
        if index % 2:
            y = F.scaled_dot_product_attention(query, key, value)
        else:
            weights = query @ key.transpose(-2, -1) * query.shape[-1] ** -0.5
            y = weights.softmax(-1) @ value
        return y.transpose(1, 2).reshape(batch, count, -1)


class Alias(nn.Module):
    """Everything that a graph must resolve: writes into views, in-place operators on inputs of
    others, values returned twice, a buffer that is not used, numbers made of sizes, constants."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1)
        self.register_buffer('mean', torch.tensor([0.1, 0.2, 0.3]))
        self.register_buffer('unused', torch.zeros(1000))

    def forward(self, image):
        x = image.permute(0, 3, 1, 2).float().div_(255)
        x.sub_(self.mean.view(1, 3, 1, 1))
        y = self.conv(x)
        kept = y.clone()
        y[:, 1:3, ::2] += 1
        y.mul_(torch.tensor(1.5))
        half = y[:, :3]
        half.relu_()
        canvas = y.new_empty(y.shape[0], 6, y.shape[2], y.shape[3] + 2)
        canvas[..., 1:-1] = y
        canvas[..., 0] = -1.0
        canvas[..., -1].fill_(float('inf'))
        columns = torch.arange(canvas.shape[-1]) / canvas.shape[-1]
        return {
            'canvas': canvas.detach(),
            'columns': columns,
            'kept': F.dropout(kept, 0.5, training=False),
            'half': half,
            'again': half,
            'image': image,
            'gap': float('-inf') * torch.ones(3),
        }


def with_statistics(module: nn.Module) -> nn.Module:
    """Give the batch norms means and variances as training would."""
    for each in module.modules():
        if isinstance(each, nn.modules.batchnorm._BatchNorm):
            each.running_mean.normal_(0, 0.3)
            each.running_var.uniform_(0.5, 1.5)
            each.weight.data.uniform_(0.5, 1.5)
            each.bias.data.normal_(0, 0.3)
    return module.eval()


def _image(*shape: int) -> dict[str, Tensor]:
    return {'image': torch.randn(*shape)}


def _bytes(*shape: int) -> dict[str, Tensor]:
    return {'image': torch.randint(0, 256, shape, dtype=torch.uint8)}


def _voxels(*shape: int) -> dict[str, Tensor]:
    return {'image': (torch.rand(*shape) < 0.1).to(torch.uint8)}


NETWORKS: dict[str, Callable[[], Example]] = {
    'vgg': lambda: (Vgg(), _image(1, 3, 37, 43)),
    'vgg3d': lambda: (Vgg(3, 4, 2), _image(1, 3, 9, 17, 19)),
    'resnet': lambda: (ResNet(), _image(1, 3, 61, 47)),
    'resnext': lambda: (ResNet(groups=4), _image(1, 3, 47, 61)),
    'resnet3d': lambda: (ResNet(3, 4, (1, 2)), _image(1, 3, 11, 23, 25)),
    'densenet': lambda: (DenseNet(), _image(1, 3, 67, 71)),
    'densenet3d': lambda: (DenseNet(3, 3, (2, 2)), _image(1, 3, 19, 21, 29)),
    'convnext': lambda: (ConvNext(), _image(1, 3, 45, 39)),
    'convnext3d': lambda: (ConvNext(3, 4, (1, 1)), _image(1, 3, 13, 17, 27)),
    'yolo': lambda: (Yolo(), _bytes(1, 47, 59, 3)),
    'yolo_tail': lambda: (Yolo(tail=True), _bytes(1, 47, 59, 3)),
    'yolo3d': lambda: (Yolo(3, 4), _bytes(1, 11, 17, 21, 3)),
    'unet': lambda: (UNet(), _bytes(1, 3, 37, 29)),
    'unet3d': lambda: (UNet(3, 1, 4), _voxels(1, 1, 9, 19, 21)),
    'vit': lambda: (VisionTransformer(), _image(1, 3, 35, 28)),
    'alias': lambda: (Alias(), _bytes(1, 13, 17, 3)),
}


def build(name: str, seed: int = 0) -> Example:
    """The network ``name`` of ``NETWORKS`` with weights and an input made from ``seed``."""
    state = torch.random.get_rng_state()
    try:
        torch.manual_seed(seed)
        module, inputs = NETWORKS[name]()
        return with_statistics(module), inputs
    finally:
        torch.random.set_rng_state(state)
