"""Image classification: RegNet, uint8 images normalised on the device."""

import torch
from transformers import RegNetConfig, RegNetForImageClassification


def inferences(count):
    torch.manual_seed(0)
    config = RegNetConfig(
        embedding_size=16,
        hidden_sizes=[16, 32, 48, 64],
        depths=[1, 1, 2, 1],
        groups_width=8,
        num_labels=10,
    )
    device = torch.device('cuda')
    model = RegNetForImageClassification(config).eval().to(device)
    mean = torch.tensor([0.485, 0.456, 0.406], device=device)[:, None, None]
    deviation = torch.tensor([0.229, 0.224, 0.225], device=device)[:, None, None]
    for _ in range(count):
        image = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
        with torch.inference_mode():
            pixels = (image.to(device).float() / 255 - mean) / deviation
            logits = model(pixels).logits
        yield logits.topk(5)[1].tolist(), logits.cpu()
