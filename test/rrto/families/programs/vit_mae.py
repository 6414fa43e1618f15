"""Image reconstruction: ViTMAE; which patches are masked is drawn on the device."""

import torch
from transformers import ViTMAEConfig, ViTMAEForPreTraining


def inferences(count):
    torch.manual_seed(0)
    config = ViTMAEConfig(
        hidden_size=48, num_hidden_layers=2, num_attention_heads=4, intermediate_size=96,
        decoder_hidden_size=32, decoder_num_hidden_layers=2, decoder_num_attention_heads=4,
        decoder_intermediate_size=64, image_size=64, patch_size=16,
    )  # fmt: skip
    model = ViTMAEForPreTraining(config).eval().to('cuda')
    images = torch.rand(count, 1, 3, 64, 64)
    for number, image in enumerate(images):
        torch.manual_seed(number)
        with torch.no_grad():
            output = model(image.to('cuda'))
        yield output.loss.item(), output.mask.cpu(), output.logits.cpu()
