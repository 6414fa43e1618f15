"""Translation: T5, encoder and decoder, two beams."""

import torch
from transformers import T5Config, T5ForConditionalGeneration


def inferences(count):
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=300, d_model=48, d_kv=12, d_ff=96, num_layers=2, num_decoder_layers=2,
        num_heads=4, decoder_start_token_id=0,
    )  # fmt: skip
    model = T5ForConditionalGeneration(config).eval().to('cuda')
    for _ in range(count):
        words = torch.randint(2, 300, (1, 9)).to('cuda')
        text = model.generate(
            words, attention_mask=torch.ones_like(words), max_new_tokens=5, num_beams=2,
            do_sample=False,
        )  # fmt: skip
        yield text.cpu()
