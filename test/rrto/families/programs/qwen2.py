"""Next-word scores: Qwen2 without generation, the state of the cache kept for one more word."""

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM


def inferences(count):
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=300, hidden_size=48, intermediate_size=96, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=128,
    )  # fmt: skip
    model = Qwen2ForCausalLM(config).eval().to('cuda')
    for _ in range(count):
        prompt = torch.randint(0, 300, (1, 12)).to('cuda')
        with torch.no_grad():
            first = model(prompt, use_cache=True)
            word = first.logits[:, -1:].argmax(-1)
            second = model(word, past_key_values=first.past_key_values, use_cache=True)
        yield second.logits.cpu()
