"""Text generation: GPT-2, sampled; many words end a text, so its length varies."""

import torch
from transformers import GPT2Config, GPT2LMHeadModel


def inferences(count):
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=300, n_embd=48, n_layer=2, n_head=4, n_positions=64, bos_token_id=298,
        eos_token_id=list(range(80)),
    )  # fmt: skip
    model = GPT2LMHeadModel(config).eval().to('cuda')
    prompts = torch.randint(100, 298, (count, 1, 7))
    torch.manual_seed(1)
    for prompt in prompts:
        prompt = prompt.to('cuda')
        text = model.generate(
            prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=6, do_sample=True,
            pad_token_id=0,
        )  # fmt: skip
        yield text.tolist()
