"""Image classification: DeiT in half precision, a batch of images."""

import torch
from transformers import DeiTConfig, DeiTForImageClassificationWithTeacher


def inferences(count):
    torch.manual_seed(0)
    config = DeiTConfig(
        hidden_size=48, num_hidden_layers=3, num_attention_heads=4, intermediate_size=96,
        image_size=64, patch_size=16,
    )  # fmt: skip
    model = DeiTForImageClassificationWithTeacher(config).eval().to('cuda', torch.bfloat16)
    for _ in range(count):
        images = torch.rand(4, 3, 64, 64)
        with torch.no_grad():
            output = model(images.to('cuda', torch.bfloat16))
        yield output.logits.float().cpu(), output.cls_logits.float().cpu()
