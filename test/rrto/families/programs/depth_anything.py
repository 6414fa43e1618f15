"""Depth from one image: DPT head on DINOv2 (Depth Anything)."""

import torch
from transformers import DepthAnythingConfig, DepthAnythingForDepthEstimation, Dinov2Config


def inferences(count):
    torch.manual_seed(0)
    backbone = Dinov2Config(
        hidden_size=32, num_hidden_layers=4, num_attention_heads=4, image_size=56, patch_size=14,
        out_features=['stage1', 'stage2', 'stage3', 'stage4'], reshape_hidden_states=False,
    )  # fmt: skip
    config = DepthAnythingConfig(
        backbone_config=backbone, reassemble_hidden_size=32, neck_hidden_sizes=[8, 16, 24, 32],
        fusion_hidden_size=16, head_hidden_size=8,
    )  # fmt: skip
    model = DepthAnythingForDepthEstimation(config).eval().to('cuda')
    for _ in range(count):
        image = torch.rand(1, 3, 56, 84)
        with torch.inference_mode():
            depth = model(image.to('cuda')).predicted_depth
        yield depth.cpu()
