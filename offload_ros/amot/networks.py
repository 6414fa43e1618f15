"""The networks of A-MOT on the server: masked autoencoder, classifier, second pass.

Masked autoencoder (ViTMAE) and classifier (ViT or DeiT) are those of transformers, so that the
published weights load; the second pass is A-MOT's (paper, section on the lightweight second
inference). Images come as patches, (B, N, P) float32 with values as in the image, 0 to 255; B
images, N patches, P = patch_px * patch_px * 3. Positions (B, K) int64 number the patches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import ViTConfig, ViTForImageClassification, ViTMAEConfig, ViTMAEForPreTraining

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@dataclass(frozen=True)
class VitSize:
    """Width, layers and heads of a transformer."""

    width: int
    layers: int
    heads: int

    def arguments(self) -> dict[str, int]:
        return {
            'hidden_size': self.width,
            'num_hidden_layers': self.layers,
            'num_attention_heads': self.heads,
            'intermediate_size': 4 * self.width,
        }


DEIT_S = VitSize(384, 12, 6)
MAE_L = VitSize(1024, 24, 16)
MAE_DECODER = VitSize(512, 8, 16)


def vit_classifier(
    size: VitSize, image_px: int, patch_px: int, labels: Sequence[str]
) -> ViTForImageClassification:
    """A classifier with random weights."""
    config = ViTConfig(
        **size.arguments(),
        image_size=image_px,
        patch_size=patch_px,
        layer_norm_eps=1e-6,
        id2label=dict(enumerate(labels)),
        label2id={label: index for index, label in enumerate(labels)},
    )
    return ViTForImageClassification(config)


def vit_mae(size: VitSize, decoder: VitSize, image_px: int, patch_px: int) -> ViTMAEForPreTraining:
    """A masked autoencoder with random weights."""
    config = ViTMAEConfig(
        **size.arguments(),
        **{f'decoder_{key}': value for key, value in decoder.arguments().items()},
        image_size=image_px,
        patch_size=patch_px,
        layer_norm_eps=1e-6,
    )
    mae = ViTMAEForPreTraining(config)
    # transformers 5.23 leaves the fixed codes at zero when a network is built, not loaded.
    side = image_px // patch_px
    with torch.no_grad():
        for codes in (mae.vit.embeddings.position_embeddings, mae.decoder.decoder_pos_embed):
            codes.copy_(sine_codes(side, codes.shape[-1]))
    return mae


def sine_codes(side: int, width: int) -> torch.Tensor:
    """Fixed positional codes (1, 1 + side * side, width): sines and cosines of column, then of row,
    as the published MAE has them; zeros for CLS."""
    if width % 4:
        raise ValueError(f'the width of a masked autoencoder is a multiple of 4, not {width}')
    rates = 1.0 / 10000.0 ** (torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    at = torch.arange(side, dtype=torch.float64)[:, None] * rates
    along = torch.cat([at.sin(), at.cos()], 1).float()  # (side, width / 2)
    columns = along[None].expand(side, -1, -1)
    rows = along[:, None].expand(-1, side, -1)
    codes = torch.cat([columns, rows], -1).reshape(1, side * side, width)
    return torch.cat([torch.zeros(1, 1, width), codes], 1)


class Normalise(nn.Module):
    """Values 0 to 255 of patches (..., P) to what a network was trained on."""

    def __init__(self, mean: Sequence[float], std: Sequence[float], patch_px: int) -> None:
        super().__init__()
        self.register_buffer('mean', torch.tensor(mean).repeat(patch_px**2), persistent=False)
        self.register_buffer('std', torch.tensor(std).repeat(patch_px**2), persistent=False)
        self.mean: torch.Tensor
        self.std: torch.Tensor

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        return (patches / 255.0 - self.mean) / self.std

    def undo(self, patches: torch.Tensor) -> torch.Tensor:
        return (patches * self.std + self.mean) * 255.0


def layers_of(vit: Any) -> Sequence[nn.Module]:
    """The transformer's layers, whatever transformers' version calls them."""
    found: Sequence[nn.Module] = vit.layers if hasattr(vit, 'layers') else vit.encoder.layer
    return found


def through(layer: nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    """Tokens (B, T, D) after one layer."""
    out: Any = layer(tokens)
    result: torch.Tensor = out[0] if isinstance(out, tuple) else out
    return result


def taken(values: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Rows (B, K, D) at positions (B, K) of values (B or 1, N, D)."""
    values = values.expand(len(positions), -1, -1)
    return values.gather(1, positions[:, :, None].expand(-1, -1, values.shape[-1]))


def put(into: torch.Tensor, positions: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """``into`` (B, N, D) with ``rows`` (B, K, D) at positions (B, K)."""
    return into.scatter(1, positions[:, :, None].expand(-1, -1, rows.shape[-1]), rows)


def embed(
    vit: nn.Module, patches: torch.Tensor, positions: torch.Tensor | None = None
) -> torch.Tensor:
    """Tokens (B, 1 + K, D), CLS first, of normalised patches (B, K, P) at positions (B, K).

    ``None``: all patches in their order. Works for ViT and ViTMAE: both embed a patch by itself.
    """
    embeddings: Any = vit.embeddings
    projection = embeddings.patch_embeddings.projection
    weight = projection.weight.permute(0, 2, 3, 1).flatten(1)  # of patches row, column, channel
    tokens = nn.functional.linear(patches, weight, projection.bias)
    codes = embeddings.position_embeddings
    own = codes[:, 1:] if positions is None else taken(codes[:, 1:], positions)
    cls = (embeddings.cls_token + codes[:, :1]).expand(len(tokens), -1, -1)
    return torch.cat([cls, tokens + own], 1)


def encode(vit: nn.Module, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(embeddings (B, 1 + K, D), attention (B, K)) of tokens.

    Attention: of CLS to each patch in the last layer, averaged over heads (A-MOT's choice of
    patches).
    """
    *first, last = layers_of(vit)
    for layer in first:
        tokens = through(layer, tokens)
    attention = cls_attention(last, tokens)
    norm: Any = vit.layernorm
    embeddings: torch.Tensor = norm(through(last, tokens))
    return embeddings, attention


def cls_attention(layer: Any, tokens: torch.Tensor) -> torch.Tensor:
    """Softmax of CLS's query with all keys, averaged over heads, patches only: (B, K)."""
    with torch.no_grad():
        normed = layer.layernorm_before(tokens)
        attention = layer.attention
        if not hasattr(attention, 'q_proj'):  # transformers 4
            attention = attention.attention
        query = getattr(attention, 'q_proj', None) or attention.query
        key = getattr(attention, 'k_proj', None) or attention.key
        batch, count, width = normed.shape
        heads = attention.num_attention_heads
        q = query(normed[:, :1]).view(batch, 1, heads, width // heads).transpose(1, 2)
        k = key(normed).view(batch, count, heads, width // heads).transpose(1, 2)
        scores = (q @ k.transpose(2, 3)) * (width // heads) ** -0.5
        shares: torch.Tensor = scores.float().softmax(-1).mean(1)[:, 0, 1:]
        return shares


def rebuilt(
    mae: ViTMAEForPreTraining, patches: torch.Tensor, positions: torch.Tensor
) -> torch.Tensor:
    """What the autoencoder makes of normalised patches (B, K, P) at positions: all, (B, N, P).

    The patches that came are in their places, unchanged.
    """
    tokens = embed(mae.vit, patches, positions)
    for layer in layers_of(mae.vit):
        tokens = through(layer, tokens)
    decoder: Any = mae.decoder
    tokens = decoder.decoder_embed(mae.vit.layernorm(tokens))
    codes = decoder.decoder_pos_embed
    masked = decoder.mask_token.to(tokens.dtype).expand(len(tokens), codes.shape[1] - 1, -1)
    tokens = torch.cat([tokens[:, :1], put(masked, positions, tokens[:, 1:])], 1) + codes
    for layer in decoder.decoder_layers:
        tokens = through(layer, tokens)
    drawn = decoder.decoder_pred(decoder.decoder_norm(tokens))[:, 1:]
    if mae.config.norm_pix_loss:
        drawn = coloured(drawn, patches, positions)
    return put(drawn, positions, patches.to(drawn.dtype))


def coloured(drawn: torch.Tensor, patches: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Undo per-patch normalised targets with mean and deviation of the patches that came, weighted
    by the inverse square of their distance: those of a missing patch are not known."""
    side = round(drawn.shape[1] ** 0.5)
    grid = torch.arange(drawn.shape[1], device=drawn.device)
    at = torch.stack([grid // side, grid % side], -1).float()
    apart = (at[None, :, None] - at[positions][:, None]).square().sum(-1)  # (B, N, K)
    weights = 1.0 / (apart + 0.1)
    weights = weights / weights.sum(-1, keepdim=True)
    mean = weights @ patches.mean(-1, keepdim=True).float()
    std = weights @ patches.std(-1, keepdim=True).float()
    return drawn * std.to(drawn.dtype) + mean.to(drawn.dtype)


class SecondPass(nn.Module):
    """A-MOT's lightweight second inference.

    The new patches alone go through the classifier's encoder; its embeddings and those of the first
    pass go through two linear layers of their own and are added at equal positions; a few attention
    layers and a head answer. ``linear`` and ``only_new`` (the first pass's embeddings are left out)
    are the paper's ablations.
    """

    def __init__(
        self, config: ViTConfig, layers: int = 3, linear: bool = True, only_new: bool = False
    ) -> None:
        super().__init__()
        template = ViTForImageClassification(
            ViTConfig(**{**config.to_dict(), 'num_hidden_layers': max(layers, 1)})
        )
        self.options = {'layers': layers, 'linear': linear, 'only_new': only_new}
        width = config.hidden_size
        self.first = nn.Linear(width, width) if linear else nn.Identity()
        self.second = nn.Linear(width, width) if linear else nn.Identity()
        self.layers = nn.ModuleList(layers_of(template.vit)[:layers])
        self.layernorm = template.vit.layernorm
        self.head = template.classifier

    def begin_from(self, classifier: ViTForImageClassification) -> None:
        """Start as the classifier's own end: its last layers, norm and head; the embeddings of the
        first pass unchanged, half of the second's added."""
        with torch.no_grad():
            self.head.load_state_dict(classifier.classifier.state_dict())
            self.layernorm.load_state_dict(classifier.vit.layernorm.state_dict())
            last = zip(reversed(self.layers), reversed(layers_of(classifier.vit)), strict=False)
            for mine, own in last:
                mine.load_state_dict(own.state_dict())
            for linear, gain in ((self.first, 1.0), (self.second, 0.5)):
                if isinstance(linear, nn.Linear):
                    linear.weight.copy_(gain * torch.eye(len(linear.weight)))
                    linear.bias.zero_()

    def forward(
        self, first: torch.Tensor, second: torch.Tensor, positions: torch.Tensor
    ) -> torch.Tensor:
        """Logits (B, labels) from embeddings of the first pass (B, 1 + N, D) and of the new patches
        (B, 1 + K, D) at ``positions`` (B, K)."""
        new = self.second(second)
        if self.options['only_new']:
            tokens = new
        else:
            places = torch.cat([positions.new_zeros(len(positions), 1), positions + 1], 1)
            tokens = self.first(first)
            index = places[:, :, None].expand(-1, -1, tokens.shape[-1])
            tokens = tokens.scatter_add(1, index, new.to(tokens.dtype))
        for layer in self.layers:
            tokens = through(layer, tokens)
        logits: torch.Tensor = self.head(self.layernorm(tokens)[:, 0])
        return logits
