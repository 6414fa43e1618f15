"""Image classification: ViT, two reads for each image."""

import torch
from transformers import ViTConfig, ViTForImageClassification


def inferences(count):
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=48, num_hidden_layers=4, num_attention_heads=4, intermediate_size=96,
        image_size=64, patch_size=16, num_labels=20,
    )  # fmt: skip
    model = ViTForImageClassification(config).eval().to('cuda')
    for _ in range(count):
        image = torch.rand(1, 3, 64, 64)
        with torch.inference_mode():
            confidences = model(image.to('cuda')).logits.softmax(-1)[0]
            confidence, label = confidences.max(0)
        yield confidence.item(), label.item()
