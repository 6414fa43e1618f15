"""Object detection: DETR on a ResNet; boxes above a threshold are picked on the device."""

import torch
from transformers import DetrConfig, DetrForObjectDetection, ResNetConfig


def inferences(count):
    torch.manual_seed(0)
    backbone = ResNetConfig(
        embedding_size=16, hidden_sizes=[16, 32, 64, 64], depths=[1, 1, 1, 1],
        out_features=['stage4'],
    )  # fmt: skip
    config = DetrConfig(
        use_timm_backbone=False, use_pretrained_backbone=False, backbone=None,
        backbone_config=backbone, d_model=32, encoder_layers=2, decoder_layers=2,
        encoder_attention_heads=4, decoder_attention_heads=4, encoder_ffn_dim=64,
        decoder_ffn_dim=64, num_queries=10, num_labels=5,
    )  # fmt: skip
    model = DetrForObjectDetection(config).eval().to('cuda')
    for _ in range(count):
        image = torch.rand(1, 3, 96, 128)
        with torch.no_grad():
            output = model(image.to('cuda'))
        confidence, label = output.logits[0].softmax(-1)[:, :-1].max(-1)
        found = confidence > confidence.mean()
        yield output.pred_boxes[0][found].cpu(), label[found].cpu()
