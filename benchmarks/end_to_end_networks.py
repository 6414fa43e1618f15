"""The networks of ``benchmarks/end_to_end.py``: published architectures, random weights.

What is measured does not depend on the weights, as long as there is something to detect.
"""

from __future__ import annotations

import torch
from torch import nn

from offload_ros.models.kapao import kapao
from offload_ros.models.kapao_network import Detect

SPREAD = 3.0  # of the values before the sigmoid
LOGIT = -1.0


def lively(model: nn.Module) -> None:
    """Weights with which values keep their size from layer to layer."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)


def kapao_s() -> nn.Module:
    """KAPAO-S, whose scores are spread: with plain random weights they are all alike, nothing is
    found, and every result would be the right one."""
    torch.manual_seed(0)
    model = kapao(size='s', weights='none', person_score=0.3, keypoint_score=0.3)
    lively(model)
    seen: dict[nn.Module, torch.Tensor] = {}
    heads = [
        conv
        for each in model.modules()
        if isinstance(each, Detect)
        for conv in each.m
        if isinstance(conv, nn.Conv2d)
    ]
    hooks = [
        head.register_forward_hook(lambda module, _, output: seen.update({module: output}))
        for head in heads
    ]
    with torch.inference_mode():
        model(torch.rand(1, 3, 256, 320))
    for hook in hooks:
        hook.remove()
    for head in heads:
        assert head.bias is not None
        with torch.no_grad():
            centre = seen[head].mean((0, 2, 3))
            factor = SPREAD / (seen[head] - centre[:, None, None]).std()
            head.weight.mul_(factor)
            head.bias.copy_(LOGIT + factor * (head.bias - centre))
    return model


def mobilenet() -> nn.Module:
    """MobileNetV2 (Sandler et al. 2018) with 1000 classes: (1, 3, H, W) to ``logits`` (1000)."""
    from transformers import MobileNetV2Config, MobileNetV2ForImageClassification

    class Classifier(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.network = MobileNetV2ForImageClassification(MobileNetV2Config(num_labels=1000))
            lively(self.network)

        def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
            return {'logits': self.network(image).logits[0]}

    return Classifier().eval()
