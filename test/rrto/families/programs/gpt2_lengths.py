"""Text generation: GPT-2, each prompt of another length."""

import torch
from transformers import GPT2Config, GPT2LMHeadModel


def inferences(count):
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=300, n_embd=48, n_layer=2, n_head=4, n_positions=64, bos_token_id=298,
        eos_token_id=299,
    )  # fmt: skip
    model = GPT2LMHeadModel(config).eval().to('cuda')
    for number in range(count):
        prompt = torch.randint(0, 298, (1, 5 + number)).to('cuda')
        mask = torch.ones_like(prompt)
        text = model.generate(
            prompt, attention_mask=mask, max_new_tokens=6, do_sample=False, pad_token_id=299
        )
        yield text.tolist()
