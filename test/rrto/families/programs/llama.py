"""Text generation: Llama, sampled."""

import torch
from transformers import LlamaConfig, LlamaForCausalLM


def inferences(count):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=300, hidden_size=48, intermediate_size=96, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=128,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval().to('cuda')
    prompts = torch.randint(3, 300, (count, 1, 8))
    for number, prompt in enumerate(prompts):
        torch.manual_seed(number)
        text = model.generate(
            prompt.to('cuda'), attention_mask=torch.ones_like(prompt).to('cuda'),
            max_new_tokens=6, do_sample=True, top_k=20, pad_token_id=0, eos_token_id=None,
        )  # fmt: skip
        yield text.cpu()
