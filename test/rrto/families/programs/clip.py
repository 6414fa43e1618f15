"""Image against texts: CLIP; the texts are encoded once."""

import torch
from transformers import CLIPConfig, CLIPModel


def inferences(count):
    torch.manual_seed(0)
    config = CLIPConfig(
        text_config={
            'vocab_size': 300, 'hidden_size': 32, 'intermediate_size': 64, 'num_hidden_layers': 2,
            'num_attention_heads': 4, 'bos_token_id': 298, 'eos_token_id': 299,
        },
        vision_config={
            'hidden_size': 32, 'intermediate_size': 64, 'num_hidden_layers': 2,
            'num_attention_heads': 4, 'image_size': 64, 'patch_size': 16,
        },
        projection_dim=24,
    )  # fmt: skip
    model = CLIPModel(config).eval().to('cuda')
    texts = torch.randint(0, 299, (5, 10))
    texts[:, -1] = 299
    texts = texts.to('cuda')
    for _ in range(count):
        image = torch.rand(1, 3, 64, 64)
        with torch.no_grad():
            output = model(input_ids=texts, pixel_values=image.to('cuda'))
        yield output.logits_per_image.softmax(-1).cpu()
