"""Image classification: MobileNetV2, images in channels-last order."""

import torch
from transformers import MobileNetV2Config, MobileNetV2ForImageClassification


@torch.no_grad()
def inferences(count):
    torch.manual_seed(0)
    config = MobileNetV2Config(depth_multiplier=0.25, image_size=64)
    model = MobileNetV2ForImageClassification(config).eval()
    model = model.to('cuda', memory_format=torch.channels_last)
    for _ in range(count):
        image = torch.rand(1, 3, 64, 64).to(memory_format=torch.channels_last)
        logits = model(image.to('cuda', non_blocking=True)).logits
        yield logits.argmax(-1).item(), logits.cpu()
