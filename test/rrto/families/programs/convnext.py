"""Image classification: ConvNeXt."""

import torch
from transformers import ConvNextConfig, ConvNextForImageClassification


def inferences(count):
    torch.manual_seed(0)
    config = ConvNextConfig(hidden_sizes=[16, 32, 48, 64], depths=[1, 1, 2, 1])
    model = ConvNextForImageClassification(config).eval().cuda()
    for _ in range(count):
        image = torch.rand(1, 3, 64, 64)
        with torch.inference_mode():
            logits = model(image.cuda()).logits
        yield logits.cpu()
