"""Image classification: Swin, shifted windows."""

import torch
from transformers import SwinConfig, SwinForImageClassification


def inferences(count):
    torch.manual_seed(0)
    config = SwinConfig(
        image_size=64, patch_size=4, embed_dim=16, depths=[2, 2], num_heads=[2, 4], window_size=4
    )
    model = SwinForImageClassification(config).eval().to('cuda')
    for _ in range(count):
        image = torch.rand(1, 3, 64, 64)
        with torch.no_grad():
            logits = model(image.to('cuda')).logits
        yield logits.cpu().numpy()
