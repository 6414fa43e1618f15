"""Speech recognition: Wav2Vec2 with a convolutional front."""

import torch
from transformers import Wav2Vec2Config, Wav2Vec2ForCTC


def inferences(count):
    torch.manual_seed(0)
    config = Wav2Vec2Config(
        vocab_size=32, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=64, conv_dim=(16, 16, 16), conv_kernel=(10, 3, 3),
        conv_stride=(5, 2, 2), num_feat_extract_layers=3, num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=4,
    )  # fmt: skip
    model = Wav2Vec2ForCTC(config).eval().to('cuda')
    for _ in range(count):
        sound = torch.randn(1, 1600)
        with torch.inference_mode():
            logits = model(sound.to('cuda')).logits
        yield logits.argmax(-1).cpu(), logits.cpu()
