"""Text classification: BERT with padded batches of one length."""

import torch
from transformers import BertConfig, BertForSequenceClassification


def inferences(count):
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=500, hidden_size=48, num_hidden_layers=3, num_attention_heads=4,
        intermediate_size=96,
    )  # fmt: skip
    model = BertForSequenceClassification(config).eval().to('cuda')
    for _ in range(count):
        words = torch.randint(1, 500, (2, 24))
        mask = torch.ones_like(words)
        mask[1, 15:] = 0
        with torch.no_grad():
            logits = model(words.to('cuda'), attention_mask=mask.to('cuda')).logits
        yield logits.cpu()
