"""Object detection: YOLOS, all boxes."""

import torch
from transformers import YolosConfig, YolosForObjectDetection


def inferences(count):
    torch.manual_seed(0)
    config = YolosConfig(
        hidden_size=48, num_hidden_layers=3, num_attention_heads=4, intermediate_size=96,
        image_size=[64, 96], patch_size=16, num_detection_tokens=12, num_labels=5,
    )  # fmt: skip
    model = YolosForObjectDetection(config).eval().to('cuda')
    for _ in range(count):
        image = torch.rand(1, 3, 64, 96)
        with torch.no_grad():
            output = model(image.to('cuda'))
        yield output.logits.cpu(), output.pred_boxes.cpu()
