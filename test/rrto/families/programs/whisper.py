"""Speech to text: Whisper on log-mel features, greedy."""

import torch
from transformers import WhisperConfig, WhisperForConditionalGeneration


def inferences(count):
    torch.manual_seed(0)
    config = WhisperConfig(
        vocab_size=300, d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=64, decoder_ffn_dim=64, num_mel_bins=16,
        max_source_positions=50, max_target_positions=32, pad_token_id=299, bos_token_id=298,
        eos_token_id=299, decoder_start_token_id=297, suppress_tokens=None,
        begin_suppress_tokens=None,
    )  # fmt: skip
    model = WhisperForConditionalGeneration(config).eval().to('cuda')
    for _ in range(count):
        features = torch.randn(1, 16, 100).to('cuda')
        text = model.generate(features, max_new_tokens=5, do_sample=False)
        yield text.cpu()
